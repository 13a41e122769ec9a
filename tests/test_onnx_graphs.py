"""``from_onnx`` on whole graphs of other exporters' forms, and on damaged and hostile files."""

import resource
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from onnx_models import Case, node_model, run_onnx

import noria as nr

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("plain_jax")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) / 2).astype(np.float32)


def model_of(
    nodes: list[Any],
    inputs: dict[str, list[Any]],
    constants: dict[str, np.ndarray],
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
) -> Any:
    """A model of nodes ``(op, inputs, outputs, attributes)``."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    made = [helper.make_node(op, i.split(","), o.split(","), **a) for op, i, o, a in nodes]
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info(n, kind, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, kind, None) for n in outputs],
        [onnx.numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


GRU = {"W": draw(1, 15, 4), "R": draw(1, 15, 5, seed=1), "B": draw(1, 30, seed=2)}
INTS = {"axis1": np.array([1]), "flat": np.array([0, 0, -1]), "last": np.array(-1)}


def keras_like() -> Any:
    """Batch first, an activation after a dense layer, and the output of the last step."""
    nodes = [
        ("Transpose", "x", "t", {"perm": [1, 0, 2]}),
        ("GRU", "t,W,R,B", "Y,Y_h", {"hidden_size": 5}),
        ("Squeeze", "Y_h,axis0", "h", {}),
        ("MatMul", "h,K", "m", {}),
        ("Add", "m,k", "a", {}),
        ("Softmax", "a", "y", {"axis": -1}),
    ]
    more = {"K": draw(5, 3), "k": draw(3), "axis0": np.array([0])}
    return model_of(nodes, {"x": ["b", "t", 4]}, {**GRU, **more})


def torch_like() -> Any:
    """Time first, two directions joined by Transpose and Reshape, Gemm of rows, states of zeros."""
    both = {name: np.concatenate([a, a / 2]) for name, a in GRU.items()}
    nodes = [
        ("Shape", "x", "s", {}),
        ("Gather", "s,one", "n", {"axis": 0}),
        ("Unsqueeze", "n,axis0", "n1", {}),
        ("Concat", "two,n1,five", "z", {"axis": 0}),
        ("ConstantOfShape", "z", "h0", {}),
        (
            "GRU",
            "x,W,R,B,,h0",
            "Y,Y_h",
            {"hidden_size": 5, "direction": "bidirectional", "linear_before_reset": 1},
        ),
        ("Transpose", "Y", "p", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "p,flat", "r", {}),
        ("Reshape", "r,rows", "q", {}),
        ("Gemm", "q,K,k", "g", {"transB": 1}),
        ("Relu", "g", "a", {}),
        ("Gather", "s,zero", "time", {"axis": 0}),
        ("Unsqueeze", "time,axis0", "t1", {}),
        ("Concat", "t1,n1,three", "shape", {"axis": 0}),
        ("Reshape", "a,shape", "y", {}),
    ]
    more = {
        name: np.array([value])
        for name, value in (("two", 2), ("five", 5), ("three", 3), ("axis0", 0))
    }
    more |= {"one": np.array(1), "zero": np.array(0), "rows": np.array([-1, 10])}
    more |= {"K": draw(3, 10), "k": draw(3)}
    return model_of(nodes, {"x": ["t", "b", 4]}, {**both, **INTS, **more})


def norm_and_skip() -> Any:
    """A norm, a convolution in front, and a skip connection around a GRU of as many features."""
    square = {"W": draw(1, 12, 4), "R": draw(1, 12, 4, seed=1), "B": draw(1, 24, seed=2)}
    nodes = [
        ("Conv", "x,F", "c", {"kernel_shape": [3], "pads": [2, 0]}),
        ("Tanh", "c", "e", {}),
        ("Transpose", "e", "t", {"perm": [2, 0, 1]}),
        ("GRU", "t,W,R,B", "Y,Y_h", {"hidden_size": 4}),
        ("Squeeze", "Y,axis1", "s", {}),
        ("Add", "s,t", "r", {}),
        ("LayerNormalization", "r,scale,shift", "y", {"axis": -1, "epsilon": 1e-3}),
    ]
    more = {"F": draw(4, 3, 3), "scale": draw(4), "shift": draw(4, seed=4)}
    return model_of(nodes, {"x": ["b", 3, "t"]}, {**square, **INTS, **more})


def test_a_graph_with_batch_first_and_the_last_step():
    pytest.importorskip("onnxruntime")
    notes: list[str] = []
    model, x = keras_like(), draw(3, 6, 4)
    found = nr.from_onnx(model, report=lambda r: notes.extend(r.notes))
    assert [type(layer).__name__ for layer in found] == ["Recurrence", "Dense"]
    assert notes == ["the output is that of the last step: nr.last(model(xs), lengths)"]
    np.testing.assert_allclose(
        nr.last(found(jnp.asarray(x))), run_onnx(model, {"x": x})[0], atol=1e-6
    )


def test_a_graph_with_time_first_rows_and_computed_shapes():
    pytest.importorskip("onnxruntime")
    model, x = torch_like(), draw(6, 3, 4)
    found = nr.from_onnx(model)
    assert [type(layer).__name__ for layer in found] == ["Bidirectional", "Dense"]
    ys = found(jnp.asarray(x).swapaxes(0, 1))
    want = run_onnx(model, {"x": x})[0]
    np.testing.assert_allclose(ys.swapaxes(0, 1), want, atol=1e-6)


def test_a_graph_with_a_convolution_a_skip_connection_and_a_norm_streams():
    pytest.importorskip("onnxruntime")
    model, x = norm_and_skip(), draw(2, 3, 9)
    found = nr.from_onnx(model)
    xs = jnp.asarray(x).swapaxes(1, 2)
    want = np.transpose(run_onnx(model, {"x": x})[0], (1, 0, 2))
    np.testing.assert_allclose(found(xs), want, atol=2e-6)
    state, first = found.scan(None, xs[:, :5])
    state, second = found.scan(state, xs[:, 5:])
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), want, atol=2e-6)


def test_the_body_of_a_loop_becomes_a_cell():
    """As tf2onnx and jax2onnx write it: a Gather of the step's input, and a stacked output."""
    pytest.importorskip("onnxruntime")
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "n"], ["x_t"], axis=0),
            helper.make_node("MatMul", ["x_t", "W"], ["wx"]),
            helper.make_node("MatMul", ["h", "U"], ["uh"]),
            helper.make_node("Add", ["wx", "uh"], ["a"]),
            helper.make_node("Tanh", ["a"], ["h_next"]),
            helper.make_node("Identity", ["h_next"], ["out"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            info("n", onnx.TensorProto.INT64, []),
            info("go", onnx.TensorProto.BOOL, []),
            info("h", FLOAT, ["b", 5]),
        ],
        [
            info("go_on", onnx.TensorProto.BOOL, []),
            info("h_next", FLOAT, ["b", 5]),
            info("out", FLOAT, ["b", 5]),
        ],
    )
    nodes = [
        ("Shape", "x", "s", {}),
        ("Gather", "s,zero", "steps", {"axis": 0}),
        ("Loop", "steps,yes,start", "h_last,y", {"body": body}),
    ]
    constants = {"W": draw(4, 5), "U": draw(5, 5), "zero": np.array(0), "yes": np.array(True)}
    model = model_of(
        nodes, {"x": ["t", "b", 4], "start": ["b", 5]}, constants, ("y", "h_last"), opset=14
    )
    x, start = draw(6, 3, 4), draw(3, 5, seed=7)
    layer = nr.from_onnx(model)
    assert isinstance(layer, nr.Recurrence)
    final, ys = layer.scan(jnp.asarray(start), jnp.asarray(x).swapaxes(0, 1))
    want, last = run_onnx(model, {"x": x, "start": start})
    np.testing.assert_allclose(ys.swapaxes(0, 1), want, atol=1e-6)
    np.testing.assert_allclose(final, last, atol=1e-6)
    assert "native" in str(nr.explain(layer, jnp.asarray(x).swapaxes(0, 1))).splitlines()[0]
    body.node[2].input[0] = "h_wrong"
    with pytest.raises(ValueError, match=r"it also reads 'h_wrong'"):
        nr.from_onnx(
            model_of(
                [*nodes[:2], ("Loop", *nodes[2][1:3], {"body": body})],
                {"x": ["t", "b", 4], "start": ["b", 5]},
                constants,
                opset=14,
            )
        )


