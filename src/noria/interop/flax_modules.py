"""Live modules of Flax nnx: their layers in order, with the settings that arrays do not tell."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from noria.layers.dropout import Dropout
from noria.layers.per_step import PerStep

#: A layer: its path, its settings, and the layer itself if it has no arrays.
Found = tuple[str, dict[str, Any], Any]


def layers_of(module: Any, prefix: str, fail: Callable[[str], NoReturn]) -> list[Found]:
    """The layers of the part of a module at ``prefix``, in the order in which they are applied."""
    for name in prefix.split(".") if prefix else []:
        module = module[int(name)] if name.isdecimal() else getattr(module, name)
    return list(_layers(module, "", fail))


def _layers(module: Any, path: str, fail: Callable[[str], NoReturn]) -> Iterator[Found]:
    kind = type(module).__name__
    if kind == "Sequential":
        for n, layer in enumerate(module.layers):
            yield from _layers(layer, f"{path}layers.{n}", fail)
    elif kind == "Dropout":
        yield path, {}, Dropout(module.rate, inference=bool(module.deterministic))
    elif kind in SETTINGS:
        yield path, SETTINGS[kind](module, fail), None
    elif callable(module) and not isinstance(module, sys.modules["flax.nnx"].Module):
        yield path, {}, PerStep(module)
    else:
        fail(
            f"{kind} is no module that is known, and its call is code; pass a part of it as prefix="
        )


def _rnn(module: Any, fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    if module.reverse and not module.keep_order:
        fail("RNN has reverse=True without keep_order=True, which reverses its outputs, too")
    inner = type(module.cell).__name__
    if inner not in CELLS:
        fail(f"RNN runs a {inner}, which is not known")
    return {**SETTINGS[inner](module.cell, fail), "reverse": module.reverse}


def _bidirectional(module: Any, fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    ways = [_rnn(way, fail) for way in (module.forward_rnn, module.backward_rnn)]
    if getattr(module.merge_fn, "__name__", "") != "_concatenate" or ways[0] != ways[1]:
        fail("Bidirectional merges by a function of its own, or has two kinds of cells")
    return ways[0]


def _cell(module: Any, fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    if getattr(module, "residual", False):
        fail("SimpleCell has residual=True, which has no counterpart")
    found = {"activation": module.activation_fn}
    return found | ({"gate_activation": module.gate_fn} if hasattr(module, "gate_fn") else {})


def _layer_norm(module: Any, fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    if module.reduction_axes not in (-1, (-1,)):
        fail(f"LayerNorm is over the axes {module.reduction_axes}; expected the last one")
    return {"kind": "LayerNorm", "epsilon": module.epsilon}


CELLS = ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell")

SETTINGS: dict[str, Callable[[Any, Callable[[str], NoReturn]], dict[str, Any]]] = {
    **dict.fromkeys(CELLS, _cell),
    "RNN": _rnn,
    "Bidirectional": _bidirectional,
    "LayerNorm": _layer_norm,
    "Linear": lambda module, fail: {},
    "Embed": lambda module, fail: {},
}
