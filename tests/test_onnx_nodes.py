"""``from_onnx`` on single nodes: the standard's own cases, and onnxruntime for all attributes."""

import importlib
from typing import Any

import numpy as np
import pytest
from onnx_models import Case, node_model, run_layer, run_onnx

import noria as nr

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("plain_jax")

BOTH = {"direction": "bidirectional"}
BACK = {"direction": "reverse"}


def activations(names: str, alphas: Any = (), betas: Any = (), **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"activations": names.split(), **more}
    found |= {"activation_alpha": [*alphas]} if alphas else {}
    return found | ({"activation_beta": [*betas]} if betas else {})


#: Attributes and inputs, each alone and in the combinations that files have.
CASES = [
    *(Case(op, lengths=True, states=True) for op in ("LSTM", "GRU", "RNN")),
    *(Case(op, BACK, lengths=True, states=True) for op in ("LSTM", "GRU", "RNN")),
    *(Case(op, BOTH, lengths=True, states=True) for op in ("LSTM", "GRU", "RNN")),
    *(Case(op, opset=7) for op in ("LSTM", "GRU", "RNN")),
    *(Case(op, BOTH, bias=False, opset=14) for op in ("LSTM", "GRU", "RNN")),
    *(Case("GRU", {"linear_before_reset": n}, states=True) for n in (0, 1)),
    Case("GRU", {"linear_before_reset": 1, **BOTH}, lengths=True),
    *(Case(op, {"clip": 0.3}, states=True) for op in ("LSTM", "GRU", "RNN")),
    Case("GRU", {"clip": 0.3, "linear_before_reset": 1}),
    Case("LSTM", peepholes=True, states=True),
    Case("LSTM", BOTH, peepholes=True, lengths=True),
    Case("LSTM", {"input_forget": 1}, states=True),
    Case("LSTM", {"input_forget": 1, "clip": 0.5}, peepholes=True, states=True),
    Case("LSTM", activations("HardSigmoid Tanh Tanh", [0.2], [0.5])),
    Case("LSTM", activations("HardSigmoid Tanh Tanh")),
    Case("LSTM", activations("Sigmoid Softsign Relu")),
    Case("LSTM", activations("sigmoid tanh TANH")),
    Case("LSTM", activations("Sigmoid Elu LeakyRelu", [0.7, 0.2])),
    Case("LSTM", activations("Sigmoid ScaledTanh Affine", [1.5, 0.5], [0.8, 0.1])),
    Case("LSTM", activations("Sigmoid Tanh Tanh HardSigmoid Softplus Tanh", [0.3], [0.4], **BOTH)),
    Case("GRU", activations("HardSigmoid Softsign", [0.3], [0.6])),
    Case("GRU", activations("Sigmoid Relu", linear_before_reset=1, clip=0.6)),
    Case("GRU", activations("Sigmoid Tanh HardSigmoid Elu", [0.25, 0.5], [0.5], **BOTH)),
    *(Case("RNN", activations(name)) for name in ("Relu", "Sigmoid", "Softsign", "Softplus")),
    Case("RNN", activations("LeakyRelu", [0.1])),
    Case("RNN", activations("LeakyRelu")),
    Case("RNN", activations("Elu", [0.9])),
    Case("RNN", activations("ThresholdedRelu", [0.2])),
    Case("RNN", activations("Affine", [0.6], [0.1])),
    Case("RNN", activations("ScaledTanh", [0.6], [1.4])),
    Case("RNN", activations("Tanh Relu", **BOTH), lengths=True),
]