def test_a_loop_whose_step_mixes_examples_is_refused():
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x_t"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Add", ["h", "m"], ["h_next"]),
            helper.make_node("Identity", ["h_next"], ["out"]),
        ],
        "body",
        [info("h", FLOAT, ["b", 4]), info("x_t", FLOAT, ["b", 4])],
        [info("h_next", FLOAT, ["b", 4]), info("out", FLOAT, ["b", 4])],
    )
    nodes = [("Scan", "start,x", "last,y", {"body": body, "num_scan_inputs": 1})]
    model = model_of(nodes, {"x": ["t", "b", 4], "start": ["b", 4]}, {}, opset=13)
    with pytest.raises(ValueError, match=r"is not that of separate examples"):
        nr.from_onnx(model)


def test_a_graph_that_is_no_chain_gives_its_layers_by_name():
    """An encoder whose final state starts a decoder."""
    nodes = [
        ("GRU", "x,W,R,B", "Y,Y_h", {"hidden_size": 5, "name": "encoder"}),
        ("GRU", "z,W,R,B,,Y_h", "D,D_h", {"hidden_size": 5, "name": "decoder"}),
        ("Einsum", "Y,D", "y", {"equation": "tdbh,sdbh->bts"}),
    ]
    model = model_of(nodes, {"x": ["t", "b", 4], "z": ["s", "b", 4]}, GRU)
    notes: list[str] = []
    layers = nr.from_onnx(model, report=lambda r: notes.extend(r.notes))
    assert sorted(layers) == ["decoder", "encoder"]
    assert (
        notes[0] == "the graph is no chain of supported layers: the output 'y' depends on 2 inputs"
    )
    assert "decoder: initial_h is computed from inputs; pass it as the state" in notes


