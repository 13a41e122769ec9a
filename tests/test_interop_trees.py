"""Flax, Equinox, Flux and Lux: nested dicts of arrays in and out, and the files of Julia."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest

import noria as nr

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "flax.npz"))
KEYS = jax.random.split(jax.random.key(0), 8)
RNG = np.random.default_rng(0)


def equal(a: Any, b: Any) -> bool:
    structures: list[Any] = [jtu.tree_structure(tree) for tree in (a, b)]
    return structures[0] == structures[1] and all(
        np.array_equal(x, y) for x, y in zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True)
    )


def model_of(make):
    """Both directions, and a layer after them."""
    return nr.Chain(
        nr.Bidirectional(make(2, 3, key=KEYS[0]), make(2, 3, key=KEYS[1])),
        make(6, 3, key=KEYS[2]),
        nr.Dense(3, 2, key=KEYS[3]),
    )


def assert_same(model, again):
    xs, lengths = jax.random.normal(KEYS[4], (3, 5, 2)), jnp.array([5, 0, 2])
    got = jtu.tree_leaves(again.scan(None, xs, lengths=lengths))
    for a, b in zip(jtu.tree_leaves(model.scan(None, xs, lengths=lengths)), got, strict=True):
        np.testing.assert_array_equal(a, b)


def linear(x):
    return x


# --- Round trips ---------------------------------------------------------------------------------


def through_flax(model):
    activation: dict[str, Any] = (
        {"activation": jnp.tanh} if isinstance(model[1].cell, nr.RNNCell) else {}
    )
    return nr.from_flax({"params": nr.to_flax(model)}, **activation)


def through_nnx(model):
    activation: dict[str, Any] = (
        {"activation": jnp.tanh} if isinstance(model[1].cell, nr.RNNCell) else {}
    )
    return nr.from_flax(nr.to_flax(model, "nnx"), **activation)


def through_julia(read, write):
    """The activation of RNN and Dense is one setting there: the recurrent part goes by itself."""

    def through(model):
        recurrent = read(write(model[:2]), activation=jnp.tanh)
        return nr.Chain(*recurrent, read(write(model[2]), activation=linear))

    return through


THROUGH = {
    "flax": through_flax,
    "nnx": through_nnx,
    "flux": through_julia(nr.from_flux, nr.to_flux),
    "lux": through_julia(nr.from_lux, nr.to_lux),
}


@pytest.mark.parametrize("make", [nr.LSTM, nr.GRU, nr.RNN])
@pytest.mark.parametrize("name", THROUGH)
def test_a_model_of_noria_returns_with_identical_outputs(name, make):
    model = model_of(make)
    assert_same(model, THROUGH[name](model))


def test_arrays_return_with_identical_bits():
    model = model_of(nr.GRU)
    ways: list[Any] = [
        (nr.to_flax, nr.from_flax, {}),
        (nr.to_flux, nr.from_flux, {"activation": linear}),
        (nr.to_lux, nr.from_lux, {"activation": linear}),
    ]
    for write, read, options in ways:
        tree = write(model)
        assert equal(write(read(tree, **options)), tree)


# --- Flax ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["lstm", "gru", "simple"])
def test_frozen_outputs_of_flax(case):
    data = {k.split("/")[1]: a for k, a in GOLDEN.items() if k.startswith(f"{case}/")}
    params: dict[str, dict[str, np.ndarray]] = {}
    for name, array in data.items():
        if name.startswith("cell_"):
            _, gate, kind = name.split("_")
            params.setdefault(gate, {})[kind] = array
    options: dict[str, Any] = {"activation": jnp.tanh} if case == "simple" else {}
    layer = nr.from_flax({"params": {"rnn": {"cell": params}}}, "rnn", **options)
    state = [jnp.asarray(data[name]) for name in ("h0", "c0") if name in data]
    start = nr.LSTMState(*state) if len(state) == 2 else state[0]
    ys = layer(start, jnp.asarray(data["xs"]))
    np.testing.assert_allclose(ys, data["ys"], rtol=1e-10, atol=1e-12)
    assert equal(nr.to_flax(layer)["cell"], params)


def test_layers_of_flax_without_time():
    table = RNG.normal(size=(4, 2))
    assert nr.from_flax({"embedding": table}).table.shape == (4, 2)
    norm = nr.from_flax({"scale": np.ones(2), "bias": np.ones(2)}, kind="LayerNorm", epsilon=1e-6)
    assert norm.function.eps == 1e-6
    dense = nr.from_flax({"kernel": table, "bias": np.ones(2)})
    np.testing.assert_allclose(dense(jnp.ones(4)), table.sum(0) + 1)
    for layer in (norm, dense):
        assert equal(nr.to_flax(nr.Chain(layer))["layers_0"], nr.to_flax(layer))


def test_functions_between_layers_are_asked_for():
    dense = {"kernel": np.ones((2, 2)), "bias": np.ones(2)}
    with pytest.raises(ValueError, match="there are functions, at 1, which arrays do not tell"):
        nr.from_flax({"layers_0": dense, "layers_2": dense})


# --- Equinox -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [eqx.nn.LSTMCell, eqx.nn.GRUCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_of_equinox(kind, bias):
    theirs = kind(2, 3, use_bias=bias, key=KEYS[0])
    ours = nr.from_equinox(theirs)
    h, c, x = (jax.random.normal(key, (n,)) for key, n in zip(KEYS, (3, 3, 2), strict=False))
    expected = theirs(x, (h, c) if kind is eqx.nn.LSTMCell else h)
    got = ours(nr.LSTMState(h, c) if kind is eqx.nn.LSTMCell else h, x)
    for a, b in zip(jtu.tree_leaves(got), jtu.tree_leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert equal(nr.to_equinox(ours), theirs)


def test_other_modules_of_equinox():
    class Net(eqx.Module):
        body: eqx.nn.Sequential
        scale: jax.Array

    body = eqx.nn.Sequential(
        [
            eqx.nn.Linear(2, 3, key=KEYS[0]),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.LayerNorm(3),
            eqx.nn.Dropout(0.5, inference=True),
        ]
    )
    model = nr.from_equinox(Net(body, jnp.ones(1)), "body")
    x = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(model(x[None])[0], body(x), rtol=1e-12)
    for theirs in (body.layers[0], body.layers[2], eqx.nn.Embedding(4, 2, key=KEYS[0])):
        assert equal(nr.to_equinox(nr.from_equinox(theirs)), theirs)
    with pytest.raises(ValueError, match="Net is no module that is known, and its call is code"):
        nr.from_equinox(Net(body, jnp.ones(1)))
    with pytest.raises(ValueError, match="there is no part 'boby'"):
        nr.from_equinox(Net(body, jnp.ones(1)), "boby")
    with pytest.raises(TypeError, match="expected a module of Equinox"):
        nr.from_equinox({})


# --- Flux and Lux --------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_grus_of_flux():
    """The third block of ``Wh`` of GRUv3 is not used; ``Wh_h̃`` is."""
    W, U, V, b = (RNG.normal(size=shape) for shape in ((6, 3), (6, 2), (2, 2), (6,)))
    x, h = RNG.normal(size=3), RNG.normal(size=2)
    r, z, n = np.split(W @ x + b, 3)
    ur, uz, un = np.split(U @ h, 3)
    r, z = sigmoid(r + ur), sigmoid(z + uz)
    cell = nr.from_flux({"cell": {"Wi": W, "Wh": U, "b": b}}).cell
    np.testing.assert_allclose(
        cell(jnp.asarray(h), jnp.asarray(x)), (1 - z) * np.tanh(n + r * un) + z * h, rtol=1e-12
    )
    third = nr.from_flux({"Wi": W, "Wh": U, "b": b, "Wh_h̃": V})
    assert type(third) is nr.GRUv3Cell
    np.testing.assert_allclose(
        third(jnp.asarray(h), jnp.asarray(x)),
        (1 - z) * np.tanh(n + V @ (r * h)) + z * h,
        rtol=1e-12,
    )
    assert equal(nr.to_flux(nr.from_flux(nr.to_flux(third))), nr.to_flux(third))


def test_layers_of_flux():
    weight = np.arange(6.0).reshape(2, 3)
    dense = nr.from_flux({"weight": weight, "bias": False}, activation=jnp.tanh)
    assert dense.b is None
    assert nr.from_flux({"weight": weight}, kind="Embedding").table.shape == (3, 2)
    rnn = {"cell": {"Wi": np.ones((2, 1)), "Wh": np.eye(2), "bias": False}}
    assert nr.from_flux(rnn, activation="relu").cell.b is None
    with pytest.raises(ValueError, match="arrays do not tell activation; pass activation="):
        nr.from_flux(rnn)
    with pytest.raises(ValueError, match=r'pass kind=.*"Dense" or "Embedding"'):
        nr.from_flux({"weight": weight})
    with pytest.raises(ValueError, match="'snake' is no known activation"):
        nr.from_flux(rnn, activation="snake")
    with pytest.raises(ValueError, match="no known layer has the entries state0"):
        nr.from_flux({"state0": np.ones(2)})


def test_trained_states_of_lux():
    layer = nr.LSTM(2, 3, key=KEYS[0], learn_initial_state=True)
    state = nr.LSTMState(jnp.ones(3), jnp.full(3, 2.0))
    layer = nr.Recurrence(layer.cell, initial_state=state, learn_initial_state=True)
    tree = nr.to_lux(layer)
    assert tree["memory"].tolist() == [2, 2, 2]
    assert equal(nr.from_lux(tree).learned_state, state)


def test_julia_files_have_their_axes_reversed(tmp_path):
    h5py = pytest.importorskip("h5py")
    tree = nr.to_flux(nr.LSTM(2, 3, key=KEYS[0]))
    with h5py.File(tmp_path / "m.jld2", "w") as file:
        for name, array in tree["cell"].items():
            file[f"rnn/cell/{name}"] = array.T
    assert equal(nr.to_flux(nr.from_flux(tmp_path / "m.jld2", prefix="rnn")), tree)
    tree = nr.to_lux(nr.GRU(2, 3, key=KEYS[0]))
    with h5py.File(tmp_path / "l.jld2", "w") as file:
        for name, array in tree.items():
            file[f"rnn/{name}"] = array.T
    assert equal(nr.to_lux(nr.from_lux(tmp_path / "l.jld2", prefix="rnn")), tree)


REFUSED = [
    (nr.to_flax, nr.GRUv3(2, 3, key=KEYS[0]), "Flax has no GRUv3Cell"),
    (nr.to_flux, nr.LSTM(2, 3, key=KEYS[0], peepholes=True), "LSTMCell has peepholes="),
    (nr.to_lux, nr.GRUv3(2, 3, key=KEYS[0]), "Lux has no GRUv3Cell"),
    (nr.to_lux, nr.GRU(2, 3, key=KEYS[0], initial_state=jnp.ones(3)), "state is not trained"),
    (nr.to_equinox, nr.RNN(2, 3, key=KEYS[0]), "Equinox has no module like RNNCell"),
    (nr.to_equinox, nr.GRU(2, 3, key=KEYS[0], reverse=True), "Equinox has no reversed layer"),
    (
        nr.to_flux,
        nr.GRU(2, 3, key=KEYS[0], recurrent_bias=nr.initializers.ones),
        "a recurrent bias inside of the reset gate",
    ),
]


@pytest.mark.parametrize(("write", "layer", "message"), REFUSED)
def test_what_they_do_not_have(write, layer, message):
    with pytest.raises(ValueError, match=message):
        write(layer)
    with pytest.raises(ValueError, match="api is 'jax'; expected \"linen\" or"):
        nr.to_flax(layer, "jax")
