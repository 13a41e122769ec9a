"""Files and live models of Keras as one record: layers with their settings, and their arrays.

Keras 3 writes ``.keras``, a zip of a configuration and an HDF5 file, and ``.weights.h5``; Keras 1
and 2 write ``.h5``, with or without the configuration.
"""

import json
import os
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np

from noria.interop.hdf5 import EXPANSION, Reader, open_file

#: Where ``.keras`` and ``.weights.h5`` keep the layers; the second is of TensorFlow's Keras 2.
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")

#: Settings of Keras 1 by their later names.
KERAS_1 = {"output_dim": "units", "inner_activation": "recurrent_activation", "bias": "use_bias"}

#: Names of classes of models.
FUNCTIONAL = ("Functional", "Model")


class Layer(NamedTuple):
    """A layer: the name of its class, its own name, its settings, and the layers it reads."""

    kind: str
    name: str
    config: dict[str, Any]
    reads: Any = ()


@dataclass
class Source:
    """What a file or a live model holds.

    Attributes:
        layers: the layers in the order of the model, or ``None`` if only arrays are there.
        output: the name of the layer of the output, or ``None`` for a sequence of layers.
        arrays: for each layer its arrays by their names, in the order of Keras' ``get_weights``.
        version: the version of Keras that wrote it, if it is known.
        ordered: whether the order of ``arrays`` is that of the model.
    """

    layers: list[Layer] | None
    output: str | None = None
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: str | None = None
    ordered: bool = True


def read(call: str, source: Any, config: Any) -> Source:
    """The record of a path, or of a live layer or model.

    Raises:
        ValueError: if a file is damaged, or is no file of Keras.
        TypeError: for any other source.
    """
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if path.endswith(".keras"):
            return _keras_3(call, *_unzipped(call, path))
        return _hdf5(call, path, None if config is None else _parsed(call, config))
    if hasattr(source, "get_config") and hasattr(source, "get_weights"):
        return _live(call, source)
    raise TypeError(
        f"{call}: source is a {type(source).__name__}; expected a layer or a model of Keras, or "
        "the path of a .keras or .h5 file."
    )


def _fail(call: str, text: str) -> NoReturn:
    raise ValueError(f"{call}: {text}.")


# --- Configurations -------------------------------------------------------------------------------


def _parsed(call: str, config: Any) -> dict[str, Any]:
    """A configuration from a dict, a text of JSON, or the path of such a text."""
    if isinstance(config, os.PathLike) or (isinstance(config, str) and config.endswith(".json")):
        with open(config, encoding="utf-8") as file:
            config = file.read()
    try:
        parsed = json.loads(config) if isinstance(config, str | bytes) else config
    except (ValueError, RecursionError) as error:
        _fail(call, f"the configuration is no JSON: {error}")
    if not isinstance(parsed, Mapping) or "config" not in parsed:
        _fail(call, "the configuration is not one of Keras; expected model.to_json()")
    return dict(parsed)


def _layers(call: str, config: Mapping[str, Any]) -> tuple[list[Layer], str | None]:
    """The layers of a model, and the name of the one that gives the output."""
    try:
        if config["class_name"] == "Sequential":
            inner = config["config"]  # a list in Keras 1
            described = inner if isinstance(inner, list) else inner["layers"]
            return [_layer(call, part) for part in described], None
        if config["class_name"] not in FUNCTIONAL:
            return [_layer(call, config)], None
        outputs = config["config"]["output_layers"]
        outputs = [outputs] if isinstance(outputs[0], str) else outputs
        if len(outputs) != 1:
            _fail(call, f"the model has {len(outputs)} outputs; pass layer= to read one layer")
        return [_layer(call, part) for part in config["config"]["layers"]], outputs[0][0]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        _fail(call, f"the configuration lacks a part: {error}")


def _layer(call: str, part: Mapping[str, Any]) -> Layer:
    kind, config = part["class_name"], part["config"]
    own = part.get("registered_name") or not str(part.get("module") or "keras").startswith("keras")
    kind = f"{part.get('registered_name') or part['module']}>{kind}" if own else kind
    name = part.get("name") or config.get("name") or kind
    config = {KERAS_1.get(key, key): value for key, value in config.items()}
    return Layer(str(kind), str(name), config, part.get("inbound_nodes") or ())


# --- Files ----------------------------------------------------------------------------------------


def _unzipped(call: str, path: str) -> tuple[dict[str, Any], bytes, str | None]:
    try:
        with zipfile.ZipFile(path) as archive:
            limit = os.path.getsize(path) + EXPANSION
            if sum(info.file_size for info in archive.infolist()) > limit:
                _fail(call, "its parts are far larger than the file; it is not one of Keras")
            config = archive.read("config.json")
            metadata = json.loads(archive.read("metadata.json"))
            return _parsed(call, config), archive.read("model.weights.h5"), _version(metadata)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file.") from None
    except (zipfile.BadZipFile, zlib.error, KeyError, RuntimeError, EOFError, OSError) as error:
        _fail(call, f"it is no .keras file, or a damaged one: {error}")
    except (ValueError, RecursionError) as error:
        if str(error).startswith(call):
            raise
        _fail(call, f"it is a damaged .keras file: {error}")


def _version(metadata: Any) -> str | None:
    """The version of Keras; the configurations of version 3 have none, but name its module."""
    if not isinstance(metadata, Mapping):
        return None
    version = metadata.get("keras_version", "3" if metadata.get("module") == "keras" else None)
    version = version.decode() if isinstance(version, bytes) else version
    return version if isinstance(version, str) and version[:1].isdecimal() else None