def test_a_number_that_chooses_a_branch_is_no_sequence():
    """Silero VAD chooses by its sampling rate."""
    gru = onnx.helper.make_node("GRU", ["x", "W", "R", "B"], ["Y"], "gru", hidden_size=5)
    y = onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, None)
    branch = onnx.helper.make_graph([gru], "branch", [], [y])
    branches = {"then_branch": branch, "else_branch": branch}
    nodes = [("Equal", "rate,fast", "is", {}), ("If", "is", "y", branches)]
    model = model_of(nodes, {"x": ["t", "b", 4], "rate": []}, {**GRU, "fast": np.array(16000)})
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    notes: list[str] = []
    layers = nr.from_onnx(model, report=lambda r: notes.extend(r.notes))
    assert [layer.label for layer in layers.values()] == ["GRUv3(in_size=4)"] * 2
    assert notes == [
        "the graph is no chain of supported layers: the input 'rate' has 0 axes; "
        "expected 1 or 2 of indices"
    ]


# --- damaged and hostile files ------------------------------------------------------------------


def content() -> bytes:
    model, _ = node_model(Case("LSTM"))
    data: bytes = model.SerializeToString()
    return data


def test_truncated_files_and_other_files_are_refused(tmp_path):
    data, path = content(), tmp_path / "model.onnx"
    for end in (0, 1, 40, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"from_onnx\('.*model.onnx'\): "):
            nr.from_onnx(path, node="rnn")
    path.write_bytes(b"PK\x03\x04 no protobuf at all")
    with pytest.raises(ValueError, match=r"no ONNX model, or a truncated one|no operators"):
        nr.from_onnx(path)
    with pytest.raises(FileNotFoundError):
        nr.from_onnx(tmp_path / "missing.onnx")
    with pytest.raises(TypeError, match=r"expected a path, the bytes of a file, or a ModelProto"):
        nr.from_onnx(7)


def with_tensor(change: Any) -> Any:
    model, _ = node_model(Case("LSTM"))
    change(next(t for t in model.graph.initializer if t.name == "W"))
    return model


def huge(tensor: Any) -> None:
    tensor.dims[:] = [1, 2**40, 2**40]


def negative(tensor: Any) -> None:
    tensor.dims[:] = [1, -20, -4]


def text(tensor: Any) -> None:
    tensor.data_type = onnx.TensorProto.STRING


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (huge, r"'W' has the shape \(1, 1099511627776, 1099511627776\), but 80 numbers of FLOAT"),
        (negative, r"'W' has the shape \(1, -20, -4\); expected sizes of at least 0"),
        (text, r"'W' is a tensor of STRING; expected numbers of 8 bits or more"),
    ],
)
def test_tensors_that_lie_about_their_size_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        nr.from_onnx(with_tensor(change), node="rnn")


def external(location: str, **fields: Any) -> Any:
    def change(tensor: Any) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, **fields}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)

    return with_tensor(change)


