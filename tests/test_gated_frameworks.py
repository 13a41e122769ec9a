"""Options of the gated cells beside onnxruntime and PyTorch, where these are installed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noria as nr
from noria.activations import keras2_hard_sigmoid

pytestmark = pytest.mark.full
KEY = jax.random.key(1)
ORDER = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2], "gruv3": [1, 0, 2], "rnn": [0]}
XS = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)

#: Options of a cell, and attributes of its node in ONNX.
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("rnn", {"activation": jax.nn.relu, "clip": 0.5}, {"activations": ["Relu"], "clip": 0.5}),
    ("gru", {"clip": 0.5}, {"clip": 0.5, "linear_before_reset": 1}),
    ("gruv3", {"clip": 0.5}, {"clip": 0.5}),
    (
        "gru",
        {"gate_activation": keras2_hard_sigmoid, "activation": jax.nn.soft_sign},
        {
            "activations": ["HardSigmoid", "Softsign"],
            "activation_alpha": [0.2],
            "activation_beta": [0.5],
            "linear_before_reset": 1,
        },
    ),
    ("lstm", {"peepholes": True}, {}),
    ("lstm", {"peepholes": True, "clip": 0.3}, {"clip": 0.3}),
    ("lstm", {"coupled_gates": True, "peepholes": True}, {"input_forget": 1}),
    (
        "lstm",
        {"activation": jax.nn.soft_sign, "output_activation": jax.nn.relu},
        {"activations": ["Sigmoid", "Softsign", "Relu"]},
    ),
]


def blocks(array: Any, name: str, coupled: bool) -> np.ndarray:
    """Row blocks in the order of ONNX; zeros for the forget gate of coupled ones."""
    order = ORDER[name]
    parts = np.split(np.asarray(array), 3 if coupled else len(order))
    if coupled:
        parts.insert(1, np.zeros_like(parts[0]))
    return np.concatenate([parts[n] for n in order])


@pytest.mark.parametrize(("name", "options", "attributes"), CASES)
def test_options_agree_with_onnxruntime(name, options, attributes):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    make: Any = {"rnn": nr.RNN, "lstm": nr.LSTM, "gru": nr.GRU, "gruv3": nr.GRUv3}[name]
    draw = nr.initializers.normal(0.7)
    biases = {"bias": draw, "recurrent_bias": draw, "dtype": jnp.float32}
    cell = (layer := make(3, 4, key=KEY, **biases, **options)).cell
    coupled = options.get("coupled_gates", False)
    arrays = {n: blocks(getattr(cell, n), name, coupled)[None] for n in ("W", "U", "b", "b_h")}
    given = [arrays["W"], arrays["U"], np.concatenate([arrays["b"], arrays["b_h"]], axis=1)]
    names = ["X", "W", "R", "B"]
    if options.get("peepholes"):
        parts = np.split(np.asarray(cell.p), 2 if coupled else 3)
        i, f, o = (parts[0], 0 * parts[0], parts[1]) if coupled else parts
        names += ["", "", "", "P"]
        given.append(np.concatenate([i, o, f])[None])
    helper = onnx.helper
    kind = {"rnn": "RNN", "lstm": "LSTM"}.get(name, "GRU")
    node = helper.make_node(kind, names, ["Y"], hidden_size=4, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, [6, 2, 3])],
        [helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, [6, 1, 2, 4])],
        [
            onnx.numpy_helper.from_array(array.astype(np.float32), n)
            for n, array in zip([n for n in names if n and n != "X"], given, strict=True)
        ],
    )
    opset = [helper.make_opsetid("", 14)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, {"X": XS})[0][:, 0]
    found = layer(jnp.asarray(XS.swapaxes(0, 1))).swapaxes(0, 1)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projection_agrees_with_pytorch():
    """Two layers, with states in PyTorch's order."""
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(3, 5, num_layers=2, proj_size=2)
    arrays = {name: tensor.detach().numpy() for name, tensor in module.named_parameters()}
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    net = nr.Chain(
        *(
            nr.LSTM.from_arrays(
                *(arrays[f"{name}_l{n}"] for name in names), W_r=arrays[f"weight_hr_l{n}"]
            )
            for n in range(2)
        )
    )
    rng = np.random.default_rng(1)
    start = [rng.normal(size=(2, 2, size)).astype(np.float32) for size in (2, 5)]
    expected, finals = module(torch.tensor(XS), tuple(map(torch.tensor, start)))
    state, ys = net.scan(nr.unstack_states(net, start), jnp.asarray(XS.swapaxes(0, 1)))
    np.testing.assert_allclose(ys.swapaxes(0, 1), expected.detach().numpy(), atol=1e-6)
    for ours, theirs in zip(nr.stack_states(state), finals, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)
