"""``save``, ``load`` and ``describe``: one safetensors file, with a JSON description in its header.

The arrays are stored under their paths in the model (``layers[0].cell.W``). The description holds
everything else that makes the model what it is: classes, settings, numbers. It is compared on
loading, never executed.
"""

import json
import os
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._atomic import replace_file
from noria._stored import (
    Tensor,
    is_stored_as,
    is_stored_in_parts,
    read,
    read_header,
    to_array,
    to_dtype,
    to_file,
    to_stored,
)
from noria.cells.base import cell_name
from noria.module import map_modules, named_leaves

M = TypeVar("M")
FilePath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

#: The second has arrays that are stored in parts, of which the first knew nothing.
_FORMATS = ("noria 1", "noria 2")

#: What a leaf that is no array can be; ``bool`` is an ``int`` to Python, and stands first.
_PLAIN = (bool, int, float, str)


def save(path: FilePath, model: Any, *, extra: Any = None) -> None:
    """Write a model, or any pytree of arrays such as ``(model, opt_state)``, to one file.

    A file that is there is replaced in one go: a crash of the program or of the machine leaves the
    old file or the new one. Its mode is kept, and its owner where the user may set it. The path may
    be a symbolic link; its target is replaced, or made. Other hard links to the file keep the old
    one. A piece (``.noria-*.part``) that a crashed save left in the folder is removed by the next.

    Args:
        path: of the file.
        model: the pytree. Arrays of all dtypes are kept as they are, random keys too. Dtypes that
            safetensors lacks are stored with one more axis: complex numbers as two real ones,
            others as bytes.
        extra: anything that JSON can hold, given back by `describe`: units, class names, the sizes
            to build it from. It comes back as JSON has it, tuples as lists and the keys of a dict
            as strings.

    Raises:
        TypeError: if ``extra`` cannot be written as JSON, or the pytree holds leaves that are
            neither arrays nor plain numbers, strings or booleans, or an array of anything but
            numbers and booleans.
        ValueError: if two leaves have one path, or the description is longer than the format
            allows, 100 MB.
        OSError: if there is no such folder or it cannot be written, or a folder, a pipe or a device
            is at the path.

    >>> import jax, noria as nr, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> nr.save(path, nr.GRU(2, 3, key=jax.random.key(0)), extra={"unit": "ppm"})
    >>> nr.describe(path)["extra"]
    {'unit': 'ppm'}
    """
    path = os.fsdecode(path)
    call = f"save({path!r})"
    _check_leaves(call, model)
    arrays = {name: _plain(leaf) for name, leaf in named_leaves(model) if _is_array(leaf)}
    text = _to_json(call, {**_description(model), "extra": extra})
    in_parts = any(is_stored_in_parts(array.dtype) for array in arrays.values())
    stored = {name: to_stored(array) for name, array in arrays.items()}
    replace_file(
        call, path, to_file(call, stored, {"format": _FORMATS[in_parts], "description": text})
    )


def load(path: FilePath, like: M) -> M:
    """Read what `save` wrote, into the structure of ``like``.

    The file is read once, so a save that replaces it meanwhile does no harm.

    Args:
        path: of the file.
        like: a model built as the saved one was; its arrays are replaced in the returned copy, as
            are plain numbers.

    Returns:
        A copy of ``like``, modes and frozen parts included, with the numbers of the file.

    Raises:
        ValueError: if the file is truncated, no safetensors file, not written by `save`, changed
            since, or does not fit ``like``: the message names the file and the first difference.
            ``like`` is unchanged in any case.
        TypeError: if ``like`` holds leaves that `save` would refuse.
        FileNotFoundError: if there is no such file.
        OSError: if the file may not be read.

    >>> import jax, noria as nr, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> nr.save(path, nr.GRU(2, 3, key=jax.random.key(0)))
    >>> model = nr.load(path, nr.GRU(2, 3, key=jax.random.key(1)))
    """
    path = os.fsdecode(path)
    call = f"load({path!r})"
    _check_leaves(call, like)
    metadata, tensors = read(path)
    saved = _checked(path, metadata, tensors)
    _compare(call, saved, json.loads(_to_json(call, _description(like))))
    leaves = [_restore(call, name, saved, tensors, leaf) for name, leaf in named_leaves(like)]
    return jtu.tree_unflatten(jtu.tree_structure(like), leaves)


def describe(path: FilePath) -> dict[str, Any]:
    """The description of a file: ``arrays``, ``numbers``, ``modules``, ``extra``.

    The arrays are not read, but their dtypes and shapes are compared with the description.

    Raises: as `load`, without a model to compare with.
    """
    path = os.fsdecode(path)
    return _checked(path, *read_header(path))


