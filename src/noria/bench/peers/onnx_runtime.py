"""onnxruntime: a model of one operator, whose constant weights are packed when it is loaded."""

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from noria.bench.grid import CELLS, COMMON, Work
from noria.bench.peers import Task, Unsupported, cores


def make(work: Work) -> Task:
    if work.cell not in COMMON or work.mode == "training":
        raise Unsupported("no training" if work.cell in COMMON else "no such operator")
    model, weights = build(work)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = cores(), 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("X", work.inputs())
    for name in _states(work):
        binding.bind_cpu_input(name, np.zeros((1, work.shape.batch, work.shape.hidden), np.float32))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    return Task(lambda: session.run_with_iobinding(binding), weights)


def build(work: Work) -> tuple[bytes, int]:
    """A model file, and the numbers in its two matrices."""
    time, batch, inputs, hidden = work.shape
    rows = CELLS[work.cell].state_rows * hidden
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> Any:
        return (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)

    arrays = {
        "W": draw(1, rows, inputs),
        "R": draw(1, rows, hidden),
        "B": np.zeros((1, 2 * rows), np.float32),
    }
    results = ["Y", "Y_h", "Y_c"][: 3 if work.cell == "lstm" else 2]
    reset = {"linear_before_reset": 1} if work.cell == "gru" else {}
    states = _states(work)
    given = ["X", *arrays, "", *states]  # the lengths are not given
    node = helper.make_node(work.cell.upper(), given, results, hidden_size=hidden, **reset)

    def info(name: str) -> Any:
        shape = {"X": (time, batch, inputs), "Y": (time, 1, batch, hidden)}.get(
            name, (1, batch, hidden)
        )
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(
        [node],
        work.cell,
        [info(name) for name in ("X", *states)],
        [info(name) for name in results],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString(), arrays["W"].size + arrays["R"].size


def _states(work: Work) -> list[str]:
    """The names of the arrays of the state that a step gets; a sequence starts with zeros."""
    names = ["initial_h", "initial_c"][: 2 if work.cell == "lstm" else 1]
    return names if work.mode == "step" else []
