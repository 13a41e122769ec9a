"""Files of PyTorch, read without PyTorch: a zip of storages, or the pickle that came before it.

A pickle is a program. Here the standard library decodes its instructions, and an interpreter of
those that build data carries them out. It imports nothing and calls nothing: a name of code is
refused, and the functions that rebuild tensors become the tensors below. A storage is read when its
tensor is needed, and never holds more bytes than the file.
"""

import io
import os
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, NoReturn

import jax.numpy as jnp
import numpy as np

from noria.interop.entries import StorageError

#: Storage classes of the module ``torch``, and the dtypes of their elements.
DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

#: Errors of zipfile for a damaged file.
DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError)

#: The first object of a file of the older form.
MAGIC = 0x1950A86A20F9469CFC6C


class Refused(ValueError):
    """A file that is damaged, or holds anything but data."""


@dataclass(frozen=True)
class Name:
    """The name of code in a pickle, one of `KNOWN`."""

    text: str


@dataclass
class Storage:
    """A block of numbers in a file, which ``read`` fetches."""

    dtype: np.dtype
    count: int
    read: Callable[[], bytes]

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 0:
            raise Refused("the length of a storage is no whole number")

    @cached_property
    def numbers(self) -> np.ndarray:
        try:
            data = self.read()
        except (*DAMAGED, ValueError) as error:
            raise StorageError(str(error)) from error
        size = self.count * self.dtype.itemsize
        if len(data) < size:
            raise StorageError(f"a storage holds {len(data)} bytes; expected {size}")
        return np.frombuffer(data, self.dtype, self.count)


