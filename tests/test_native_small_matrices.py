"""Legalization of small matrices: vectors or loops over rows, with the same results."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import random

pytest.importorskip("llvmlite")

from noria.backends.native.lower.legalize import legalized
from noria.backends.native.lower.supported import (
    UnsupportedEquation,
    has_native_code,
    has_row_code,
)
from noria.ir.build import build
from noria.ir.graph import Graph

a, b, c = random(0, 3, 4), random(1, 4, 3), random(2, 2, 3, 4)
v, w, n = random(3, 3), random(4, 4), jnp.arange(12).reshape(3, 4)

#: By name: a function and its operands. Any of them may be a weight, the same for all steps.
CASES: dict[str, tuple[Any, ...]] = {
    "matrix and vector": (lambda a, w: a @ w, a, w),
    "vector and matrix": (lambda v, a: v @ a, v, a),
    "matrices": (lambda a, b: a @ b, a, b),
    "matrices, turned": (lambda a, b: b.T @ a.T, a, b),
    "matrices, rows and rows": (lambda a, b: jnp.einsum("ij,kj->ik", a, b), a, a),
    "matrices, columns and columns": (lambda a, b: jnp.einsum("ij,ik->jk", a, b), a, a),
    "matrices, columns and rows": (lambda a, b: jnp.einsum("ji,kj->ik", a, b), a, b),
    "outer product": (jnp.outer, v, w),
    "outer product of all": (lambda a, v: jnp.einsum("ij,k->ijk", a, v), a, v),
    "inner product": (jnp.vdot, w, w),
    "heads": (lambda c, a: jnp.einsum("hij,hj->hi", c, a), c, a[:2]),
    "heads and one vector": (lambda c, w: jnp.einsum("hij,j->hi", c, w), c, w),
    "heads and one number": (lambda c, w: jnp.einsum("hij,j->hi", c, w), c[:, :, :1], w[:1]),
    "one vector and heads": (lambda w, c: w @ jnp.swapaxes(c, 1, 2), w, c),
    "heads of matrices": (lambda c, d: jnp.einsum("hij,hjk->hik", c, d), c, jnp.swapaxes(c, 1, 2)),
    "heads that are single numbers": (lambda a, b: jnp.einsum("ij,ij->i", a, b), a, a),
    "row and matrix": (lambda a, w: a + w, a, w),
    "column and matrix": (lambda a, v: a * v[:, None], a, v),
    "column and row": (lambda v, w: v[:, None] - w[None], v, w),
    "column of truths": (lambda v, a: jnp.where((v > 0)[:, None], a, -a), v, a),
    "sum of rows": (lambda a: a.sum(0), a),
    "sum over rows": (lambda a: a.sum(1), a),
    "largest in the middle": (lambda c: c.max(1), c),
    "smallest of two axes": (lambda c: c.min((0, 2)), c),
    "sum of whole numbers": (lambda n: n.sum(1), n),
    "softmax of columns": (lambda a: jax.nn.softmax(a, 0), a),
    "transpose": (lambda c: c.transpose(2, 0, 1), c),
    "columns": (lambda a: a[:, 1:3], a),
    "every other": (lambda a: jax.lax.rev(jax.lax.slice(a, (0, 0), (3, 4), (1, 2)), (0,)), a),
    "padding": (lambda a: jnp.pad(a, ((1, 0), (2, 1))), a),
    "concatenation": (lambda a, c: jnp.concatenate([a, c[0], a], 1), a, c),
    "the same twice": (lambda a: jnp.concatenate([a, a]).T, a),
    "stack": (lambda v, w: jnp.stack([v, w[:3], v], 1), v, w),
    "tiles": (lambda a: jnp.tile(a, (2, 2)), a),
    "parts": (lambda a: jnp.split(a, 2, axis=1), a),
    "whole numbers and truths, turned": (lambda n: (n.T, (n > 3).T), n),
}


def graph_of(function: Any, *arrays: Any) -> Graph:
    inputs = jax.make_jaxpr(lambda *arrays: arrays)(*arrays).jaxpr.invars
    made, outputs = build(
        lambda *arrays: jax.tree_util.tree_leaves(function(*arrays)), inputs, None
    )
    return Graph(tuple(inputs), tuple(outputs), tuple(made))


@pytest.mark.covered(1)
@pytest.mark.parametrize("pieces", [1, 64])
@pytest.mark.parametrize("weights", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("name", CASES)
def test_legalized_matrices_give_the_same_numbers(name, weights, pieces, tune):
    tune(pieces=pieces)
    function, *arrays = CASES[name]
    graph = graph_of(function, *arrays)
    constants = [v for v, is_constant in zip(graph.inputs, weights, strict=False) if is_constant]
    found = legalized(graph, constants)
    assert all(has_native_code(e) or has_row_code(e) for e in found.equations)
    for one, two in zip(found(arrays), graph(arrays), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-14, strict=True)


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (lambda n: n @ n.T, [n]),
        (lambda a: jnp.sort(a, 0), [a]),
        (lambda a: a.sum(0), [jnp.zeros((0, 3))]),
    ],
)
def test_unusual_matrices_are_refused(function, arrays):
    """Products of whole numbers, sums along an axis that stay, and empty arrays."""
    graph = graph_of(function, *arrays)
    with pytest.raises(UnsupportedEquation, match="there is no native code for"):
        legalized(graph, ())


def test_legalized_branches_give_the_same_numbers():
    graph = graph_of(
        lambda k, v: jax.lax.switch(k, [jnp.sin, jnp.cos, jnp.tanh], v), jnp.int32(0), v
    )
    found = legalized(graph, ())
    assert all(map(has_native_code, found.equations))
    for k in map(jnp.int32, (-1, 0, 1, 2, 3)):
        np.testing.assert_allclose(found([k, v])[0], graph([k, v])[0], rtol=0, atol=1e-14)
