"""Layers outside of `jax.jit`: a call sees what its cell reads, and compiles at most once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import random

import noria as nr
from noria.compiler import select
from noria.layers import compiled, inputs, recurrence

SCALE: Any = 1.0


class Scaled(nr.Cell):
    """Reads a global variable."""

    U: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(SCALE * (self.U @ h + x))

    def initial_state(self) -> jax.Array:
        return jnp.zeros(2)


@jax.custom_jvp
def bent(a):
    return jnp.tanh(a)


@bent.defjvp
def _(primals, tangents):
    return bent(*primals), SCALE * tangents[0]


def layers() -> dict[str, nr.Recurrence]:
    key, zero = jax.random.key(0), jnp.zeros(2)
    return {
        "method": nr.Recurrence(Scaled(jnp.eye(2))),
        "activation": nr.RNN(2, 2, lambda a: jnp.tanh(SCALE * a), key=key),
        "function": nr.Recurrence(lambda h, x: jnp.tanh(h + SCALE * x), initial_state=zero),
        "inner branch": nr.Recurrence(
            lambda h, x: jax.lax.cond(x[0] > 0, lambda h: h * SCALE, lambda h: h + x, h) + x,
            initial_state=zero,
        ),
        "compiled function": nr.Recurrence(
            lambda h, x: jnp.where(x > 0, jnp.tanh(h + SCALE * x), h), initial_state=zero
        ),
    }


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "values", [(1.0, 0.5), (1.0, np.array([0.5, 2.0])), (jnp.ones(2), jnp.arange(2.0))]
)
@pytest.mark.parametrize("name", layers())
def test_values_from_outside_are_read_in_each_call(name, values, monkeypatch):
    layer, xs = layers()[name], random(0, 3, 2)
    for value in values:
        monkeypatch.setattr("test_compiled.SCALE", value)
        want = nr.with_backend(layer, "reference")
        np.testing.assert_allclose(layer(xs), want(xs), atol=1e-12)
        _, y = layer.step(None, xs[0])
        np.testing.assert_allclose(y, want(xs[:1])[0], atol=1e-12)


def test_derivative_rules_from_outside_are_read_in_each_call(monkeypatch):
    layer, xs = nr.Recurrence(lambda h, x: bent(h + x), initial_state=jnp.zeros(2)), random(0, 1, 2)
    for value in (1.0, 3.0):
        monkeypatch.setattr("test_compiled.SCALE", value)
        np.testing.assert_allclose(jax.grad(lambda xs: layer(xs).sum())(xs), np.full((1, 2), value))


def test_a_changed_array_that_numpy_holds_is_seen():
    held = np.ones(2)
    layer = nr.Recurrence(lambda h, x: h + held * x, initial_state=jnp.zeros(2))
    xs = jnp.ones((1, 2))
    assert layer(xs).tolist() == [[1, 1]]
    held[:] = 2
    assert layer(xs).tolist() == [[2, 2]]


@pytest.fixture
def traces(monkeypatch):
    """How often the step of a layer is split."""
    found = []
    monkeypatch.setattr(select, "report", lambda decision: found.append(decision.label))
    return found


@pytest.mark.parametrize("name", layers())
def test_equal_calls_compile_once(name, traces):
    layer, xs = layers()[name], random(0, 4, 2)
    for _ in range(3):
        layer(xs)
    assert len(traces) == 1


@pytest.mark.parametrize("make", [nr.RNN, nr.LSTM, nr.GRU, nr.GRUv3])
def test_own_cells_are_not_traced_again(make, monkeypatch):
    """Their calls from Python cost no trace."""
    layer, xs = make(2, 3, key=jax.random.key(0)), random(0, 4, 2)
    want = layer(xs)
    monkeypatch.setattr(compiled, "advance", None)
    assert jnp.array_equal(layer(xs), want)


def test_the_environment_is_read_in_each_call(monkeypatch):
    layer, xs = nr.GRU(2, 3, key=jax.random.key(0)), random(0, 4, 2)
    layer(xs)
    monkeypatch.setenv("NORIA_NATIVE_ISA", "none")
    monkeypatch.setenv("NORIA_BACKEND", "scan")
    text = jax.jit(lambda xs: layer(xs)).lower(xs).as_text()
    assert "noria_" not in text
    assert nr.explain(layer, xs).backend == "scan"


def test_side_effects_of_the_right_call():
    """A function that prints is run as it is: it may close over another array in the next call."""
    seen: list[str] = []

    def layer(name: str) -> nr.Recurrence:
        def cell(h: jax.Array, x: jax.Array) -> jax.Array:
            jax.debug.callback(lambda: seen.append(name))
            return h + x

        return nr.Recurrence(cell, initial_state=jnp.zeros(2))

    for name in ("one", "two"):
        layer(name)(jnp.ones((1, 2))).block_until_ready()
        jax.effects_barrier()
    assert seen == ["one", "two"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("backend", ["native", "scan", "plain"])
def test_debugging_switches(backend):
    """Values and gradients under `jax.disable_jit`, and `jax.debug_nans` with NaN as padding."""
    layer = nr.with_backend(nr.GRU(2, 3, key=jax.random.key(0)), backend)
    xs, lengths = random(0, 3, 4, 2).at[1, 2:].set(jnp.nan), np.array([4, 2, 0])

    def loss(layer: nr.Recurrence) -> jax.Array:
        return (layer(xs, lengths=lengths) ** 2).sum()

    want = nr.value_and_grad(loss)(layer)
    with jax.debug_nans(True):
        assert eqx.tree_equal(nr.value_and_grad(loss)(layer), want, rtol=1e-12)
    with jax.disable_jit():
        assert eqx.tree_equal(nr.value_and_grad(loss)(layer), want, rtol=1e-12)


@pytest.mark.parametrize("backend", ["auto", "native", "scan", "plain"])
@pytest.mark.parametrize(
    ("switch", "start", "kind"), [("debug_nans", -1.0, "nan"), ("debug_infs", 0.0, "inf")]
)
def test_nan_and_infinities_are_found(backend, switch, start, kind):
    """JAX evaluates a program with NaN in its results again, operation by operation."""
    layer = nr.Recurrence(lambda h, x: jnp.log(h) * x, jnp.full(3, start), backend=backend)
    xs = jnp.ones((2, 1, 3))
    calls = layer, jax.jit(lambda xs: layer(xs)), jax.grad(lambda xs: layer(xs).sum())
    with getattr(jax, switch)(True):
        for call in calls:
            with pytest.raises(FloatingPointError, match=f"invalid value .{kind}. encountered in"):
                call(xs)


def test_nan_among_the_constants_of_a_step():
    """JAX looks for it in the results of a program only."""

    def cell(h, x):
        roots = jnp.sqrt(jnp.arange(-1.0, 2.0))
        return jnp.tanh(jnp.nan_to_num(roots) * h + x)

    layer = nr.Recurrence(cell, jnp.zeros(3))
    with jax.debug_nans(True):
        assert jnp.isfinite(jax.jit(lambda xs: layer(xs))(jnp.ones((2, 4, 3)))).all()


@pytest.mark.parametrize("backend", ["native", "scan", "plain", "associative"])
def test_vmap_over_no_examples(backend):
    layer = nr.Recurrence(lambda h, x: 0.5 * h + x, initial_state=jnp.zeros(2), backend=backend)
    empty = jnp.zeros((0, 3, 2))
    assert jax.vmap(layer)(empty).shape == (0, 3, 2)
    assert jax.vmap(jax.grad(lambda xs: layer(xs).sum()))(empty).shape == (0, 3, 2)
    batches = jnp.zeros((0, 2, 3, 2))
    assert jax.vmap(layer)(batches).shape == batches.shape


def test_a_derivative_rule_and_whole_numbers():
    """Results without a derivative get no cotangent when the rule of a step is traced."""

    def cell(state: Any, x: Any) -> Any:
        return jnp.logaddexp(state[0], x), state[1] + jnp.int32(1)

    layer, xs = nr.Recurrence(cell, (jnp.zeros(2), jnp.zeros((), jnp.int32))), random(1, 3, 2)
    state, ys = layer.scan(None, xs)
    assert state[1] == 3
    np.testing.assert_allclose(ys, nr.with_backend(layer, "reference")(xs), rtol=0, atol=1e-12)


def test_a_step_of_a_named_layer_checks_its_arguments_once(monkeypatch):
    """The checks are part of the program; a layer of a user runs them in each call."""
    checked = []
    input_of = inputs.input_of

    def spied(label, *arguments, **keywords):
        checked.append(label)
        return input_of(label, *arguments, **keywords)

    monkeypatch.setattr(recurrence, "input_of", spied)
    own, users = nr.GRU(2, 5, key=jax.random.key(0)), nr.Recurrence(Scaled(jnp.eye(2)))
    for layer in (own, users):
        state = None
        for x in random(0, 3, 2):
            state, _ = layer.step(state, x)
    # The first step has no state, and the others have one: two programs.
    assert checked == ["GRU(in_size=2)"] * 2 + ["Recurrence(Scaled)"] * 3


@pytest.mark.parametrize("backend", ["auto", "scan", "plain"])
def test_a_whole_step_agrees_with_the_definition(backend):
    layer = nr.LSTM(3, 4, key=jax.random.key(0), learn_initial_state=True, backend=backend)
    want = nr.with_backend(layer, "reference")
    x, resets = random(1, 2, 3), jnp.array([True, False])
    state, _ = layer.step(None, x)
    expected = want.step(want.step(None, x)[0], x, resets=resets)
    found = layer.step(state, x, resets=resets)
    for one, two in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-12)


def test_a_whole_step_follows_the_environment(monkeypatch):
    layer, x = nr.GRU(3, 4, key=jax.random.key(0)), random(2, 3)
    _, before = layer.step(None, x)
    decided = []

    def prefers(*arguments):
        decided.append(arguments)
        return False

    monkeypatch.setattr(select, "_prefers_single_step", prefers)
    layer.step(None, x)
    assert not decided
    monkeypatch.setenv("NORIA_BACKEND", "scan")
    _, after = layer.step(None, x)
    assert decided
    np.testing.assert_allclose(before, after, atol=1e-12)


def test_a_whole_step_reads_numpy_arrays_in_each_call():
    """Streams come from outside of JAX; such an array may change between two calls."""
    layer, x = nr.GRU(3, 4, key=jax.random.key(0)), np.ones(3)
    want = nr.with_backend(layer, "reference")
    for value in (1.0, -2.0):
        x[:] = value
        np.testing.assert_allclose(layer.step(None, x)[1], want.step(None, x)[1], atol=1e-12)


def test_a_whole_step_under_transformations():
    """Arguments without known values are traced as before; known ones inside of them too."""
    layer, xs = nr.LSTM(3, 4, key=jax.random.key(0)), random(3, 5, 3)
    want = nr.with_backend(layer, "reference")

    def loss(layer: nr.Recurrence, x: jax.Array, known: jax.Array) -> jax.Array:
        state, _ = layer.step(None, known)
        return (layer.step(state, x)[1] ** 2).sum()

    for function in (jax.jit(loss), jax.grad(loss, argnums=1), eqx.filter_grad(loss)):
        found, expected = (function(one, xs[0], xs[1]) for one in (layer, want))
        for one, two in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-12)
    batch = jax.vmap(lambda x: layer.step(None, x)[1])(xs)
    np.testing.assert_allclose(batch, want.step(None, xs)[1], atol=1e-12)
    assert str(jax.make_jaxpr(lambda: layer.step(None, xs[0])[1])()).count("noria_native_loop") == 1


def test_debugging_switches_in_a_whole_step():
    layer, x = nr.GRU(3, 4, key=jax.random.key(0)), random(4, 2, 3)
    want = layer.step(None, x)
    with jax.debug_nans(True):
        assert eqx.tree_equal(layer.step(None, x), want)
        with pytest.raises(FloatingPointError, match="nan"):
            layer.step(None, x * jnp.nan)
    with jax.disable_jit():
        assert eqx.tree_equal(layer.step(None, x), want, rtol=1e-12)


def test_a_whole_step_of_a_donated_state():
    layer, x = nr.GRU(3, 4, key=jax.random.key(0)), random(4, 2, 3)
    state, _ = layer.step(None, x)
    jax.jit(lambda a: a + 1, donate_argnums=0)(state)
    with pytest.raises(RuntimeError, match="deleted"):
        layer.step(state, x)


@pytest.mark.parametrize("wrong", [jnp.ones(2), np.ones((2, 2, 3)), np.ones(3, int)])
def test_a_whole_step_names_a_wrong_argument(wrong):
    layer = nr.GRU(3, 4, key=jax.random.key(0))
    with pytest.raises((TypeError, ValueError)) as found:
        layer.step(None, wrong)
    with pytest.raises(type(found.value)) as expected:
        nr.with_backend(layer, "reference").step(None, wrong)
    assert str(found.value) == str(expected.value)
