"""Sequences of different lengths: ``pad`` makes one array of them, ``batches`` many arrays."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._errors import check_numbers, check_sizes
from noria._integers import ceil_div
from noria._types import Key
from noria.data.epochs import Epochs, Rows, all_rows
from noria.data.store import Ragged


def pad(
    sequences: Sequence[Any], *, time: int | None = None, value: Any = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pads sequences of different lengths into one array.

    Args:
        sequences: arrays ``(time, ...)`` of one dtype that differ in ``time`` only; some may be
            empty.
        time: steps of the result; by default the length of the longest sequence.
        value: the padding, a number that the dtype of the sequences can represent.

    Returns:
        ``(xs, lengths)``: ``(batch, time, ...)`` of the dtype of the sequences, and ``(batch,)``
            int32.

    Raises:
        ValueError: for no sequences, different features, or a sequence longer than ``time``.
        TypeError: for different dtypes, objects that are not numbers, or a value that the dtype
            cannot represent.

    PyTorch's ``pad_sequence`` puts time first by default. Keras' ``pad_sequences`` pads at the
    start; here padding is at the end.

    Examples:
        >>> import numpy as np, noria as nr
        >>> xs, lengths = nr.data.pad([np.array([[1.0], [2.0]]), np.array([[3.0]])])
        >>> xs[..., 0].tolist(), lengths.tolist()
        ([[1.0, 2.0], [3.0, 0.0]], [2, 1])
    """
    arrays = sequences_of("pad", sequences)
    lengths = np.array([len(array) for array in arrays], np.int32)
    longest = int(lengths.max())
    time = longest if time is None else time
    if longest > time:
        raise ValueError(
            f"pad(time={time}): sequence {int(lengths.argmax())} has {longest} steps; "
            f"expected at most {time}."
        )
    fill = _filling(value, arrays[0].dtype)
    xs = np.full((len(arrays), time, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in zip(xs, arrays, strict=True):
        row[: len(array)] = array
    return xs, lengths


def _filling(value: Any, dtype: np.dtype) -> np.ndarray:
    """``value`` with dtype ``dtype``. Only rounding may change it; NumPy would turn 0.5 into 0."""
    given = np.asarray(value)
    kinds = "biufc" if dtype.kind == "c" else "biuf"
    if given.shape == () and given.dtype.kind in kinds:
        with np.errstate(all="ignore"):
            fill = given.astype(dtype)
        both_nan = given != given and fill != fill
        rounded = jnp.issubdtype(dtype, jnp.inexact) and np.isfinite(fill) and np.isfinite(given)
        if fill == given or both_nan or rounded:
            return fill
    raise TypeError(
        f"pad(value={value!r}): the sequences are {dtype}, which cannot hold it; "
        "expected another value, or sequences of another dtype: sequence.astype(...)."
    )


def lengths_of(sequences: Sequence[Any]) -> np.ndarray:
    """The steps of each sequence, int32."""
    if isinstance(sequences, Ragged):
        return sequences.lengths.astype(np.int32)
    return np.array([len(sequence) for sequence in sequences], np.int32)


def sequences_of(call: str, sequences: Sequence[Any]) -> list[np.ndarray]:
    arrays = [np.asarray(sequence) for sequence in sequences]
    if not arrays:
        raise ValueError(f"{call}: there are no sequences; expected at least one.")
    for n, array in enumerate(arrays):
        check_numbers(call, f"sequence {n}", array)
        if array.ndim == 0:
            raise ValueError(
                f"{call}: sequence {n} is the number {array}; expected (time, ...). "
                "A column of one number for each example is an array: np.array(column)."
            )
        if array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"{call}: sequence {n} has shape {array.shape}, sequence 0 {arrays[0].shape}; "
                "expected (time, ...) with only the time different."
            )
        if array.dtype != arrays[0].dtype:
            raise TypeError(
                f"{call}: sequence {n} is {array.dtype}, sequence 0 {arrays[0].dtype}; "
                "expected one dtype."
            )
    return arrays


class Batches(Epochs):
    """Batches of examples, made by `batches`; each iteration is one epoch.

    With a key, each iteration has another order.

    Args:
        columns: arrays or lists of sequences, one entry for each example.
        lengths: ``(examples,)`` integers, the lengths of the sequences, or ``None`` without lists.
        batch_size: examples in a batch.
        buckets: largest number of padded lengths.
        key: random key that shuffles, or ``None``.

    Attributes:
        batch_size: as passed.

    Examples:
        >>> import numpy as np, noria as nr
        >>> data = nr.data.batches(np.arange(5), batch_size=2)
        >>> len(data), [column.tolist() for (column,) in data]
        (3, [[0, 1], [2, 3], [4]])
    """

    def __init__(
        self,
        columns: list[Any],
        lengths: np.ndarray | None,
        batch_size: int,
        buckets: int,
        key: Key | None,
    ):
        super().__init__(key)
        self._columns, self._lengths = columns, lengths
        self.batch_size, self._buckets = batch_size, buckets

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return ceil_div(len(self._columns[0]), self.batch_size)

    @property
    def padding(self) -> float:
        """The share of steps that are padding, in the order without a key."""
        if self._lengths is None:
            return 0.0
        steps = sum(len(rows) * time for rows, time in self._groups(None))
        return 1 - int(self._lengths.sum()) / steps if steps else 0.0

    def __repr__(self) -> str:
        return f"Batches({len(self)} batches, {self.padding:.1%} padding)"

    def epoch(
        self, key: Key | None = None, start: int = 0, rows: Rows | None = None
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """The batches of one epoch, in the order given by a key.

        Args:
            key: random key that shuffles; without it the order is always the same.
            start: number of the first batch; those before it are skipped, not made.
            rows: see `Epochs.epoch`.

        Returns:
            An iterator over tuples of arrays ``(batch, ...)``, followed by ``lengths`` ``(batch,)``
            int32 if a column is a list.
        """
        rng = None if key is None else np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
        groups = self._groups(rng)
        order = np.arange(len(groups)) if rng is None else rng.permutation(len(groups))
        chosen = all_rows if rows is None else rows
        for n in order[start:]:
            numbers, time = groups[n]
            yield self._batch(numbers[chosen(len(numbers))], time)

    def _groups(self, rng: np.random.Generator | None) -> list[tuple[np.ndarray, int]]:
        """The rows of each batch and the steps it is padded to."""
        count = len(self._columns[0])
        order = np.arange(count) if rng is None else rng.permutation(count)
        if self._lengths is None:
            return [(order[i : i + self.batch_size], 0) for i in range(0, count, self.batch_size)]
        # Bucket edges are quantiles of the lengths. The last rows of a bucket that do not fill a
        # batch move to the next longer bucket. So one batch of an epoch is short, and there is one
        # compiled shape more than there are buckets.
        shares = np.arange(1, self._buckets + 1) / self._buckets
        edges = np.unique(np.quantile(self._lengths, shares, method="inverted_cdf"))
        groups, waiting = [], order[:0]
        for low, high in zip([-1, *edges[:-1]], edges, strict=True):
            inside = order[(self._lengths[order] > low) & (self._lengths[order] <= high)]
            waiting = np.concatenate([waiting, inside])
            full = (
                len(waiting) if high == edges[-1] else len(waiting) - len(waiting) % self.batch_size
            )
            groups += [
                (waiting[i : min(i + self.batch_size, full)], int(high))
                for i in range(0, full, self.batch_size)
            ]
            waiting = waiting[full:]
        return groups

    def _batch(self, rows: np.ndarray, time: int) -> tuple[np.ndarray, ...]:
        batch = [
            _padded(column, rows, time) if isinstance(column, list | Ragged) else column[rows]
            for column in self._columns
        ]
        return (*batch, *(() if self._lengths is None else (self._lengths[rows],)))


def _padded(sequences: Any, rows: np.ndarray, time: int) -> np.ndarray:
    xs = np.zeros((len(rows), time, *sequences[0].shape[1:]), sequences[0].dtype)
    for x, row in zip(xs, rows, strict=True):
        sequence = sequences[row]
        x[: len(sequence)] = sequence
    return xs


def _column(call: str, column: Any) -> np.ndarray | list[np.ndarray] | Ragged:
    """A column of `batches`: an array of examples along the first axis, or a list of sequences."""
    if isinstance(column, Ragged):
        return column
    if isinstance(column, list | tuple):
        return sequences_of(call, column)
    array = np.asarray(column)
    if array.dtype == object and array.ndim == 1 and all(np.ndim(item) for item in array):
        return sequences_of(call, list(array))
    check_numbers(call, "column", array)
    if array.ndim == 0:
        raise ValueError(
            f"{call}: it is a {type(column).__name__}; expected an array or a list of sequences."
        )
    return array


def batches(*columns: Any, batch_size: int, key: Key | None = None, buckets: int = 4) -> Batches:
    """Batches of examples, with sequences of similar lengths padded together.

    Args:
        *columns: each an array ``(examples, ...)`` or a list of sequences ``(time, ...)``, one for
            each example. All lists must agree in the lengths of their sequences. An array of
            objects, as npz files hold it, is a list, and so is a `Ragged`.
        batch_size: examples in a batch; the last batch of an epoch may have fewer.
        key: random key that shuffles, differently in each epoch. Without it the order is always the
            same. `noria.fit` shuffles by its key instead.
        buckets: largest number of padded lengths, and of compilations. The lengths are quantiles;
            more buckets need less padding.

    Returns:
        A `Batches`, to iterate over any number of times. A batch is the tuple of the columns,
        followed by ``lengths`` ``(batch,)`` int32 if any column is a list. The arrays are NumPy's,
        with the dtypes of the columns.

    Raises:
        ValueError: for no columns, columns with different numbers of examples, or lists that differ
            in lengths.
        TypeError: for a column of anything but numbers, or a key that is not a random key.

    PyTorch's ``DataLoader`` and Flux's ``DataLoader`` need a collate function to pad.

    Examples:
        >>> import numpy as np, noria as nr
        >>> sequences, labels = [np.ones((t, 2)) for t in (3, 9, 4, 8)], np.array([0, 1, 0, 1])
        >>> for xs, y, lengths in nr.data.batches(sequences, labels, batch_size=2, buckets=2):
        ...     print(xs.shape, y.tolist(), lengths.tolist())
        (2, 4, 2) [0, 0] [3, 4]
        (2, 9, 2) [1, 1] [9, 8]
    """
    check_sizes("batches", batch_size=batch_size, buckets=buckets)
    if not columns:
        raise ValueError("batches(): there are no columns; expected arrays or lists of sequences.")
    ready = [_column(f"batches, column {n}", column) for n, column in enumerate(columns)]
    sizes = [len(column) for column in ready]
    if len(set(sizes)) > 1 or sizes[0] == 0:
        raise ValueError(
            f"batches: the columns have {sizes} examples; expected the same number, at least one."
        )
    ragged = [lengths_of(column) for column in ready if isinstance(column, list | Ragged)]
    for lengths in ragged:
        if not np.array_equal(lengths, ragged[0]):
            row = int(np.flatnonzero(lengths != ragged[0])[0])
            raise ValueError(
                f"batches: example {row} has {ragged[0][row]} steps in one list and {lengths[row]} "
                "in another; expected equal lengths. Pad one of them with noria.data.pad and pass "
                "its lengths as a column."
            )
    return Batches(ready, ragged[0] if ragged else None, batch_size, buckets, key)
