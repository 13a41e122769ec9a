"""``save``, ``load`` and ``describe``: one safetensors file, with a JSON description in its header.

The arrays are stored under their paths in the model (``layers[0].cell.W``). The description holds everything else that
makes the model what it is: classes, settings, numbers. It is compared on loading, never executed.
"""

import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import safetensors
import safetensors.numpy

from noria.cells.base import cell_name
from noria.module import map_modules, named_leaves

M = TypeVar("M")

_FORMAT = "noria 1"


def save(path: str | os.PathLike[str], model: Any, *, extra: Any = None) -> None:
    """Write a model, or any pytree of arrays such as ``(model, opt_state)``, to one file.

    Args:
        path: of the file; an existing one is replaced, in one go: a crash leaves the old file or the new one.
        model: the pytree. Arrays of all dtypes are kept as they are, random keys too.
        extra: anything that JSON can hold, given back by `describe`: units, class names, the sizes to build it from.

    Raises:
        TypeError: if ``extra`` cannot be written as JSON, or the pytree holds leaves that are neither arrays nor plain
            numbers, strings or booleans.

    >>> import jax, noria as nr, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> nr.save(path, nr.GRU(2, 3, key=jax.random.key(0)), extra={"unit": "ppm"})
    >>> nr.describe(path)["extra"]
    {'unit': 'ppm'}
    """
    arrays = {name: _plain(leaf) for name, leaf in named_leaves(model) if _is_array(leaf)}
    try:
        description = json.dumps({**_description(model), "extra": extra})
    except TypeError as error:
        raise TypeError(f"save: extra or a leaf of the model cannot be written as JSON: {error}.") from error
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save({str(path)!r}): there is no folder {path.parent}.")
    data = safetensors.numpy.save(arrays, metadata={"format": _FORMAT, "description": description})
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".noria-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str], like: M) -> M:
    """Read what `save` wrote, into the structure of ``like``.

    Args:
        path: of the file.
        like: a model built as the saved one was; its arrays are replaced in the returned copy, as are plain numbers.

    Returns:
        A copy of ``like``, modes and frozen parts included, with the numbers of the file.

    Raises:
        ValueError: if the file is truncated, no safetensors file, not written by `save`, or does not fit ``like``: the
            message names the first difference. ``like`` is unchanged in any case.
        FileNotFoundError: if there is no such file.

    >>> import jax, noria as nr, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> nr.save(path, nr.GRU(2, 3, key=jax.random.key(0)))
    >>> model = nr.load(path, nr.GRU(2, 3, key=jax.random.key(1)))
    """
    saved = describe(path)
    built = json.loads(json.dumps(_description(like)))
    _compare(path, saved, built)
    try:
        arrays = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"load({str(path)!r}): the file is damaged: {error}.") from error
    values = {**saved["numbers"], **arrays}
    leaves = [_restore(values[name], leaf) if name in values else leaf for name, leaf in named_leaves(like)]
    return jtu.tree_unflatten(jtu.tree_structure(like), leaves)


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says of itself, without reading its arrays: ``arrays``, ``numbers``, ``modules``, ``extra``.

    Raises: as `load`.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path!s}: there is no such file.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path!s}: no safetensors file, or a damaged one: {error}.") from error
    try:
        if metadata["format"] != _FORMAT:
            raise ValueError(f"{path!s}: written in format {metadata['format']!r}; expected {_FORMAT!r}.")
        description = json.loads(metadata["description"])
        description["arrays"], description["numbers"], description["modules"], description["extra"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path!s}: a safetensors file, but not one that noria.save wrote.") from error
    return description


def _description(model: Any) -> dict[str, Any]:
    leaves = named_leaves(model)
    return {
        "arrays": {name: [_dtype(leaf), list(leaf.shape)] for name, leaf in leaves if _is_array(leaf)},
        "numbers": {name: leaf for name, leaf in leaves if not _is_array(leaf) and not callable(leaf)},
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
            if callable(value := getattr(module, f.name, None)) and not isinstance(value, eqx.Module)
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


def _compare(path: Any, saved: dict[str, Any], built: dict[str, Any]) -> None:
    def fail(what: str) -> None:
        raise ValueError(f"load({str(path)!r}): {what}; build the model as the saved one was. Nothing was loaded.")

    for name, (kind, settings) in saved["modules"].items():
        if name not in built["modules"]:
            continue  # its arrays tell more
        its_kind, its_settings = built["modules"][name]
        if kind != its_kind:
            fail(f"{name or 'the model'} is a {kind} in the file, a {its_kind} in the model")
        for setting, value in settings.items():
            if setting != "backend" and value != its_settings.get(setting):
                fail(
                    f"{name or 'the model'}: {setting} is {value!r} in the file, {its_settings.get(setting)!r} in the model"
                )
    for name, (dtype, shape) in saved["arrays"].items():
        if name not in built["arrays"]:
            fail(f"the file has {name}, which the model lacks")
        its_dtype, its_shape = built["arrays"][name]
        if shape != its_shape:
            fail(f"{name} has shape {tuple(shape)} in the file, {tuple(its_shape)} in the model")
        if dtype != its_dtype:
            fail(f"{name} is {dtype} in the file, {its_dtype} in the model (noria.cast changes a model's dtype)")
    for kind in ("arrays", "numbers"):
        if missing := sorted(set(built[kind]) ^ set(saved[kind])):
            fail(f"only the {'model' if missing[0] in built[kind] else 'file'} has {missing[0]}")
    if missing := sorted(set(built["modules"]) ^ set(saved["modules"])):
        side, modules = ("model", built["modules"]) if missing[0] in built["modules"] else ("file", saved["modules"])
        fail(f"only the {side} has {missing[0]}, a {modules[missing[0]][0]}")


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _dtype(leaf: Any) -> str:
    return f"key<{jax.random.key_impl(leaf)}>" if _is_key(leaf) else str(leaf.dtype)


def _plain(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")


def _restore(value: Any, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    if isinstance(like, jax.Array):
        return jnp.asarray(value)
    return value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
