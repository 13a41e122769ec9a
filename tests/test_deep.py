"""Cells of a thousand operations: no pass recurses as deep as a graph or needs exponential time."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noria as nr
from noria.backends.native.machine import Tuning
from noria.compiler.split import hoist_slices
from noria.ir.build import graph_of
from noria.ir.passes import extract


def chain(h: Any, x: Any, count: int = 500) -> Any:
    for _ in range(count):
        h = h * 0.99 + x
    return h * 0.01


def sum_of_terms(h: Any, x: Any) -> Any:
    total = x
    for i in range(1000):
        total = total + (x if i % 2 else h * (1e-6 * i))
    return total * 0.002


def product_of_factors(h: Any, x: Any) -> Any:
    for _ in range(300):
        x = x * (h * 0.001 + 1.0)
    return x


def shared_sum(h: Any, x: Any) -> Any:
    for _ in range(60):
        h = h * h * 0.25 + h * 0.5
    return h + x


def doubled(h: Any, x: Any) -> Any:
    """As a tree, a sum of 2⁶⁰ terms."""
    for _ in range(60):
        h = h + h
    return (h + x * 2.0**60 + x * 2.0**60) * 2.0**-62


def squared(h: Any, x: Any) -> Any:
    for _ in range(60):
        h, x = h * h, x * x
    return h * 0.5 + x


def before_the_loop(h: Any, x: Any) -> Any:
    return h * 0.5 + chain(x, x * 0.5)


def after_the_loop(h: Any, x: Any) -> Any:
    return h * 0.5 + x


class Emitting(nr.Cell):
    """A cell whose emission is a chain of its own."""

    transition: Any = eqx.field(static=True)

    def __call__(self, h, x):
        return self.transition(h, x)

    def initial_state(self):
        return jnp.full(3, 0.5)

    def output(self, h, x):
        return chain(h, x) if self.transition is after_the_loop else h


CELLS = (
    *(
        chain,
        sum_of_terms,
        product_of_factors,
        shared_sum,
        doubled,
        squared,
        before_the_loop,
        after_the_loop,
    ),
)


def loss_of(cell: Any, xs: np.ndarray) -> Any:
    """The sum of all outputs, in NumPy."""
    h, total = np.full(3, 0.5), 0.0
    for x in xs:
        h = cell.transition(h, x)
        total += np.sum(cell.output(h, x))
    return total


@pytest.mark.sampled(9)
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
def test_values_and_gradients(cell):
    cell, xs = Emitting(cell), np.random.default_rng(0).uniform(0.1, 0.5, (3, 3))
    along = (loss_of(cell, xs + 1e-6) - loss_of(cell, xs - 1e-6)) / 2e-6
    loss = lambda layer, xs: layer(xs).sum()  # noqa: E731
    layer, options = nr.Recurrence(cell), {"xla_backend_optimization_level": 0}
    both = jax.jit(jax.value_and_grad(loss, argnums=1), compiler_options=options)
    value, gradient = both(layer, jnp.asarray(xs))
    np.testing.assert_allclose(value, loss_of(cell, xs), rtol=1e-9)
    np.testing.assert_allclose(gradient.sum(), along, rtol=1e-6)
    scan = nr.with_backend(layer, "scan")  # whose gradient XLA takes long to compile
    assert jax.eval_shape(jax.grad(loss, argnums=1), scan, xs).shape == xs.shape
    np.testing.assert_allclose(jax.jit(loss, compiler_options=options)(scan, xs), value, rtol=1e-9)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
def test_linear_steps_are_found(cell):
    """All steps at once where they are linear; else an error about the state, not of recursion."""
    layer = nr.Recurrence(Emitting(cell), backend="associative")
    if cell in (product_of_factors, shared_sum, squared):
        with pytest.raises(ValueError, match="affine"):
            jax.eval_shape(layer, jnp.ones((2, 3)))
    else:
        assert jax.eval_shape(layer, jnp.ones((2, 3))).shape == (2, 3)


def test_what_is_longer_runs_as_a_scan(tune):
    """LLVM's time grows faster than the code, so that there is a limit."""
    assert Tuning().equations > 3500  # those of the reverse loop of a thousand
    tune(equations=30)
    layer = nr.Recurrence(lambda h, x: chain(h, x, 16), jnp.zeros(2))
    found = nr.explain(layer, jnp.ones((2, 2)))
    assert found.backend == "scan"
    message = r"the step has 3\d operations, and native code is made of at most 30"
    assert re.match(message, found.reason)
    with pytest.raises(ValueError, match=message):
        nr.with_backend(layer, "native")(jnp.ones((2, 2)))
    np.testing.assert_allclose(
        layer(jnp.ones((1, 2))), np.full((1, 2), chain(0, 1, 16)), rtol=1e-12
    )


def test_slices_are_moved_through_a_long_chain():
    """As far as the limit; a sliced square is not sliced twice at each multiplication."""

    def before(x: Any) -> Any:
        for _ in range(1000):
            x = x * x + 0.5
        return x

    early, _, _ = graph_of(before, jnp.ones(4))
    late, _, _ = graph_of(lambda a: (a[:2], a[2:]), jnp.ones(4))
    late = extract(late.equations, late.outputs, late.inputs)
    early = type(early)(
        early.inputs,
        late.inputs,
        (*early.equations[:-1], _giving(early.equations[-1], late.inputs)),
    )
    narrowed, loop = hoist_slices(early, late, ())
    assert len(narrowed.outputs) == 2
    assert len(narrowed.equations) < 2000 + 8 * 64
    assert not loop.equations


def _giving(equation: Any, outputs: Any) -> Any:
    return type(equation)(
        equation.primitive, equation.inputs, outputs, equation.params, equation.source
    )