@pytest.mark.sampled(13)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_node_agrees_with_onnxruntime(case):
    pytest.importorskip("onnxruntime")
    model, feeds = node_model(case)
    layer = nr.from_onnx(model, node="rnn")
    softplus = "Softplus" in str(case)
    for got, want in zip(run_layer(layer, feeds), run_onnx(model, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 if softplus else 1e-6)


def standard_cases() -> list[Any]:
    """The cases of the three operators, made by the package onnx."""
    node = importlib.import_module("onnx.backend.test.case.node")
    for name in ("lstm", "gru", "rnn"):
        importlib.import_module(f"{node.__name__}.{name}")
    return [
        c for c in node._NodeTestCases if c.model.graph.node[0].op_type in ("LSTM", "GRU", "RNN")
    ]


def test_the_cases_of_the_standard():
    """Their weights are inputs; here they become constants, as in files."""
    cases = standard_cases()
    assert len(cases) == 18
    for case in cases:
        [(inputs, outputs)] = case.data_sets
        model = onnx.ModelProto.FromString(case.model.SerializeToString())
        arrays = dict(zip([i.name for i in model.graph.input], inputs, strict=True))
        for name, array in arrays.items():
            if name not in ("X", "sequence_lens"):
                constant = onnx.numpy_helper.from_array(np.asarray(array), name)
                model.graph.initializer.append(constant)
        [node] = model.graph.node
        layer = nr.from_onnx(model, node=next(filter(None, node.output)))
        layout = next((a.i for a in node.attribute if a.name == "layout"), 0)
        feeds = {n: a for n, a in arrays.items() if n in ("X", "sequence_lens")}
        got = dict(zip(node.output, run_layer(layer, feeds, layout), strict=False))
        for output, want in zip(model.graph.output, outputs, strict=True):
            np.testing.assert_allclose(got[output.name], want, rtol=1e-3, atol=1e-7)


def test_a_constant_state_becomes_the_initial_state():
    pytest.importorskip("onnxruntime")
    model, feeds = node_model(Case("LSTM", BOTH, states=True))
    for name in ("initial_h", "initial_c"):
        array = np.repeat(feeds.pop(name)[:, :1], 3, axis=1)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    layer = nr.from_onnx(model, node="rnn")
    del model.graph.input[1:]
    for got, want in zip(run_layer(layer, feeds), run_onnx(model, feeds), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_an_example_of_length_zero_keeps_its_state():
    """Zeros in onnxruntime; the final state in Noria is the one at the end of the sequence."""
    pytest.importorskip("onnxruntime")
    model, feeds = node_model(Case("GRU", lengths=True, states=True))
    feeds["sequence_lens"] = np.array([6, 0, 1], np.int32)
    Y, Y_h = run_layer(nr.from_onnx(model, node="rnn"), feeds)
    want, want_h = run_onnx(model, feeds)
    np.testing.assert_allclose(Y, want, atol=1e-6)
    np.testing.assert_allclose(Y_h[:, [0, 2]], want_h[:, [0, 2]], atol=1e-6)
    assert not want_h[:, 1].any()
    np.testing.assert_array_equal(Y_h[:, 1], feeds["initial_h"][:, 1])


def test_plain_nodes_become_cells_of_the_library():
    for op, cell in (("LSTM", nr.LSTMCell), ("GRU", nr.GRUv3Cell), ("RNN", nr.RNNCell)):
        assert type(nr.from_onnx(node_model(Case(op))[0], node="rnn").cell) is cell
    after = Case("GRU", {"linear_before_reset": 1})
    assert type(nr.from_onnx(node_model(after)[0], node="rnn").cell) is nr.GRUCell


def test_a_quantised_node_becomes_float32_and_says_so():
    """``DynamicQuantizeLSTM``: the weights are exact multiples, so only activations differ."""
    pytest.importorskip("onnxruntime")
    model, feeds = node_model(Case("LSTM"))
    [node] = model.graph.node
    rng = np.random.default_rng(1)
    arrays = {}
    for name, rows in (("W", 4), ("R", 5)):
        arrays[name] = rng.integers(0, 255, (1, rows, 20)).astype(np.uint8)
        arrays[f"{name}_scale"] = np.array([0.01], np.float32)
        arrays[f"{name}_zero"] = np.array([128], np.uint8)
    kept = [t for t in model.graph.initializer if t.name == "B"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()
    )
    node.op_type, node.domain = "DynamicQuantizeLSTM", "com.microsoft"
    del node.input[:]
    node.input.extend(["X", "W", "R", "B", "", "", "", ""])
    node.input.extend(["W_scale", "W_zero", "R_scale", "R_zero"])
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    notes: list[str] = []
    with pytest.warns(UserWarning, match=r"weights of 8 bits became float32"):
        layer = nr.from_onnx(model, node="rnn", report=lambda r: notes.extend(r.notes))
    assert "rnn: W of 8 bits, converted to float32" in notes
    for got, want in zip(run_layer(layer, feeds), run_onnx(model, feeds), strict=True):
        np.testing.assert_allclose(got, want, atol=0.02)


def test_a_node_inside_of_an_if_is_found():
    pytest.importorskip("onnxruntime")
    model, feeds = node_model(Case("LSTM", lengths=True))
    [node] = model.graph.node
    helper, outputs = onnx.helper, list(model.graph.output)
    inner = helper.make_graph([node], "then", [], outputs)
    other = onnx.NodeProto.FromString(node.SerializeToString())
    other.name = "other"
    outer = helper.make_node(
        "If",
        ["flag"],
        ["a", "b", "c"],
        name="choice",
        then_branch=inner,
        else_branch=helper.make_graph([other], "else", [], outputs),
    )
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.append(outer)
    flag = helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])
    model.graph.input.append(flag)
    model.graph.output.extend(
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in "abc"
    )
    want = run_onnx(model, {**feeds, "flag": np.array(True)})
    for name in ("rnn", "choice/then_branch/rnn"):
        for got, array in zip(run_layer(nr.from_onnx(model, node=name), feeds), want, strict=True):
            np.testing.assert_allclose(got, array, atol=1e-6)
    layers = nr.from_onnx(model)
    assert sorted(layers) == ["choice/else_branch/other", "choice/then_branch/rnn"]
    with pytest.raises(
        ValueError, match=r"no recurrent node is called 'rnm'; expected one of choice/else"
    ):
        nr.from_onnx(model, node="rnm")


