"""The commands ``noria convert`` and ``noria show``: files of any framework."""

import ast
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from noria import _stored
from noria.interop.entries import Report, flattened
from noria.interop.hdf5 import jld2_or_dict
from noria.interop.keras_files import read
from noria.interop.torch import arrays_of, kinds_of
from noria.io import describe, save


class Form(NamedTuple):
    """A form of files: the endings, the framework, and where its function is."""

    endings: tuple[str, ...]
    framework: str
    module: str
    function: str
    part: str  # the argument that names a part of the file


#: The forms that can be read; ``.jld2`` needs the name of the framework.
READERS = (
    Form(
        (".pt", ".pth", ".bin", ".ckpt", ".safetensors"), "torch", "torch", "from_torch", "prefix"
    ),
    Form((".keras", ".h5", ".hdf5"), "keras", "keras", "from_keras", "layer"),
    Form((".jld2",), "flux", "flux", "from_flux", "prefix"),
    Form((".jld2",), "lux", "lux", "from_lux", "prefix"),
    Form((".onnx",), "onnx", "onnx.importer", "from_onnx", "node"),
)

#: Frameworks whose names the arrays of a ``.safetensors`` file can have, and their functions.
WRITERS = {
    "torch": ("torch_export", "to_torch"),
    "flax": ("flax", "to_flax"),
    "flux": ("flux", "to_flux"),
    "lux": ("lux", "to_lux"),
}


def convert(
    source: Path,
    target: Path,
    part: str = "",
    framework: str = "",
    names: str = "noria",
    settings: Mapping[str, Any] | None = None,
) -> list[str]:
    """Read a file of a framework, and write Noria's form, another framework's names, or ONNX.

    Returns:
        Lines about what was read and written.

    Raises:
        ValueError: for an ending or a name that is not known, and all errors of the importers.
    """
    form = _form(source, framework)
    _check_target(target, names)
    reports: list[Report] = []
    function = _function(form.module, form.function)
    options = {**(settings or {}), **({form.part: part} if part else {})}
    model = function(source, report=reports.append, **options)
    if target.suffix == ".onnx":
        _function("onnx.exporter", "to_onnx")(target, model)
    elif names == "noria":
        save(target, model, extra={"converted from": source.name})
    else:
        arrays = flattened(f"convert({names})", _function(*WRITERS[names])(model))
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        target.write_bytes(_stored.to_file("convert", arrays, {"format": "np"}))
    return [*(line for report in reports for line in str(report).splitlines()), f"wrote {target}"]


def _form(source: Path, framework: str) -> Form:
    found = [form for form in READERS if source.suffix in form.endings]
    if not found:
        endings = sorted({ending for form in READERS for ending in form.endings})
        raise ValueError(f"{source}: the ending is not known; expected {', '.join(endings)}.")
    chosen = [form for form in found if framework in ("", form.framework)]
    if len(chosen) != 1:
        known = " or ".join(form.framework for form in found)
        raise ValueError(f"{source}: pass --from {known}.")
    return chosen[0]


def _check_target(target: Path, names: str) -> None:
    if target.suffix not in (".safetensors", ".onnx"):
        raise ValueError(f"{target}: the ending is not known; expected .safetensors or .onnx.")
    if names != "noria" and names not in WRITERS:
        raise ValueError(f"--to {names}: expected noria, {', '.join(WRITERS)}.")


def _function(module: str, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(f"noria.interop.{module}"), name)
    return function


def settings_of(texts: list[str]) -> dict[str, Any]:
    """Settings from texts such as ``nonlinearity=relu`` and ``eps=1e-5``.

    Raises:
        ValueError: for a text without ``=``.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: expected name=value, such as nonlinearity=relu.")
        try:
            found[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name.strip()] = value
    return found


# --- Show -----------------------------------------------------------------------------------------

#: An entry: its name, its dtype and shape or its value, and the layer that it belongs to.
Row = tuple[str, str, str]


def show(source: Path) -> Iterator[Row]:
    """The entries of a file, in rows of three texts.

    Raises:
        ValueError: if it is damaged, or its ending is not known.
    """
    path, form = os.fspath(source), _form(source, "flux" if source.suffix == ".jld2" else "")
    call = f"show({path!r})"
    if source.suffix == ".safetensors" and _is_ours(path):
        return _ours(path)
    if form.framework == "keras":
        return _keras(call, path)
    if form.framework == "onnx":
        return _onnx(path)
    if form.framework == "flux":
        _, arrays = jld2_or_dict("show", path)
        return ((name, _text(array), "") for name, array in arrays.items())
    return _torch(call, path)


def _is_ours(path: str) -> bool:
    return str(_stored.read_header(path)[0].get("format", "")).startswith("noria ")


def _ours(path: str) -> Iterator[Row]:
    described = describe(path)
    for name, (dtype, shape) in described["arrays"].items():
        owner = name.rpartition(".")[0]
        kind, *_ = described["modules"].get(owner, [""])
        yield name, f"{dtype}{shape}", kind


def _torch(call: str, path: str) -> Iterator[Row]:
    arrays = flattened(call, arrays_of(call, path))
    kinds = kinds_of(call, arrays)
    for name, array in arrays.items():
        yield name, _text(array), kinds.get(name.rpartition(".")[0], "")


def _keras(call: str, path: str) -> Iterator[Row]:
    found = read(call, path, None)
    kinds = {layer.name: layer.kind for layer in found.layers or ()}
    for layer, arrays in found.arrays.items():
        if not arrays:
            yield layer, "no arrays", kinds.get(layer, "")
        for name, array in arrays.items():
            yield f"{layer}.{name}", _text(array), kinds.get(layer, "")


def _onnx(path: str) -> Iterator[Row]:
    reports: list[Report] = []
    _function("onnx.importer", "from_onnx")(path, report=reports.append)
    return ((name, what, "") for report in reports for name, what in report.used.items())


def _text(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{np.dtype(value.dtype).name}{list(value.shape)}"
    return f"{value!r:.40}" if isinstance(value, str | int | float) else type(value).__name__
