"""Models of one recurrent node, with onnxruntime's answers, and the same by Noria."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import noria as nr

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TIME, BATCH, IN, HIDDEN = 6, 3, 4, 5
LENGTHS = np.array([6, 2, 1], np.int32)


class Case(NamedTuple):
    """A node: its operator, its attributes, and which inputs it gets."""

    op: str
    attributes: Mapping[str, Any] = MappingProxyType({})
    lengths: bool = False
    states: bool = False
    peepholes: bool = False
    bias: bool = True
    opset: int = 22

    def __str__(self) -> str:
        given = [f"{name}={value}" for name, value in self.attributes.items()]
        given += [name for name in ("lengths", "states", "peepholes") if getattr(self, name)]
        given += [] if self.bias else ["no bias"]
        return f"{self.op}({', '.join(given)})-{self.opset}"

    @property
    def directions(self) -> int:
        return 2 if self.attributes.get("direction") == "bidirectional" else 1


def node_model(case: Case, seed: int = 0) -> tuple[Any, dict[str, np.ndarray]]:
    """The model, whose weights are constants, and arrays for its inputs."""
    from onnx import TensorProto, helper, numpy_helper

    rng, D, G = np.random.default_rng(seed), case.directions, GATES[case.op]

    def draw(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / 2).astype(np.float32)

    constants = {"W": draw(D, G * HIDDEN, IN), "R": draw(D, G * HIDDEN, HIDDEN)}
    feeds = {"X": draw(TIME, BATCH, IN)}
    if case.bias:
        constants["B"] = draw(D, 2 * G * HIDDEN)
    if case.peepholes:
        constants["P"] = draw(D, 3 * HIDDEN)
    if case.lengths:
        feeds["sequence_lens"] = LENGTHS
    if case.states:
        for name in ["initial_h", "initial_c"][: 2 if case.op == "LSTM" else 1]:
            feeds[name] = draw(D, BATCH, HIDDEN)
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    names = [n if n in constants or n in feeds else "" for n in names]
    while not names[-1]:
        names.pop()
    outputs = ["Y", "Y_h", "Y_c"][: 3 if case.op == "LSTM" else 2]
    node = helper.make_node(
        case.op, names, outputs, name="rnn", hidden_size=HIDDEN, **case.attributes
    )
    graph = helper.make_graph(
        [node],
        "graph",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape)
            )
            for name, a in feeds.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    opset = [helper.make_opsetid("", case.opset)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8), feeds


def run_onnx(model: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = model if isinstance(model, str | bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found


def run_layer(layer: Any, feeds: dict[str, np.ndarray], layout: int = 0) -> list[np.ndarray]:
    """Y, Y_h and Y_c of a layer, in the layout of the node."""
    both = isinstance(layer, nr.Bidirectional)
    cells = [layer.forward, layer.backward] if both else [layer]
    state = None
    if "initial_h" in feeds:
        arrays = [jnp.asarray(feeds[n]) for n in ("initial_h", "initial_c") if n in feeds]
        each = [[a[n] for a in arrays] for n in range(len(cells))]
        states = [nr.LSTMState(*e) if len(e) == 2 else e[0] for e in each]
        state = tuple(states) if both else states[0]
    X = jnp.asarray(feeds["X"])
    lengths = feeds.get("sequence_lens")
    final, ys = layer.scan(state, X if layout else jnp.swapaxes(X, 0, 1), lengths=lengths)
    finals = final if both else (final,)
    Y = np.asarray(ys).reshape(*ys.shape[:2], len(cells), -1)
    fields = [[*f] if isinstance(f, tuple) else [f] for f in finals]
    rest = [np.stack([f[n] for f in fields]) for n in range(len(fields[0]))]
    if layout:
        return [Y, *(np.swapaxes(a, 0, 1) for a in rest)]
    return [np.transpose(Y, (1, 2, 0, 3)), *rest]
