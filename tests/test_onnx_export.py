"""``to_onnx``: files beside onnxruntime at several sizes, and back again with identical bits."""

import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from onnx_models import run_onnx

import noria as nr

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("plain_jax")

KEYS = jax.random.split(jax.random.key(0), 8)
IN = 7


class Leaky(nr.Cell):
    """A cell that no node computes."""

    W: jax.Array
    U: jax.Array

    def __call__(self, h, x):
        return 0.9 * h + 0.1 * jnp.sin(self.W @ x + self.U @ h)

    def initial_state(self):
        return jnp.zeros(self.U.shape[0], jnp.float32)

    @property
    def in_size(self):
        return self.W.shape[1]

    @property
    def dtype(self):
        return self.W.dtype


def leaky(in_size: int, hidden: int) -> Leaky:
    k1, k2 = jax.random.split(KEYS[7])
    W = jax.random.normal(k1, (hidden, in_size), jnp.float32) / 2
    return Leaky(W, jax.random.normal(k2, (hidden, hidden), jnp.float32) / 2)


def layers(*kinds: Callable[..., Any], size: int = IN, **options: Any) -> list[Any]:
    sizes = [size, 5, 4, 3, 6]
    return [
        kind(a, b, key=key, dtype=jnp.float32, **options)
        for kind, a, b, key in zip(kinds, sizes, sizes[1:], KEYS, strict=False)
    ]


def both(kind: Callable[..., Any], a: int, b: int, merge: str = "concat") -> nr.Bidirectional:
    made = [kind(a, b, key=key, dtype=jnp.float32) for key in KEYS[2:4]]
    return nr.Bidirectional(made[0], made[1], merge)


MODELS: dict[str, Callable[[], Any]] = {
    "gru": lambda: nr.GRU(IN, 5, key=KEYS[0], dtype=jnp.float32),
    "stack": lambda: nr.Chain(*layers(nr.LSTM, nr.GRU, nr.RNN, nr.GRUv3)),
    "reverse": lambda: nr.Chain(*layers(nr.LSTM, nr.GRU, reverse=True)),
    "bidirectional": lambda: nr.Chain(
        both(nr.GRU, IN, 5),
        nr.LayerNorm(10, dtype=jnp.float32),
        both(nr.LSTM, 10, 4, "sum"),
        nr.Dense(4, 2, jax.nn.relu, key=KEYS[4], dtype=jnp.float32),
        nr.Dropout(0.2),
    ),
    "two kinds": lambda: nr.Bidirectional(*(layers(k)[0] for k in (nr.LSTM, nr.GRU))),
    "embedding": lambda: nr.Chain(
        nr.Embedding(11, 4, key=KEYS[0], dtype=jnp.float32), *layers(nr.LSTM, size=4)
    ),
    "skips": lambda: nr.Chain(
        nr.Residual(both(nr.GRU, IN, IN, "mean")),
        nr.Concat(layers(nr.GRU)[0]),
        nr.Parallel("concat", *(layers(k, size=12)[0] for k in (nr.GRU, nr.RNN))),
    ),
    "own cell": lambda: nr.Chain(*layers(nr.GRU), nr.Recurrence(leaky(5, 6))),
    "own cell, reversed": lambda: nr.Chain(
        nr.Recurrence(leaky(IN, 6), jnp.arange(6, dtype=jnp.float32) / 6, reverse=True),
        nr.Dense(6, 2, key=KEYS[0], dtype=jnp.float32),
    ),
    "options": lambda: nr.Chain(
        *layers(nr.LSTM, peepholes=True, clip=0.5, gate_activation=jax.nn.hard_sigmoid),
        *layers(nr.LSTM, size=5, coupled_gates=True, peepholes=True, activation=jax.nn.elu),
        *layers(nr.GRU, size=5, clip=0.3, activation=jax.nn.soft_sign),
        *layers(nr.LSTM, size=5, proj_size=3),
    ),
    "initial state": lambda: layers(
        nr.LSTM, initial_state=nr.LSTMState(jnp.ones(5, jnp.float32), jnp.zeros(5, jnp.float32))
    )[0],
    "convolutions": lambda: nr.Chain(
        nr.Conv1d(IN, 6, 3, key=KEYS[0], dtype=jnp.float32),
        jax.nn.relu,
        nr.Conv1d(6, 5, 3, dilation=2, padding="same", key=KEYS[1], dtype=jnp.float32),
        *layers(nr.GRU, size=5),
    ),
    "convolution with strides, and pools": lambda: nr.Chain(
        nr.MeanPool1d(2),
        nr.Conv1d(IN, 6, 3, stride=2, padding=(2, 0), key=KEYS[0], dtype=jnp.float32),
        nr.MaxPool1d(3, 2, padding=(2, 1), size=6, dtype=jnp.float32),
        *layers(nr.GRU, size=6),
        nr.MeanPool1d(3, 1, padding=(1, 1), size=5, dtype=jnp.float32),
    ),
    "causal convolution": lambda: nr.Chain(
        nr.Conv1d(IN, 6, 4, groups=1, key=KEYS[0], dtype=jnp.float32), *layers(nr.GRU, size=6)
    ),
}