def changed(case: Case, change: Any) -> Any:
    model, _ = node_model(case)
    change(model)
    return model


def attribute(model: Any, **values: Any) -> None:
    [node] = model.graph.node
    node.attribute.extend(onnx.helper.make_attribute(n, v) for n, v in values.items())


def replaced(model: Any, name: str, array: np.ndarray) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))


ERRORS = [
    (lambda m: attribute(m, direction="sideways"), r"rnn has the direction 'sideways'"),
    (lambda m: attribute(m, activations=["Cube", "Tanh", "Tanh"]), r"activation 'Cube'; expected"),
    (lambda m: attribute(m, activations=["Tanh"]), r"rnn has 1 activations; expected 3"),
    (
        lambda m: attribute(m, activations=["Affine", "Tanh", "Tanh"]),
        r"Affine without activation_alpha; the standard has no default",
    ),
    (
        lambda m: attribute(m, activation_alpha=[1.0]),
        r"more numbers in activation_alpha than its activations take",
    ),
    (lambda m: attribute(m, clip=-1.0), r"clip=-1.0; expected a positive number"),
    (
        lambda m: replaced(m, "R", np.zeros((1, 20, 4), np.float32)),
        r"R of the shape \(1, 20, 4\) and hidden_size 5; expected \(1, 4 \* hidden, hidden\)",
    ),
    (
        lambda m: replaced(m, "W", np.zeros((1, 16, 4), np.float32)),
        r"W of the shape \(1, 16, 4\); expected \(1, 20, 'any'\)",
    ),
    (lambda m: replaced(m, "B", np.zeros((20,), np.float32)), r"B of the shape \(20,\); expected"),
    (
        lambda m: m.graph.initializer.pop(0),
        r"gets W from 'W', which is not a constant of the model",
    ),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_faults_of_a_node_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        nr.from_onnx(changed(Case("LSTM"), change), node="rnn")
