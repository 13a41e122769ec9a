"""Weights of PyTorch in and out: frozen outputs of PyTorch, and files made without it."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
import safetensors.numpy
import torch_file as tf

import noria as nr

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "torch.npz"))
CASES = ["lstm", "gru", "rnn_tanh", "rnn_relu", "bilstm_packed", "bigru_packed"]
KEYS = jax.random.split(jax.random.key(0), 8)


def arrays_of(case, weights=True):
    """The weights of a case, or its inputs and outputs."""
    found = {k.split("/")[1]: a for k, a in GOLDEN.items() if k.startswith(f"{case}/")}
    return {k: a for k, a in found.items() if k.startswith(("weight", "bias")) == weights}


def settings_of(case):
    return {"nonlinearity": case[4:]} if case.startswith("rnn") else {}


def written(tmp_path, form, arrays, prefix=""):
    arrays = {f"{prefix}{name}": array for name, array in arrays.items()}
    path = tmp_path / f"model.{'safetensors' if form == 'safetensors' else 'pt'}"
    if form == "safetensors":
        safetensors.numpy.save_file(arrays, path)
    else:
        make = tf.zipped if form == "zip" else tf.older
        path.write_bytes(make(tf.state_dict(arrays), arrays))
    return path


def equal(a, b):
    leaves = zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


# --- In ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_frozen_outputs(case):
    layer = nr.from_torch(arrays_of(case), **settings_of(case))
    data = arrays_of(case, weights=False)
    start: Any
    state = tuple(jnp.asarray(data[name]) for name in ("h0", "c0") if name in data)
    if case.startswith("bi"):  # the states of both directions, layer-major
        ways = [nr.LSTMState(*(s[n] for s in state)) if len(state) == 2 else state[0][n]
                for n in range(2)]  # fmt: skip
        start, lengths = tuple(ways), data["lengths"]
    else:
        start, lengths = nr.LSTMState(*state) if len(state) == 2 else state[0], None
    _, ys = layer.scan(start, jnp.asarray(data["xs"]), lengths=lengths)
    np.testing.assert_allclose(ys, data["ys"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["zip", "older", "safetensors"])
def test_each_form_of_file_gives_the_same_arrays(tmp_path, form):
    arrays = arrays_of("bilstm_packed")
    path = written(tmp_path, form, arrays, "encoder.rnn.")
    assert equal(nr.from_torch(path, "encoder.rnn"), nr.from_torch(arrays))
    narrow = nr.from_torch(path, "encoder.rnn", dtype="float32")
    assert narrow.forward.cell.dtype == jnp.float32


def test_a_state_dict_inside_of_a_checkpoint(tmp_path):
    arrays = arrays_of("gru")
    checkpoint = tf.dict_of(step=tf.number(3), model=tf.state_dict(arrays), lr=b"G" + bytes(8))
    (tmp_path / "c.pth").write_bytes(tf.zipped(checkpoint, arrays))
    assert equal(nr.from_torch(tmp_path / "c.pth", prefix="model"), nr.from_torch(arrays))


def test_tensors_that_share_a_storage_or_are_transposed(tmp_path):
    block = np.arange(12.0)
    value = tf.dict_of(
        weight=tf.tensor("0", block, shape=(2, 3), stride=(1, 2), offset=1),
        bias=tf.tensor("0", block, shape=(2,), stride=(3,), offset=7),
    )
    (tmp_path / "a.pt").write_bytes(tf.zipped(value, {"0": block}))
    dense = nr.from_torch(tmp_path / "a.pt")
    np.testing.assert_array_equal(dense.W, [[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(dense.b, [7, 10])


def stacked(kind, layers, directions, size=3):
    """A state_dict of several layers, with random numbers."""
    rng, gates = np.random.default_rng(0), {"LSTM": 4, "GRU": 3}[kind]
    arrays = {}
    for k in range(layers):
        for suffix in ("", "_reverse")[:directions]:
            inputs = 2 if k == 0 else directions * size
            for name, shape in (("weight_ih", (inputs,)), ("weight_hh", (size,)), ("bias_ih", ())):
                arrays[f"{name}_l{k}{suffix}"] = rng.normal(size=(gates * size, *shape))
            arrays[f"bias_hh_l{k}{suffix}"] = rng.normal(size=gates * size)
    return arrays


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize(("layers", "directions"), [(1, 2), (3, 1), (2, 2)])
def test_a_round_trip_returns_identical_bits(kind, layers, directions):
    arrays = stacked(kind, layers, directions)
    layer = nr.from_torch(arrays)
    back = nr.to_torch(layer)
    assert list(back) == list(arrays)
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)
    assert back["weight_hh_l0"].flags.writeable


def test_dropout_is_between_the_layers():
    chain = nr.from_torch(stacked("GRU", 3, 1), dropout=0.25)
    assert [type(layer).__name__ for layer in chain] == ["Recurrence", "Dropout"] * 2 + [
        "Recurrence"
    ]
    assert chain[1].p == 0.25
    assert list(nr.to_torch(chain)) == list(stacked("GRU", 3, 1))


def test_parts_that_are_no_recurrence():
    weight = np.arange(6.0).reshape(2, 3)
    dense = nr.from_torch({"weight": weight, "bias": np.ones(2)})
    np.testing.assert_array_equal(dense(jnp.ones(3)), [4, 13])
    table = nr.from_torch({"weight": weight}, kind="Embedding")
    np.testing.assert_array_equal(table(jnp.array([1])), [[3, 4, 5]])
    assert isinstance(nr.from_torch({"weight": weight}, kind="Linear"), nr.Dense)
    norm = nr.from_torch({"weight": np.full(2, 2.0), "bias": np.ones(2)}, kind="LayerNorm", eps=1.0)
    np.testing.assert_allclose(norm(jnp.array([1.0, 3.0])), [1 - 2**0.5, 1 + 2**0.5])
    kernel = np.arange(4.0).reshape(1, 2, 2)
    conv = nr.from_torch(
        {"weight": kernel, "bias": np.ones(1)},
        kind="Conv1d",
        stride=1,
        padding=1,
        dilation=1,
        groups=1,
    )
    xs = np.array([[1.0, 2.0], [3.0, 4.0]])  # (time, in); PyTorch has kernel[out, in, place]
    padded = np.concatenate([np.zeros((1, 2)), xs, np.zeros((1, 2))])
    expected = [1 + sum(padded[t + j] @ kernel[0, :, j] for j in range(2)) for t in range(3)]
    np.testing.assert_allclose(conv(jnp.asarray(xs))[:, 0], expected)
    assert equal(nr.to_torch(conv), {"weight": kernel, "bias": np.ones(1)})
    assert equal(nr.to_torch(table), {"weight": weight})


def test_cells_are_cells():
    arrays = {name.removesuffix("_l0"): array for name, array in arrays_of("gru").items()}
    cell = nr.from_torch(arrays)
    assert type(cell) is nr.GRUCell
    assert equal(nr.to_torch(cell), arrays)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_projection():
    rng = np.random.default_rng(0)
    arrays = {
        "weight_ih_l0": rng.normal(size=(12, 2)),
        "weight_hh_l0": rng.normal(size=(12, 2)),
        "weight_hr_l0": rng.normal(size=(2, 3)),
    }
    layer = nr.from_torch(arrays)
    xs = rng.normal(size=(4, 2))
    h, c, expected = np.zeros(2), np.zeros(3), []
    for x in xs:
        i, f, g, o = np.split(arrays["weight_ih_l0"] @ x + arrays["weight_hh_l0"] @ h, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = arrays["weight_hr_l0"] @ (sigmoid(o) * np.tanh(c))
        expected.append(h)
    np.testing.assert_allclose(layer(jnp.asarray(xs)), expected, rtol=1e-12)
    assert equal(nr.to_torch(layer), arrays)


def test_the_report():
    reports: list[nr.Report] = []
    arrays = {f"rnn.{name}": array for name, array in arrays_of("rnn_relu").items()}
    nr.from_torch(
        {**arrays, "head.weight": np.ones((1, 6))},
        "rnn",
        nonlinearity="relu",
        report=reports.append,
    )
    (report,) = reports
    assert list(report.used) == list(arrays)
    assert report.used["rnn.weight_hh_l0"] == "float64[6, 6]"
    assert report.outside == ("head.weight",)
    assert report.notes == ("read as RNN(nonlinearity='relu')",)
    assert "not asked for: head.weight" in str(report)
    assert dataclasses.is_dataclass(report)


# --- What is refused -----------------------------------------------------------------------------

GRU = {f"rnn.{name}": array for name, array in arrays_of("gru").items()}
RNN = arrays_of("rnn_tanh")

REFUSED = [
    (RNN, {}, "arrays do not tell the nonlinearity of RNN; pass nonlinearity="),
    (RNN, {"nonlinearity": "gelu"}, "nonlinearity is 'gelu'; expected \"tanh\" or \"relu\""),
    (GRU, {"prefix": "rn"}, "nothing below 'rn'; did you mean rnn"),
    ({}, {}, "it holds no arrays"),
    ({**GRU, "head.weight": RNN["bias_ih_l0"]}, {}, "several parts.*prefix=: rnn, head"),
    ({**GRU, "rnn.extra": np.ones(2)}, {"prefix": "rnn"}, "it does not know rnn.extra"),
    ({**GRU, "rnn.weight_ih_l2": np.ones(2)}, {"prefix": "rnn"}, "does not know rnn.weight_ih_l2"),
    ({**GRU, "rnn.weight_ih_l0": np.ones((18, 2, 2))}, {"prefix": "rnn"}, r"expected \(18, any\)"),
    ({**GRU, "rnn.weight_ih_l0": "text"}, {"prefix": "rnn"}, "is a str; expected an array"),
    ({"weight_hh_l0": np.ones((5, 2))}, {}, "expected 1, 3 or 4 blocks of rows"),
    ({"weight_hh_l0": np.ones((4, 1))}, {}, "there is no entry weight_ih_l0"),
    ({"weight": np.ones((2, 2))}, {}, 'pass kind="Linear" .without bias. or kind="Embedding"'),
    ({"weight": np.ones(2), "bias": np.ones(2)}, {}, 'pass kind="LayerNorm"'),
    ({"weight": np.ones((1, 1, 1))}, {}, 'pass kind="Conv1d"'),
    ({"weight": np.ones(2)}, {"kind": "LayerNorm"}, "do not tell the eps of LayerNorm"),
    ({"weight": np.ones(2)}, {"kind": "Conv9d"}, "kind is 'Conv9d'; expected one of LSTM"),
    ({"running_mean": np.ones(2)}, {}, "no known class has the arrays running_mean"),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "options", "message"), REFUSED)
def test_what_is_refused(arrays, options, message):
    with pytest.raises(ValueError, match=rf"^from_torch\(state_dict\): .*{message}"):
        nr.from_torch(arrays, **options)


def test_wrong_settings_and_sources():
    with pytest.raises(TypeError, match="eps= was given; GRU takes dropout"):
        nr.from_torch(GRU, prefix="rnn", eps=1.0)
    with pytest.raises(TypeError, match="source is a list; expected a module, a state_dict, or"):
        nr.from_torch([1])
    with jax.enable_x64(False), pytest.raises(ValueError, match='pass dtype="float32"'):
        nr.from_torch(GRU, prefix="rnn")


PEEPHOLE = nr.LSTM(2, 3, key=KEYS[0], peepholes=True)

NOT_OUT = [
    (nr.GRUv3(2, 3, key=KEYS[0]), "PyTorch has no GRUv3Cell"),
    (nr.GRU(2, 3, key=KEYS[0], reverse=True), "PyTorch has no layer that is reversed only"),
    (nr.GRU(2, 3, key=KEYS[0], initial_state=jnp.ones(3)), "its initial state is not zero"),
    (nr.RNN(2, 3, jax.nn.gelu, key=KEYS[0]), "RNNCell has activation=.*no counterpart"),
    (nr.LSTM(2, 3, key=KEYS[0], gate_activation=jnp.tanh), "LSTMCell has gate_activation="),
    (PEEPHOLE, "LSTMCell has peepholes="),
    (nr.Bidirectional(nr.GRUCell(2, 3, key=KEYS[0]), merge="sum"), "merges both .* 'sum'"),
    (nr.Residual(nr.Dense(2, 2, key=KEYS[0])), "PyTorch has no layer like Residual"),
]


@pytest.mark.parametrize(("layer", "message"), NOT_OUT)
def test_what_pytorch_does_not_have(layer, message):
    with pytest.raises(ValueError, match=message):
        nr.to_torch(layer)


def test_other_chains_have_the_names_of_a_list_of_modules():
    chain = nr.Chain(
        nr.Embedding(5, 3, key=KEYS[0]),
        nr.GRU(3, 4, key=KEYS[1]),
        nr.GRU(4, 2, key=KEYS[2]),
        jnp.tanh,
        nr.LayerNorm(2),
        nr.Dense(2, 1, key=KEYS[3]),
    )
    names = [*nr.to_torch(chain)]
    assert names[0] == "0.weight"
    assert names[1:5] == [f"1.{n}_l0" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    assert names[9:] == ["4.weight", "4.bias", "5.weight", "5.bias"]


def test_a_missing_bias_is_zero_and_no_bias_is_none():
    back = nr.to_torch(nr.LSTM(2, 3, key=KEYS[0], forget_bias=1.0))
    assert back["bias_ih_l0"].sum() == 3
    assert not back["bias_hh_l0"].any()
    assert list(nr.to_torch(nr.LSTM(2, 3, key=KEYS[0], bias=False))) == [
        "weight_ih_l0",
        "weight_hh_l0",
    ]


@pytest.mark.parametrize("make", [nr.LSTM, nr.GRU, nr.RNN])
def test_a_layer_of_noria_returns_with_identical_outputs(make):
    layer = nr.Chain(
        nr.Bidirectional(make(2, 3, key=KEYS[0]), make(2, 3, key=KEYS[1])),
        nr.Bidirectional(make(6, 3, key=KEYS[2]), make(6, 3, key=KEYS[3])),
    )
    options: dict[str, Any] = {"nonlinearity": "tanh"} if make is nr.RNN else {}
    again = nr.from_torch(nr.to_torch(layer), **options)
    xs, lengths = jax.random.normal(KEYS[4], (3, 5, 2)), jnp.array([5, 0, 2])
    for a, b in zip(
        jtu.tree_leaves(layer.scan(None, xs, lengths=lengths)),
        jtu.tree_leaves(again.scan(None, xs, lengths=lengths)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
