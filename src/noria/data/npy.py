"""Sequences written into two .npy files one after another, so that they never are in memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from noria._errors import check_numbers


def write_npy(folder: Path, sequences: Iterable[Any]) -> None:
    """Write ``values.npy`` and ``offsets.npy``; see `noria.data.Ragged.write`."""
    folder.mkdir(parents=True, exist_ok=True)
    piece, marks = folder / "values.npy.part", folder / "offsets.npy.part"
    first: np.ndarray | None = None
    offsets = [0]
    try:
        with piece.open("wb") as file:
            for n, sequence in enumerate(sequences):
                array = np.asarray(sequence)
                _check(n, array, first)
                if first is None:
                    first = array
                    _write_header(file, first, 0)
                file.write(np.ascontiguousarray(array).tobytes())
                offsets.append(offsets[-1] + len(array))
            if first is None:
                raise ValueError("Ragged.write: there are no sequences; expected at least one.")
            _write_header(file, first, offsets[-1])
        with marks.open("wb") as file:
            np.save(file, np.array(offsets))
        # The files of before stay whole until here. Between the lines there are no offsets, so that
        # no crash leaves those of other values.
        (folder / "offsets.npy").unlink(missing_ok=True)
        piece.replace(folder / "values.npy")
        marks.replace(folder / "offsets.npy")
    finally:
        piece.unlink(missing_ok=True)
        marks.unlink(missing_ok=True)


def _check(n: int, array: np.ndarray, first: np.ndarray | None) -> None:
    check_numbers("Ragged.write", f"sequence {n}", array)
    if array.dtype.kind == "V":  # bfloat16 and its like, which the format does not know
        raise TypeError(
            f"Ragged.write: sequence {n} is {array.dtype}, which .npy files do not hold; expected "
            "another dtype, such as float32."
        )
    if array.ndim == 0 or (first is not None and array.shape[1:] != first.shape[1:]):
        rest = "..." if first is None else ", ".join(map(str, first.shape[1:]))
        raise ValueError(
            f"Ragged.write: sequence {n} has shape {array.shape}; expected (time, {rest})."
        )
    if first is not None and array.dtype != first.dtype:
        raise TypeError(
            f"Ragged.write: sequence {n} is {array.dtype}, sequence 0 {first.dtype}; "
            "expected one dtype."
        )


def _write_header(file: BinaryIO, like: np.ndarray, steps: int) -> None:
    """The header, whose length does not depend on the number of steps: NumPy leaves room for it."""
    file.seek(0)
    description = {
        "descr": np.lib.format.dtype_to_descr(like.dtype),
        "fortran_order": False,
        "shape": (steps, *like.shape[1:]),
    }
    np.lib.format.write_array_header_1_0(file, description)