# --- The description ----------------------------------------------------------------------------


def _check_leaves(call: str, model: Any) -> None:
    names = set()
    for name, leaf in named_leaves(model):
        if name in names or name == "__metadata__":
            raise ValueError(
                f"{call}: {name!r} is the path of two leaves, or a reserved one; "
                "rename a part of the model."
            )
        names.add(name)
        if _is_array(leaf) and not _is_key(leaf):
            try:
                to_dtype(leaf.dtype.name)
            except ValueError as error:
                raise TypeError(
                    f"{call}: {name} is an array of {leaf.dtype}; expected numbers or booleans."
                ) from error


def _to_json(call: str, description: dict[str, Any]) -> str:
    try:
        text = json.dumps(description)
        json.loads(text)  # whole numbers and nesting have limits of their own there
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"{call}: extra or a leaf of the model cannot be written as JSON: {error}."
        ) from error
    return text


def _description(model: Any) -> dict[str, Any]:
    leaves = named_leaves(model)
    return {
        "arrays": {
            name: [_dtype(leaf), list(leaf.shape)] for name, leaf in leaves if _is_array(leaf)
        },
        "numbers": {
            name: leaf for name, leaf in leaves if not _is_array(leaf) and not callable(leaf)
        },
        "modules": _modules(model),
    }


def _modules(model: Any) -> dict[str, Any]:
    """Class and static settings of each module, by path. Modes and frozen parts are not part of what a model computes."""
    modules: dict[str, Any] = {}

    def visit(module: eqx.Module, path: str) -> dict[str, Any]:
        static = {
            f.name: _text(getattr(module, f.name))
            for f in fields(module)
            if f.metadata.get("static") and not f.name.startswith("_") and f.name != "inference"
        }
        functions = {
            f.name: cell_name(value)
            for f in fields(module)
            if callable(value := getattr(module, f.name, None))
            and not isinstance(value, eqx.Module)
        }
        modules[path.removeprefix(".")] = [type(module).__name__, {**static, **functions}]
        return {}

    map_modules(visit, model)
    return modules


def _text(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, tuple):
        return [_text(part) for part in value]
    return cell_name(value) if callable(value) else type(value).__name__


def _checked(path: str, metadata: dict[str, str], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The description in a file's metadata, after a look at every field of it that is used."""
    foreign = f"{path}: a safetensors file, but not one that noria.save wrote"
    if metadata.get("format", _FORMATS[0]) not in _FORMATS:
        expected = " or ".join(map(repr, _FORMATS))
        raise ValueError(f"{path}: written in format {metadata['format']!r}; expected {expected}.")
    if not {"format", "description"} <= metadata.keys():
        raise ValueError(f"{foreign}.")
    try:
        description = json.loads(metadata["description"])
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{foreign}: its description is no JSON that can be read: {error}."
        ) from error
    if fault := _fault(description) or _fault_of_tensors(description["arrays"], tensors):
        raise ValueError(f"{foreign}, or it was changed since: {fault}.")
    return description


def _fault(description: Any) -> str | None:
    """The first thing in a description that `save` does not write."""
    if (
        not isinstance(description, dict)
        or not {"arrays", "numbers", "modules", "extra"} <= description.keys()
    ):
        return "its description lacks arrays, numbers, modules or extra"
    for part, is_entry in {
        "arrays": _is_array_entry,
        "numbers": _is_number,
        "modules": _is_module_entry,
    }.items():
        if not isinstance(description[part], dict):
            return f"{part} in its description is a {type(description[part]).__name__}; expected a dict"
        for name, entry in description[part].items():
            if not is_entry(entry):
                return f"in its description, {part} has {entry!r:.60} for {name!r}"
    return None


def _is_number(entry: Any) -> bool:
    return type(entry) in _PLAIN


def _is_module_entry(entry: Any) -> bool:
    return isinstance(entry, list) and list(map(type, entry)) == [str, dict]


def _is_array_entry(entry: Any) -> bool:
    if not isinstance(entry, list) or list(map(type, entry)) != [str, list]:
        return False
    dtype, shape = entry
    if not all(type(size) is int and size >= 0 for size in shape):
        return False
    try:
        return _is_key_dtype(dtype) or to_dtype(dtype) is not None
    except ValueError:
        return False