def _keras_3(call: str, config: dict[str, Any], data: bytes, version: str | None) -> Source:
    layers, output = _layers(call, config)
    with open_file(call, data) as file:
        return Source(layers, output, _of_keras_3(call, file, layers), version)


def _of_keras_3(call: str, file: Any, layers: list[Layer] | None) -> dict[str, dict[str, Any]]:
    """The arrays of each layer; groups have the names of classes, with numbers."""
    reader = Reader(call)
    container = next((name for name in CONTAINERS if name in file), None)
    if container is None:
        _fail(call, "it has no layers; expected a .weights.h5 file of Keras 3")
    groups: dict[str, dict[str, Any]] = {name: {} for name in file[container]}
    arrays = reader.arrays(file[container])
    for path in sorted(arrays, key=_order):
        group, _, inner = path.partition("/")
        if "seed_generator" not in path:
            groups[group][inner] = arrays[path]
    names = {group: _name_of(file[container], group) for group in groups}
    if layers is None:
        return {names[group] or group: found for group, found in groups.items()}
    if None in names.values():  # older versions do not write the names of layers
        names = dict(zip(_snake_names(layers), (layer.name for layer in layers), strict=True))
    return {name: groups[group] for group, name in names.items() if name and group in groups}


def _order(path: str) -> list[Any]:
    """Keras' order of the arrays of a layer: its own, then those of its parts."""
    first = {"vars": 0, "forward_layer": 1, "cell": 1, "layer": 1, "backward_layer": 2}
    return [
        (first.get(part, 3), int(part) if part.isdecimal() else 0, part) for part in path.split("/")
    ]


def _name_of(container: Any, group: str) -> str | None:
    node = container[group].get("vars") if hasattr(container[group], "keys") else None
    name = None if node is None else node.attrs.get("name")
    return name if isinstance(name, str) else None


def _snake_names(layers: list[Layer]) -> list[str]:
    counts, names = Counter[str](), []
    for layer in layers:
        name = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", layer.kind))
        name = name.lower()
        names.append(f"{name}_{counts[name]}" if counts[name] else name)
        counts[name] += 1
    return names


def _hdf5(call: str, path: str, config: dict[str, Any] | None) -> Source:
    with open_file(call, path) as file:
        weights = file.get("model_weights", file)
        if config is None and "model_config" in file.attrs:
            config = _parsed(call, file.attrs["model_config"])
        layers, output = (None, None) if config is None else _layers(call, config)
        version = _version({**(config or {}), **weights.attrs, **file.attrs})
        if not _has_names(weights, "layer_names"):
            arrays = _of_keras_3(call, file, layers)
            return Source(layers, output, arrays, version, ordered=False)
        return Source(layers, output, _of_keras_2(call, weights), version)


def _of_keras_2(call: str, weights: Any) -> dict[str, dict[str, Any]]:
    reader, found = Reader(call), dict[str, dict[str, Any]]()
    for layer in _names(weights, "layer_names"):
        if layer not in weights:
            _fail(call, f"the layer {layer} has no arrays; the file is damaged")
        arrays = reader.arrays(weights[layer])
        names = _names(weights[layer], "weight_names")
        for name in names:
            if name not in arrays:
                _fail(call, f"the layer {layer} has no array {name}; the file is damaged")
        found[layer] = _stacked(_below(layer, {name: arrays[name] for name in names}))
    return found


def _stacked(arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a layer with those of Keras 1, one for each gate, side by side."""
    found: dict[str, list[Any]] = {}
    for name, array in arrays.items():
        whole = re.fullmatch(r"(.*_[WUb])_[a-z]", name)
        found.setdefault(whole[1] if whole else name, []).append((name[-1], array))
    if len(found) == len(arrays):
        return arrays
    order = {gate: n for n, gate in enumerate("ifcozrh")}
    return {
        name: np.concatenate([a for _, a in sorted(parts, key=lambda p: order.get(p[0], 9))], -1)
        for name, parts in found.items()
    }


def _has_names(group: Any, name: str) -> bool:
    return name in group.attrs or f"{name}0" in group.attrs


def _names(group: Any, name: str) -> list[str]:
    """A list of names in an attribute, or in several with numbers if it is long."""
    whole = name in group.attrs
    attributes = [name] if whole else []
    while not whole and f"{name}{len(attributes)}" in group.attrs:
        attributes.append(f"{name}{len(attributes)}")
    texts = [text for attribute in attributes for text in group.attrs[attribute]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


# --- Live models ----------------------------------------------------------------------------------


def _live(call: str, source: Any) -> Source:
    kind, package = type(source).__name__, type(source).__module__.split(".")[0]
    version = getattr(sys.modules.get(package), "__version__", None)
    if package not in ("keras", "tf_keras", "tensorflow"):
        _fail(
            call,
            f"{kind} is a class of your own, whose call is code; pass one of its layers",
        )
    config = {"class_name": kind, "config": source.get_config()}
    layers, output = _layers(call, config)
    parts = source.layers if kind in ("Sequential", *FUNCTIONAL) else [source]
    return Source(layers, output, {part.name: _arrays_of(part) for part in parts}, version)


def _arrays_of(layer: Any) -> dict[str, Any]:
    """The arrays of a live layer by their paths below it."""
    paths = [getattr(weight, "path", weight.name) for weight in layer.weights]
    return _below(layer.name, dict(zip(paths, layer.get_weights(), strict=True)))


def _below(layer: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays by their paths below the layer; numbers go before paths that are equal."""
    names = [path.rpartition(f"{layer}/")[2] for path in arrays]
    distinct = len(set(names)) == len(names)
    names = names if distinct else [f"{n}/{name}" for n, name in enumerate(names)]
    return dict(zip(names, arrays.values(), strict=True))
