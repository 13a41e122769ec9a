"""Gradients against finite differences, in reverse, forward, and reverse over reverse."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import oracles
import pytest
from fuzzing.cells import with_own_jvp, with_own_vjp
from models import AUTO, CELLS, assert_close, make_cell, random, random_like

import noria as nr
from noria.compiler.own_rules import have_own_rules
from noria.ir.build import graph_of

LENGTHS = jnp.array([4, 2])
RESETS = jnp.array([[0, 1, 0, 0], [0, 0, 1, 0]], bool)


def problem(name, reverse, backend="auto", **options):
    """A scalar function of a flat list of arrays: parameters, initial state and input."""
    layer = nr.Recurrence(
        make_cell(name, 2, 3), reverse=reverse, learn_initial_state=True, backend=backend
    )
    xs = random(0, 2, 4, 2)
    leaves, treedef = jtu.tree_flatten((layer, xs))
    weights = random_like(layer.scan(None, xs), 9)

    def scalar(leaves):
        layer, xs = jtu.tree_unflatten(treedef, leaves)
        values = layer.scan(None, xs, **options)
        return sum(jtu.tree_leaves(jtu.tree_map(lambda w, v: jnp.sum(w * v), weights, values)))

    return jax.jit(scalar), leaves


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_reverse_mode_against_finite_differences(name, reverse):
    scalar, leaves = problem(name, reverse, lengths=LENGTHS, resets=RESETS)
    numerical = oracles.numerical_gradient(
        lambda *arrays: float(scalar(list(arrays))), [np.asarray(leaf) for leaf in leaves]
    )
    for exact, estimate in zip(jax.grad(scalar)(leaves), numerical, strict=True):
        np.testing.assert_allclose(exact, estimate, rtol=1e-5, atol=1e-7)


def inner(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", CELLS)
def test_forward_mode_and_second_derivatives_of_the_plain_loop(name):
    """Forward mode equals the product with the gradient; grad of (grad . v) equals jvp of grad."""
    scalar, leaves = problem(name, False, "plain", lengths=LENGTHS)
    v = random_like(leaves, 1)
    gradient = jax.grad(scalar)
    np.testing.assert_allclose(
        jax.jvp(scalar, (leaves,), (v,))[1], inner(gradient(leaves), v), rtol=1e-10
    )
    over_reverse = jax.grad(lambda leaves: inner(gradient(leaves), v))(leaves)
    over_forward = jax.jvp(gradient, (leaves,), (v,))[1]
    for a, b in zip(over_reverse, over_forward, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.sampled(13)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    "options", [{}, {"save": "states"}, {"checkpoint": 3}], ids=["gates", "states", "checkpoint"]
)
def test_reverse_over_reverse_equals_that_of_the_plain_loop(name, options):
    """The gradient of (gradient . v), with lengths and resets; once against finite differences."""
    layer = nr.Recurrence(make_cell(name, 2, 3), learn_initial_state=True, **options)
    xs = random(0, 2, 4, 2)
    weights = random_like(layer.scan(None, xs), 9)

    def product(backend):
        model = nr.with_backend(layer, backend) if backend else layer
        leaves, treedef = jtu.tree_flatten((model, xs))
        v = random_like(leaves, 1)

        def scalar(leaves):
            model, xs = jtu.tree_unflatten(treedef, leaves)
            values = model.scan(None, xs, lengths=LENGTHS, resets=RESETS)
            return inner(jtu.tree_leaves(weights), jtu.tree_leaves(values))

        gradient = jax.grad(scalar)
        second = jax.jit(jax.grad(lambda leaves: inner(gradient(leaves), v)))(leaves)
        return second, jax.jit(gradient), leaves, v

    (second, gradient, leaves, v), (expected, *_) = product(None), product("plain")
    for a, b in zip(second, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    step, u = 1e-5, random_like(leaves, 2)
    shifted = [gradient([x + s * d for x, d in zip(leaves, v, strict=True)]) for s in (step, -step)]
    estimate = inner([(p - m) / (2 * step) for p, m in zip(*shifted, strict=True)], u)
    np.testing.assert_allclose(inner(second, u), estimate, rtol=1e-5, atol=1e-8)


def test_bptt_reaches_the_first_step():
    """Flux #1209: the gradient of U against the nested formula, three steps of a tanh RNN."""
    cell = make_cell("rnn", 1, 1)
    xs = random(3, 3, 1)

    def nested(U):
        W, b = cell.W, cell.b + cell.b_h
        h1 = jnp.tanh(W @ xs[0] + b)
        h2 = jnp.tanh(W @ xs[1] + U @ h1 + b)
        return jnp.sum(jnp.tanh(W @ xs[2] + U @ h2 + b))

    gradient = nr.grad(lambda layer: layer(xs)[-1].sum())(nr.Recurrence(cell))
    np.testing.assert_allclose(gradient.cell.U, jax.grad(nested)(cell.U), rtol=1e-12)


