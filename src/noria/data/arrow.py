"""Arrow's list columns as values and offsets, without a copy."""

from collections.abc import Iterator
from typing import Any

import numpy as np


def parts_of(column: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Values and offsets of each chunk; see `noria.data.Ragged.from_arrow`."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            "Ragged.from_arrow needs pyarrow; install it with: pip install pyarrow"
        ) from error
    if not isinstance(column, pyarrow.Array | pyarrow.ChunkedArray) and hasattr(column, "to_arrow"):
        column = column.to_arrow()
    if not isinstance(column, pyarrow.Array | pyarrow.ChunkedArray):
        raise TypeError(
            f"Ragged.from_arrow: it is a {type(column).__name__}; expected a column of lists, such "
            'as table["name"].'
        )
    chunks = column.chunks if isinstance(column, pyarrow.ChunkedArray) else [column]
    chunks = [chunk for chunk in chunks if len(chunk)]
    if not chunks:
        raise ValueError("Ragged.from_arrow: the column is empty; expected at least one list.")
    for chunk in chunks:
        yield _part(pyarrow.types, chunk)


def _part(types: Any, chunk: Any) -> tuple[np.ndarray, np.ndarray]:
    if chunk.null_count:
        raise ValueError(
            f"Ragged.from_arrow: {chunk.null_count} lists are missing; expected none: "
            "column.drop_null(), or empty lists instead."
        )
    if types.is_fixed_size_list(chunk.type):
        offsets = np.arange(len(chunk) + 1) * chunk.type.list_size
        return _numbers(types, chunk.flatten()), offsets
    if not (types.is_list(chunk.type) or types.is_large_list(chunk.type)):
        raise TypeError(
            f"Ragged.from_arrow: the column is {chunk.type}; expected lists of numbers."
        )
    return _numbers(types, chunk.values), chunk.offsets.to_numpy()


def _numbers(types: Any, steps: Any) -> np.ndarray:
    """The array of all steps: numbers, or features in lists of a fixed size."""
    if steps.null_count:
        raise ValueError(
            f"Ragged.from_arrow: {steps.null_count} values are missing; expected none. "
            "Fill them with NaN, which noria.Standardise(..., missing=True) reads."
        )
    if types.is_fixed_size_list(steps.type):
        features = _numbers(types, steps.flatten())
        return features.reshape(len(steps), steps.type.list_size, *features.shape[1:])
    if not (types.is_integer(steps.type) or types.is_floating(steps.type)):
        raise TypeError(
            f"Ragged.from_arrow: the lists hold {steps.type}; expected integers or floats, "
            "whose memory can be used as it is."
        )
    numbers: np.ndarray = steps.to_numpy(zero_copy_only=True)
    return numbers
