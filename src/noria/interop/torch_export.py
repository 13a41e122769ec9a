"""Noria's layers as state_dicts of PyTorch."""

from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from noria.cells.base import Cell
from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell
from noria.cells.lstm import LSTMCell
from noria.interop.build import (
    GATED,
    array_of,
    biases_of,
    check_plain,
    check_start,
    has_bias,
    is_function,
    layer_norm_of,
)
from noria.layers.bidirectional import Bidirectional
from noria.layers.chain import Chain
from noria.layers.conv import Conv1d
from noria.layers.dense import Dense, Embedding
from noria.layers.dropout import Dropout
from noria.layers.recurrence import Recurrence

Arrays = dict[str, np.ndarray]


def to_torch(layer: Any) -> Arrays:
    """The arrays of a layer or a cell under the names of PyTorch, for ``load_state_dict``.

    Recurrent layers one after the other, alike and with nothing but dropout between, are one
    ``LSTM``, ``GRU`` or ``RNN`` of PyTorch: ``weight_ih_l0``, ``weight_ih_l0_reverse``,
    ``weight_ih_l1`` and so on. In any other `Chain` the names start with the position of the layer,
    as in ``nn.Sequential`` and ``nn.ModuleList``: ``2.weight``.

    Args:
        layer: a `Recurrence`, `Bidirectional`, `Dense`, `Embedding`, `LayerNorm`, `Conv1d` or
            `Chain`, or a cell: `RNNCell`, `LSTMCell` or `GRUCell`. Functions and dropout have no
            arrays.

    Returns:
        A dict of NumPy arrays that are copies; ``load_state_dict`` wants ``torch.from_numpy`` of
        each. Where Noria has one bias, the other one is zero.

    Raises:
        ValueError: for a cell, a setting or an initial state that PyTorch does not have.

    Examples:
        >>> import jax, noria as nr
        >>> arrays = nr.to_torch(nr.GRU(2, 3, key=jax.random.key(0)))
        >>> {name: array.shape for name, array in arrays.items()}
        {'weight_ih_l0': (9, 2), 'weight_hh_l0': (9, 3), 'bias_ih_l0': (9,), 'bias_hh_l0': (9,)}
    """
    fail = partial(_fail, f"to_torch({getattr(layer, 'label', type(layer).__name__)})")
    return _arrays(layer, fail)


def _fail(call: str, text: str) -> NoReturn:
    raise ValueError(f"{call}: {text}.")


def _arrays(layer: Any, fail: Any) -> Arrays:
    stack = _stack(layer, fail)
    if stack:
        return _stacked(stack, fail)
    if isinstance(layer, Chain):
        parts = [(f"{n}.", _arrays(part, fail)) for n, part in enumerate(layer)]
        return {start + name: a for start, part in parts for name, a in part.items()}
    if isinstance(layer, Cell):
        return _cell(layer, "", has_bias(layer), fail)
    norm = layer_norm_of(layer)
    if isinstance(layer, Dense | Conv1d):
        found = {"weight": layer.W, "bias": layer.b}
    elif isinstance(layer, Embedding):
        found = {"weight": layer.table}
    elif norm is not None:
        found = {"weight": norm.weight, "bias": norm.bias}
    elif is_function(layer):
        found = {}
    else:
        fail(f"PyTorch has no layer like {type(layer).__name__}")
    return {name: array_of(array) for name, array in found.items() if array is not None}


def _stack(layer: Any, fail: Any) -> list[list[Recurrence]]:
    """The directions of each layer, if PyTorch would run them as one module."""
    layers: list[Any] = list(layer) if isinstance(layer, Chain) else [layer]
    if not isinstance(layers[-1], Recurrence | Bidirectional):
        return []
    layers = [part for part in layers if not isinstance(part, Dropout)]
    if not all(isinstance(part, Recurrence | Bidirectional) for part in layers):
        return []
    stack = [_directions(part, fail) for part in layers]
    alike = {
        (len(part), type(way.cell), way.cell.U.shape if hasattr(way.cell, "U") else None)
        for part in stack
        for way in part
    }
    return stack if len(alike) == 1 else []


def _directions(layer: Recurrence | Bidirectional, fail: Any) -> list[Recurrence]:
    if isinstance(layer, Recurrence):
        return [layer]
    if layer.merge != "concat":
        fail(f'it merges both directions with {layer.merge!r}; PyTorch has "concat" only')
    return [layer.forward, layer.forward if layer.backward is None else layer.backward]


def _stacked(stack: list[list[Recurrence]], fail: Any) -> Arrays:
    biased = any(has_bias(way.cell) for part in stack for way in part if hasattr(way.cell, "b"))
    arrays: Arrays = {}
    for k, part in enumerate(stack):
        if len(part) == 1 and part[0].reverse:
            fail("PyTorch has no layer that is reversed only; export its cell")
        for suffix, way in zip((f"_l{k}", f"_l{k}_reverse"), part, strict=False):
            check_start(way, fail)
            arrays |= _cell(way.cell, suffix, biased, fail)
    return arrays


def _cell(cell: Any, suffix: str, biased: bool, fail: Any) -> Arrays:
    if type(cell) not in (RNNCell, GRUCell, LSTMCell):
        fail(f"PyTorch has no {type(cell).__name__}")
    relu_too = {"activation": (jnp.tanh, jax.nn.relu)}
    check_plain(cell, fail, relu_too if isinstance(cell, RNNCell) else GATED, projected=True)
    arrays = {"weight_ih": cell.W, "weight_hh": cell.U}
    if biased:
        arrays |= dict(zip(("bias_ih", "bias_hh"), biases_of(cell), strict=True))
    if getattr(cell, "W_r", None) is not None:
        arrays["weight_hr"] = cell.W_r
    return {name + suffix: array_of(array) for name, array in arrays.items()}