@dataclass
class Tensor:
    """A view of a storage, as an array of NumPy when it is needed."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = [self.offset, *self.shape, *self.stride]
        if not all(type(n) is int and n >= 0 for n in sizes) or len(self.shape) != len(self.stride):
            raise Refused("a tensor has sizes that are no whole numbers")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        count = int(np.prod(self.shape, dtype=object))
        if count > self.storage.count or (count and last >= self.storage.count):
            raise Refused(f"a tensor of shape {self.shape} is larger than its storage")

    @property
    def dtype(self) -> np.dtype:
        return self.storage.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        steps = [s * self.dtype.itemsize for s in self.stride]
        numbers = self.storage.numbers[self.offset :]
        view = np.lib.stride_tricks.as_strided(numbers, self.shape, steps)
        native = self.dtype.newbyteorder("=")
        return np.array(view, native if dtype is None else dtype)


def _tensor(storage: Storage, offset: int, shape: Any, stride: Any, *_: Any) -> Tensor:
    return Tensor(storage, offset, tuple(shape), tuple(stride))


def _checked_key(key: Any) -> Any:
    """A key of a dict; a tuple of tuples may take for ever to hash."""
    if not isinstance(key, str | int | float | None):
        raise Refused(f"a key of a dict is a {type(key).__name__}; expected text")
    return key


#: What takes the place of a function when a pickle calls it.
CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda pairs=(): {_checked_key(k): v for k, v in pairs},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": tuple,
    "torch.device": lambda *_: None,
}
KNOWN = {*CALLS, *(f"torch.{name}" for name in DTYPES)}
KNOWN |= {f"torch.{name}" for name in "float64 float32 float16 bfloat16 int64 int32 bool".split()}


class Pickle:
    """The interpreter: a stack with marks, and a memo of values that occur again."""

    def __init__(self, fetch: Callable[..., Storage]):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.fetch = fetch

    def run(self, stream: BinaryIO) -> Any:
        """The value of the next pickle in a stream.

        Raises:
            ValueError: for a damaged pickle, or one that does anything but build data.
        """
        try:
            for instruction, argument, _ in pickletools.genops(stream):
                self._step(instruction.name, argument)
            return self.stack.pop()
        except Refused:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"its pickle is damaged: {type(error).__name__}") from error

    def _step(self, name: str, argument: Any) -> None:
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in LITERALS:
            self.stack.append(argument)
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in STEPS:
            STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Refused(f"its pickle uses {name}, which no file of tensors needs")

    def since_mark(self) -> list[Any]:
        return self.popped(len(self.stack) - self.marks.pop())

    def tuple(self, length: int | None) -> None:
        values = self.since_mark() if length is None else self.popped(length)
        self.stack.append(tuple(values))

    def popped(self, count: int) -> list[Any]:
        if not 0 <= count <= len(self.stack):
            raise IndexError("the stack is empty")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def append(self, values: list[Any]) -> None:
        self.expected(list).extend(values)

    def insert(self, values: list[Any]) -> None:
        target = self.expected(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_checked_key(key)] = value

    def expected(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise Refused(f"its pickle fills a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def name(self, module_and_name: str) -> None:
        text = module_and_name.replace(" ", ".")
        if text not in KNOWN:
            raise Refused(
                f"it names {text}, which is code and is never run; "
                "save arrays only: torch.save(model.state_dict(), path)"
            )
        self.stack.append(Name(text))

    def call(self) -> None:
        function, arguments = self.popped(2)
        if type(function) is not Name or function.text not in CALLS:
            raise Refused("its pickle calls what is no function")
        self.stack.append(CALLS[function.text](*arguments))

    def finish(self) -> None:
        """Attributes of an object; a state_dict has some, with versions of modules."""
        self.popped(1)
        self.expected(dict)

    def persistent(self) -> None:
        kind, name, key, *where = self.popped(1)[0]
        dtype = DTYPES.get(name.text.removeprefix("torch."))
        if kind != "storage" or type(key) is not str or dtype is None:
            raise Refused("its pickle refers to what is no storage")
        self.stack.append(self.fetch(dtype, key, *where))


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
    *("BINSTRING", "SHORT_BINSTRING"),
}
STEPS: dict[str, Callable[[Pickle, Any], None]] = {
    "MARK": lambda p, _: p.marks.append(len(p.stack)),
    "TUPLE": lambda p, _: p.tuple(None),
    "TUPLE1": lambda p, _: p.tuple(1),
    "TUPLE2": lambda p, _: p.tuple(2),
    "TUPLE3": lambda p, _: p.tuple(3),
    "APPEND": lambda p, _: p.append(p.popped(1)),
    "APPENDS": lambda p, _: p.append(p.since_mark()),
    "SETITEM": lambda p, _: p.insert(p.popped(2)),
    "SETITEMS": lambda p, _: p.insert(p.since_mark()),
    "GLOBAL": lambda p, argument: p.name(argument),
    "STACK_GLOBAL": lambda p, _: p.name(".".join(p.popped(2))),
    "REDUCE": lambda p, _: p.call(),
    "BUILD": lambda p, _: p.finish(),
    "BINPERSID": lambda p, _: p.persistent(),
}


# --- Files --------------------------------------------------------------------------------------


def read(path: str) -> Any:
    """The object in a file of ``torch.save``: nested dicts and lists of `Tensor` and plain values.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, a damaged one, or holds code.
    """
    try:
        with open(path, "rb") as file:
            return _read_zip(path) if zipfile.is_zipfile(file) else _read_stream(path)
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise Refused(f"it is damaged: {error}") from error


def _read_zip(path: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in files if name.split("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        _fail("it is a zip without data.pkl, which torch.save does not write")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in files:
        _fail(
            "it is a TorchScript program; pass the module: from_torch(torch.jit.load(path)), "
            "with a part of it as prefix="
        )
    if sum(info.file_size for info in files.values()) > os.path.getsize(path):
        _fail("its parts are compressed or overlap; torch.save does neither")

    def member(name: str) -> bytes:
        if name not in files:
            _fail(f"its part {name} is missing")
        with zipfile.ZipFile(path) as archive:
            return archive.read(files[name])

    order = member(f"{folder}byteorder") if f"{folder}byteorder" in files else b"little"

    def fetch(dtype: np.dtype, key: str, _place: str, count: int, *_: Any) -> Storage:
        dtype = dtype.newbyteorder(">") if order == b"big" else dtype
        return Storage(dtype, count, lambda: member(f"{folder}data/{key}"))

    return Pickle(fetch).run(io.BytesIO(member(pickles[0])))


def _read_stream(path: str) -> Any:
    """The older form: four pickles, a list of storages, and each with its length before it."""
    storages: dict[str, Storage] = {}

    def fetch(dtype: np.dtype, key: str, _place: str, count: int, view: Any = None) -> Storage:
        if view is not None:
            _fail("a storage is a part of another one; save the file again with torch.save")
        return storages.setdefault(key, Storage(dtype, count, lambda: b""))

    with open(path, "rb") as file:
        if file.read(1) != b"\x80":
            _fail("it is neither a zip nor a pickle")
        file.seek(0)
        if Pickle(fetch).run(file) != MAGIC:
            _fail("it is a pickle, but not one of torch.save")
        Pickle(fetch).run(file), Pickle(fetch).run(file)  # version and sizes of types
        found = Pickle(fetch).run(file)
        for key, place in _places(file, Pickle(fetch).run(file), storages):
            storages[key].read = place
    return found


def _places(
    file: BinaryIO, keys: Any, storages: dict[str, Storage]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    end = os.fstat(file.fileno()).st_size
    for key in keys:
        if key not in storages:
            _fail("it holds a storage that no tensor has")
        size = storages[key].count * storages[key].dtype.itemsize
        if file.tell() + 8 + size > end:
            _fail("it is truncated: a storage reaches beyond its end")
        if int.from_bytes(file.read(8), "little") != storages[key].count:
            _fail("a storage has another length than its tensor says")
        yield key, _reader(file.name, file.tell(), size)
        file.seek(size, os.SEEK_CUR)


def _reader(path: str, place: int, size: int) -> Callable[[], bytes]:
    def read() -> bytes:
        with open(path, "rb") as file:
            file.seek(place)
            return file.read(size)

    return read


def _fail(text: str) -> NoReturn:
    raise Refused(text)