def test_external_data_is_read_inside_of_the_folder_only(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    path, model = folder / "model.onnx", node_model(Case("LSTM"))[0]
    W = next(t for t in model.graph.initializer if t.name == "W").raw_data
    (folder / "W.bin").write_bytes(b"1234" + W)
    (tmp_path / "secret").write_bytes(W)
    (folder / "link").symlink_to(tmp_path / "secret")
    path.write_bytes(external("W.bin", offset=4, length=320).SerializeToString())
    same = nr.from_onnx(model, node="rnn")
    np.testing.assert_array_equal(nr.from_onnx(path, node="rnn").cell.W, same.cell.W)
    for location in ("../secret", str(tmp_path / "secret"), "link", ""):
        path.write_bytes(external(location).SerializeToString())
        with pytest.raises(ValueError, match=r"outside the folder of the model"):
            nr.from_onnx(path, node="rnn")
    for fields in ({"offset": 8}, {"offset": -4}, {"length": 7}, {"offset": 2**62}):
        path.write_bytes(external("W.bin", **fields).SerializeToString())
        with pytest.raises(ValueError, match=r"expected 320 bytes inside of its 324"):
            nr.from_onnx(path, node="rnn")
    path.write_bytes(external("W.bin", offset="many").SerializeToString())
    with pytest.raises(ValueError, match=r"no number as its offset or length"):
        nr.from_onnx(path, node="rnn")
    path.write_bytes(external("none.bin").SerializeToString())
    with pytest.raises(ValueError, match=r"there is no such file beside the model"):
        nr.from_onnx(path, node="rnn")
    with pytest.raises(ValueError, match=r"pass the path of the model and not its content"):
        nr.from_onnx(external("W.bin"), node="rnn")


def bomb(op: str) -> Any:
    """A few bytes that ask for a terabyte as the weights of a node."""
    model, _ = node_model(Case("LSTM"))
    kept = [t for t in model.graph.initializer if t.name != "W"]
    del model.graph.initializer[:]
    many = {"shape": np.array([1, 2**20, 2**20]), "one": draw(1, 1, 1), "n": np.array(2**40)}
    many |= {"zero": np.array(0), "step": np.array(1), "column": draw(2**17, 1)}
    kept += [onnx.numpy_helper.from_array(a, name) for name, a in many.items()]
    model.graph.initializer.extend(kept)
    inputs = {
        "Expand": ["one", "shape"],
        "ConstantOfShape": ["shape"],
        "Tile": ["one", "shape"],
        "Range": ["zero", "n", "step"],
        "MatMul": ["column", "row"],
        "Add": ["column", "row"],
        "Pad": ["one", "pads"],
    }[op]
    extra = {"row": draw(1, 2**17), "pads": np.array([0, 0, 0, 0, 2**20, 2**20])}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, name) for name, a in extra.items() if name in inputs
    )
    model.graph.node.insert(0, onnx.helper.make_node(op, inputs, ["W"]))
    return model


@pytest.mark.parametrize("op", "Expand ConstantOfShape Tile Range MatMul Add Pad".split())
def test_memory_is_bounded_where_a_file_asks_for_more(op):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"gets W from 'W', which is not a constant of the model"):
        nr.from_onnx(bomb(op), node="rnn")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1_500_000, f"{grown} kB"


@pytest.mark.parametrize(
    ("op", "options", "reason"),
    [
        ("AveragePool", {"count_include_pad": 1, "pads": [1, 0]}, "counts padding as zeros"),
        ("MaxPool", {"ceil_mode": 1}, "is no pool over time without ceil_mode and dilations"),
        ("MaxPool", {"auto_pad": "SAME_LOWER"}, "has auto_pad=SAME_LOWER and a stride of 2"),
    ],
)
def test_a_pool_that_counts_otherwise_is_not_read(op, options, reason):
    nodes = [
        (op, "x", "p", {"kernel_shape": [2], "strides": [2], **options}),
        ("Transpose", "p", "t", {"perm": [2, 0, 1]}),
        ("GRU", "t,W,R,B", "Y,Y_h", {"hidden_size": 5}),
        ("Squeeze", "Y,axis1", "y", {}),
    ]
    notes: list[str] = []
    model = model_of(nodes, {"x": ["b", 4, "t"]}, {**GRU, **INTS})
    assert list(nr.from_onnx(model, report=lambda r: notes.extend(r.notes))) == ["Y"]
    assert reason in notes[0]


def test_a_circle_of_nodes_is_refused():
    nodes = [
        ("Add", "x,b", "a", {}),
        ("Add", "a,x", "b", {}),
        ("GRU", "b,W,R,B", "Y,Y_h", {"hidden_size": 5}),
        ("Squeeze", "Y,axis1", "y", {}),
    ]
    model = model_of(nodes, {"x": ["t", "b", 4]}, {**GRU, **INTS})
    found = nr.from_onnx(model)
    assert list(found) == ["Y"]


def test_a_chain_of_many_constants_needs_no_recursion():
    nodes: list[Any] = [("Identity", f"c{n}", f"c{n + 1}", {}) for n in range(5000)]
    nodes += [("GRU", "x,c5000,R,B", "Y,Y_h", {"hidden_size": 5}), ("Squeeze", "Y,axis1", "y", {})]
    constants = {"c0": GRU["W"], "R": GRU["R"], "B": GRU["B"], **INTS}
    layer = nr.from_onnx(model_of(nodes, {"x": ["t", "b", 4]}, constants))
    assert layer.label == "GRUv3(in_size=4)"
