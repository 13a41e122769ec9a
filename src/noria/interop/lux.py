"""Lux: dicts of arrays and files of JLD2 in; dicts of arrays out."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn, TypedDict, Unpack

import jax.numpy as jnp
import numpy as np

from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell
from noria.cells.lstm import LSTMCell, LSTMState
from noria.interop.build import (
    GATED,
    activation,
    array_of,
    biases_of,
    cell_of,
    chain,
    check_plain,
    gates_of,
    has_bias,
    is_function,
    numbered,
    unknown,
)
from noria.interop.entries import Entries, Reporter, imported
from noria.interop.hdf5 import jld2_or_dict
from noria.layers.bidirectional import Bidirectional
from noria.layers.chain import Chain
from noria.layers.dense import Dense
from noria.layers.recurrence import Recurrence


class LuxSettings(TypedDict, total=False):
    """Settings of Lux's layers, which its parameters do not hold."""

    activation: Any


def from_lux(
    source: Any,
    prefix: str = "",
    *,
    dtype: Any = None,
    report: Reporter | None = None,
    **settings: Unpack[LuxSettings],
) -> Any:
    """A layer or a chain with the parameters of Lux.

    Args:
        source: nested dicts of arrays with the shapes of Julia, or the path of a ``.jld2`` file
            that holds each array under a path of its own.
        prefix: the path of the part to read, with dots between names: ``"layer_2"``.
        dtype: dtype of the parameters; by default each array keeps its own.
        report: called with a `Report` of what was used; ``report=print`` shows it.
        **settings: ``activation``, the function of ``RNNCell`` and ``Dense`` or its name.

    Returns:
        A `Recurrence` for a cell (Lux's ``Recurrence`` leaves no trace in the parameters), a
        `Bidirectional` for ``BidirectionalRNN``, a `Dense`, or a `Chain`. A trained
        ``hidden_state`` or ``memory`` becomes the learned initial state.

    Raises:
        ValueError: for entries that are unknown, missing or of the wrong shape, for a missing
            activation, and for a damaged file.
        ImportError: if h5py is needed and missing.

    Examples:
        >>> import jax, noria as nr
        >>> parameters = nr.to_lux(nr.GRU(2, 3, key=jax.random.key(0)))
        >>> nr.from_lux(parameters).cell.U.shape
        (9, 3)
    """
    call, arrays = jld2_or_dict("from_lux", source)
    return imported(call, arrays, prefix, partial(_layer, settings=settings), dtype, report)


def _layer(entries: Entries, settings: Mapping[str, Any]) -> Any:
    parts = set(entries.parts())
    if {"weight_ih", "weight_hh"} <= parts:
        return _recurrence(entries, settings)
    if parts == {"forward_rnn", "backward_rnn"}:
        forward = _recurrence(entries.at("forward_rnn"), settings)
        return Bidirectional(forward, _recurrence(entries.at("backward_rnn.rnn"), settings))
    if parts <= {"weight", "bias"} and "weight" in entries:
        weight = entries.take("weight", None, None)
        function = activation(entries, settings)
        return Dense.from_arrays(weight, entries.maybe("bias", weight.shape[0]), function)
    layers = numbered(entries, r"layer_(\d+)")
    return chain([_layer(part, settings) for part in layers]) if layers else unknown(entries)


def _recurrence(entries: Entries, settings: Mapping[str, Any]) -> Recurrence:
    gates = gates_of(entries, "weight_hh")
    U = entries.take("weight_hh", None, None)
    W = entries.take("weight_ih", U.shape[0], None)
    biases = [entries.maybe(name, U.shape[0]) for name in ("bias_ih", "bias_hh")]
    cell = cell_of(entries, W, U, biases, settings)
    start = [entries.maybe(name, U.shape[1]) for name in ("hidden_state", "memory")]
    if all(state is None for state in start):
        return Recurrence(cell)
    h, c = (np.zeros(U.shape[1], U.dtype) if s is None else s for s in start)
    state = LSTMState(jnp.asarray(h), jnp.asarray(c)) if gates == 4 else jnp.asarray(h)
    return Recurrence(cell, initial_state=state, learn_initial_state=True)


def to_lux(layer: Any) -> dict[str, Any]:
    """The parameters of a layer or a cell as nested dicts, as Lux has them.

    Args:
        layer: a `Recurrence`, `Bidirectional`, `Dense` or `Chain`, or a cell: `RNNCell`, `LSTMCell`
            or `GRUCell`.

    Returns:
        Nested dicts of NumPy arrays that are copies, with the shapes of Julia. A learned initial
        state becomes ``hidden_state`` and ``memory``.

    Raises:
        ValueError: for a layer, a cell or a setting that Lux does not have.

    Examples:
        >>> import jax, noria as nr
        >>> sorted(nr.to_lux(nr.LSTM(2, 3, key=jax.random.key(0))))
        ['bias_hh', 'bias_ih', 'weight_hh', 'weight_ih']
    """
    return _tree(layer, partial(_fail, f"to_lux({getattr(layer, 'label', type(layer).__name__)})"))


def _fail(call: str, text: str) -> NoReturn:
    raise ValueError(f"{call}: {text}.")


def _tree(layer: Any, fail: Any) -> dict[str, Any]:
    if isinstance(layer, Chain):
        parts = {f"layer_{n}": _tree(part, fail) for n, part in enumerate(layer, 1)}
        return {name: tree for name, tree in parts.items() if tree}
    if isinstance(layer, Bidirectional):
        if layer.backward is None or layer.merge != "concat":
            fail("Lux has a layer of two cells that concatenates their outputs only")
        backward = {"rnn": _tree(layer.backward, fail)}
        return {"forward_rnn": _tree(layer.forward, fail), "backward_rnn": backward}
    if isinstance(layer, Recurrence):
        return _cell(layer.cell, fail) | _start(layer, fail)
    if isinstance(layer, Dense):
        found = {"weight": layer.W, "bias": layer.b}
        return {name: array_of(array) for name, array in found.items() if array is not None}
    return {} if is_function(layer) else _cell(layer, fail)


def _start(layer: Recurrence, fail: Any) -> dict[str, np.ndarray]:
    if layer.fixed_state is not None:
        fail("its initial state is not trained; pass the state in the call")
    if layer.learned_state is None:
        return {}
    states = layer.learned_state
    states = states if isinstance(states, tuple) else (states,)
    return dict(zip(("hidden_state", "memory"), map(array_of, states), strict=False))


def _cell(cell: Any, fail: Any) -> dict[str, np.ndarray]:
    if type(cell) not in (RNNCell, GRUCell, LSTMCell):
        fail(f"Lux has no {type(cell).__name__}")
    check_plain(cell, fail, {} if isinstance(cell, RNNCell) else GATED)
    arrays = {"weight_ih": array_of(cell.W), "weight_hh": array_of(cell.U)}
    if has_bias(cell):
        arrays |= dict(zip(("bias_ih", "bias_hh"), biases_of(cell), strict=True))
    return arrays
