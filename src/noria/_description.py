"""The description of a saved model, which its file holds besides the arrays, and its checks.

It names classes, settings and numbers, and the dtype and shape of each array. It is compared on
loading, never executed.
"""

import json
from dataclasses import fields
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from noria._stored import Tensor, is_stored_as, to_dtype
from noria.cells.base import cell_name
from noria.module import check_has_arrays, map_modules, named_leaves

#: The second has arrays that are stored in parts.
FORMATS = ("noria 1", "noria 2")

#: Types of leaves other than arrays; ``bool`` is a subclass of ``int`` and comes first.
PLAIN = (bool, int, float, str)


def check_leaves(call: str, model: Any) -> None:
    check_has_arrays(call, model)
    names = set()
    for name, leaf in named_leaves(model):
        if name in names or name == "__metadata__":
            raise ValueError(
                f"{call}: {name!r} is the path of two leaves, or a reserved one; "
                "rename a part of the model."
            )
        names.add(name)
        if is_array(leaf) and not is_key(leaf):
            try:
                to_dtype(leaf.dtype.name)
            except ValueError as error:
                raise TypeError(
                    f"{call}: {name} is an array of {leaf.dtype}; expected numbers or booleans."
                ) from error


def to_json(call: str, description: dict[str, Any]) -> str:
    try:
        text = json.dumps(description)
        json.loads(text)  # reading has limits for integers and nesting
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"{call}: extra or a leaf of the model cannot be written as JSON: {error}."
        ) from error
    return text


def description_of(model: Any) -> dict[str, Any]:
    leaves = named_leaves(model)
    return {
        "arrays": {
            name: [dtype_of(leaf), list(leaf.shape)] for name, leaf in leaves if is_array(leaf)
        },
        "numbers": {
            name: leaf for name, leaf in leaves if not is_array(leaf) and not callable(leaf)
        },
        "modules": _modules(model),
    }


def _modules(model: Any) -> dict[str, Any]:
    """Class and static settings of each module, by path.

    Modes and frozen parts are left out, because they do not change the values of a model.
    """
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


def checked(path: str, metadata: dict[str, str], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The description in the metadata of a file, after a check of every field that is used."""
    foreign = f"{path}: a safetensors file, but not one that noria.save wrote"
    if metadata.get("format", FORMATS[0]) not in FORMATS:
        expected = " or ".join(map(repr, FORMATS))
        raise ValueError(f"{path}: written in format {metadata['format']!r}; expected {expected}.")
    if not {"format", "description"} <= metadata.keys():
        raise ValueError(f"{foreign}.")
    try:
        description: dict[str, Any] = json.loads(metadata["description"])
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{foreign}: its description is no JSON that can be read: {error}."
        ) from error
    if fault := _fault(description) or _fault_of_tensors(description["arrays"], tensors):
        raise ValueError(f"{foreign}, or it was changed since: {fault}.")
    return description


def _fault(description: Any) -> str | None:
    """The first part of a description that `save` would not write."""
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
            kind = type(description[part]).__name__
            return f"{part} in its description is a {kind}; expected a dict"
        for name, entry in description[part].items():
            if not is_entry(entry):
                return f"in its description, {part} has {entry!r:.60} for {name!r}"
    return None


def _is_number(entry: Any) -> bool:
    return type(entry) in PLAIN


def _is_module_entry(entry: Any) -> bool:
    return isinstance(entry, list) and list(map(type, entry)) == [str, dict]


def _is_array_entry(entry: Any) -> bool:
    if not isinstance(entry, list) or list(map(type, entry)) != [str, list]:
        return False
    dtype, shape = entry
    if not all(type(size) is int and size >= 0 for size in shape):
        return False
    try:
        return is_key_dtype(dtype) or to_dtype(dtype) is not None
    except ValueError:
        return False


def _fault_of_tensors(arrays: dict[str, Any], tensors: dict[str, Tensor]) -> str | None:
    """The first difference between the described arrays and the stored ones."""
    for name in sorted(arrays.keys() | tensors.keys()):
        if name not in tensors:
            return f"{name} is described, but not there"
        if name not in arrays:
            return f"{name} is there, but not described"
        (dtype, shape), tensor = arrays[name], tensors[name]
        if is_key_dtype(dtype):
            fits = tensor.dtype == "U32" and tensor.shape[: len(shape)] == shape
        else:
            fits = is_stored_as(tensor, to_dtype(dtype), shape)
        if not fits:
            return (
                f"{name} is described as {dtype}{shape}, and there as {tensor.dtype}{tensor.shape}"
            )
    return None


def compare(call: str, saved: dict[str, Any], built: dict[str, Any]) -> None:
    for name, (kind, settings) in saved["modules"].items():
        if name not in built["modules"]:
            continue  # the comparison of its arrays says more
        its_kind, its_settings = built["modules"][name]
        if kind != its_kind:
            fail(call, f"{name or 'the model'} is a {kind} in the file, a {its_kind} in the model")
        for setting, value in settings.items():
            if setting != "backend" and value != its_settings.get(setting):
                its = its_settings.get(setting)
                fail(
                    call,
                    f"{name or 'the model'}: {setting} is {value!r} in the file, "
                    f"{its!r} in the model",
                )
    for name, (dtype, shape) in saved["arrays"].items():
        if name not in built["arrays"]:
            fail(call, f"the file has {name}, which the model lacks")
        its_dtype, its_shape = built["arrays"][name]
        if shape != its_shape:
            fail(
                call,
                f"{name} has shape {tuple(shape)} in the file, {tuple(its_shape)} in the model",
            )
        if dtype != its_dtype:
            fail(
                call,
                f"{name} is {dtype} in the file, {its_dtype} in the model "
                "(noria.cast changes a model's dtype)",
            )
    for part in ("arrays", "numbers"):
        if missing := sorted(built[part].keys() ^ saved[part].keys()):
            fail(
                call,
                f"only the {'model' if missing[0] in built[part] else 'file'} has {missing[0]}",
            )
    for name, number in saved["numbers"].items():
        kind, its_kind = type(number).__name__, type(built["numbers"][name]).__name__
        if kind != its_kind:
            fail(
                call, f"{name} is {number!r:.60}, a {kind}, in the file, a {its_kind} in the model"
            )
    if missing := sorted(built["modules"].keys() ^ saved["modules"].keys()):
        side, modules = (
            ("model", built["modules"])
            if missing[0] in built["modules"]
            else ("file", saved["modules"])
        )
        fail(call, f"only the {side} has {missing[0]}, a {modules[missing[0]][0]}")


def fail(call: str, what: str) -> NoReturn:
    raise ValueError(f"{call}: {what}; build the model as the saved one was. Nothing was loaded.")


# --- Leaves ---------------------------------------------------------------------------------------


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def is_key_dtype(dtype: str) -> bool:
    return dtype.startswith("key<") and dtype.endswith(">")


def dtype_of(leaf: Any) -> str:
    return f"key<{jax.random.key_impl(leaf)}>" if is_key(leaf) else leaf.dtype.name
