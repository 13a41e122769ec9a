"""``packed``: short sequences side by side in rows, with marks where each begins."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from noria._errors import check_sizes
from noria._integers import ceil_div
from noria._types import Key
from noria.data.epochs import Epochs, Rows, all_rows
from noria.data.ragged import lengths_of, sequences_of
from noria.data.store import Ragged


class Packed(Epochs):
    """Batches of rows that hold several sequences each, made by `packed`.

    Args:
        columns: lists of sequences.
        rows: the numbers of the sequences in each row.
        lengths: ``(sequences,)`` integers, the steps of each sequence.
        batch_size: rows of a batch.
        size: steps of a row.
        key: random key that shuffles the rows, or ``None``.

    Attributes:
        batch_size: as passed.

    Examples:
        >>> import numpy as np, noria as nr
        >>> data = nr.data.packed([np.ones(n) for n in (2, 3, 5)], batch_size=2, size=5)
        >>> len(data), data.padding
        (1, 0.0)
    """

    def __init__(
        self,
        columns: Sequence[Any],
        rows: list[list[int]],
        lengths: np.ndarray,
        batch_size: int,
        size: int,
        key: Key | None,
    ):
        super().__init__(key)
        self._columns, self._rows, self._lengths = columns, rows, lengths
        self.batch_size, self._size = batch_size, size

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return ceil_div(len(self._rows), self.batch_size)

    @property
    def padding(self) -> float:
        """The share of steps that are padding."""
        return 1 - int(self._lengths.sum()) / (len(self._rows) * self._size)

    def epoch(
        self, key: Key | None = None, start: int = 0, rows: Rows | None = None
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """The batches of one epoch, in the order given by a key.

        Args:
            key: random key that shuffles the rows; without it the order is always the same.
            start: number of the first batch.
            rows: see `Epochs.epoch`.

        Returns:
            An iterator over tuples of the columns ``(batch, size, ...)``, ``resets`` ``(batch,
            size)`` booleans and ``lengths`` ``(batch,)`` int32.
        """
        order = np.arange(len(self._rows))
        if key is not None:
            order = np.random.default_rng(np.asarray(jax.random.bits(key, (4,)))).permutation(order)
        chosen = all_rows if rows is None else rows
        for first in range(start * self.batch_size, len(order), self.batch_size):
            numbers = order[first : first + self.batch_size]
            yield self._batch([self._rows[n] for n in numbers[chosen(len(numbers))]])

    def _batch(self, rows: list[list[int]]) -> tuple[np.ndarray, ...]:
        shape = len(rows), self._size
        arrays = [np.zeros((*shape, *c[0].shape[1:]), c[0].dtype) for c in self._columns]
        resets, lengths = np.zeros(shape, bool), np.zeros(len(rows), np.int32)
        for n, row in enumerate(rows):
            for sequence in row:
                first, length = lengths[n], self._lengths[sequence]
                for array, column in zip(arrays, self._columns, strict=True):
                    array[n, first : first + length] = column[sequence]
                resets[n, first : first + 1] = length > 0
                lengths[n] += length
        return (*arrays, resets, lengths)

    def __repr__(self) -> str:
        return f"Packed({len(self)} batches, {self.padding:.1%} padding)"


def packed(*columns: Any, batch_size: int, size: int, key: Key | None = None) -> Packed:
    """Batches of rows of one length, each filled with whole sequences.

    A sequence begins where ``resets`` is true, so that a layer with ``resets=`` reads each sequence
    from its initial state. Rows are filled longest first, each sequence into the fullest row with
    room for it. With many short sequences there is hardly any padding, and one shape is compiled.

    Args:
        *columns: each a list of sequences ``(time, ...)`` or a `Ragged`. They must agree in
            lengths. A label for each example is a sequence too: its repetition at each step.
        batch_size: rows of a batch; the last batch of an epoch may have fewer.
        size: steps of a row, at least those of the longest sequence.
        key: random key that shuffles the rows, differently in each epoch. `noria.fit` shuffles by
            its key instead. The sequences of a row stay together.

    Returns:
        A `Packed`, to iterate over any number of times. A batch is the tuple of the columns,
        ``(batch, size, ...)``, followed by ``resets`` ``(batch, size)`` booleans and ``lengths``
        ``(batch,)`` int32, the filled steps of each row.

    Raises:
        ValueError: for no columns, columns of different lengths, or a sequence longer than
            ``size``.
        TypeError: for a column of anything but numbers, or a key that is not a random key.

    Grain's ``FirstFitPackIterDataset`` numbers the segments instead of marking their first steps.

    Examples:
        >>> import numpy as np, noria as nr
        >>> sequences = [np.full(n, n) for n in (2, 3, 1)]
        >>> for xs, resets, lengths in nr.data.packed(sequences, batch_size=2, size=4):
        ...     print(xs.tolist(), resets.astype(int).tolist(), lengths.tolist())
        [[3, 3, 3, 1], [2, 2, 0, 0]] [[1, 0, 0, 1], [1, 0, 0, 0]] [4, 2]
    """
    check_sizes("packed", batch_size=batch_size, size=size)
    if not columns:
        raise ValueError("packed(): there are no columns; expected lists of sequences.")
    ready = [
        column if isinstance(column, Ragged) else sequences_of(f"packed, column {n}", column)
        for n, column in enumerate(columns)
    ]
    lengths = lengths_of(ready[0])
    if not lengths.size:
        raise ValueError("packed: there are no sequences; expected at least one.")
    for n, column in enumerate(ready):
        if not np.array_equal(lengths_of(column), lengths):
            raise ValueError(
                f"packed: column {n} has sequences of other lengths than column 0; expected equal "
                "lengths."
            )
    if lengths.max() > size:
        raise ValueError(
            f"packed(size={size}): sequence {lengths.argmax()} has {lengths.max()} steps; expected "
            "at most the steps of a row."
        )
    return Packed(ready, _rows(lengths, size), lengths, batch_size, size, key)


def _rows(lengths: np.ndarray, size: int) -> list[list[int]]:
    """The sequences of each row: best fit, longest first."""
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # room and number of each row with room, sorted
    for sequence in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[sequence])
        at = bisect_left(free, (length, 0))
        room, row = free.pop(at) if at < len(free) else (size, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(sequence)
        if room > length:
            insort(free, (room - length, row))
    return rows
