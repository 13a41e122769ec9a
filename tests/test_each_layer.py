"""Each kind of layer in all that one does with a layer; runs on the oldest and the newest JAX."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import pulled, pulled_at_once
from models import AUTO, assert_close, make_cell, random

import noria as nr

BATCH, TIME, IN = 3, 5, 3
LENGTHS = jnp.array([5, 0, 3])


def decay(h: Any, x: Any) -> Any:
    return 0.9 * h + x


def key(n: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), 4)[n]


#: What makes every kind of layer, by name; GRU and RNN are in the last three.
LAYERS: dict[str, Callable[[], Any]] = {
    "lstm": lambda: nr.Recurrence(make_cell("lstm"), learn_initial_state=True),
    "gruv3": lambda: nr.Recurrence(make_cell("gruv3"), learn_initial_state=True),
    "function": lambda: nr.Recurrence(decay, jnp.ones(IN)),
    "reverse": lambda: nr.LSTM(IN, 4, key=key(0), reverse=True, checkpoint="sqrt"),
    "bidirectional": lambda: nr.Bidirectional(
        nr.GRU(IN, 2, key=key(0)), nr.LSTM(IN, 2, key=key(1), save="states")
    ),
    "chain": lambda: nr.Chain(
        nr.Dense(IN, 4, jnp.tanh, key=key(0)),
        nr.LayerNorm(4),
        nr.Residual(nr.GRU(4, 4, key=key(1))),
        nr.inference(nr.Dropout(0.5)),
        nr.RMSNorm(4),
        nr.PerStep(eqx.nn.Linear(4, 2, key=key(2))),
    ),
    "convolution": lambda: nr.Chain(
        nr.Conv1d(IN, 4, 3, dilation=2, key=key(0)),
        nr.Concat(nr.MaxPool1d(2, stride=1, size=4)),
        nr.GRU(8, 4, key=key(1)),
    ),
    "parallel": lambda: nr.Chain(
        nr.Parallel("product", nr.LSTM(IN, 4, key=key(0)), nr.Dense(IN, 4, key=key(1))),
        nr.Concat(nr.MeanPool1d(3, stride=1, size=4)),
    ),
    "embedding": lambda: nr.Chain(nr.Embedding(7, IN, key=key(0)), nr.RNN(IN, 4, key=key(1))),
}
layers = pytest.mark.parametrize("name", LAYERS)


@functools.cache
def layer_of(name: str) -> Any:
    return LAYERS[name]()


def input_of(name: str) -> jax.Array:
    return (
        jnp.arange(BATCH * TIME).reshape(BATCH, TIME) % 7
        if name == "embedding"
        else random(0, BATCH, TIME, IN)
    )


def whole(layer: Any, xs: Any) -> Any:
    return layer.scan(None, xs, lengths=LENGTHS)


def mapped(layer: Any, xs: Any) -> Any:
    return jax.vmap(lambda xs, length: layer.scan(None, xs, lengths=length))(xs, LENGTHS)


@pytest.mark.sampled(5)
@layers
def test_values_and_gradients_are_those_of_the_definition(name):
    """With lengths."""
    layer, xs = layer_of(name), input_of(name)
    expected = pulled(whole, nr.with_backend(layer, "reference"), xs)
    assert_close(pulled_at_once(whole, layer, xs), expected, 1e-10)
    ys = layer(xs, lengths=LENGTHS)
    assert ys.shape[:2] == (BATCH, TIME)
    assert not np.asarray(ys)[1].any()
    assert_close(layer(xs[0]), ys[0], 1e-10)


@pytest.mark.sampled(7)
@layers
def test_vmap_over_examples_equals_the_batch(name):
    layer, xs = layer_of(name), input_of(name)
    expected = pulled_at_once(whole, layer, xs)
    assert_close(pulled_at_once(mapped, layer, xs), expected, 1e-10)


@pytest.mark.sampled(2)
@layers
def test_step_by_step(name):
    layer, xs = layer_of(name), input_of(name)[0]
    if name in ("reverse", "bidirectional"):
        with pytest.raises(ValueError, match="step"):
            layer.step(layer.initial_state(), xs[0])
        return
    state, ys = layer.initial_state(), []
    for x in xs:
        state, y = jax.jit(layer.step)(state, x)
        ys.append(y)
    assert_close(jnp.stack(ys), layer(xs), 1e-10)


@layers
def test_the_loop_is_machine_code(name):
    found = nr.explain(layer_of(name), input_of(name), lengths=LENGTHS)
    assert {one.backend for one in ([found] if isinstance(found, nr.Explanation) else found)} == {
        AUTO
    }


@layers
def test_save_and_load(name, tmp_path):
    layer = layer_of(name)
    arrays, rest = eqx.partition(layer, eqx.is_array)
    nr.save(tmp_path / "model", layer)
    loaded = nr.load(tmp_path / "model", eqx.combine(jtu.tree_map(jnp.zeros_like, arrays), rest))
    assert_close(jtu.tree_leaves(eqx.filter(loaded, eqx.is_array)), jtu.tree_leaves(arrays), 0)