def _fault_of_tensors(arrays: dict[str, Any], tensors: dict[str, Tensor]) -> str | None:
    """The first difference between the arrays that are described and those that are there."""
    for name in sorted(arrays.keys() | tensors.keys()):
        if name not in tensors:
            return f"{name} is described, but not there"
        if name not in arrays:
            return f"{name} is there, but not described"
        (dtype, shape), tensor = arrays[name], tensors[name]
        if _is_key_dtype(dtype):
            fits = tensor.dtype == "U32" and tensor.shape[: len(shape)] == shape
        else:
            fits = is_stored_as(tensor, to_dtype(dtype), shape)
        if not fits:
            return (
                f"{name} is described as {dtype}{shape}, and there as {tensor.dtype}{tensor.shape}"
            )
    return None


def _compare(call: str, saved: dict[str, Any], built: dict[str, Any]) -> None:
    for name, (kind, settings) in saved["modules"].items():
        if name not in built["modules"]:
            continue  # its arrays tell more
        its_kind, its_settings = built["modules"][name]
        if kind != its_kind:
            _fail(call, f"{name or 'the model'} is a {kind} in the file, a {its_kind} in the model")
        for setting, value in settings.items():
            if setting != "backend" and value != its_settings.get(setting):
                its = its_settings.get(setting)
                _fail(
                    call,
                    f"{name or 'the model'}: {setting} is {value!r} in the file, "
                    f"{its!r} in the model",
                )
    for name, (dtype, shape) in saved["arrays"].items():
        if name not in built["arrays"]:
            _fail(call, f"the file has {name}, which the model lacks")
        its_dtype, its_shape = built["arrays"][name]
        if shape != its_shape:
            _fail(
                call,
                f"{name} has shape {tuple(shape)} in the file, {tuple(its_shape)} in the model",
            )
        if dtype != its_dtype:
            _fail(
                call,
                f"{name} is {dtype} in the file, {its_dtype} in the model (noria.cast changes a "
                "model's dtype)",
            )
    for part in ("arrays", "numbers"):
        if missing := sorted(built[part].keys() ^ saved[part].keys()):
            _fail(
                call,
                f"only the {'model' if missing[0] in built[part] else 'file'} has {missing[0]}",
            )
    for name, number in saved["numbers"].items():
        kind, its_kind = type(number).__name__, type(built["numbers"][name]).__name__
        if kind != its_kind:
            _fail(
                call, f"{name} is {number!r:.60}, a {kind}, in the file, a {its_kind} in the model"
            )
    if missing := sorted(built["modules"].keys() ^ saved["modules"].keys()):
        side, modules = (
            ("model", built["modules"])
            if missing[0] in built["modules"]
            else ("file", saved["modules"])
        )
        _fail(call, f"only the {side} has {missing[0]}, a {modules[missing[0]][0]}")


def _fail(call: str, what: str) -> NoReturn:
    raise ValueError(f"{call}: {what}; build the model as the saved one was. Nothing was loaded.")


# --- Leaves -------------------------------------------------------------------------------------


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _is_key_dtype(dtype: str) -> bool:
    return dtype.startswith("key<") and dtype.endswith(">")


def _dtype(leaf: Any) -> str:
    return f"key<{jax.random.key_impl(leaf)}>" if _is_key(leaf) else leaf.dtype.name


def _plain(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _restore(
    call: str, name: str, saved: dict[str, Any], tensors: dict[str, Tensor], like: Any
) -> Any:
    """The leaf of that name, of the kind that ``like`` has in its place."""
    if name in saved["numbers"]:
        return _restore_number(call, name, saved["numbers"][name], like)
    if not _is_array(like):
        return like  # a function
    if _is_key(like):
        data = jax.random.key_data(like)
        if tensors[name].shape != list(data.shape):
            _fail(
                call,
                f"{name} has keys of shape {tuple(tensors[name].shape)} in the file, "
                f"{data.shape} in the model",
            )
        value = to_array(tensors[name], np.dtype(data.dtype), list(data.shape))
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    dtype = np.dtype(like.dtype)
    value = to_array(tensors[name], dtype.newbyteorder("="), list(like.shape))
    if isinstance(like, np.ndarray):
        return value.astype(dtype, copy=False)
    # A weak dtype, such as that of jnp.full(3, 0.5), decides what the array becomes beside another.
    return like.at[...].set(value) if like.weak_type else jnp.asarray(value)


def _restore_number(call: str, name: str, value: Any, like: Any) -> Any:
    try:
        return value if type(like) in _PLAIN else type(like)(value)  # an enumeration, numpy.float64
    except ValueError as error:
        _fail(
            call,
            f"{name} is {value!r:.60} in the file, which is no {type(like).__name__} ({error})",
        )
