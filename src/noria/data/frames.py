"""``from_frame``: series with times, from tables of pandas or Polars; features of the calendar."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np


class TimeSeries:
    """Columns of a table over time, made by `from_frame`.

    Args:
        values: ``(time, columns)`` floats, NaN where a value is missing.
        times: ``(time,)`` datetime64, increasing.
        names: the names of the columns.

    Attributes:
        values: as passed.
        times: as passed.
        names: as passed.

    Examples:
        >>> import numpy as np, noria as nr
        >>> times = np.arange("2026-01-01", "2026-01-04", dtype="datetime64[D]")
        >>> series = nr.data.TimeSeries(np.eye(3), times, ["wind", "sun", "load"])
        >>> series["load", "sun"].shape
        (3, 2)
    """

    def __init__(self, values: np.ndarray, times: np.ndarray, names: Sequence[str]):
        self.values, self.times, self.names = values, times, list(names)

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.times)

    def __getitem__(self, names: str | tuple[str, ...]) -> np.ndarray:
        """``(time, columns)``, the columns of these names."""
        wanted = [names] if isinstance(names, str) else list(names)
        for name in wanted:
            if name not in self.names:
                raise KeyError(f"TimeSeries: there is no {name!r}; the columns are {self.names}.")
        return self.values[:, [self.names.index(name) for name in wanted]]

    def __repr__(self) -> str:
        missing = float(np.isnan(self.values).mean()) if self.values.size else 0.0
        span = f"{self.times[0]} to {self.times[-1]}" if len(self) else "empty"
        return f"TimeSeries({span}, {self.names}, {missing:.1%} missing)"


def from_frame(
    frame: Any,
    *,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    every: np.timedelta64 | None = None,
    dtype: Any = np.float32,
) -> TimeSeries:
    """The numbers of a table over time.

    Args:
        frame: a ``DataFrame`` of pandas or Polars, with one row for each time, in order.
        time: the column of times; by default the index of a pandas table.
        columns: the columns to take; all but ``time`` by default.
        every: the distance of times, such as ``np.timedelta64(1, "h")``. Times that are not in the
            table become rows of NaN.
        dtype: floating dtype of the values.

    Returns:
        A `TimeSeries`: values ``(time, columns)`` with NaN where one is missing, times as
        datetime64 (in UTC if they have a time zone), and names.

    Raises:
        KeyError: if there is no such column.
        ValueError: if times are missing, do not increase, or are not multiples of ``every`` apart;
            if ``every`` is no distance above 0.
        TypeError: for a table without times, or a column of anything but numbers.

    `noria.Standardise` turns NaN into a mask, and losses leave out targets with
    ``mask=~jnp.isnan(ys)``.

    Examples:
        >>> import numpy as np, noria as nr
        >>> days = np.array(["2026-01-01", "2026-01-03"], "datetime64[D]")
        >>> table = {"day": days, "load": np.array([3.0, 5.0])}
        >>> series = nr.data.from_frame(table, time="day", every=np.timedelta64(1, "D"))
        >>> series["load"].ravel().tolist(), len(series.times)
        ([3.0, nan, 5.0], 3)
    """
    times = _times(frame, time)
    everything = getattr(frame, "columns", frame)
    names = [name for name in everything if name != time] if columns is None else list(columns)
    if not names:
        raise ValueError("from_frame: there is no column besides the times; expected at least one.")
    values = np.stack([_column(frame, name, dtype) for name in names], axis=1)
    if len(times) != len(values):
        raise ValueError(f"from_frame: there are {len(times)} times and {len(values)} rows.")
    if (wrong := np.flatnonzero(np.diff(times).astype(np.int64) <= 0)).size:
        n = int(wrong[0])
        raise ValueError(
            f"from_frame: row {n + 1} is at {times[n + 1]}, after {times[n]}; expected times that "
            "increase: sort the table, and make one table for each series."
        )
    if every is not None and not _is_distance(every):
        raise ValueError(
            f"from_frame(every={every!r}): expected a distance above 0, such as "
            'np.timedelta64(1, "h").'
        )
    if every is not None and len(times):
        times, values = _regular(times, values, every)
    return TimeSeries(values, times, names)


def _is_distance(every: Any) -> bool:
    """Whether it is above 0, and says of which unit."""
    found = isinstance(every, np.timedelta64) and np.datetime_data(every.dtype)[0] != "generic"
    return found and bool(every.astype(np.int64) > 0)


def _times(frame: Any, time: str | None) -> np.ndarray:
    if time is None:
        found = getattr(frame, "index", None)
        if not hasattr(found, "dtype"):
            raise TypeError(
                f"from_frame: the {type(frame).__name__} has no index of times; expected time=, "
                "the name of a column."
            )
    else:
        found = _get(frame, time)
    zoned = getattr(getattr(found, "dtype", None), "tz", None) is not None
    # Of times with a zone pandas makes objects, unless it is asked for times, which are in UTC.
    array = np.asarray(found, "datetime64[ns]") if zoned else np.asarray(found)
    if array.dtype.kind != "M":
        raise TypeError(
            f"from_frame: the times are {array.dtype}; expected datetime64. Convert with "
            "pandas.to_datetime, or Polars' str.to_datetime."
        )
    if np.isnat(array).any():
        raise ValueError(
            f"from_frame: row {int(np.flatnonzero(np.isnat(array))[0])} has no time; expected one "
            "in each row."
        )
    return array


def _get(frame: Any, name: str) -> Any:
    try:
        return frame[name]
    except Exception as error:  # of each library its own
        raise KeyError(f"from_frame: the table has no column {name!r}.") from error


def _column(frame: Any, name: str, dtype: Any) -> np.ndarray:
    column = _get(frame, name)
    array = column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)
    if array.dtype.kind == "O":  # of numbers and None, or pandas.NA
        with contextlib.suppress(TypeError, ValueError):  # which is said below
            array = np.array([np.nan if _is_missing(one) else float(one) for one in array])
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"from_frame: column {name!r} is {array.dtype}; expected numbers. Leave it out with "
            "columns=, or convert it."
        )
    return array.astype(dtype)


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType"


def _regular(
    times: np.ndarray, values: np.ndarray, every: np.timedelta64
) -> tuple[np.ndarray, np.ndarray]:
    unit = np.datetime_data(every.dtype)[0]
    if unit in ("M", "Y"):  # months have different numbers of days
        times = times.astype(f"datetime64[{unit}]")
    places, rest = np.divmod(times - times[0], every)
    bad = np.flatnonzero(rest.astype(np.int64) != 0)
    bad = bad if bad.size else np.flatnonzero(np.diff(places) == 0) + 1
    if bad.size:
        raise ValueError(
            f"from_frame(every={every}): row {int(bad[0])} is at {times[bad[0]]}; expected a whole "
            f"number of steps after {times[0]}, one row at most for each. Round the times, or "
            "average the rows of a step."
        )
    filled = np.full((int(places[-1]) + 1, values.shape[1]), np.nan, values.dtype)
    filled[places] = values
    return times[0] + np.arange(len(filled)) * every, filled


#: Seconds of the periods; a year has 365.2425 days.
_PERIODS = {"hour": 3600.0, "day": 86400.0, "week": 7 * 86400.0, "year": 365.2425 * 86400.0}


def calendar(times: Any, *periods: str, dtype: Any = np.float32) -> np.ndarray:
    """Sines and cosines of times, as covariates that are known in the future too.

    ::

        sin(2 pi t / period), cos(2 pi t / period)      for each period

    Args:
        times: ``(time,)`` datetime64.
        *periods: some of ``"hour"``, ``"day"``, ``"week"`` and ``"year"``.
        dtype: floating dtype of the result.

    Returns:
        ``(time, 2 * periods)``, from -1 to 1.

    Raises:
        ValueError: for no period, or an unknown one.
        TypeError: if the times are not datetime64.

    Examples:
        >>> import numpy as np, noria as nr
        >>> night = np.array(["2026-01-01T03"], "datetime64[h]")
        >>> nr.data.calendar(night, "day", dtype=float).round(3).tolist()
        [[0.707, 0.707]]
    """
    array = np.asarray(times)
    if array.dtype.kind != "M":
        raise TypeError(f"calendar: times is {array.dtype}; expected datetime64.")
    for period in periods or ("",):
        if period not in _PERIODS:
            raise ValueError(
                f"calendar: the period is {period!r}; expected some of {', '.join(_PERIODS)}."
            )
    seconds = array.astype("datetime64[s]").astype(np.int64)
    parts = []
    for period in periods:
        angle = 2 * np.pi * np.mod(seconds, _PERIODS[period]) / _PERIODS[period]
        parts += [np.sin(angle), np.cos(angle)]
    return np.stack(parts, axis=-1).astype(dtype)
