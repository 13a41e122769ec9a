"""Keras: layers, models and files of all its versions in; lists of arrays out."""

import os
from functools import partial
from typing import Any, TypedDict, Unpack

from noria.interop.build import chain
from noria.interop.entries import Entries, Reporter, did_you_mean, imported, listed
from noria.interop.keras_files import Layer, Source, read
from noria.interop.keras_guess import described
from noria.interop.keras_layers import Build


class KerasSettings(TypedDict, total=False):
    """Settings of Keras' layers, which a file of weights does not hold."""

    activation: Any
    recurrent_activation: Any
    reset_after: bool
    merge_mode: str
    epsilon: float


def from_keras(
    source: Any,
    layer: str | None = None,
    *,
    config: Any = None,
    dtype: Any = None,
    report: Reporter | None = None,
    **settings: Unpack[KerasSettings],
) -> Any:
    """A layer or a chain with the weights of Keras.

    Files are read without Keras, by h5py, and nothing in them is executed.

    Args:
        source: a layer or a model (``Sequential``, or a functional one that is a chain), or the
            path of a file: ``.keras``, ``.weights.h5``, or ``.h5`` of Keras 1 and 2.
        layer: the name of one layer to read; all of them by default.
        config: the configuration of a file that holds weights only: the text or the path of
            ``model.to_json()``.
        dtype: dtype of the parameters; by default each array keeps its own.
        report: called with a `Report` of what was used, and of settings that act differently here;
            ``report=print`` shows it.
        **settings: what a file of weights does not tell, by Keras' names: ``activation``,
            ``recurrent_activation`` (Keras before 2.3 had ``"hard_sigmoid"`` by default, since then
            ``"sigmoid"``), ``reset_after``, ``merge_mode``, ``epsilon``.

    Returns:
        A `Recurrence` for ``LSTM``, ``GRU``, ``SimpleRNN`` and their forms for CuDNN, a
        `Bidirectional`, `Dense`, `Embedding`, `Dropout` or `PerStep`; for several layers a `Chain`.
        ``Masking`` leaves nothing: pass ``lengths=``.

    Raises:
        ValueError: for a layer, an entry or an activation that is not known, for a setting that is
            needed and missing, and for a damaged file.
        ImportError: if h5py is needed and missing.
        FileNotFoundError: if there is no such file.
        TypeError: for another source, or an unknown setting.

    A layer with ``return_sequences=False`` gives all outputs here; ``noria.last(ys, lengths)`` are
    those of Keras, also after layers of single steps. Past the end of a masked sequence Keras
    repeats the last output, and Noria gives zeros. With ``go_backwards`` Keras reverses the outputs
    too; here they keep the positions of their inputs.

    Examples:
        >>> import keras, noria as nr  # doctest: +SKIP
        >>> nr.from_keras("model.keras", report=print)  # doctest: +SKIP
    """
    call = f"from_keras({_described(source)}{f', layer={layer!r}' if layer else ''})"
    found = read(call, source, config)
    arrays = {name: arrays for name, arrays in found.arrays.items() if arrays}
    if layer is not None and layer not in found.arrays:
        known = found.arrays if found.layers is None else [part.name for part in found.layers]
        raise ValueError(f"{call}: there is no layer {layer!r}; {did_you_mean(layer, known)}.")
    build = partial(_build, found, layer, dict(settings))
    return imported(call, arrays, layer or "", build, dtype, report)


def _described(source: Any) -> str:
    path = isinstance(source, str | os.PathLike)
    return repr(os.fspath(source)) if path else type(source).__name__


def _build(found: Source, name: str | None, settings: dict[str, Any], entries: Entries) -> Any:
    if found.layers is None:
        layers = described(found, name, settings, entries)
    elif settings:
        raise TypeError(
            f"{entries.call}: {listed(settings)} was given, but the configuration tells it."
        )
    else:
        layers = _applied(found, entries) if name is None else found.layers
        layers = [part for part in layers if name in (None, part.name)]
    build = Build(entries, found.version)
    for part in layers:
        build.add(part, entries if name else entries.at(part.name))
    if build.backwards:
        build.note("a reversed layer gives its outputs at the positions of their inputs")
    if not build.layers:
        entries.fail("no layer is left; expected one that computes something")
    return chain(build.layers)


def _applied(found: Source, entries: Entries) -> list[Layer]:
    """The layers from the input to the output, of which each reads one other."""
    assert found.layers is not None
    if found.output is None:
        return found.layers
    known = {layer.name: layer for layer in found.layers}
    path, name = list[Layer](), found.output
    while True:
        if name not in known or len(path) > len(known):
            entries.fail(f"the configuration reads a layer {name} that it does not have")
        layer = known[name]
        path.append(layer)
        if layer.kind == "InputLayer":
            return path[::-1]
        read_by = _inputs(layer.reads)
        if len(read_by) != 1:
            entries.fail(
                f"{name} reads {listed(read_by) or 'nothing'}: the model is no chain; pass "
                "layer= to read one layer"
            )
        name = read_by[0]


def _inputs(nodes: Any) -> list[str]:
    """The layers whose outputs a layer reads, without masks; each node is one call of it."""
    found: list[str] = []
    for node in nodes:
        arguments = node.get("args", []) if isinstance(node, dict) else node
        found += _tensors(arguments)
    return found


def _tensors(argument: Any) -> list[str]:
    """Names of layers in an argument: Keras 3 describes tensors, older ones give lists."""
    if isinstance(argument, dict):
        history = argument.get("config", {}).get("keras_history") or [""]
        return [history[0]] if argument.get("class_name") == "__keras_tensor__" else []
    if not isinstance(argument, list | tuple):
        return []
    if len(argument) >= 3 and isinstance(argument[0], str):
        return [argument[0]]
    return [name for part in argument for name in _tensors(part)]
