"""Gradients of 16-bit models: sums of thousands of terms are computed in float32."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from models import CELLS

import noria as nr
from noria.ir.build import graph_of
from noria.ir.evaluate import evaluate, spread
from noria.ir.graph import env_of

KEY = jax.random.key(0)
DTYPES = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}
BATCH, TIME = 8, 500


class Decay(nr.Cell):
    """An affine, element-wise step. Parameters are a table, a scale, and a bias in a loop."""

    decay: jax.Array
    table: jax.Array
    bias: jax.Array

    def __call__(self, h, x):
        row = self.table[x[0].astype(jnp.int32) % 2]
        drift, _ = jax.lax.scan(lambda c, _: (c + self.bias, None), jnp.zeros_like(h), length=3)
        return jax.nn.sigmoid(self.decay) * h + row * x + drift

    def initial_state(self):
        return jnp.zeros_like(self.decay)


def make_cell(name: str) -> Any:
    """A cell with well-conditioned gradients: a state in 16 bits changes them little."""
    bias = jax.nn.initializers.normal(0.5)
    options: dict[str, Any] = {"bias": bias, "recurrent_bias": bias, "dtype": jnp.float32}
    return CELLS[name][0](2, 2, key=jax.random.key(len(name)), **options)


def scaled(scale: Any, x: Any) -> Any:
    return jnp.where(x > 0, scale["a"] * x + scale["b"], scale["b"])


def recurrence(cell: Any, **options: Any) -> nr.Recurrence:
    return nr.Recurrence(cell, learn_initial_state=True, **options)


def decay() -> Any:
    return Decay(jnp.zeros(2), jnp.ones((2, 2)), jnp.full(2, 0.25))


def on(backend: str, cell: Callable[[], Any]) -> nr.Recurrence:
    return recurrence(cell(), backend=backend)


def per_step() -> Any:
    return nr.PerStep(jtu.Partial(scaled, {"a": jnp.ones(2), "b": jnp.full(2, 0.5)}))


#: What makes each layer, in float32.
MODELS: dict[str, Callable[[], Any]] = {
    "dense": lambda: nr.Dense(2, 2, key=KEY, bias=jax.nn.initializers.ones),
    "embedding": lambda: nr.Chain(
        nr.PerStep(lambda x: x[0].astype(jnp.int32)), nr.Embedding(4, 2, key=KEY)
    ),
    "layer norm": lambda: nr.Chain(
        nr.PerStep(lambda x: x * jnp.array([1, 3], x.dtype)), nr.LayerNorm(2)
    ),
    "rms norm": lambda: nr.RMSNorm(2),
    "per step": per_step,
    "bidirectional": lambda: nr.Bidirectional(
        recurrence(make_cell("gru"), backend="scan"), recurrence(make_cell("rnn"))
    ),
    "residual": lambda: nr.Residual(recurrence(make_cell("gruv3"), backend="scan")),
    "states": lambda: recurrence(make_cell("lstm"), backend="scan", save="states"),
    "native, states": lambda: recurrence(make_cell("lstm"), save="states"),
    "checkpoint": lambda: recurrence(make_cell("gru"), backend="scan", checkpoint=10),
    **{
        f"rnn on {name}": functools.partial(on, name, functools.partial(make_cell, "rnn"))
        for name in ("auto", "scan", "plain")
    },
    **{
        f"decay on {name}": functools.partial(on, name, decay)
        for name in ("auto", "scan", "plain", "associative")
    },
}


def few_bits(model: Any) -> Any:
    return jtu.tree_map(
        lambda a: a.astype(jnp.float16).astype(jnp.float32) if eqx.is_inexact_array(a) else a, model
    )


def gradient(model: Any, dtype: Any) -> list[Any]:
    """Gradients of 4000 terms, most with the same sign; one step in ten is a reset."""
    model = nr.cast(few_bits(nr.cast(model, jnp.bfloat16)), dtype)
    steps = np.arange(BATCH * TIME).reshape(BATCH, TIME)
    xs = jnp.asarray(np.random.default_rng(0).uniform(0, 4, (BATCH, TIME, 2)), jnp.bfloat16).astype(
        dtype
    )

    def loss(model: Any) -> jax.Array:
        ys = model.scan(None, xs, resets=jnp.asarray(steps % 10 == 0))[1]
        return jnp.sum(ys.astype(jnp.float32) * jnp.arange(1, ys.shape[-1] + 1, dtype=jnp.float32))

    return jtu.tree_leaves(
        jax.jit(nr.grad(loss), compiler_options={"xla_backend_optimization_level": 0})(model)
    )


@pytest.mark.sampled(23)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_float32(name):
    model = few_bits(MODELS[name]())  # parameters that are exact in float16
    expected = gradient(model, jnp.float32)
    assert expected
    for dtype in DTYPES.values():
        for found, right in zip(gradient(model, dtype), expected, strict=True):
            assert found.dtype == dtype
            right = np.asarray(right)
            np.testing.assert_allclose(
                np.asarray(found, np.float32), right, rtol=0, atol=0.02 * np.abs(right).max()
            )


@pytest.mark.full
def test_the_reference_adds_up_in_32_bits_too():
    """A sum of 300 ones, which bfloat16 would stop at 256."""
    zeros = [jnp.zeros(shape, jnp.bfloat16) for shape in ((1, 1), (1, 1), (1,))]
    layer = nr.Recurrence(
        nr.RNNCell.from_arrays(*zeros, activation=jnp.asarray), backend="reference"
    )
    xs = jnp.ones((300, 1), jnp.bfloat16)
    loss = lambda layer: layer(xs).astype(jnp.float32).sum()  # noqa: E731
    np.testing.assert_array_equal(nr.grad(loss)(layer).cell.b, jnp.full(1, 300, jnp.bfloat16))


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_mode_in_16_bits(dtype):
    """The plain loop and per-step layers are nearly as precise as in float32."""
    model = nr.Chain(recurrence(make_cell("rnn"), backend="plain"))
    model = few_bits(nr.cast(nr.Chain(*model, per_step(), nr.Dense(2, 2, key=KEY)), jnp.float32))
    xs = jnp.asarray(np.random.default_rng(0).integers(-2, 3, (3, 5, 2)), jnp.float32)

    def along(model: Any, xs: jax.Array) -> Any:
        arrays, rest = eqx.partition(model, eqx.is_inexact_array)
        ones = jtu.tree_map(jnp.ones_like, arrays)
        return jax.jit(lambda a: jax.jvp(lambda a: eqx.combine(a, rest)(xs), (a,), (ones,)))(arrays)

    expected, found = (
        along(model, xs),
        along(nr.cast(model, DTYPES[dtype]), xs.astype(DTYPES[dtype])),
    )
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == DTYPES[dtype]
        np.testing.assert_allclose(
            np.asarray(a, np.float32), b, rtol=0, atol=0.03 * np.abs(b).max()
        )


def test_values_of_16_bits_are_not_rounded_otherwise():
    """`evaluate` with float32 copies equals `jax.vmap` without them."""
    values = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.bfloat16)
    bias, matrix = values[0], values[:4]

    def step(bias: Any, matrix: Any, x: Any) -> Any:
        return jnp.exp(bias) * x + matrix[0], (matrix @ x).sum(), bias, jnp.zeros(2, bool)

    graph, _, _ = graph_of(step, bias, matrix, values[0])
    found = evaluate(
        graph, env_of(graph.inputs[:2], [bias, matrix]), env_of(graph.inputs[2:], [values]), (5,)
    )
    expected = jax.vmap(step, in_axes=(None, None, 0), axis_size=5)(bias, matrix, values)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(spread(bias, (3, 2)), jnp.broadcast_to(bias, (3, 2, 4)))
