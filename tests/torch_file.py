"""Files as ``torch.save`` writes them, made without PyTorch: zips and the older pickles.

The instructions of a pickle are written by hand, so that a test can also write wrong ones.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

ORDERED = b"ccollections\nOrderedDict\n)R"
STORAGES = {"f": {4: "Float", 8: "Double", 2: "Half"}, "i": {8: "Long", 4: "Int"}}
MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def tuple_of(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def storage(key: str, array: np.ndarray, count: int | None = None) -> bytes:
    kind = STORAGES[array.dtype.kind][array.dtype.itemsize]
    size = number(array.size if count is None else count)
    name = f"ctorch\n{kind}Storage\n".encode()
    return tuple_of(text("storage"), name, text(key), text("cpu"), size) + b"Q"


def tensor(key: str, array: np.ndarray, **changes: Any) -> bytes:
    """A tensor; ``shape``, ``stride``, ``offset`` and ``count`` may be changed."""
    shape = changes.get("shape", array.shape)
    default = tuple(step // array.itemsize for step in array.strides)
    steps = changes.get("stride", default)
    parts = (
        storage(key, array, changes.get("count")),
        number(changes.get("offset", 0)),
        tuple_of(*map(number, shape)),
        tuple_of(*map(number, steps)),
        b"\x89" + ORDERED,
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + tuple_of(*parts) + b"R"


def dict_of(**values: bytes) -> bytes:
    return ORDERED + b"(" + b"".join(text(k) + v for k, v in values.items()) + b"u"


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def state_dict(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The value of a state_dict, with the attribute that PyTorch gives it."""
    tensors = {name: tensor(str(n), array) for n, (name, array) in enumerate(arrays.items())}
    return dict_of(**tensors) + b"}" + text("_metadata") + ORDERED + b"sb"


def zipped(
    value: bytes, arrays: Mapping[str, np.ndarray], compress: bool = False, **more: bytes
) -> bytes:
    """A file of the zip form; ``more`` are further members."""
    file = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("model/data.pkl", pickled(value))
        archive.writestr("model/byteorder", "little")
        for n, array in enumerate(arrays.values()):
            archive.writestr(f"model/data/{n}", array.tobytes())
        for name, data in more.items():
            archive.writestr(f"model/{name.replace('_', '.')}", data)
    return file.getvalue()


def older(value: bytes, arrays: Mapping[str, np.ndarray], counts: Mapping[int, int] = {}) -> bytes:
    """A file of the older form: pickles, and each storage after its length."""
    magic = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")
    keys = b"](" + b"".join(text(str(n)) for n in range(len(arrays))) + b"e"
    pickles = [pickled(part) for part in (magic, number(1001), b"}", value, keys)]
    for n, array in enumerate(arrays.values()):
        pickles += [struct.pack("<q", counts.get(n, array.size)), array.tobytes()]
    return b"".join(pickles)
