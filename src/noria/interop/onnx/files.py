"""Model files of ONNX, read with bounds: nothing outside the folder, no more memory than data."""

import math
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

#: Types of tensors that are read, by their names in ONNX.
TYPES = frozenset(
    "FLOAT DOUBLE FLOAT16 BFLOAT16 INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 BOOL".split()
)


def need_onnx(call: str) -> None:
    """Raise `ImportError` if onnx is not installed."""
    if find_spec("onnx") is None:
        raise ImportError(f"{call} needs onnx; install it with: pip install 'noria[onnx]'.")


@dataclass(frozen=True, eq=False)
class Source:
    """A model, the call in messages, and the folder of its external data, if it has one."""

    call: str
    model: Any
    folder: Path | None

    def fail(self, reason: str) -> NoReturn:
        raise ValueError(f"{self.call}: {reason}")

    def array(self, tensor: Any) -> np.ndarray:
        """The numbers of a tensor, after a check that there are as many as its shape says."""
        from onnx import TensorProto, helper, numpy_helper

        kind = TensorProto.DataType.Name(tensor.data_type)
        dims, name = tuple(tensor.dims), tensor.name
        if kind not in TYPES:
            self.fail(f"{name!r} is a tensor of {kind}; expected numbers of 8 bits or more.")
        if any(size < 0 for size in dims):
            self.fail(f"{name!r} has the shape {dims}; expected sizes of at least 0.")
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        count = math.prod(dims)
        if tensor.data_location == TensorProto.EXTERNAL:
            data = self._external(tensor, count * dtype.itemsize)
            return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(dims)
        if tensor.HasField("raw_data"):
            found = len(tensor.raw_data) / dtype.itemsize
        else:
            found = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
        if found != count:
            self.fail(f"{name!r} has the shape {dims}, but {found:g} numbers of {kind}.")
        return np.asarray(numpy_helper.to_array(tensor))

    def _external(self, tensor: Any, size: int) -> bytes:
        """``size`` bytes of a file in the folder of the model."""
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location, what = fields.get("location", ""), f"the external data of {tensor.name!r}"
        if self.folder is None:
            self.fail(f"{what} is in a file; pass the path of the model and not its content.")
        folder = self.folder.resolve()
        path = (folder / location).resolve()
        if not location or not path.is_relative_to(folder):
            self.fail(f"{what} is in {location!r}, outside the folder of the model.")
        if not path.is_file():
            self.fail(f"{what} is in {location!r}; there is no such file beside the model.")
        try:
            offset = int(fields.get("offset", 0))
            length = int(fields.get("length", size))
        except ValueError:
            self.fail(f"{what} has no number as its offset or length.")
        if length != size or offset < 0 or offset + size > path.stat().st_size:
            self.fail(
                f"{what} has {length} bytes at {offset} in {location!r}; expected {size} bytes "
                f"inside of its {path.stat().st_size}."
            )
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def read(source: Any) -> Source:
    """The model of a path, of the bytes of a file, or of a ``ModelProto``."""
    shown = os.fspath(source) if isinstance(source, str | os.PathLike) else type(source).__name__
    call = (
        f"from_onnx({shown!r})" if isinstance(source, str | os.PathLike) else f"from_onnx({shown})"
    )
    need_onnx(call)
    import onnx

    if isinstance(source, onnx.ModelProto):
        return Source(call, source, None)
    if isinstance(source, bytes):
        return Source(call, _parsed(call, source), None)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"{call}: expected a path, the bytes of a file, or a ModelProto.")
    path = Path(source)
    return Source(call, _parsed(call, path.read_bytes()), path.parent)


def _parsed(call: str, data: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ValueError(f"{call}: no ONNX model, or a truncated one ({error}).") from error
    if not model.graph.node:
        raise ValueError(f"{call}: the model has no operators; it is empty or no ONNX model.")
    return model
