"""Sums of padded arrays become concatenations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import check_native
from models import learned, random

import noria as nr
from noria.backends.native.lower.sums_of_pads import without_sums_of_pads
from noria.ir.build import graph_of

pytest.importorskip("llvmlite")


def padded(a, low, high, axis=0, value=0.0):
    config = [(0, 0, 0)] * a.ndim
    config[axis] = (low, high, 0)
    return jax.lax.pad(a, jnp.asarray(value, a.dtype), config)


def joined(function, *arrays):
    """The names of the operations, after a check of the results."""
    graph, hidden, _ = graph_of(function, *arrays)
    found = without_sums_of_pads(graph)
    given = [*hidden, *arrays]
    for one, other in zip(found(given), graph(given), strict=True):
        np.testing.assert_array_equal(one, other)
    return [e.name for e in found.equations]


A, B, C = random(1, 1, 3), random(2, 2, 3), random(3, 3, 3)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, c: padded(a, 0, 2) + padded(a, 2, 0),  # apart, with a gap
        lambda a, b, c: padded(a, 0, 2) + padded(b, 1, 0),  # side by side
        lambda a, b, c: padded(b, 0, 1) + padded(b, 1, 0),  # one over the other
        lambda a, b, c: padded(a, 1, 1) + c + padded(b, 0, 1),  # and a whole array
        lambda a, b, c: (padded(a, 1, 1) + c) + (c + padded(b, 0, 1)) + padded(a, 2, 0),
        lambda a, b, c: padded(a, 1, 1) + padded(a, 1, 1),  # the same places
        lambda a, b, c: c + padded(a, 1, 1) + padded(a, 0, 2),
        lambda a, b, c: 3.0 + padded(b, 1, 0) + padded(a, 1, 1),  # and a number
        lambda a, b, c: padded(c, 0, 2, 1) + padded(c, 2, 0, 1),  # along features
    ],
)
def test_sums_of_pads_are_concatenations(function):
    names = joined(function, A, B, C)
    assert "pad" not in names
    assert names[-1] == "concatenate"


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, c: padded(a, 1, 1) + c,  # one is as good as it is
        lambda a, b, c: padded(a, 0, 2, value=1) + padded(b, 1, 0, value=1),
        lambda a, b, c: padded(b, -1, 2) + padded(b, 2, -1),  # they cut
        lambda a, b, c: padded(a, 0, 2) - padded(b, 1, 0),
        lambda a, b, c: padded(c[:, :1], 0, 2, 1) + padded(a, 1, 1),  # along two axes
    ],
)
def test_other_pads_stay(function):
    assert "pad" in joined(function, A, B, C)


def test_a_sum_that_others_read_too_stays():
    def function(a, b):
        inner = padded(a, 0, 1) + padded(a, 1, 0)
        return inner, inner + b, jnp.tanh(inner) + padded(b, 0, 0)

    assert "pad" in joined(lambda a, b: padded(a, 0, 1) * 2 + padded(a, 1, 0), A, B)
    names = joined(function, A, B)
    assert names.count("concatenate") == 1


def test_windows_that_overlap_stay():
    """Each part would be a sum of many terms."""

    def function(c):
        return sum(padded(jnp.tanh(c), n, 60 - n) for n in range(60))

    graph, *_ = graph_of(function, jnp.ones((40, 3)))
    names = [e.name for e in without_sums_of_pads(graph).equations]
    assert names == [e.name for e in graph.equations]


def test_a_sum_that_is_added_to_itself():
    def function(a, b):
        total = padded(a, 0, 1) + padded(b[:1], 1, 0)
        for _ in range(30):
            total = total + total
        return total

    assert len(joined(function, A, B)) < 50


def test_pads_of_jax_numpy():
    names = joined(lambda a: jnp.pad(a, ((0, 1), (0, 0))) + jnp.pad(a, ((1, 0), (0, 0))), A)
    assert "pad" not in names


def test_many_terms():
    names = joined(lambda a: sum(padded(a, n, 299 - n) for n in range(300)), A)
    assert names.count("concatenate") == 1


class Taps(nr.Cell):
    """A history of which a step reads some rows, and some of them twice."""

    W: jax.Array

    def __call__(self, past, x):
        read = past[0] + 2 * past[2] + jnp.tanh(past[1:4]).sum(0) * past[-1]
        h = jnp.tanh(self.W @ x + read)
        return jnp.concatenate([past[1:], h[None]])

    def output(self, past, x):
        return past[-1]

    def initial_state(self):
        return jnp.ones((7, 5), self.W.dtype)


@pytest.mark.parametrize("batch", [1, 3])
def test_cells_that_read_a_history(batch):
    layer = learned(Taps(random(4, 5, 4)))
    check_native(layer, random(1, batch, 6, 4), lengths=jnp.array([6, 0, 3][:batch]))
