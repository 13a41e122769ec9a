"""``streams``: contiguous windows of long series, for truncated backpropagation through time."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from noria._errors import check_sizes
from noria._types import Key
from noria.data.epochs import Epochs, Rows, all_rows
from noria.data.ragged import lengths_of, sequences_of
from noria.data.store import Ragged


class Streams(Epochs):
    """Windows of contiguous rows, made by `streams`; each iteration is one epoch.

    Args:
        columns: lists of series, one list for each array of a batch.
        counts: ``(series,)`` integers, the usable steps of each series.
        shifts: for each column, the steps by which its values are late: a number or several.
        batch_size: rows of a batch.
        size: steps of a window.
        key: random key that shuffles, or ``None``.

    Attributes:
        batch_size: as passed.
        left_out: steps of an epoch that fill no window, and are not used.

    Examples:
        >>> import numpy as np, noria as nr
        >>> data = nr.data.streams(np.arange(13), batch_size=2, size=3)
        >>> len(data), data.left_out
        (2, 0)
    """

    def __init__(
        self,
        columns: Sequence[Any],
        counts: np.ndarray,
        shifts: Sequence[Any],
        batch_size: int,
        size: int,
        key: Key | None,
    ):
        super().__init__(key)
        self._columns, self._counts, self._shifts = columns, counts, shifts
        self.batch_size, self._size = batch_size, size
        self._windows = int(counts.sum()) // (batch_size * size)
        self.left_out = int(counts.sum()) - self._windows * batch_size * size

    def __len__(self) -> int:
        """The number of windows in a row, which are the batches of an epoch."""
        return self._windows

    def epoch(
        self, key: Key | None = None, start: int = 0, rows: Rows | None = None
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """The windows of one epoch, in order of time.

        Args:
            key: random key for the order of the series, and for the place of the steps that are
                left out; without it the order is that of the series.
            start: number of the first window.
            rows: see `Epochs.epoch`.

        Returns:
            An iterator over tuples of arrays ``(batch, size, ...)``, the last one ``starts``.
        """
        order, offset = np.arange(len(self._counts)), 0
        if key is not None:
            rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
            order, offset = rng.permutation(order), int(rng.integers(self.left_out + 1))
        ends = np.cumsum(self._counts[order])
        chosen = all_rows if rows is None else rows
        for n in range(start, self._windows):
            numbers = np.arange(self.batch_size)[chosen(self.batch_size)]
            firsts = offset + (numbers * self._windows + n) * self._size
            yield self._batch(order, ends, firsts, n == 0)

    def _batch(
        self, order: np.ndarray, ends: np.ndarray, firsts: np.ndarray, anew: bool
    ) -> tuple[np.ndarray, ...]:
        starts = np.zeros((len(firsts), self._size), bool)
        starts[:, 0] = anew
        arrays = [
            np.empty((*starts.shape, *np.shape(shift), *column[0].shape[1:]), column[0].dtype)
            for column, shift in zip(self._columns, self._shifts, strict=True)
        ]
        for row, first in enumerate(firsts):
            done, place = 0, int(np.searchsorted(ends, first, side="right"))
            while done < self._size:
                at = int(first) + done - (int(ends[place - 1]) if place else 0)
                many = min(self._size - done, int(self._counts[order[place]]) - at)
                if at == 0 and many:
                    starts[row, done] = True
                for array, column, shift in zip(arrays, self._columns, self._shifts, strict=True):
                    target, series = array[row, done : done + many], column[order[place]]
                    for n, late in enumerate(np.ravel(shift)):
                        part = target[:, n] if np.ndim(shift) else target
                        part[...] = series[at + late : at + late + many]
                done, place = done + many, place + 1
        return (*arrays, starts)


def streams(
    *columns: Any,
    batch_size: int,
    size: int,
    horizon: int | Sequence[int] = 1,
    key: Key | None = None,
) -> Streams:
    """Contiguous windows of long series, for truncated backpropagation through time.

    ::

        all series one after another:   row 0 | row 1 | ... | row batch_size - 1
        batch n:                        steps n * size  to  (n + 1) * size - 1  of each row

    A model that carries its state from batch to batch reads each row without a gap. ``starts``
    marks the steps at which it has to forget: the first step of a row, and of each series. Pass it
    as ``resets=``.

    Args:
        *columns: each a series ``(time, ...)``, a list of series or a `Ragged`, of one dtype. One
            column is both input and target: the targets are the values ``horizon`` steps later.
            Several columns must agree in lengths and are used as they are.
        batch_size: rows.
        size: steps of a window, through which gradients flow.
        horizon: for one column only: how many steps later the target is, or several such numbers.
        key: random key that shuffles the series and moves the steps that are left out, differently
            in each epoch. `noria.fit` shuffles by its key instead.

    Returns:
        A `Streams`, to iterate over any number of times. A batch is ``(xs, ys, starts)``, or the
        tuple of all columns and ``starts``: arrays ``(batch, size, ...)`` of the dtype of the
        series, and ``(batch, size)`` booleans. With several horizons, ``ys`` is ``(batch, size,
        horizons, ...)``.

    Raises:
        ValueError: for no columns, columns of different lengths, or series with fewer than
            ``batch_size * size`` steps.
        TypeError: for a column of anything but numbers, or a key that is not a random key.

    All batches have one shape. At most ``batch_size * size - 1`` steps at the end fill no window
    and are left out. Series in memory maps are read window by window.

    Keras' ``stateful=True`` and PyTorch leave these rows to the user; neither marks a new series.

    Examples:
        >>> import numpy as np, noria as nr
        >>> for xs, ys, starts in nr.data.streams(np.arange(9), batch_size=2, size=2):
        ...     print(xs.tolist(), ys.tolist(), starts.tolist())
        [[0, 1], [4, 5]] [[1, 2], [5, 6]] [[True, False], [True, False]]
        [[2, 3], [6, 7]] [[3, 4], [7, 8]] [[False, False], [False, False]]
    """
    check_sizes("streams", batch_size=batch_size, size=size)
    ready = [_series(n, column) for n, column in enumerate(columns)]
    if not ready:
        raise ValueError("streams(): there are no columns; expected a series or a list of series.")
    lengths = [lengths_of(column).astype(np.int64) for column in ready]
    if len(ready) == 1:
        shifts: list[Any] = [0, _horizons(horizon)]
        ready, counts = ready * 2, np.maximum(lengths[0] - np.max(shifts[1]), 0)
    elif np.ndim(horizon) or horizon != 1:
        raise ValueError(
            f"streams(horizon={horizon}): there are {len(ready)} columns, which are used as they "
            "are; expected one column, or targets that are shifted already."
        )
    else:
        shifts, counts = [0] * len(ready), lengths[0]
        for n, other in enumerate(lengths):
            if not np.array_equal(other, counts):
                raise ValueError(
                    f"streams: column {n} has series of {_few(other)} steps, column 0 of "
                    f"{_few(counts)}; expected equal lengths."
                )
    if counts.sum() < batch_size * size:
        raise ValueError(
            f"streams(batch_size={batch_size}, size={size}): the series have {counts.sum()} steps "
            f"with a target; expected at least {batch_size * size}."
        )
    return Streams(ready, counts, shifts, batch_size, size, key)


def _series(n: int, column: Any) -> Sequence[np.ndarray]:
    """A column of `streams` as a list of series."""
    if isinstance(column, Ragged):
        return column
    many = isinstance(column, list | tuple) and len(column) > 0 and np.ndim(column[0]) > 0
    return sequences_of(f"streams, column {n}", column if many else [column])


def _horizons(horizon: Any) -> Any:
    numbers = np.ravel(horizon).tolist()
    check_sizes("streams", **{f"horizon {n}": number for n, number in enumerate(numbers)})
    if not numbers:
        raise ValueError("streams(horizon=[]): expected a whole number of at least 1, or several.")
    return numbers if np.ndim(horizon) else numbers[0]


def _few(lengths: np.ndarray) -> str:
    return f"{', '.join(map(str, lengths[:5]))}{', ...' if len(lengths) > 5 else ''}"