#: Models with equal trees after the round trip: functions of a step become nodes of their own.
SAME = {
    "gru",
    "stack",
    "reverse",
    "two kinds",
    "embedding",
    "skips",
    "initial state",
    "convolutions",
}


def inputs(name: str, batch: int, time: int) -> np.ndarray:
    rng = np.random.default_rng(batch)
    if name == "embedding":
        return rng.integers(0, 11, (batch, time))
    return rng.normal(size=(batch, time, IN)).astype(np.float32)


def as_ours(xs: np.ndarray) -> jax.Array:
    return jnp.asarray(xs, jnp.int32 if xs.dtype.kind == "i" else jnp.float32)


def assert_close(got: Any, want: Any) -> None:
    scale = max(1.0, float(np.abs(np.asarray(want)).max(initial=0)))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * scale)


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", MODELS)
def test_a_file_agrees_with_the_model_and_comes_back_with_equal_bits(name, tmp_path):
    pytest.importorskip("onnxruntime")
    model, path = MODELS[name](), tmp_path / "model.onnx"
    nr.to_onnx(path, model, check=False)
    model = nr.inference(model)
    for batch, time in ((3, 8), (1, 2), (5, 3)):
        xs = inputs(name, batch, time)
        assert_close(run_onnx(str(path), {"x": xs})[0], model(as_ours(xs)))
    again = nr.from_onnx(path)
    if name in SAME:
        assert repr(jtu.tree_structure(again)) == repr(jtu.tree_structure(model))
        equal = jtu.tree_map(lambda a, b: np.array_equal(a, b), again, model)
        assert all(jtu.tree_leaves(equal))
    given, lengths = as_ours(inputs(name, 3, 8)), jnp.array([8, 0, 5])
    for got, want in zip(
        jtu.tree_leaves(again.scan(None, given, lengths=lengths)),
        jtu.tree_leaves(model.scan(None, given, lengths=lengths)),
        strict=True,
    ):
        # The step of an own cell comes back as products of rows, which are rounded otherwise.
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 if "own" in name else 0)


