"""Noria's layers as lists of arrays for ``set_weights`` of Keras."""

from functools import partial
from typing import Any, NoReturn

import numpy as np

from noria.cells.base import Cell
from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell, GRUv3Cell
from noria.cells.lstm import LSTMCell
from noria.interop.build import (
    array_of,
    biases_of,
    check_plain,
    check_start,
    has_bias,
    is_function,
    layer_norm_of,
    one_bias_of,
    reordered,
)
from noria.interop.keras_layers import ORDERS
from noria.layers.bidirectional import Bidirectional
from noria.layers.chain import Chain
from noria.layers.conv import Conv1d
from noria.layers.dense import Dense, Embedding
from noria.layers.recurrence import Recurrence


def to_keras(layer: Any) -> list[np.ndarray]:
    """The arrays of a layer, a cell or a chain in the order of Keras, for ``set_weights``.

    Args:
        layer: a `Recurrence`, `Bidirectional`, `Dense`, `Embedding`, `LayerNorm`, `Conv1d` or
            `Chain`, or a cell: `RNNCell`, `LSTMCell`, `GRUCell` (``reset_after=True``) or
            `GRUv3Cell` (``reset_after=False``). Functions and dropout have no arrays.

    Returns:
        A list of NumPy arrays that are copies, for a chain those of all layers one after the other.
        Keras has one bias in all layers but a GRU with ``reset_after=True``: two are added.

    Raises:
        ValueError: for a cell, a setting or an initial state that Keras does not have.

    Activations, ``merge_mode``, ``go_backwards`` and ``use_bias`` belong to the layer of Keras,
    which you make; without any bias here it has ``use_bias=False``.

    Examples:
        >>> import jax, noria as nr
        >>> [a.shape for a in nr.to_keras(nr.GRU(2, 3, key=jax.random.key(0)))]
        [(2, 9), (3, 9), (2, 9)]
    """
    fail = partial(_fail, f"to_keras({getattr(layer, 'label', type(layer).__name__)})")
    return _arrays(layer, fail)


def _fail(call: str, text: str) -> NoReturn:
    raise ValueError(f"{call}: {text}.")


def _arrays(layer: Any, fail: Any) -> list[np.ndarray]:
    if isinstance(layer, Chain):
        return [array for part in layer for array in _arrays(part, fail)]
    if isinstance(layer, Bidirectional):
        ways = layer.forward, layer.backward
        if ways[1] is None:
            fail("both directions share their arrays, and Keras has no such layer")
        return [array for way in ways for array in _arrays(way, fail)]
    if isinstance(layer, Recurrence):
        check_start(layer, fail)
        return _cell(layer.cell, fail)
    if isinstance(layer, Cell):
        return _cell(layer, fail)
    norm = layer_norm_of(layer)
    if isinstance(layer, Dense):
        found = [layer.W.T, layer.b]
    elif isinstance(layer, Conv1d):
        found = [layer.W.transpose(2, 1, 0), layer.b]
    elif isinstance(layer, Embedding):
        found = [layer.table]
    elif norm is not None:
        found = [norm.weight, norm.bias]
    elif is_function(layer):
        found = []
    else:
        fail(f"Keras has no layer like {type(layer).__name__}")
    return [array_of(array) for array in found if array is not None]


def _cell(cell: Any, fail: Any) -> list[np.ndarray]:
    if type(cell) not in (RNNCell, GRUCell, GRUv3Cell, LSTMCell):
        fail(f"Keras has no {type(cell).__name__}")
    check_plain(cell, fail)
    gates = len(cell.GATES)
    order = np.argsort(ORDERS[gates])
    rows = partial(reordered, blocks=gates, order=list(order))
    arrays = [rows(array_of(cell.W)).T, rows(array_of(cell.U)).T]
    if has_bias(cell):
        one = None if isinstance(cell, GRUCell) else one_bias_of(cell, fail)
        arrays.append(np.stack([*map(rows, biases_of(cell))]) if one is None else rows(one))
    return [np.ascontiguousarray(array) for array in arrays]
