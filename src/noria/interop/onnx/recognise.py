"""Cells that ONNX has a node for, by their class."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell, GRUv3Cell
from noria.cells.lstm import LSTMCell
from noria.interop.build import reordered
from noria.interop.onnx.activations import Activation, name_of

#: The places of ONNX's gates among those of Noria: i o f c among i f g o, z r h among r z n.
TO_ONNX = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


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
    if type(cell) not in (RNNCell, GRUCell, GRUv3Cell, LSTMCell):
        return None
    if type(cell) is RNNCell:
        return _gated("RNN", cell, [cell.activation])
    functions = [cell.gate_activation, cell.activation]
    if type(cell) is not LSTMCell:
        after = int(type(cell) is GRUCell)
        return _gated("GRU", cell, functions, linear_before_reset=after)
    if cell.W_r is not None:  # a projection
        return None
    functions.append(cell.output_activation or cell.activation)
    return _gated("LSTM", cell, functions, input_forget=int(cell.coupled_gates))


def _gated(kind: str, cell: Any, functions: Sequence[Any], **attributes: Any) -> Gated | None:
    names = [name_of(function) for function in functions]
    known = tuple(name for name in names if name is not None)
    if len(known) < len(names):
        return None
    order, coupled = TO_ONNX[kind], bool(attributes.get("input_forget"))

    def rows(array: Any, order: Sequence[int] = order) -> np.ndarray:
        array = np.asarray(array)
        if coupled:  # the block of the forget gate, which the node has and does not read
            first, *rest = np.split(array, len(order) - 1)
            array = np.concatenate([first, np.zeros_like(first), *rest])
        return reordered(array, len(order), order)

    W, U = rows(cell.W), rows(cell.U)
    B = None
    if cell.b is not None or cell.b_h is not None:
        zeros = np.zeros(W.shape[0], W.dtype)
        B = np.concatenate([zeros if b is None else rows(b) for b in (cell.b, cell.b_h)])
    p = getattr(cell, "p", None)
    P = None if p is None else rows(p, (0, 2, 1))
    attributes = {name: number for name, number in attributes.items() if number}
    if cell.clip is not None:
        attributes["clip"] = cell.clip
    return Gated(kind, W, U, B, P, known, attributes)