@pytest.mark.sampled(15)
@pytest.mark.parametrize("name", MODELS)
def test_lengths_and_states_are_inputs_and_outputs(name, tmp_path, capsys):
    """An example of length 0 keeps its state; padding of NaN stays out of outputs and states."""
    pytest.importorskip("onnxruntime")
    if "convolution" in name:
        pytest.skip("a convolution has no states with lengths")
    model, path = MODELS[name](), tmp_path / "model.onnx"
    nr.to_onnx(path, model, lengths=True, state=True)
    assert re.search(
        r"onnxruntime differs from the model by at most \d\.\de-0[678]", capsys.readouterr().out
    )
    model, own = nr.inference(model), model.initial_state()
    rng = np.random.default_rng(0)
    state = jtu.tree_map(lambda a: rng.normal(size=(3, *a.shape)).astype(np.float32), own)
    xs, lengths = inputs(name, 3, 8), np.array([8, 0, 5], np.int32)
    if xs.dtype.kind == "f":
        xs[2, 5:] = np.nan
    names = [one.name for one in onnx.load(path).graph.input]
    assert names[:2] == ["x", "lengths"]
    feeds = dict(zip(names, [xs, lengths, *jtu.tree_leaves(state)], strict=True))
    found = run_onnx(str(path), feeds)
    after, ys = model.scan(jtu.tree_map(jnp.asarray, state), as_ours(xs), lengths=lengths)
    for got, want in zip(found, [ys, *jtu.tree_leaves(after)], strict=True):
        assert_close(got, want)
    again = nr.from_onnx(path)
    leaves = map(jnp.asarray, jtu.tree_leaves(state))  # dropout, without a state, is left out
    state = jtu.tree_unflatten(jtu.tree_structure(again.initial_state()), leaves)
    after, ys = again.scan(state, as_ours(xs), lengths=lengths)
    for got, want in zip(found, [ys, *jtu.tree_leaves(after)], strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("name", ["stack", "own cell", "causal convolution"])
def test_a_file_of_one_step_streams(name, tmp_path):
    pytest.importorskip("onnxruntime")
    model, path = MODELS[name](), tmp_path / "model.onnx"
    nr.to_onnx(path, model, step=True, check=False)
    proto = onnx.load(path)
    states = [one.name for one in proto.graph.input][1:]
    outputs = [one.name for one in proto.graph.output][1:]
    assert outputs == [f"next_{name}" for name in states]
    assert not [node for node in proto.graph.node if node.op_type == "Scan"]
    xs = inputs(name, 2, 5)
    feeds = dict(
        zip(states, map(np.asarray, jtu.tree_leaves(model.initial_state(batch=2))), strict=True)
    )
    for t, want in enumerate(np.swapaxes(model(jnp.asarray(xs)), 0, 1)):
        y, *after = run_onnx(str(path), {"x": xs[:, t], **feeds})
        feeds = dict(zip(states, after, strict=True))
        assert_close(y, want)


def test_names_of_states_are_their_paths(tmp_path):
    path = tmp_path / "model.onnx"
    nr.to_onnx(path, nr.Chain(*layers(nr.LSTM, nr.GRU)), state=True, check=False)
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == ["x", "state_0_h", "state_0_c", "state_1"]
    assert [o.name for o in graph.output][1:] == [
        "next_state_0_h",
        "next_state_0_c",
        "next_state_1",
    ]
    shape = graph.input[1].type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("batch", 5)


# --- hand-written cells -------------------------------------------------------------------------

H = 5


def weights(*names: str) -> dict[str, jax.Array]:
    rng, shapes = np.random.default_rng(0), {"W": (H, IN), "U": (H, H), "b": (H,), "p": (H,)}
    return {n: jnp.asarray(rng.normal(size=shapes[n[0]]) / 2, jnp.float32) for n in names}


class Written(nr.Cell):
    """A cell of a function ``(parameters, state, x) -> state``, whose state has so many arrays."""

    parameters: dict[str, jax.Array]
    function: Callable[..., Any]
    arrays: int
    output_at: int = 0

    def __call__(self, state, x):
        return self.function(self.parameters, state, x)

    def initial_state(self):
        zeros = jnp.zeros(H, jnp.float32)
        return zeros if self.arrays == 1 else (zeros,) * self.arrays

    def output(self, state, x):
        return state if self.arrays == 1 else state[self.output_at]


def sigmoid(x: jax.Array) -> jax.Array:
    return 1 / (1 + jnp.exp(-x))


def gate(P: dict[str, jax.Array], k: str, h: jax.Array, x: jax.Array) -> jax.Array:
    return P[f"W{k}"] @ x + P[f"U{k}"] @ h + P[f"b{k}"]


def lstm(P, state, x):
    h, c = state
    c = sigmoid(gate(P, "f", h, x)) * c + jnp.tanh(gate(P, "g", h, x)) * sigmoid(gate(P, "i", h, x))
    return jnp.tanh(c) * sigmoid(gate(P, "o", h, x)), c


def stacked_lstm(P, state, x):
    """One product of ``[x, h]``, one sigmoid of three gates, and the memory first in the state."""
    c, h = state
    K = jnp.concatenate([jnp.concatenate([P[f"W{k}"], P[f"U{k}"]], axis=1) for k in "ifog"])
    z = K @ jnp.concatenate([x, h]) + jnp.concatenate([P[f"b{k}"] for k in "ifog"])
    i, f, o = jnp.split(jax.nn.sigmoid(z[: 3 * H]), 3)
    c = f * c + i * jnp.tanh(z[3 * H :])
    return c, o * jnp.tanh(c)


def peephole_lstm(P, state, x):
    h, c = state
    i = sigmoid(gate(P, "i", h, x) + P["pi"] * c)
    f = sigmoid(gate(P, "f", h, x) + P["pf"] * c)
    c = f * c + i * jnp.tanh(gate(P, "g", h, x))
    return sigmoid(gate(P, "o", h, x) + P["po"] * c) * jnp.tanh(c), c


def coupled_lstm(P, state, x):
    h, c = state
    i = sigmoid(gate(P, "i", h, x))
    c = c + i * (jnp.tanh(gate(P, "g", h, x)) - c)
    return sigmoid(gate(P, "o", h, x)) * jnp.tanh(c), c


def gru(P, h, x):
    r, z = sigmoid(gate(P, "i", h, x)), sigmoid(gate(P, "f", h, x))
    n = jnp.tanh(P["Wg"] @ x + r * (P["Ug"] @ h + P["bg"]))
    return z * h + (1 - z) * n


def flipped_gru(P, h, x):
    """Reset before the product, and the two terms exchanged."""
    r, z = sigmoid(gate(P, "i", h, x)), sigmoid(gate(P, "f", h, x))
    return h + z * (jnp.tanh(P["Wg"] @ x + P["Ug"] @ (r * h) + P["bg"]) - h)


def rnn(P, h, x):
    return jax.nn.relu(gate(P, "i", h, x))


def no_lstm(P, state, x):
    """The forget gate is squared."""
    h, c = state
    c = sigmoid(gate(P, "f", h, x)) ** 2 * c + sigmoid(gate(P, "i", h, x)) * jnp.tanh(x[:H])
    return sigmoid(gate(P, "o", h, x)) * jnp.tanh(c), c


def no_gru(P, h, x):
    """The candidate sees the memory without a reset, too."""
    r, z = sigmoid(gate(P, "i", h, x)), sigmoid(gate(P, "f", h, x))
    return z * h + (1 - z) * jnp.tanh(gate(P, "g", h, x) + r * h * h)


def lstm_of_other_output(P, state, x):
    h, c = lstm(P, state, x)
    return h, c


WRITTEN = {
    "lstm": (lstm, 2, 0, "LSTM", {}),
    "stacked lstm": (stacked_lstm, 2, 1, "LSTM", {}),
    "peepholes": (peephole_lstm, 2, 0, "LSTM", {}),
    "coupled": (coupled_lstm, 2, 0, "LSTM", {"input_forget": 1}),
    "gru": (gru, 1, 0, "GRU", {"linear_before_reset": 1}),
    "flipped gru": (flipped_gru, 1, 0, "GRU", {}),
    "rnn": (rnn, 1, 0, "RNN", {}),
    "no lstm": (no_lstm, 2, 0, "Scan", {}),
    "no gru": (no_gru, 1, 0, "Scan", {}),
    "emits the memory": (lstm_of_other_output, 2, 1, "Scan", {}),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", WRITTEN)
def test_hand_written_cells_become_nodes_if_their_graph_matches(name, tmp_path):
    pytest.importorskip("onnxruntime")
    function, arrays, output, op, attributes = WRITTEN[name]
    P = weights(*(f"{a}{k}" for a in "WUb" for k in "ifog"), "pi", "pf", "po")
    layer = nr.Recurrence(Written(P, function, arrays, output))
    path = tmp_path / "model.onnx"
    xs = inputs("", 3, 8)
    nr.to_onnx(path, layer, example=xs, state=True, check=False)
    graph = onnx.load(path).graph
    [node] = [n for n in graph.node if n.op_type in ("LSTM", "GRU", "RNN", "Scan")]
    assert node.op_type == op
    found = {
        a.name: a.i for a in node.attribute if a.name in ("input_forget", "linear_before_reset")
    }
    assert found == attributes
    rng = np.random.default_rng(1)
    state = jtu.tree_map(
        lambda a: rng.normal(size=(3, *a.shape)).astype(np.float32), layer.initial_state()
    )
    names = [one.name for one in graph.input]
    feeds = dict(zip(names, [xs, *jtu.tree_leaves(state)], strict=True))
    after, ys = layer.scan(jtu.tree_map(jnp.asarray, state), jnp.asarray(xs))
    for got, want in zip(run_onnx(str(path), feeds), [ys, *jtu.tree_leaves(after)], strict=True):
        assert_close(got, want)


# --- primitives ---------------------------------------------------------------------------------

TABLE = jnp.asarray(np.random.default_rng(3).normal(size=(6, 6)), jnp.float32)


def branch(h: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.cond(x[0] > h[1], lambda h: h * 2, lambda h: jnp.cos(h), h)


def inner_loop(h: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda a, t: (jnp.sin(a) + 0.1 * t, None), h, x)[0]


def matrices(h: jax.Array, x: jax.Array) -> jax.Array:
    M = jnp.outer(h, x[:6]) + TABLE
    return jnp.einsum("ij,j->i", M @ TABLE.T, h) / 50 + jnp.einsum("ij,ij->i", M, M) / 50


#: Functions of a state of 6 and an input of 7 numbers.
FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    "arithmetic": lambda h, x: (h * 0.5 - x[:6] / 3) ** 3 + (-h) ** 2,
    "functions": lambda h, x: jnp.expm1(h) + jnp.log1p(jnp.abs(h)) + jnp.exp2(x[1:]) * jnp.cos(h),
    "roots": lambda h, x: jnp.cbrt(x[:6]) + jax.lax.rsqrt(h * h + 1) + jnp.sqrt(jnp.abs(h)),
    "errors": lambda h, x: jax.scipy.special.erf(h) + jax.lax.erfc(x[:6]) + jax.nn.gelu(h),
    "smooth": lambda h, x: jax.nn.softplus(h) + jax.nn.silu(x[:6]) + jax.nn.log_sigmoid(h),
    "choices": lambda h, x: jnp.where((h > 0) & ~(x[:6] > 1), h, jnp.clip(x[:6], -0.5, 0.5)),
    "rounding": lambda h, x: jnp.round(h * 3) + jnp.floor(x[:6]) + jnp.sign(h) * jnp.ceil(h),
    "whole numbers": lambda h, x: (x[:6] * 3).astype(jnp.int32).astype(jnp.float32) % 2 + h / 2,
    "sums": lambda h, x: h / 2 + x.sum() - jnp.max(h) + jnp.prod(x[:3]) * jnp.min(x),
    "softmax": lambda h, x: jax.nn.softmax(h + x[:6]) + jax.nn.logsumexp(x),
    "cumulated": lambda h, x: jnp.cumsum(h)[::-1] / 6 + jnp.cumsum(x[:6], axis=0) / 7,
    "moves": lambda h, x: jnp.roll(h, 2) + jnp.tile(x[:3], 2) + jnp.pad(x, (1, 0))[:6],
    "shapes": lambda h, x: (h.reshape(2, 3).T @ jnp.ones((2, 2))).reshape(6) / 3 + x[::-1][:6],
    "lookup": lambda h, x: TABLE[jnp.argmax(x[:6])] / 2 + h[jnp.array([5, 0, 1, 2, 3, 4])] / 2,
    "stack": lambda h, x: jnp.stack([h[:3], x[:3]], axis=1).reshape(6) + jnp.flip(h) / 2,
    "matrices": matrices,
    "branch": branch,
    "inner loop": inner_loop,
    "flags": lambda h, x: h * jnp.any(x > 2) + jnp.all(x < 2) * jnp.isfinite(h),
}


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_step_of_these_primitives_agrees_with_onnxruntime(name, tmp_path):
    """As a Scan and as one step, and the cell that is read from the Scan."""
    pytest.importorskip("onnxruntime")
    step = FUNCTIONS[name]
    layer = nr.Recurrence(lambda h, x: jnp.tanh(step(h, x)), jnp.full(6, 0.1, jnp.float32))
    xs, path = inputs("", 3, 6), tmp_path / "model.onnx"
    nr.to_onnx(path, layer, example=xs, check=False)
    want = layer(jnp.asarray(xs))
    np.testing.assert_allclose(run_onnx(str(path), {"x": xs})[0], want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(nr.from_onnx(path)(jnp.asarray(xs)), want, rtol=0, atol=1e-5)
    nr.to_onnx(path, layer, example=xs[:, 0], step=True, check=False)
    h = np.full((3, 6), 0.1, np.float32)
    got, _ = run_onnx(str(path), {"x": xs[:, 0], "state": h})
    np.testing.assert_allclose(got, want[:, 0], rtol=0, atol=1e-5)


# --- errors -------------------------------------------------------------------------------------


def failing(function: Callable[..., Any]) -> nr.Recurrence:
    return nr.Recurrence(function, jnp.zeros(6, jnp.float32))


class OfTime(Leaky):
    def __call__(self, h, x, *, dt):  # type: ignore[override]
        return h * dt


STRIDED = {
    "convolution": lambda: conv(IN, 4, 5, 2),
    "pool": lambda: nr.MaxPool1d(3, 2, padding="causal", size=IN),
    "mean": lambda: nr.MeanPool1d(5, 2, padding="causal", size=IN),
    "pool without a stride": lambda: nr.MaxPool1d(3, 1, padding="causal", size=IN),
    "windows side by side": lambda: nr.MeanPool1d(3),
    "chain": lambda: nr.Chain(
        conv(IN, 4, 5, 2), one(nr.LSTM, 4, 6), conv(6, 5, 4, 3), one(nr.GRU, 5, 4), jnp.tanh
    ),
    "chains in a chain": lambda: nr.Chain(
        nr.Chain(jnp.tanh, conv(IN, 3, 2, 2)),
        nr.Chain(nr.MeanPool1d(4, 2, padding="causal", size=3), one(nr.GRU, 3, 2)),
    ),
}


def one(kind: Callable[..., Any], features: int, hidden: int) -> Any:
    return kind(features, hidden, key=KEYS[1], dtype=jnp.float32)


def conv(features: int, out: int, kernel: int, stride: int) -> nr.Conv1d:
    options = {"stride": stride, "padding": "causal", "dtype": jnp.float32}
    return nr.Conv1d(features, out, kernel, key=KEYS[0], **options)


@pytest.mark.parametrize("name", STRIDED)
def test_steps_of_models_with_strides_are_those_of_the_whole_sequence(name, tmp_path):
    """Block by block, from the initial state on, in onnxruntime; states are compared by the check.

    With ``state=True`` a sequence continues another one in the same way.
    """
    pytest.importorskip("onnxruntime")
    model, path = STRIDED[name](), tmp_path / "model.onnx"
    xs = np.random.default_rng(0).normal(size=(2, 12 * model.stride, IN)).astype(np.float32)
    nr.to_onnx(path, model, example=xs, state=True)
    blocks = np.split(xs, 12, axis=1)
    if model.stride == 1:
        blocks = [block[:, 0] for block in blocks]
    nr.to_onnx(path, model, example=blocks[0], step=True)
    state = [np.asarray(a) for a in jtu.tree_leaves(model.initial_state(2))]
    names, found = [one.name for one in onnx.load(path).graph.input], []
    for block in blocks:
        y, *state = run_onnx(str(path), dict(zip(names, [block, *state], strict=True)))
        found.append(y)
    assert_close(np.stack(found, 1), model(jnp.asarray(xs)))


def test_a_step_of_a_window_that_looks_ahead_has_no_form(tmp_path):
    layer = nr.Conv1d(IN, 3, 3, padding="same", key=KEYS[0], dtype=jnp.float32)
    with pytest.raises(ValueError, match="has no form as a step; expected causal padding"):
        nr.to_onnx(tmp_path / "model.onnx", layer, step=True)


ERRORS: list[tuple[Callable[[], Any], dict[str, Any], type[Exception], str]] = [
    (
        lambda: failing(lambda h, x: jnp.sort(h) + x[:6]),
        {"example": np.zeros((2, 7))},
        ValueError,
        r"there is no operator of ONNX for sort \(sort at .*test_onnx_export.py:\d+\)",
    ),
    (
        lambda: failing(lambda h, x: jnp.abs(jnp.fft.fft(h)) + x[:6]),
        {"example": np.zeros((2, 7))},
        ValueError,
        r"runtimes of ONNX have no complex numbers",
    ),
    (
        lambda: failing(lambda h, x: h + x[:6]),
        {},
        ValueError,
        r"number of features of the input is not known; pass an input as example=",
    ),
    (
        lambda: failing(lambda h, x: h + x[:6]),
        {"example": np.zeros(7)},
        ValueError,
        r"example has shape \(7,\); expected the input of the model, \(time, in\) or",
    ),
    (lambda: leaky(3, 4), {}, TypeError, r"the model is a Leaky; expected a layer"),
    (
        lambda: nr.GRU(2, 3, key=KEYS[0], dtype=jnp.bfloat16),
        {},
        TypeError,
        r"cell.W is bfloat16; expected float32: noria.cast\(model, jnp.float32\)",
    ),
    (
        lambda: MODELS["gru"](),
        {"step": True, "lengths": True},
        ValueError,
        r"step=True has no lengths",
    ),
    (lambda: MODELS["reverse"](), {"step": True}, ValueError, r"is reversed; a step needs layers"),
    (
        lambda: MODELS["bidirectional"](),
        {"step": True},
        ValueError,
        r"needs whole sequences; a step",
    ),
    (lambda: both(nr.GRU, IN, 5, "pair"), {}, ValueError, r'two arrays with merge="pair"'),
    (
        lambda: nr.Recurrence(OfTime(leaky(3, 4).W, leaky(3, 4).U)),
        {"example": np.zeros((2, 3))},
        ValueError,
        r"takes dt; a file of ONNX has no such input",
    ),
    (
        lambda: nr.Parallel("tuple", *layers(nr.GRU), *layers(nr.RNN)),
        {},
        ValueError,
        r"joins its outputs by tuple; expected a name",
    ),
    (
        lambda: nr.Chain(nr.MaxPool1d(2), *layers(nr.GRU)),
        {"example": np.zeros((4, IN)), "lengths": True},
        ValueError,
        r"MaxPool1d\(kernel_size=2\) has a form without lengths only",
    ),
    (
        lambda: nr.prepare(*layers(nr.GRU)),
        {"example": np.zeros((4, IN))},
        ValueError,
        r"there is no form in ONNX for the layer Prepared; expected Recurrence",
    ),
    (
        lambda: nr.Conv1d(2, 3, 3, stride=2, key=KEYS[0], dtype=jnp.float32),
        {"lengths": True},
        ValueError,
        r"with lengths has a form without states only",
    ),
]


@pytest.mark.parametrize(("make", "options", "kind", "message"), ERRORS)
def test_errors_of_the_export_say_what_to_do(make, options, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        nr.to_onnx(tmp_path / "model.onnx", make(), **options)
    assert not (tmp_path / "model.onnx").exists()


def test_without_the_package_both_say_what_to_install(tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        sys.modules["noria.interop.onnx.files"],
        "find_spec",
        lambda name: None if name == "onnx" else find(name),
    )
    message = r"needs onnx; install it with: pip install 'noria\[onnx\]'"
    with pytest.raises(ImportError, match=message):
        nr.from_onnx(tmp_path / "model.onnx")
    with pytest.raises(ImportError, match=message):
        nr.to_onnx(tmp_path / "model.onnx", MODELS["gru"]())


def test_a_wrong_file_is_not_written(tmp_path, monkeypatch):
    """If onnxruntime disagrees: here the model has changed after the file was built."""
    pytest.importorskip("onnxruntime")
    from noria.interop.onnx import exporter

    build = exporter.build
    other = MODELS["gru"]()
    other = nr.cast(jtu.tree_map(lambda a: a + 0.1, other), jnp.float32)
    monkeypatch.setattr(exporter, "build", lambda call, model, *rest: build(call, other, *rest))
    with pytest.raises(RuntimeError, match=r"onnxruntime differs by .* nothing was written"):
        nr.to_onnx(tmp_path / "model.onnx", MODELS["gru"]())
    assert not (tmp_path / "model.onnx").exists()


def test_a_state_that_must_be_positive_is_one_that_the_model_reaches(tmp_path):
    """A neural Turing machine takes powers of the weights of its heads, which are in its state."""
    pytest.importorskip("onnxruntime")
    layer = nr.Recurrence(nr.cells.NTMCell(3, 4, key=KEYS[0]))
    nr.to_onnx(tmp_path / "model.onnx", layer, lengths=True, state=True)
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.full
@pytest.mark.parametrize("part", range(4))
def test_cells_of_the_catalogue_become_files(part, tmp_path, capsys):
    """All that draw no numbers and compute with real ones; each is checked by onnxruntime."""
    pytest.importorskip("onnxruntime")
    done, refused = [], {}
    for name in sorted(n for n in dir(nr.cells) if n.endswith("Cell"))[part::4]:
        try:
            cell = getattr(nr.cells, name)(6, 6, key=KEYS[0])
        except (TypeError, ValueError):
            continue  # a base class, a wrapper, or other sizes
        try:
            nr.to_onnx(tmp_path / "model.onnx", nr.Recurrence(cell), lengths=True, state=True)
            done.append(name)
        except ValueError as error:
            refused[name] = str(error)
    assert len(done) > 20
    known = (
        "complex numbers",
        "takes",
        "there is no operator",
        "arrays; expected one",
        "depends on data",
    )
    assert not {n: text for n, text in refused.items() if not any(k in text for k in known)}
