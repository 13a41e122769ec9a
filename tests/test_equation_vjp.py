"""Pull-backs of equations: kept between steps, and never one that is out of date."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.sharding import AxisType

import noria as nr
from noria.compiler import equation_vjp
from noria.compiler.equation_vjp import equation_vjps
from noria.ir.build import graph_of

CONFIG: Any = jax.config
X = np.array([0.5, -1.5, 2.0], np.float32)


@pytest.fixture
def traced(monkeypatch):
    """The names of the equations whose rules are traced; nothing is known before."""
    names: list[str] = []
    trace = equation_vjp._trace

    def spy(kinds):
        names.extend(equation.name for equation, _ in kinds)
        return trace(kinds)

    monkeypatch.setattr(equation_vjp, "_known", equation_vjp._Known())
    monkeypatch.setattr(equation_vjp, "_trace", spy)
    return names


def gradients(function, *arrays, wrt=(0,)):
    """The cotangents of a function of one equation, for a cotangent of ones."""
    graph, _, _ = graph_of(function, *arrays)
    (equation,) = graph.equations
    (vjp,) = equation_vjps([(equation, wrt)])
    known = dict(zip(vjp.inputs, arrays, strict=True)) | vjp.constants
    made = vjp.forward([known[v] for v in vjp.forward.inputs])
    known |= vjp.computed(made)
    known |= {v: jnp.ones(v.aval.shape, v.aval.dtype) for v in vjp.cotangents}
    return vjp.reverse([known[v] for v in vjp.reverse.inputs])


def test_equal_equations_of_two_steps_are_traced_once(traced):
    for _ in range(2):
        (found,) = gradients(lambda x: jax.lax.sin(x), X)
        np.testing.assert_allclose(found, np.cos(X), rtol=1e-6)
    assert traced == ["sin"]


VARIANTS: dict[str, list[Any]] = {
    "dtype": [(lambda x: jax.lax.sin(x), (X.astype(d),), (0,)) for d in (np.float32, np.float16)],
    "shape": [(lambda x: jax.lax.sin(x), (X[:n],), (0,)) for n in (2, 3)],
    "parameter": [(lambda x, y=y: jax.lax.integer_pow(x, y), (X,), (0,)) for y in (2, 3)],
    "literal": [(lambda x, c=c: jax.lax.mul(x, np.float32(c)), (X[0],), (0,)) for c in (0.0, -0.0)],
    "inputs": [(lambda x, y: jax.lax.mul(x, y), (X, 2 * X), wrt) for wrt in ((0,), (1,), (0, 1))],
}


@pytest.mark.parametrize("difference", VARIANTS)
def test_equations_that_differ_have_their_own_pull_backs(traced, difference):
    variants = VARIANTS[difference]
    for function, arrays, wrt in [*variants, *variants]:
        found = gradients(function, *arrays, wrt=wrt)
        value, pull = jax.vjp(function, *arrays)
        wanted = pull(jnp.ones_like(value))
        for n, gradient in zip(wrt, found, strict=True):
            assert gradient.dtype == arrays[n].dtype
            np.testing.assert_array_equal(gradient, wanted[n])
            np.testing.assert_array_equal(np.signbit(gradient), np.signbit(wanted[n]))
    assert len(traced) == len(variants)


@pytest.mark.parametrize(
    "setting",
    [
        lambda: jax.enable_x64(not CONFIG.jax_enable_x64),
        lambda: jax.default_matmul_precision("highest"),
        lambda: jax.numpy_dtype_promotion("standard"),
        lambda: jax.numpy_rank_promotion("raise"),
        lambda: jax.set_mesh(jax.make_mesh((1,), ("devices",), (AxisType.Explicit,))),
    ],
    ids=["x64", "matmul_precision", "dtype_promotion", "rank_promotion", "mesh"],
)
def test_each_setting_of_jax_has_its_own_pull_backs(traced, setting):
    gradients(lambda x: jax.lax.sin(x), X)
    with setting():
        gradients(lambda x: jax.lax.sin(x), X)
        assert len(traced) == 2
    gradients(lambda x: jax.lax.sin(x), X)
    assert len(traced) == 2


def test_the_rule_of_a_primitive_of_the_user_is_traced_each_time(traced):
    """It can be replaced: here it is another one the second time."""
    primitive = Primitive("sin")
    primitive.def_abstract_eval(lambda x: x)
    primitive.def_impl(jax.lax.sin)
    for factor in (2.0, 3.0):
        ad.defjvp(primitive, lambda t, x, factor=factor: factor * t)
        (found,) = gradients(lambda x: primitive.bind(x), X)
        np.testing.assert_array_equal(found, np.full_like(X, factor))
    assert len(traced) == 2


@pytest.mark.parametrize("form", ["jvp", "vjp"])
def test_a_rule_of_the_user_is_traced_each_time(traced, form):
    """It can read a variable, here ``factor``."""
    factor = 1.0
    function: Any
    if form == "jvp":
        function = jax.custom_jvp(jax.lax.sin)
        function.defjvp(lambda xs, ts: (jax.lax.sin(xs[0]), factor * ts[0]))
    else:
        function = jax.custom_vjp(jax.lax.sin)
        function.defvjp(lambda x: (jax.lax.sin(x), None), lambda _, g: (factor * g,))
    for factor in (2.0, 3.0):
        (found,) = gradients(lambda x: function(x), X)
        np.testing.assert_array_equal(found, np.full_like(X, factor))
    assert len(traced) == 2


def test_sizes_that_are_open_are_not_kept(traced):
    for _ in range(2):
        (n,) = export.symbolic_shape("n")  # each time of a scope of its own
        graph, _, _ = graph_of(lambda x: jax.lax.sin(x), jax.ShapeDtypeStruct((n,), np.float32))
        equation_vjps([(graph.equations[0], (0,))])
    assert traced == ["sin", "sin"]


def test_the_oldest_pull_backs_are_dropped(traced, monkeypatch):
    monkeypatch.setattr(equation_vjp._Known, "MOST", 2)
    for n in (1, 2, 3, 3, 2, 1):
        gradients(lambda x: jax.lax.sin(x), np.ones(n, np.float32))
    assert len(traced) == 4  # 1, 2, 3, and 1 again
    assert len(equation_vjp._known._vjps) == 2


@pytest.mark.parametrize(
    "without",
    [jax.lax.stop_gradient, lambda pair: ((pair[0] > 0.5).astype(pair[0].dtype), 0.5)],
    ids=["stop_gradient", "comparison"],
)
def test_a_primitive_without_a_derivative_may_follow(without):
    """It is not asked for a rule, as JAX asks for none."""

    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(h + x + jnp.nextafter(*without((h, x))))

    def gradient(backend: str) -> jax.Array:
        layer = nr.Recurrence(step, jnp.zeros(2), backend=backend)
        return jax.grad(lambda xs: jnp.sum(layer(xs)))(jnp.ones((3, 2)))

    np.testing.assert_allclose(gradient("scan"), gradient("plain"))


def test_a_derivative_that_nobody_needs_is_not_differentiated_again():
    """`igamma` has no second derivative in its first argument, which is constant here."""

    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        first = 0.3 + jnp.abs((h != h).astype(h.dtype))
        return jnp.tanh(jax.lax.igamma(first, 0.3 + jnp.abs(h)) + x)

    def gradient(backend: str) -> jax.Array:
        layer = nr.Recurrence(step, jnp.zeros(2), backend=backend)
        once = jax.grad(lambda xs: jnp.sum(layer(xs) ** 2))
        return jax.grad(lambda xs: jnp.sum(once(xs) ** 2))(jnp.ones((3, 2)))

    np.testing.assert_allclose(gradient("scan"), gradient("plain"))
