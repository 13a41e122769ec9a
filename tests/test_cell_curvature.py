"""Gradients of gradients of every cell of the catalogue, as meta-learning and penalties need them.

A product of the Hessian and a random vector, reverse over reverse, is compared with finite
differences of the definition's gradient.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from cell_checks import GRAM_MATRICES, cell_of, numbers, options_of, start_of
from cell_oracles import SURROGATE
from fuzzing.evaluate import evaluated
from models import noise, random

import noria as nr
from noria.cells.catalogue import catalogue, class_of

#: Steps, and the length of a step of finite differences.
TIME, STEP = 2, 1e-6


def dot(a: Any, b: Any) -> jax.Array:
    pairs = zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True)
    return sum((jnp.sum((x * y).real) for x, y in pairs), jnp.zeros(()))


def loss_of(key: str) -> tuple[Any, Callable[[str, Any], jax.Array]]:
    """Arrays of a cell, its state and its inputs; a loss of a backend and the arrays."""
    cell = cell_of(class_of(catalogue()[key]))
    shape = getattr(cell, "in_shape", None) or (cell.in_size,)
    given = cell, start_of(cell), random(2, TIME, *shape)
    arrays, rest = eqx.partition(given, eqx.is_inexact_array)
    options = options_of(cell, TIME)

    def loss(backend: str, arrays: Any) -> jax.Array:
        cell, state, xs = eqx.combine(arrays, rest)
        found = nr.Recurrence(cell, backend=backend).scan(state, xs, **options)
        smooth = eqx.filter(found, eqx.is_inexact_array)
        squares = jtu.tree_map(lambda a: (a * a).real, smooth)
        return dot(noise(squares, 7), squares)

    return arrays, loss


def symmetric(arrays: Any) -> Any:
    """The symmetric part of matrices that a cell keeps symmetric; other arrays as they are."""
    cell, state, xs = arrays
    for name in GRAM_MATRICES.get(type(cell).__name__, ()):
        a = getattr(state, name)
        state = state._replace(**{name: (a + a.swapaxes(-1, -2)) / 2})
    return cell, state, xs


@pytest.mark.sampled(95)
@pytest.mark.parametrize("key", catalogue())
def test_second_derivatives_are_those_of_the_definition(key):
    arrays, loss = loss_of(key)
    v = symmetric(noise(arrays, 21))

    def product(backend: str, arrays: Any) -> Any:
        return jax.grad(lambda a: dot(jax.grad(lambda a: loss(backend, a))(a), v))(arrays)

    found = jax.jit(lambda arrays: product("auto", arrays))(arrays)
    if key in SURROGATE:  # the function whose derivative it is has no finite differences
        expected = evaluated(lambda arrays: product("reference", arrays), arrays)
        tolerance = 1e-9
    else:
        ends = [
            jtu.tree_map(lambda a, s, sign=sign: a + sign * STEP * s, *numbers((arrays, v)))
            for sign in (1, -1)
        ]
        after, before = (
            evaluated(lambda arrays: jax.grad(lambda a: loss("reference", a))(arrays), end)
            for end in ends
        )
        expected = jtu.tree_map(lambda a, b: (a - b) / (2 * STEP), *numbers((after, before)))
        tolerance = 1e-7
    assert any(np.abs(a).max(initial=0) > 1e-3 for a in jtu.tree_leaves(expected))
    found, expected = symmetric(numbers(found)), symmetric(expected)
    for a, b in zip(*map(jtu.tree_leaves, (found, expected)), strict=True):
        scale = max(1, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)
