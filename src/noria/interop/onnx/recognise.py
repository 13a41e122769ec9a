"""Cells that ONNX has a node for, by their class."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._functions import Function
from noria.cells.base import Cell
from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell, GRUv3Cell
from noria.cells.lstm import LSTMCell
from noria.interop.build import reordered
from noria.interop.onnx.activations import Activation
from noria.interop.onnx.cells import OnnxGRUCell, OnnxLSTMCell
from noria.interop.onnx.nodes import DEFAULTS

#: The places of ONNX's gates among those of Noria: i o f c among i f g o, z r h among r z n.
TO_ONNX = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}

#: Functions of JAX that a node can name.
NAMES = {
    jnp.tanh: "Tanh",
    jax.nn.tanh: "Tanh",
    jax.nn.sigmoid: "Sigmoid",
    jax.nn.relu: "Relu",
    jax.nn.softplus: "Softplus",
    jax.nn.soft_sign: "Softsign",
}


@dataclass(frozen=True)
class Gated:
    """A cell in the form of a node: one direction of LSTM, GRU or RNN.

    Attributes:
        kind: the operator.
        W: ``(gates, in)``, in the order of ONNX, like the other arrays.
        R: ``(gates, hidden)``.
        B: ``(2 * gates,)``, or ``None``.
        P: ``(3 * hidden,)``, or ``None``.
        functions: the activations.
        attributes: further attributes.
    """

    kind: str
    W: np.ndarray
    R: np.ndarray
    B: np.ndarray | None
    P: np.ndarray | None
    functions: tuple[Activation, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def hidden(self) -> int:
        return self.R.shape[1]

    def fits(self, other: "Gated") -> bool:
        """Whether two directions can be one node."""
        return (
            self.kind == other.kind
            and self.W.shape == other.W.shape
            and self.hidden == other.hidden
            and self.attributes == other.attributes
        )


def recognised(cell: Any) -> Gated | None:
    """The cell as a node, or ``None`` if no node computes the same."""
    if type(cell) is RNNCell:
        function = _activation(cell.activation)
        return None if function is None else _gated("RNN", cell, [function])
    if type(cell) is LSTMCell:
        return _gated("LSTM", cell, _defaults("LSTM"))
    if type(cell) in (GRUCell, GRUv3Cell):
        after = int(type(cell) is GRUCell)
        return _gated("GRU", cell, _defaults("GRU"), linear_before_reset=after)
    if type(cell) is OnnxLSTMCell:
        functions = [cell.gate, cell.candidate, cell.activation]
        return _gated("LSTM", cell, functions, cell.p, input_forget=int(cell.coupled))
    if type(cell) is OnnxGRUCell:
        after = int(cell.reset_after)
        return _gated("GRU", cell, [cell.gate, cell.candidate], linear_before_reset=after)
    return None


def _defaults(kind: str) -> list[Activation]:
    return [Activation(name) for name in DEFAULTS[kind]]


def _activation(function: Any) -> Activation | None:
    if isinstance(function, Activation):
        return function
    plain = function.func if isinstance(function, Function) else function
    try:
        return Activation(NAMES[plain]) if plain in NAMES else None
    except TypeError:  # no hash
        return None


def _gated(
    kind: str, cell: Cell | Any, functions: Sequence[Activation], p: Any = None, **attributes: Any
) -> Gated:
    order = TO_ONNX[kind]
    gates = len(order)
    W, U = (reordered(np.asarray(a), gates, order) for a in (cell.W, cell.U))
    B = None
    if cell.b is not None or cell.b_h is not None:
        zeros = np.zeros(W.shape[0], W.dtype)
        both = [zeros if b is None else np.asarray(b) for b in (cell.b, cell.b_h)]
        B = np.concatenate([reordered(b, gates, order) for b in both])
    P = None if p is None else reordered(np.asarray(p), 3, (0, 2, 1))
    bounds = {f.bound for f in functions if f.bound is not None}
    attributes = {name: number for name, number in attributes.items() if number}
    if bounds:
        attributes["clip"] = bounds.pop()
    return Gated(kind, W, U, B, P, tuple(functions), attributes)
