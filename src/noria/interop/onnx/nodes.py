"""The nodes LSTM, GRU and RNN, and ``DynamicQuantizeLSTM``, as layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell, GRUv3Cell
from noria.cells.lstm import LSTMCell, LSTMState
from noria.interop.build import reordered
from noria.interop.onnx.activations import Activation, activations_of, of_jax
from noria.interop.onnx.graph import Graph
from noria.interop.onnx.node import Node
from noria.layers.bidirectional import Bidirectional
from noria.layers.recurrence import Recurrence

#: The places of Noria's gates among those of ONNX: i f g o among i o f c, r z n among z r h.
TO_NORIA = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}

#: The functions of a node that names none.
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}

QUANTIZED = "DynamicQuantizeLSTM"


def kind_of(node: Node) -> str | None:
    """``"LSTM"``, ``"GRU"`` or ``"RNN"``; ``None`` for any other operator."""
    if node.op == QUANTIZED and node.domain == "com.microsoft":
        return "LSTM"
    return node.op if node.op in TO_NORIA and node.domain in ("", "ai.onnx") else None


@dataclass(frozen=True)
class Reader:
    """Reads one node."""

    graph: Graph
    node: Node
    kind: str
    note: Callable[[str], None]

    def fail(self, reason: str) -> NoReturn:
        self.graph.source.fail(f"{self.graph.path}{self.node.label} {reason}")

    def layer(self) -> Recurrence | Bidirectional:
        direction = self.node.get("direction", "forward")
        if direction not in ("forward", "reverse", "bidirectional"):
            self.fail(f"has the direction {direction!r}.")
        count = 2 if direction == "bidirectional" else 1
        cells = self._cells(count)
        starts = self._starts(count, cells[0])
        layers = [Recurrence(cell, start) for cell, start in zip(cells, starts, strict=True)]
        if count == 2:
            return Bidirectional(layers[0], layers[1])
        return (
            Recurrence(cells[0], starts[0], reverse=True) if direction == "reverse" else layers[0]
        )

    # --- weights ---------------------------------------------------------------------------------

    def _array(self, place: int, what: str, shape: tuple[int | None, ...]) -> np.ndarray | None:
        """A constant input of the node; a size of ``None`` is any."""
        name = self.node.input(place)
        if not name:
            return None
        array = self.graph.constant(name)
        if array is None:
            self.fail(f"gets {what} from {name!r}, which is not a constant of the model.")
        fits = len(shape) == array.ndim and all(
            want in (None, size) for want, size in zip(shape, array.shape, strict=True)
        )
        if not fits:
            wanted = tuple("any" if size is None else size for size in shape)
            self.fail(f"has {what} of the shape {array.shape}; expected {wanted}.")
        return array

    def _weights(self, place: int, what: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """Weights as ``(directions, gates, columns)``, also those of a quantised node."""
        if self.node.op != QUANTIZED:
            array = self._array(place, what, shape)
            if array is None:
                self.fail(f"has no {what}.")
            return array
        directions, gates, columns = shape
        array = self._array(place, what, (directions, columns, gates))
        scale, zero = (self.graph.constant(self.node.input(place * 2 + 6 + n)) for n in range(2))
        if array is None or scale is None or zero is None:
            self.fail(f"has no constant {what} with a scale and a zero point.")
        self.note(f"{self.node.label}: {what} of 8 bits, converted to float32")
        scale, zero = (a.reshape(a.shape[0], 1, -1) for a in (scale, zero))
        wide = (array.astype(np.float32) - zero.astype(np.float32)) * scale
        return wide.transpose(0, 2, 1)

    def _cells(self, count: int) -> list[Any]:
        order = TO_NORIA[self.kind]
        gates = len(order)
        R = self._weights(2, "R", (count, None, None))
        H = R.shape[2]
        if R.shape[1] != gates * H or self.node.get("hidden_size", H) != H:
            self.fail(
                f"has R of the shape {R.shape} and hidden_size {self.node.get('hidden_size', H)}; "
                f"expected ({count}, {gates} * hidden, hidden)."
            )
        W = self._weights(1, "W", (count, gates * H, None))
        B = self._array(3, "B", (count, 2 * gates * H))
        P = self._array(7, "P", (count, 3 * H)) if self.kind == "LSTM" else None
        functions = self._functions(count)
        found = []
        for n in range(count):
            arrays = [reordered(W[n], gates, order), reordered(R[n], gates, order), None, None]
            if B is not None:
                both = [reordered(b, gates, order) for b in np.split(B[n], 2)]
                arrays[2:] = both[0], both[1] if both[1].any() else None
            peepholes = None if P is None or not P[n].any() else reordered(P[n], 3, (0, 2, 1))
            found.append(self._cell([*arrays, peepholes], functions[n]))
        return found

    def _cell(self, arrays: list[Any], functions: list[Activation]) -> Any:
        given = {a.dtype for a in arrays if a is not None}
        if any(jax.dtypes.canonicalize_dtype(dtype) != dtype for dtype in given):
            self.note(f"{self.node.label}: weights of 64 bits, converted to float32")
        W, U, b, b_h, p = (None if a is None else jnp.asarray(a) for a in arrays)
        first, *rest = (of_jax(f) for f in functions)
        clip = self.node.get("clip", None)
        if clip is not None and not clip > 0:
            self.fail(f"has clip={clip}; expected a positive number.")
        if self.kind == "RNN":
            return RNNCell.from_arrays(W, U, b, b_h, activation=first, clip=clip)
        named: dict[str, Any] = {"gate_activation": first, "activation": rest[0], "clip": clip}
        if self.kind == "GRU":
            cell = GRUCell if self.node.get("linear_before_reset", 0) else GRUv3Cell
            return cell.from_arrays(W, U, b, b_h, **named)
        if rest[1] != rest[0]:
            named["output_activation"] = rest[1]
        if self.node.get("input_forget", 0):
            W, U, b, b_h = (None if a is None else _without(a, 4) for a in (W, U, b, b_h))
            p = None if p is None else _without(p, 3)
            named["coupled_gates"] = True
        return LSTMCell.from_arrays(W, U, b, b_h, p=p, **named)

    def _functions(self, count: int) -> list[list[Activation]]:
        """The functions of each direction."""
        names = self.node.get("activations", None) or list(DEFAULTS[self.kind]) * count
        each = len(DEFAULTS[self.kind])
        if len(names) != each * count:
            self.fail(f"has {len(names)} activations; expected {each * count}.")
        alphas = self.node.get("activation_alpha", [])
        betas = self.node.get("activation_beta", [])
        found = activations_of(names, alphas, betas, self.fail)
        return [found[n * each : (n + 1) * each] for n in range(count)]

    # --- initial states --------------------------------------------------------------------------

    def _starts(self, count: int, cell: Any) -> list[Any]:
        """The initial state of each direction; ``None`` for zeros, or if it is passed in calls."""
        H = cell.hidden_size
        h = self._start(5, "initial_h", count, H)
        c = self._start(6, "initial_c", count, H) if self.kind == "LSTM" else None
        if h is None and c is None:
            return [None] * count
        zeros = np.zeros((count, H), cell.dtype)
        hs, cs = (jnp.asarray(zeros if a is None else a, cell.dtype) for a in (h, c))
        if self.kind == "LSTM":
            return [LSTMState(hs[n], cs[n]) for n in range(count)]
        return [hs[n] for n in range(count)]

    def _start(self, place: int, what: str, count: int, hidden: int) -> np.ndarray | None:
        """The constant state of each direction, ``(directions, hidden)``."""
        name = self.node.input(place)
        array = repeated(self.graph, name) if name else None
        if array is None or not array.any():
            if name and array is None and name not in self.graph.inputs:
                self.note(
                    f"{self.node.label}: {what} is computed from inputs; pass it as the state"
                )
            return None
        if self.node.get("layout", 0):
            array = np.swapaxes(array, 0, 1)
        if array.ndim != 3 or (array.shape[0], array.shape[2]) != (count, hidden):
            self.fail(
                f"has {what} of the shape {array.shape}; expected ({count}, batch, {hidden})."
            )
        if (array != array[:, :1]).any():
            self.fail(f"has a constant {what} that differs between examples; expected one for all.")
        return array[:, 0]


def repeated(graph: Graph, name: str) -> np.ndarray | None:
    """A constant, or one that is repeated for as many examples as there are.

    ``None`` for a value that depends on more of the inputs than their shapes.
    """
    array = graph.constant(name)
    maker = graph.makers.get(name)
    if array is not None or maker is None:
        return array
    if maker.op == "ConstantOfShape":
        value = maker.get("value", np.zeros(1, np.float32))
        return None if value.any() else np.zeros((1, 1, 1), np.float32)
    return repeated(graph, maker.input(0)) if maker.op in ("Expand", "Tile", "Identity") else None


def _without(array: jax.Array, count: int) -> jax.Array:
    """The row blocks without the second one, of the forget gate."""
    first, _, *rest = jnp.split(array, count)
    return jnp.concatenate([first, *rest])


def read_node(graph: Graph, node: Node, note: Callable[[str], None]) -> Recurrence | Bidirectional:
    """The layer of a node LSTM, GRU or RNN."""
    kind = kind_of(node)
    assert kind is not None
    return Reader(graph, node, kind, note).layer()