CELL = make_cell("lstm", 4, 4)
TWO = CELL, random_like(CELL, 1)


def loss_of_two(first, second, xs):
    return jnp.sum(second(first(xs)) ** 2)


@functools.cache
def gradients_of_two():
    """By the definition, for both layers and the input."""
    plain = [nr.Recurrence(cell, backend="reference") for cell in TWO]
    return jax.jit(jax.grad(loss_of_two, argnums=(0, 1, 2)))(*plain, random(3, 2, 5, 4))


@pytest.mark.sampled(37)
@pytest.mark.parametrize("asked", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("options", [{}, {"save": "states"}, {"checkpoint": 2}], ids=str)
@pytest.mark.parametrize("backend", ["auto", "scan"])
def test_each_of_two_equal_layers_is_differentiated_as_asked(backend, options, asked):
    """JAX traces layers of equal shapes once; one may be frozen and the other not."""
    layers = [nr.Recurrence(cell, backend=backend, **options) for cell in TWO]
    found = jax.jit(jax.grad(loss_of_two, argnums=asked))(*layers, random(3, 2, 5, 4))
    expected = [gradients_of_two()[n] for n in asked]
    assert_close(jtu.tree_leaves(found), jtu.tree_leaves(expected), 1e-10)


class Ruled(nr.Cell):
    """A function at one place of a cell."""

    U: jax.Array
    function: Callable[..., Any] = eqx.field(static=True)
    place: str = eqx.field(static=True)

    def at(self, place: str, value: jax.Array) -> jax.Array:
        return self.function(value) if place == self.place else jnp.tanh(value)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return self.at("state", self.U @ h + self.at("input", x))

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return self.at("output", h)

    def initial_state(self) -> jax.Array:
        return jnp.ones(3)


@pytest.mark.sampled(27)
@pytest.mark.parametrize("place", ["state", "input", "output"])
@pytest.mark.parametrize(
    "options",
    [
        {"backend": "auto"},
        {"backend": "auto", "save": "states"},
        {"backend": "auto", "checkpoint": 2},
        {"backend": "scan"},
        {"backend": "scan", "save": "states", "checkpoint": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("wrapper", [with_own_jvp, with_own_vjp])
def test_second_derivatives_of_a_function_with_a_rule_of_its_own(wrapper, options, place):
    """The rule has another derivative than the function: the second one is that of its code."""
    cell = Ruled(random(0, 3, 3), wrapper(jnp.sin), place)
    layer, definition = (
        nr.Recurrence(cell, **some) for some in (options, {"backend": "reference"})
    )

    def second(layer: Any) -> Any:
        def squares(xs: Any) -> Any:
            return (jax.grad(lambda xs: (layer(xs) ** 2).sum())(xs) ** 2).sum()

        return jax.jit(jax.grad(squares))(random(1, 2, 4, 3))

    assert_close(second(layer), second(definition), 1e-12)


def test_rules_that_call_their_function_are_no_others():
    """Then the code of a first derivative is the same."""

    def graph(function: Any) -> Any:
        return graph_of(lambda x: jax.lax.map(function, x), jnp.ones((2, 3)))[0]

    for function, others in (
        (jnp.tanh, False),
        (jax.nn.relu, False),
        (with_own_jvp(jnp.sin), True),
    ):
        assert have_own_rules(graph_of(function, jnp.ones(3))[0]) == others
    assert have_own_rules(graph(with_own_vjp(jnp.sin)))
    assert not have_own_rules(graph(jnp.tanh))


# --- rules of what is the same in each step -------------------------------------------------------

#: Pull-backs of the identity of a weight that are not linear, and some that are.
NONLINEAR = {
    "clipped": lambda w, g: jnp.clip(g, -0.1, 0.1),
    "signs": lambda w, g: jnp.sign(g),
    "rounded": lambda w, g: jnp.round(8 * g) / 8,
    "of length one": lambda w, g: g / jnp.linalg.norm(g),
    "decay": lambda w, g: g + 0.1 * w,
    "a constant": lambda w, g: jnp.full_like(g, 0.1),
    "positive": lambda w, g: jnp.where(g > 0, g, 0),
}
LINEAR = {
    "straight through": lambda w, g: g,
    "scaled": lambda w, g: 0.5 * g,
    "masked": lambda w, g: jnp.where(jnp.abs(w) < 0.5, g, 0),
    "mixed": lambda w, g: w @ g - g.T / 2,
    "zero": lambda w, g: jnp.zeros_like(g),
}


class WithRule(nr.Cell):
    U: jax.Array
    W: jax.Array
    rule: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, h: jax.Array, x: jax.Array, *, context: Any = None) -> jax.Array:
        same = jax.custom_vjp(lambda w: w)
        same.defvjp(lambda w: (w, w), lambda w, g: (self.rule(w, g),))
        U, W = self.U, self.W
        if context is None:
            return jnp.tanh(same(U) @ h + same(W) @ x)
        return jnp.tanh(same(context) @ h + W @ x)

    def initial_state(self) -> jax.Array:
        return jnp.zeros(3)


def with_rule(rule: Callable[..., Any]) -> nr.Recurrence:
    return nr.Recurrence(WithRule(random(1, 3, 3), random(2, 3, 3), rule))


def of_squares(layer: Any, *arguments: Any, **options: Any) -> Any:
    return (layer(*arguments, **options) ** 2).sum()


@pytest.mark.parametrize("rule", NONLINEAR)
def test_each_step_applies_a_rule_that_is_not_linear(rule):
    """A function of a weight is computed once, but its rule is not."""
    layer, xs = with_rule(NONLINEAR[rule]), random(0, 4, 3)
    page = nr.explain(layer, xs)
    assert page.backend == "plain"
    assert "is the same in each step, and its derivative rule is not linear" in page.reason
    expected = jax.grad(of_squares)(nr.with_backend(layer, "reference"), xs)
    assert_close(jax.grad(of_squares)(layer, xs).cell, expected.cell, 1e-12)
    with pytest.raises(ValueError, match=r'rule is not linear.* expected backend="plain"'):
        nr.with_backend(layer, "scan")(xs)


@pytest.mark.parametrize("rule", LINEAR)
def test_a_linear_rule_is_applied_once(rule):
    layer, xs = with_rule(LINEAR[rule]), random(0, 2, 4, 3)
    assert nr.explain(layer, xs).backend == AUTO
    expected = jax.grad(of_squares)(nr.with_backend(layer, "reference"), xs)
    assert_close(jax.grad(of_squares)(layer, xs).cell, expected.cell, 1e-12)


@pytest.mark.parametrize("rule", ["clipped", "decay"])
def test_each_step_applies_the_rule_of_a_context(rule):
    layer, xs, context = with_rule(NONLINEAR[rule]), random(0, 2, 4, 3), random(3, 2, 3, 3)

    def gradient(backend: str) -> Any:
        of = nr.with_backend(layer, backend)
        return jax.grad(lambda c: of_squares(of, xs, context=c))(context)

    assert_close(gradient("auto"), gradient("reference"), 1e-12)


def test_a_rule_that_raises_is_for_gradients_only():
    def rule(w: Any, g: Any) -> Any:
        raise NotImplementedError("no gradient")

    layer, xs = with_rule(rule), random(0, 2, 4, 3)
    assert nr.explain(layer, xs).backend == AUTO
    assert_close(layer(xs), nr.with_backend(layer, "reference")(xs), 1e-12)
    with pytest.raises(NotImplementedError, match="no gradient"):
        jax.grad(of_squares)(layer, xs)


def test_a_layer_without_derivatives_needs_no_rule():
    layer, xs = with_rule(NONLINEAR["clipped"]), random(0, 2, 4, 3)
    prepared = nr.prepare(layer)
    program = jax.jit(lambda xs: prepared(xs)).lower(xs)
    assert ("noria_native" in program.as_text()) == (AUTO == "native")
    assert_close(program.compile()(xs), layer(xs), 1e-12)
