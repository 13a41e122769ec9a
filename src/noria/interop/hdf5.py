"""HDF5 files: all arrays of one, within the bounds of what it stores."""

import importlib
import io
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

#: Most bytes that compressed or unwritten arrays of one file may become, beyond those it stores.
EXPANSION = 256 * 2**20

#: Most links of a file, and the deepest nesting of its groups.
MOST, DEEPEST = 100_000, 64


class Unread:
    """A dataset of anything but numbers; an importer that needs it says so."""

    def __init__(self, what: str):
        self.what = what


def open_file(call: str, source: str | bytes) -> Any:
    """The open file of a path, or of the bytes of a file.

    Raises:
        ImportError: if h5py is not installed.
        ValueError: if it is no HDF5 file, or a damaged one.
    """
    try:
        h5py = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{call} needs h5py; install it with: pip install 'noria[models]'."
        ) from error
    if isinstance(source, str) and not os.path.exists(source):
        raise FileNotFoundError(f"{source}: there is no such file.")
    try:
        return h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{call}: it is no HDF5 file, or a damaged one: {error}.") from error


class Reader:
    """Reads groups and arrays, and follows no link out of the file."""

    def __init__(self, call: str):
        self.call = call
        self.links = self.expanded = 0

    def arrays(self, group: Any) -> dict[str, Any]:
        """The arrays below a group by their paths relative to it.

        Raises:
            ValueError: if the group is damaged, or holds a link or an array out of bounds.
        """
        found: dict[str, Any] = {}
        try:
            self._visit(group, "", found, 0)
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            self.fail(f"it is damaged: {str(error) or type(error).__name__}")
        return found

    def _visit(self, group: Any, path: str, found: dict[str, Any], depth: int) -> None:
        for name in group:
            self.links += 1
            if depth > DEEPEST or self.links > MOST:
                self.fail("its groups are nested too deeply, or are too many")
            if type(group.get(name, getlink=True)).__name__ != "HardLink":
                self.fail(f"{path}{name} is a link to another place, which is not followed")
            node = group[name]
            if hasattr(node, "keys"):
                self._visit(node, f"{path}{name}/", found, depth + 1)
            elif hasattr(node, "shape"):
                found[path + name] = self._array(path + name, node)

    def _array(self, path: str, dataset: Any) -> Any:
        if dataset.is_virtual or dataset.external:
            self.fail(f"the numbers of {path} are in another file, which is not read")
        if dataset.shape is None or dataset.dtype.kind not in "fiub":
            return Unread(str(dataset.dtype))
        size = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
        self.expanded += max(0, size - dataset.id.get_storage_size())
        if self.expanded > EXPANSION:
            self.fail(
                f"{path} has shape {dataset.shape}, but stores {dataset.id.get_storage_size()} "
                f"bytes of {size}"
            )
        return np.asarray(dataset[()])

    def fail(self, text: str) -> NoReturn:
        raise ValueError(f"{self.call}: {text}.")


def jld2_or_dict(name: str, source: Any) -> tuple[str, Any]:
    """The call for messages, and nested arrays of a dict or of a ``.jld2`` file.

    Julia's arrays have their axes in the other order in the file.
    """
    if isinstance(source, Mapping):
        return f"{name}(dict)", source
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"{name}: source is a {type(source).__name__}; expected nested dicts of arrays, or the "
            "path of a .jld2 file."
        )
    path = os.fspath(source)
    call = f"{name}({path!r})"
    with open_file(call, path) as file:
        arrays = Reader(call).arrays(file)
    unread = [path for path, array in arrays.items() if isinstance(array, Unread)]
    if unread:
        raise ValueError(
            f"{call}: {unread[0]} is a record of Julia, not an array; write each array under a "
            'path of its own: file["rnn/cell/Wi"] = model.cell.Wi.'
        )
    return call, {path.replace("/", "."): array.T for path, array in arrays.items()}
