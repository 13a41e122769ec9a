"""``Ragged``: sequences of different lengths in one long array, which may lie on disk."""

import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from noria._errors import check_numbers
from noria.data.npy import write_npy

#: Bytes of a memory map that may be resident. Then its pages are given back; they stay in the file
#: cache of the system.
RESIDENT = 16 * 2**20
#: Bytes that Linux makes resident around one that is read (`fault_around_bytes`).
AROUND = 64 * 2**10


class Ragged(Sequence[np.ndarray]):
    """Sequences of different lengths, end to end in one array, as they lie on disk.

    ::

        sequence n = values[offsets[n] : offsets[n + 1]]

    It stands for the list of its sequences in `noria.data.batches`, `noria.data.packed`,
    `noria.data.streams` and `noria.data.pad`, with the same order for the same key. Only the
    sequences of a batch are read.

    Args:
        values: ``(steps, ...)``, all steps of all sequences; a memory map stays on disk.
        offsets: ``(sequences + 1,)`` integers that do not decrease, from 0 to ``steps`` or within.

    Attributes:
        lengths: ``(sequences,)`` int64, the steps of each sequence.

    Raises:
        ValueError: if the offsets decrease or leave the values.
        TypeError: for values that are no numbers, or offsets that are no integers.

    Pages of a memory map that is open for reading only are given back after each 16 MB read, so the
    resident memory of a process stays small.

    PyTorch's nested tensors and Arrow's list columns hold the same two arrays.

    Examples:
        >>> import numpy as np, noria as nr
        >>> store = nr.data.Ragged(np.arange(6), np.array([0, 2, 2, 6]))
        >>> [one.tolist() for one in store]
        [[0, 1], [], [2, 3, 4, 5]]
        >>> for xs, lengths in nr.data.batches(store, batch_size=3, buckets=1):
        ...     print(xs.tolist(), lengths.tolist())
        [[0, 1, 0, 0], [0, 0, 0, 0], [2, 3, 4, 5]] [2, 0, 4]
    """

    def __init__(self, values: Any, offsets: Any):
        self._set([_checked(values, offsets)])

    def _set(self, parts: Sequence[tuple[Any, np.ndarray]]) -> None:
        self._values = [values for values, _ in parts]
        counts = [len(offsets) - 1 for _, offsets in parts]
        self._part = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
        self._first = np.concatenate([offsets[:-1] for _, offsets in parts])
        self.lengths = np.concatenate([np.diff(offsets) for _, offsets in parts])
        self._read = 0

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Ragged":
        """Sequences in a folder that `write` made, memory-mapped.

        Args:
            folder: holds ``values.npy`` and ``offsets.npy``.

        Returns:
            A `Ragged` whose values stay on disk.

        Raises:
            FileNotFoundError: if one of the files does not exist.
            ValueError: if they do not fit each other.
        """
        for name in ("values.npy", "offsets.npy"):
            if not (Path(folder) / name).exists():
                raise FileNotFoundError(
                    f"Ragged.open({str(folder)!r}): there is no {name}; expected a folder that "
                    "Ragged.write made."
                )
        values = np.load(Path(folder) / "values.npy", mmap_mode="r")
        return cls(values, np.load(Path(folder) / "offsets.npy"))

    @classmethod
    def write(cls, folder: str | os.PathLike[str], sequences: Iterable[Any]) -> "Ragged":
        """Write sequences into a folder, one after another, and open it.

        Args:
            folder: is created; files of the same names in it are replaced.
            sequences: arrays ``(time, ...)`` of one dtype, such as those of a generator.

        Returns:
            The `Ragged` of the folder, memory-mapped.

        Raises:
            ValueError: for no sequences, or different features.
            TypeError: for different dtypes, or objects that are not numbers.
        """
        write_npy(Path(folder), sequences)
        return cls.open(folder)

    @classmethod
    def from_arrow(cls, column: Any) -> "Ragged":
        """The lists of an Arrow column, without a copy.

        Args:
            column: a ``pyarrow.Array`` or ``ChunkedArray`` of lists of numbers, or of lists of
                fixed-size lists, which are features; or an object with ``to_arrow()``, such as a
                Polars series. A column of a Parquet file is ``pyarrow.parquet.read_table(path)
                ["name"]``; one of a memory-mapped Arrow file stays on disk.

        Returns:
            A `Ragged` on the buffers of the column.

        Raises:
            ImportError: if pyarrow is not installed.
            ValueError: if a list or a number is missing.
            TypeError: for a column of anything else.
        """
        from noria.data.arrow import parts_of

        store = cls.__new__(cls)
        store._set([_checked(values, offsets) for values, offsets in parts_of(column)])
        return store

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray) -> "Ragged": ...
    def __getitem__(self, index: Any) -> Any:
        """A sequence, or with a slice or an array of numbers the `Ragged` of several."""
        if isinstance(index, slice) or np.ndim(index):
            return self._some(index)
        length, first = int(self.lengths[index]), int(self._first[index])
        values = self._values[self._part[index]]
        self._read += AROUND + length * values.strides[0]
        if self._read > RESIDENT:
            self._read = 0
            for one in self._values:
                _give_back(one)
        return values[first : first + length]

    def _some(self, index: Any) -> "Ragged":
        some = Ragged.__new__(Ragged)
        some._values, some._part, some._first = self._values, self._part[index], self._first[index]
        some.lengths, some._read = self.lengths[index], 0
        return some

    @property
    def shape(self) -> tuple[int, ...]:
        """Sequences, and the shape of one step."""
        return (len(self), *self._values[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        found: np.dtype[Any] = self._values[0].dtype
        return found

    def __repr__(self) -> str:
        return f"Ragged({len(self)} sequences, {int(self.lengths.sum())} steps, {self.dtype})"


def _checked(values: Any, offsets: Any) -> tuple[Any, np.ndarray]:
    values, offsets = np.asarray(values), np.asarray(offsets)
    check_numbers("Ragged", "values", values)
    if values.ndim == 0:
        raise ValueError(f"Ragged: values is the number {values}; expected (steps, ...).")
    if not np.issubdtype(offsets.dtype, np.integer):
        raise TypeError(f"Ragged: offsets is {offsets.dtype}; expected whole numbers.")
    offsets = offsets.astype(np.int64, copy=False)
    if offsets.ndim != 1 or len(offsets) < 2:
        raise ValueError(
            f"Ragged: offsets has shape {offsets.shape}; expected (sequences + 1,), with at least "
            "one sequence."
        )
    if offsets[0] < 0 or offsets[-1] > len(values) or (np.diff(offsets) < 0).any():
        raise ValueError(
            f"Ragged: the offsets go from {offsets.min()} to {offsets.max()}; expected numbers "
            f"that do not decrease, from 0 to {len(values)}, the steps of the values."
        )
    return values, offsets


def _give_back(values: Any) -> None:
    """Drop the resident pages of a memory map that is open for reading only."""
    mode = None
    while values is not None:
        mode = getattr(values, "mode", mode)
        if isinstance(values, mmap.mmap):
            if mode == "r" and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
                values.madvise(mmap.MADV_DONTNEED)
            return
        values = getattr(values, "base", None)
