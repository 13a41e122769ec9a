"""Saving and loading: round trips, and every way in which a file can be wrong."""

import functools
import json
import struct

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from models import assert_close

import noria as nr

KEYS = jax.random.split(jax.random.key(0), 8)


def model(n: int = 0, hidden: int = 4, activation=jnp.tanh, **options):
    return nr.Chain(
        nr.RNN(2, hidden, activation, key=KEYS[n], **options),
        nr.Dropout(0.2),
        nr.LSTM(hidden, 3, key=KEYS[n + 1], learn_initial_state=True),
    )


class Everything(nr.Module):
    rate: float
    name: str
    flag: bool
    key: jax.Array
    half: jax.Array
    whole: jax.Array
    numpy: np.ndarray
    nothing: jax.Array | None


def everything(shift):
    return Everything(
        0.5 + shift,
        f"m{shift}",
        bool(shift),
        jax.random.key(shift),
        jnp.full(3, shift + 0.5, jnp.bfloat16),
        jnp.arange(3) + shift,
        np.full((2, 0), shift, np.float64),
        None,
    )


def arrays(tree):
    return [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jtu.tree_leaves(tree)
        if eqx.is_array(x)
    ]


def test_round_trip(tmp_path):
    path = tmp_path / "m.safetensors"
    nr.save(path, model(0))
    loaded = nr.load(path, model(3))
    assert_close(jtu.tree_leaves(loaded), jtu.tree_leaves(model(0)), 0)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert path.stat().st_mode & 0o444 == 0o444


def test_every_kind_of_leaf_comes_back(tmp_path):
    nr.save(tmp_path / "m", everything(1), extra={"classes": ["a", "b"]})
    loaded = nr.load(tmp_path / "m", everything(0))
    assert (loaded.rate, loaded.name, loaded.flag, loaded.nothing) == (1.5, "m1", True, None)
    for a, b in zip(arrays(loaded), arrays(everything(1)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert isinstance(loaded.numpy, np.ndarray)
    assert nr.describe(tmp_path / "m")["extra"] == {"classes": ["a", "b"]}


def test_modes_frozen_parts_and_backends_stay_those_of_the_model_built(tmp_path):
    nr.save(tmp_path / "m", nr.inference(nr.freeze(model(0), lambda m: m[0])))
    built = nr.with_backend(model(3), "reference")
    loaded = nr.load(tmp_path / "m", built)
    assert str(jtu.tree_structure(loaded)) == str(jtu.tree_structure(built))


@pytest.mark.versions
def test_model_and_optimiser_state_together(tmp_path, ordinary_promotion):
    net = model(0)
    opt_state = nr.setup(optax.adam(0.1), net)
    net, opt_state = nr.update(opt_state, net, net)
    nr.save(tmp_path / "run", (net, opt_state))
    fresh = model(3)
    net_, opt_state_ = nr.load(tmp_path / "run", (fresh, nr.setup(optax.adam(0.1), fresh)))
    for a, b in zip(
        jtu.tree_leaves(nr.update(opt_state_, net_, net_)), jtu.tree_leaves(nr.update(opt_state, net, net)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12)


WRONG = {
    "shape": (lambda: model(0, hidden=5), r"layers\[0\].cell.W has shape \(4, 2\) in the file, \(5, 2\) in the model"),
    "activation": (
        lambda: model(0, activation=jax.nn.relu),
        r"layers\[0\].cell: activation is 'tanh' in the file, 'relu' in the model",
    ),
    "direction": (lambda: model(0, reverse=True), r"layers\[0\]: reverse is False in the file, True in the model"),
    "missing bias": (lambda: model(0, bias=False), r"the file has layers\[0\].cell.b, which the model lacks"),
    "more biases": (lambda: model(0, recurrent_bias=True), r"only the model has layers\[0\].cell.b_h"),
    "dtype": (lambda: nr.cast(model(0), jnp.float32), r"is float64 in the file, float32 in the model \(noria.cast"),
    "kind": (
        lambda: nr.Chain(nr.GRU(2, 4, key=KEYS[0]), *model(0)[1:]),
        r"layers\[0\].cell is a RNNCell in the file, a GRUCell in the model",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_does_not_fit_names_the_first_difference(tmp_path, name):
    build, text = WRONG[name]
    nr.save(tmp_path / "m", model(0))
    with pytest.raises(ValueError, match=text):
        nr.load(tmp_path / "m", build())


def test_numbers_without_axes_keep_their_shape(tmp_path):
    nr.save(tmp_path / "m", (jnp.ones(()), np.zeros((), np.int32)))
    loaded = nr.load(tmp_path / "m", (jnp.zeros(()), np.ones((), np.int32)))
    assert [leaf.shape for leaf in loaded] == [(), ()]
    nr.save(tmp_path / "again", loaded)


def test_layers_without_arrays_and_settings_of_functions_are_compared(tmp_path):
    def net(*more):
        return nr.Chain(nr.GRU(2, 3, key=KEYS[0]), *more)

    def leaky(slope):
        return nr.Dense(2, 1, functools.partial(jax.nn.leaky_relu, negative_slope=slope), key=KEYS[0])

    for saved, built, text in (
        (net(jnp.tanh), net(), r"only the file has layers\[1\], a PerStep"),
        (net(), net(nr.Dropout(0.1)), r"only the model has layers\[1\], a Dropout"),
        (leaky(0.3), leaky(0.9), r"activation is 'leaky_relu\(negative_slope=0.3\)' in the file, .*0.9"),
    ):
        nr.save(tmp_path / "m", saved)
        with pytest.raises(ValueError, match=text):
            nr.load(tmp_path / "m", built)


def test_a_truncated_file_at_every_length(tmp_path):
    nr.save(tmp_path / "m", model(0))
    data = (tmp_path / "m").read_bytes()
    built = model(3)
    before = [np.asarray(leaf).copy() for leaf in jtu.tree_leaves(built)]
    for size in (0, 1, 7, 8, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "t").write_bytes(data[:size])
        with pytest.raises(ValueError, match="no safetensors file, or a damaged one"):
            nr.load(tmp_path / "t", built)
    for a, b in zip(before, jtu.tree_leaves(built), strict=True):
        np.testing.assert_array_equal(a, b)


def test_foreign_files(tmp_path):
    path = tmp_path / "f"
    path.write_text("weights")
    with pytest.raises(ValueError, match="no safetensors file"):
        nr.load(path, model())
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        nr.load(tmp_path / "none", model())
    with pytest.raises(ValueError, match="no safetensors file"):
        nr.load(tmp_path, model())

    def write(metadata):
        header = json.dumps({"__metadata__": metadata}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)

    for metadata in ({}, {"format": "pt"}, {"format": "noria 1"}, {"format": "noria 1", "description": "{"}):
        write(metadata)
        with pytest.raises(ValueError, match=r"not one that noria.save wrote|written in format 'pt'"):
            nr.load(path, model())


def test_what_cannot_be_written_is_refused_and_leaves_the_old_file(tmp_path):
    nr.save(tmp_path / "m", model(0))
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        nr.save(tmp_path / "m", model(0), extra={"when": object()})
    nr.load(tmp_path / "m", model(3))
