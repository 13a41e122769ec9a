"""Named arrays of a source: each is used once, and what is left is refused by name."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NoReturn

import jax
import numpy as np

#: Most parts of a source, and the deepest nesting. A hostile file repeats one part endlessly.
MOST, DEEPEST = 100_000, 64

#: Names that a message lists before it says how many more there are.
LISTED = 8


@dataclass(frozen=True)
class Report:
    """What an importer read from a source.

    Attributes:
        call: the call, as messages name it.
        used: the name of each entry that became part of the model, with its dtype and shape.
        outside: names of entries outside of the part that was asked for.
        notes: settings that the importer read or was told, and differences to know about.

    Examples:
        >>> import numpy as np, noria as nr
        >>> arrays = {"weight": np.ones((2, 3), np.float32), "bias": np.ones(2, np.float32)}
        >>> layer = nr.from_torch(arrays, report=print)
        from_torch(state_dict): 2 entries used
          weight  float32[2, 3]
          bias    float32[2]
        note: read as Linear()
    """

    call: str
    used: dict[str, str]
    outside: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        width = max(map(len, self.used), default=0)
        lines = [f"{self.call}: {len(self.used)} entries used"]
        lines += [f"  {name:{width}}  {what}" for name, what in self.used.items()]
        if self.outside:
            lines.append(f"not asked for: {listed(self.outside)}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


#: Receives the `Report` of an import: ``report=print`` shows it.
Reporter = Callable[[Report], object]


@dataclass
class Record:
    """What has happened to the entries of one import."""

    call: str
    dtype: Any
    used: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class StorageError(ValueError):
    """An array that is read when it is needed, and whose part of the file is damaged."""


class Entries:
    """The arrays of a source below one path, by their names relative to it.

    A path is made of names with dots between: ``encoder.rnn.weight_ih_l0``.
    """

    def __init__(self, record: Record, arrays: dict[str, Any], path: str = ""):
        self._record, self._arrays, self._path = record, arrays, path

    @property
    def call(self) -> str:
        return self._record.call

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def parts(self) -> list[str]:
        """The first names of the paths, in the order of the source."""
        return list(dict.fromkeys(name.split(".")[0] for name in self._arrays))

    def at(self, part: str) -> "Entries":
        """The entries below a part of this path."""
        if not part:
            return self
        start = f"{part}."
        below = {n.removeprefix(start): a for n, a in self._arrays.items() if n.startswith(start)}
        return Entries(self._record, below, f"{self._path}{start}")

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._array(name).shape)

    def take(self, name: str, *expected: Any) -> np.ndarray:
        """The array of that name, which now counts as used.

        ``expected`` is its shape; ``None`` stands for any size.
        """
        given = self._array(name)
        shape = tuple(given.shape)
        fits = len(shape) == len(expected) and all(
            e in (None, s) for e, s in zip(expected, shape, strict=True)
        )
        if expected and not fits:
            wanted = ", ".join("any" if e is None else str(e) for e in expected)
            self.fail(f"{self._path}{name} has shape {shape}; expected ({wanted})")
        try:
            array = self._in_dtype(name, as_numpy(given))
        except StorageError as error:
            self.fail(f"{self._path}{name}: {error}")
        self._record.used[self._path + name] = f"{array.dtype}{list(array.shape)}"
        return array

    def is_off(self, name: str) -> bool:
        """Whether an entry is ``false`` in the place of an array; then it counts as used."""
        given = self._arrays.get(name)
        off = isinstance(given, bool | np.bool_ | np.ndarray) and np.shape(given) == ()
        if off and not given:
            self._record.used[self._path + name] = "false"
        return bool(off and not given)

    def maybe(self, name: str, *expected: Any) -> np.ndarray | None:
        return self.take(name, *expected) if name in self else None

    def note(self, text: str) -> None:
        self._record.notes.append(text)

    def fail(self, text: str) -> NoReturn:
        raise ValueError(f"{self.call}: {text}.")

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self.fail(f"there is no entry {self._path}{name}; it has {listed(self._arrays)}")
        given = self._arrays[name]
        if not hasattr(given, "shape") or not hasattr(given, "dtype"):
            self.fail(f"{self._path}{name} is a {type(given).__name__}; expected an array")
        return given

    def _in_dtype(self, name: str, array: np.ndarray) -> np.ndarray:
        array = array if self._record.dtype is None else array.astype(self._record.dtype)
        if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
            self.fail(
                f"{self._path}{name} is {array.dtype}, which JAX narrows without 64 bits; pass "
                'dtype="float32", or jax.config.update("jax_enable_x64", True)'
            )
        return array


def imported(
    call: str,
    source: Mapping[str, Any],
    prefix: str,
    build: Callable[[Entries], Any],
    dtype: Any = None,
    report: Reporter | None = None,
) -> Any:
    """What ``build`` makes of the entries below ``prefix``, all of which it must use."""
    arrays = flattened(call, source)
    everything = Entries(Record(call, dtype), arrays)
    entries = everything.at(prefix)
    if not entries:
        everything.fail(
            f"there is nothing below {prefix!r}; {did_you_mean(prefix, paths_of(arrays))}"
            if prefix
            else "it holds no arrays"
        )
    model = build(entries)
    record, start = entries._record, f"{prefix}." if prefix else ""
    left = [start + name for name in entries if start + name not in record.used]
    if left:
        entries.fail(
            f"it does not know {listed(left)}, beside {listed(record.used)}; "
            "expected a known layer: pass the path of one as prefix="
        )
    outside = tuple(name for name in arrays if not name.startswith(start))
    if report is not None:
        report(Report(call, record.used, outside, tuple(record.notes)))
    return model


def flattened(call: str, source: Any) -> dict[str, Any]:
    """The leaves of nested dicts and sequences by their paths, with dots between."""
    leaves: dict[str, Any] = {}
    visits = count()

    def visit(node: Any, path: str, depth: int) -> None:
        if depth > DEEPEST or next(visits) > MOST:
            raise ValueError(f"{call}: it is nested too deeply, or has too many parts.")
        if isinstance(node, Mapping):
            items = node.items()
        elif isinstance(node, list | tuple):
            items = dict(enumerate(node)).items()
        else:
            leaves[path] = node
            return
        for name, child in items:
            visit(child, f"{path}.{name}" if path else str(name), depth + 1)

    visit(source, "", 0)
    return {name: leaf for name, leaf in leaves.items() if leaf is not None}


def as_numpy(array: Any) -> np.ndarray:
    """A NumPy array of any framework's array."""
    if hasattr(array, "detach"):  # PyTorch's tensors may be on a device, and need a gradient
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # which NumPy does not know
            return array.float().numpy().astype(jax.numpy.bfloat16)
        return np.asarray(array.numpy())
    return np.asarray(array)


def paths_of(names: Mapping[str, Any]) -> list[str]:
    """All paths that lead to a leaf, without the leaf."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")[:-1]
        found |= {".".join(parts[: n + 1]): None for n in range(len(parts))}
    return list(found)


def listed(names: Any) -> str:
    """Some of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(str, names[:LISTED])) + more


def did_you_mean(name: str, known: Any) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, 3, 0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"expected one of {listed(known)}"
