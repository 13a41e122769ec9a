"""Arrays in a safetensors file: how each dtype is stored, and one reader of a whole file."""

import json
import os
import stat
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

#: The safetensors name of each dtype that the format can store.
_NATIVE = {
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    "bool": "BOOL",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}

#: Complex numbers are stored as real and imaginary parts; dtypes in neither table as bytes.
_PARTS: dict[str, np.dtype] = {
    "complex64": np.dtype(np.float32),
    "complex128": np.dtype(np.float64),
}
_BYTE: np.dtype = np.dtype(np.uint8)

#: Longest header that safetensors accepts, without the eight bytes of its length.
HEADER_LIMIT = 100_000_000


class Tensor(NamedTuple):
    """An array in a file: the safetensors name of its dtype, its shape, and its bytes.

    The bytes are missing if only the header was read.
    """

    dtype: str
    shape: list[int]
    data: Any = None


def to_dtype(name: str) -> np.dtype:
    """The dtype of that name, if arrays of it can be stored.

    Raises:
        ValueError: if there is no such dtype, or it is not one of numbers or booleans.
    """
    try:
        dtype: np.dtype = np.dtype(name if name.isidentifier() else object)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.name != name or not (dtype == np.bool_ or jnp.issubdtype(dtype, np.number)):
        raise ValueError(f"{name} is no dtype of numbers or booleans")
    return dtype


def is_stored_in_parts(dtype: np.dtype) -> bool:
    """Whether arrays of this dtype have one more axis in the file, for parts of a number."""
    return dtype.name not in _NATIVE


def to_stored(array: np.ndarray) -> np.ndarray:
    """The array that goes into the file."""
    array = np.asarray(array, order="C").astype(array.dtype.newbyteorder("="), copy=False)
    return array[..., None].view(_part(array.dtype)) if is_stored_in_parts(array.dtype) else array


def _part(dtype: np.dtype) -> np.dtype:
    return _PARTS.get(dtype.name, _BYTE)


def is_stored_as(tensor: Tensor, dtype: np.dtype, shape: list[int]) -> bool:
    """Whether an array of that dtype and shape is stored as ``tensor``."""
    if dtype.name == "complex64" and tensor[:2] == ("C64", shape):
        return True  # written by earlier versions of Noria
    if not is_stored_in_parts(dtype):
        return tensor[:2] == (_NATIVE[dtype.name], shape)
    part = _part(dtype)
    return tensor[:2] == (_NATIVE[part.name], [*shape, dtype.itemsize // part.itemsize])


def to_array(tensor: Tensor, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    """The inverse of `to_stored`."""
    return np.frombuffer(tensor.data, dtype).reshape(shape)


# --- Files --------------------------------------------------------------------------------------


def to_file(call: str, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file.

    Raises:
        ValueError: if its header is longer than the format allows.
    """
    too_long = (
        f"{call}: the description is longer than a safetensors file can have "
        f"({HEADER_LIMIT:,} bytes)"
    )
    try:
        data = safetensors.numpy.save(arrays, metadata=metadata)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{too_long}, or cannot be written: {error}.") from error
    if int.from_bytes(data[:8], "little") > HEADER_LIMIT:  # older versions of safetensors write it
        raise ValueError(f"{too_long}; keep large data out of extra.")
    return data


def read(path: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors, from one reading of the file.

    Concurrent writes do not mix in.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a safetensors file, or a damaged one.
    """
    _check_file(path)
    with open(path, "rb") as file:
        data = file.read()
    try:
        tensors = safetensors.deserialize(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    return header.get("__metadata__") or {}, {name: Tensor(**view) for name, view in tensors}


def read_header(path: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors without their bytes; raises the errors of `read`."""
    _check_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = file.keys()
            slices = {name: file.get_slice(name) for name in names}
            return file.metadata() or {}, {
                name: Tensor(s.get_dtype(), s.get_shape()) for name, s in slices.items()
            }
    except (FileNotFoundError, PermissionError):
        raise
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _check_file(path: str) -> None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: there is no such file.") from None
    if not stat.S_ISREG(status.st_mode):
        raise _damaged(path, "it is a folder, a pipe or a device")


def _damaged(path: str, why: Any) -> ValueError:
    return ValueError(f"{path}: no safetensors file, or a damaged one: {why}.")


def to_native(tensor: Tensor) -> np.ndarray:
    """The array of a tensor that any program may have stored, in the dtype of its name.

    Raises:
        ValueError: for a dtype that NumPy and JAX do not know.
    """
    names = {stored: name for name, stored in _NATIVE.items()}
    if tensor.dtype not in names:
        raise ValueError(f"an array is stored as {tensor.dtype}, which is no dtype of JAX")
    return to_array(tensor, np.dtype(names[tensor.dtype]), tensor.shape)
