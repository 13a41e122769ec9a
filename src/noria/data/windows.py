"""Windows of one long series, and splits in order of time."""

from typing import Any

import numpy as np

from noria._errors import check_numbers, check_sizes


def windows(
    series: Any, size: int, horizon: int = 1, stride: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a series, and the values that follow each.

    ::

        xs_n = series[n * stride : n * stride + size]
        ys_n = series[n * stride + size : n * stride + size + horizon]

    Args:
        series: ``(time,)`` or ``(time, features)``.
        size: steps of a window.
        horizon: steps after a window; 0 for windows only.
        stride: steps from the start of one window to the start of the next.

    Returns:
        ``(xs, ys)``: ``(windows, size, ...)`` and ``(windows, horizon, ...)`` of the dtype of the
        series; complete ones only, in order of time. They are read-only views: a series in a
        memory map stays there until `batches` copies the windows of a batch.

    Raises:
        ValueError: if the series is shorter than ``size + horizon``, or a size is below 1.
        TypeError: if the series holds anything but numbers.

    Examples:
        >>> import numpy as np, noria as nr
        >>> xs, ys = nr.data.windows(np.arange(6), size=3, horizon=2)
        >>> xs.tolist(), ys.tolist()
        ([[0, 1, 2], [1, 2, 3]], [[3, 4], [4, 5]])
    """
    check_sizes("windows", size=size, stride=stride)
    horizon = _whole("windows", "horizon", horizon)
    series = np.asarray(series)
    check_numbers("windows", "series", series)
    if series.ndim == 0 or len(series) < size + horizon:
        raise ValueError(
            f"windows: the series has shape {series.shape}; expected at least {size + horizon} "
            "steps, size + horizon."
        )
    pieces = np.lib.stride_tricks.sliding_window_view(series, size + horizon, axis=0)[::stride]
    pieces = np.moveaxis(pieces, -1, 1)
    return pieces[:, :size], pieces[:, size:]


def _whole(call: str, name: str, amount: Any) -> int:
    if not amount >= 0 or amount % 1:
        raise ValueError(f"{call}: {name} is {amount}; expected a whole number of at least 0.")
    return int(amount)


def split(
    series: Any, *, valid: float | int = 0, test: float | int = 0, gap: int = 0
) -> tuple[Any, Any, Any]:
    """Cuts a series into training, validation and test parts in order of time.

    Args:
        series: an array, a list, or a pandas or Polars object, which is cut by position, not by
            index.
        valid: the validation part: a share below 1, or a whole number of steps.
        test: the test part, likewise.
        gap: steps left out before each cut, so that windows on both sides do not overlap.

    Returns:
        ``(train, valid, test)``, slices of ``series``.

    Raises:
        ValueError: if nothing is left for training, or an amount is negative.
        TypeError: for a tuple of arrays; split each of them.

    scikit-learn's ``train_test_split`` shuffles, which lets a model see the future.

    Examples:
        >>> import noria as nr
        >>> nr.data.split(list(range(10)), valid=2, test=0.3)
        ([0, 1, 2, 3, 4], [5, 6], [7, 8, 9])
    """
    if isinstance(series, tuple) and any(hasattr(part, "shape") for part in series):
        raise TypeError(
            "split: series is a tuple of arrays; expected one series: split each of them, "
            "by equal amounts."
        )
    count, gap = len(series), _whole("split", "gap", gap)
    for name, amount in (("valid", valid), ("test", test)):
        if not amount >= 0 or (amount >= 1 and amount % 1):
            raise ValueError(
                f"split: {name} is {amount}; expected a share below 1 or a whole number of steps."
            )
    n_valid, n_test = (
        round(amount * count) if amount < 1 else int(amount) for amount in (valid, test)
    )
    test_start = count - n_test
    valid_end = test_start - (gap if n_test else 0)
    valid_start = valid_end - n_valid
    train_end = valid_start - (gap if n_valid else 0)
    if train_end < 1:
        raise ValueError(
            f"split: {count} steps less {n_valid} and {n_test} and the gaps leave none for "
            "training."
        )
    by_position = getattr(
        series, "iloc", series
    )  # pandas' own slices may go by label, ends included
    return by_position[:train_end], by_position[valid_start:valid_end], by_position[test_start:]


def folds(
    count: int, *, k: int, gap: int = 0, train_size: int | None = None
) -> list[tuple[range, range]]:
    """Time-ordered cross-validation: ``k`` pairs of training steps and the steps after them.

    Args:
        count: steps of the series.
        k: number of folds. The series is cut into ``k + 1`` equal parts, and each of the last ``k``
            is validated in turn.
        gap: steps left out between training and validation.
        train_size: largest number of steps for training, the latest ones; by default all of the
            past.

    Returns:
        A list of ``k`` pairs of ranges ``(train, valid)``.

    Raises:
        ValueError: if a fold has nothing to train on or to validate, or a size is below 1.

    scikit-learn's ``TimeSeriesSplit`` makes the same folds.

    Examples:
        >>> import noria as nr
        >>> [(list(train), list(valid)) for train, valid in nr.data.folds(6, k=2)]
        [([0, 1], [2, 3]), ([0, 1, 2, 3], [4, 5])]
    """
    check_sizes(
        "folds", count=count, k=k, **({} if train_size is None else {"train_size": train_size})
    )
    gap = _whole("folds", "gap", gap)
    part = count // (k + 1)
    if part - gap < 1:
        raise ValueError(
            f"folds: {count} steps in {k + 1} parts with a gap of {gap} leave nothing to train on."
        )
    starts = [count - (k - n) * part for n in range(k)]
    pasts = [range(0, start - gap) for start in starts]
    return [
        (past if train_size is None else past[-train_size:], range(start, start + part))
        for past, start in zip(pasts, starts, strict=True)
    ]
