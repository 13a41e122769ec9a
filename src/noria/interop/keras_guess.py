"""Layers of Keras from their arrays alone: what shapes tell is read, the rest is asked for."""

from collections.abc import Mapping
from typing import Any, NoReturn

from noria.interop.entries import Entries, listed
from noria.interop.keras_files import Layer, Source

#: The recurrent classes by the number of their gates.
KINDS = {1: "SimpleRNN", 3: "GRU", 4: "LSTM"}

#: What to pass for each setting that arrays do not tell.
ADVICE = {
    "activation": 'such as "tanh", the default of recurrent layers, or "linear", that of Dense',
    "recurrent_activation": 'such as "hard_sigmoid", the default before Keras 2.3, or "sigmoid"',
    "reset_after": "True, the default since TensorFlow 2, or False",
    "merge_mode": 'such as "concat", the default',
    "epsilon": "a number; 0.001 is the default",
}


def described(
    found: Source, name: str | None, settings: Mapping[str, Any], entries: Entries
) -> list[Layer]:
    """The layers of a file without a configuration.

    Raises:
        ValueError: if the arrays fit no known layer, or there are several whose order or settings
            are unknown, or a setting is missing.
        TypeError: for a setting that these layers do not have.
    """
    arrays = {layer: a for layer, a in found.arrays.items() if a and name in (None, layer)}
    if len(arrays) > 1 and not found.ordered:
        _several(arrays, entries)
    layers = [_layer(layer, list(a.values()), settings, entries) for layer, a in arrays.items()]
    recurrent = {*KINDS.values(), *(f"CuDNN{kind}" for kind in KINDS.values())}
    chained = found.ordered and all(layer.kind in recurrent for layer in layers)
    if len(layers) > 1 and not chained:
        _several(arrays, entries)
    unknown = set(settings) - {key for layer in layers for key in layer.config}
    if unknown:
        raise TypeError(
            f"{entries.call}: {listed(sorted(unknown))} was given, but "
            f"{listed({layer.kind: None for layer in layers})} does not have it."
        )
    return layers


def _several(arrays: Mapping[str, Any], entries: Entries) -> NoReturn:
    entries.fail(
        f"weights alone do not tell how {listed(arrays)} are joined; pass one as layer=, or "
        "config=, the text or path of model.to_json()"
    )


def _layer(name: str, arrays: list[Any], settings: Mapping[str, Any], entries: Entries) -> Layer:
    def asked(*names: str) -> dict[str, Any]:
        for setting in names:
            if setting not in settings:
                entries.fail(
                    f"arrays do not tell the {setting} of {name}; pass {setting}=, "
                    f"{ADVICE[setting]}"
                )
        return {setting: settings[setting] for setting in names}

    shapes = [tuple(array.shape) for array in arrays]
    half = len(shapes) // 2
    if len(shapes) in (4, 6) and shapes[:half] == shapes[half:] and _gates(shapes[:half]):
        inner = _recurrent(shapes[:half], asked)
        part = {"class_name": inner.kind, "config": inner.config}
        config = {"layer": part, **asked("merge_mode")}
        return Layer("Bidirectional", name, {**inner.config, **config})
    if _gates(shapes):
        return _recurrent(shapes, asked)._replace(name=name)
    if [len(shape) for shape in shapes] == [2, 1] and shapes[0][1:] == shapes[1]:
        config = {"units": shapes[0][1], "use_bias": True, **asked("activation")}
        return Layer("Dense", name, config)
    if len(shapes) == 2 and len(shapes[0]) == 1 and shapes[0] == shapes[1]:
        return Layer("LayerNormalization", name, asked("epsilon"))
    if len(shapes) == 1 and any("embeddings" in entry for entry in entries):
        return Layer("Embedding", name, {})
    entries.fail(
        f"arrays of the shapes {listed(shapes)} fit several layers or none; pass config=, the text "
        "or path of model.to_json()"
    )


def _gates(shapes: list[tuple[int, ...]]) -> int:
    """The gates of a recurrent layer with arrays of these shapes, or 0."""
    if len(shapes) not in (2, 3) or [len(shape) for shape in shapes[:2]] != [2, 2]:
        return 0
    (_, columns), (size, inner) = shapes[:2]
    gates = inner // max(size, 1)
    return gates if columns == inner == gates * size and gates in KINDS else 0


def _recurrent(shapes: list[tuple[int, ...]], asked: Any) -> Layer:
    gates, size = _gates(shapes), shapes[1][0]
    biased = len(shapes) == 3
    config = {"units": size, "use_bias": biased, "return_sequences": True}
    if biased and shapes[2] == (2 * gates * size,):
        return Layer(f"CuDNN{KINDS[gates]}", "", config)
    config |= asked("activation")
    if gates > 1:
        config |= asked("recurrent_activation")
    if gates == 3:
        config |= {"reset_after": len(shapes[2]) == 2} if biased else asked("reset_after")
    return Layer(KINDS[gates], "", config)
