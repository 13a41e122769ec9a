"""Every call under jit, vmap, grad and checkpoint, in three dtypes, without silent promotion."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from models import AUTO, CELLS, assert_close, make_cell, random

import noria as nr

DTYPES = {"float32": jnp.float32, "float64": jnp.float64, "bfloat16": jnp.bfloat16}
KEY = jax.random.key(0)
LENGTHS = jnp.array([4, 2])
RESETS = jnp.array([[0, 0, 1, 0], [0, 0, 0, 0]], bool)
MASKS = {"lengths": LENGTHS, "resets": RESETS}


def with_learned_state(name: str, options: dict[str, Any]) -> nr.Layer:
    return nr.Recurrence(make_cell(name, dtype=options["dtype"]), learn_initial_state=True)


#: By name: what makes a layer or model from the options of a layer, and the arguments of its call.
MODELS: dict[str, tuple[Callable[[dict[str, Any]], nr.Layer], dict[str, Any]]] = {
    **{name: (functools.partial(with_learned_state, name), MASKS) for name in CELLS},
    "bidirectional": (lambda o: nr.Bidirectional(nr.GRU(3, 2, **o), nr.LSTM(3, 2, **o)), MASKS),
    "chain": (
        lambda o: nr.Chain(
            nr.Dense(3, 4, jnp.tanh, **o), nr.Residual(nr.RNN(4, 4, **o)), nr.Dropout(0.5)
        ),
        {**MASKS, "key": KEY},
    ),
    "dropout": (
        lambda o: nr.Chain(nr.Dropout(0.5, axis="time"), nr.Dense(3, 2, **o)),
        {"lengths": LENGTHS, "key": KEY},
    ),
    "norms": (
        lambda o: nr.Chain(
            nr.LayerNorm(3, dtype=o["dtype"]), nr.RMSNorm(3, dtype=o["dtype"]), nr.Dense(3, 2, **o)
        ),
        {},
    ),
}


def model_of(name: str, dtype: Any) -> tuple[nr.Layer, dict[str, Any]]:
    make, options = MODELS[name]
    return make({"key": KEY, "dtype": dtype}), options


@pytest.mark.sampled(29)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_dtype_is_carried_through_every_transformation(name, dtype):
    dtype = DTYPES[dtype]
    model, options = model_of(name, dtype)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)), dtype)

    def scan(model, xs):
        return model.scan(None, xs, **options)

    def loss(model, xs):
        return nr.mse(scan(model, xs)[1], jnp.zeros_like(scan(model, xs)[1]), lengths=LENGTHS)

    results = {
        "call": scan(model, xs),
        "jit": jax.jit(scan)(model, xs),
        "grad": jax.jit(nr.grad(loss))(model, xs),
        "checkpoint": jax.jit(nr.grad(jax.checkpoint(loss)))(model, xs),
        "input": jax.grad(loss, argnums=1)(model, xs),
        "loss": loss(model, xs),
    }
    for leaf in jtu.tree_leaves(results):
        assert leaf.dtype == dtype
        assert np.isfinite(np.asarray(leaf, np.float64)).all()
    tolerance = {jnp.float64: 1e-12, jnp.float32: 1e-5, jnp.bfloat16: 0.03}[dtype]
    assert_close(results["call"], results["jit"], tolerance)
    assert_close(
        jtu.tree_leaves(results["grad"]), jtu.tree_leaves(results["checkpoint"]), tolerance
    )
    assert any(np.asarray(leaf, np.float64).any() for leaf in jtu.tree_leaves(results["grad"]))


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_alone_works_under_every_transformation(name):
    cell = make_cell(name)
    state, x = cell.initial_state(), jnp.ones(3)
    once = cell(state, x)
    assert_close(jax.jit(lambda c, s, x: c(s, x))(cell, state, x), once, 1e-14)
    batched = jtu.tree_map(lambda s: jnp.zeros((2, 4)), state)
    assert_close(cell(batched, jnp.ones((2, 3))), jax.vmap(cell)(batched, jnp.ones((2, 3))), 1e-14)
    assert_close(jax.checkpoint(lambda s: cell(s, x))(state), once, 1e-14)


def test_a_model_of_models_may_be_mapped_over():
    """An ensemble: parameters with a leading axis, one call."""
    keys = jax.random.split(KEY, 3)
    ensemble = jax.vmap(lambda key: nr.Chain(nr.GRU(3, 4, key=key), nr.Dense(4, 1, key=key)))(keys)
    ys = jax.vmap(lambda model, xs: model(xs), in_axes=(0, None))(ensemble, jnp.ones((5, 3)))
    assert ys.shape == (3, 5, 1)
    one = nr.Chain(nr.GRU(3, 4, key=keys[1]), nr.Dense(4, 1, key=keys[1]))
    assert_close(ys[1], one(jnp.ones((5, 3))), 1e-12)


def test_a_model_and_its_methods_may_be_given_to_jit_themselves():
    net, xs = nr.Chain(nr.LSTM(2, 3, key=KEY), nr.Dense(3, 2, key=KEY)), jnp.ones((5, 2))
    assert_close(jax.jit(net)(xs), net(xs), 1e-14)
    assert_close(jax.jit(net.scan)(None, xs), net.scan(None, xs), 1e-14)
    step = jax.jit(net.step)
    state, _ = step(net.initial_state(), xs[0])
    assert_close(step(state, xs[1]), net.step(state, xs[1]), 1e-14)
    cell = net[0].cell
    assert_close(
        jax.jit(cell)(cell.initial_state(), xs[0]), cell(cell.initial_state(), xs[0]), 1e-14
    )


def test_a_step_inside_a_compiled_loop():
    net = nr.Chain(nr.LSTM(2, 3, key=KEY), nr.Dense(3, 2, key=KEY))
    start = jtu.tree_map(lambda s: s, net.initial_state())

    def feed_back(carry, _):
        state, x = carry
        state, y = net.step(state, x)
        return (state, y), y

    _, ys = jax.lax.scan(feed_back, (start, jnp.ones(2)), None, length=6)
    assert ys.shape == (6, 2)


def test_without_64_bits_and_with_ordinary_promotion(plain_jax):
    net = nr.Chain(nr.GRU(2, 3, key=KEY), nr.Dense(3, 1, key=KEY))
    ys = net(np.ones((4, 2)))  # NumPy's float64 becomes JAX's float32
    assert ys.dtype == jnp.float32
    assert net[0].cell(np.zeros(3), np.ones(2)).dtype == jnp.float32


class UnreadWeightCell(nr.Cell):
    """A weight that no result needs."""

    W: jax.Array

    def initial_state(self) -> jax.Array:
        return jnp.full(3, 0.1)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(0.5 * h + x)


@pytest.mark.parametrize("backend", ["scan", AUTO])
def test_the_gradient_of_vmap_over_a_weight_that_the_loop_does_not_read(backend):
    """Nothing in the loop is mapped, and its tangents are not mapped either."""

    def gradient(backend: str) -> Any:
        def run(W: jax.Array, start: jax.Array) -> Any:
            layer = nr.Recurrence(
                UnreadWeightCell(W), start, learn_initial_state=True, backend=backend
            )
            return layer.scan(None, random(3, 1, 4, 3))

        def loss(arrays: Any) -> jax.Array:
            return jnp.sum(jax.vmap(run, (0, None))(*arrays)[1] ** 2)

        return jax.grad(loss)((random(1, 2, 5, 3), random(2, 3)))

    assert_close(gradient(backend), gradient("plain"), 1e-12)
