"""Sums of padded arrays become concatenations: the gradient of an array that is read in parts.

The pull-back of a slice pads its cotangent with zeros. A step that reads ten rows of a history adds
ten matrices, of which each is zero but for one row::

    pad(a, 0, 2) + pad(b, 1, 1) + pad(c, 0, 1)  =  concatenate(a[0] + c[0], b[0] + c[1], 0)
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from noria.ir.build import build
from noria.ir.graph import Atom, Equation, Graph, is_literal
from noria.ir.passes import Replacement, dce, producers, rewrite, users

_SUMS = ("add", "add_any")


class _Padded(NamedTuple):
    """An array between zeros along an axis, from a first to a last place of the sum."""

    array: Atom
    axis: int
    start: int
    stop: int


def without_sums_of_pads(graph: Graph) -> Graph:
    """The graph without sums of two and more arrays that are padded along the same axis."""
    if sum(e.name == "pad" for e in graph.equations) < 2:
        return graph
    maker, uses = producers(graph.equations), users(graph.equations, graph.outputs)

    def is_inner(atom: Atom) -> bool:
        """Whether a sum is a term of one other sum only."""
        reader = uses.get(atom, [])
        return len(reader) == 1 and reader[0] is not None and reader[0].name in _SUMS

    def terms(equation: Equation) -> list[Atom]:
        found: list[Atom] = []
        todo = [*reversed(equation.inputs)]
        while todo:
            atom = todo.pop()
            inner = None if is_literal(atom) else maker.get(atom)
            if inner is not None and inner.name in _SUMS and is_inner(atom):
                todo += reversed(inner.inputs)
            else:
                found.append(atom)
        return found

    def joined(equation: Equation) -> Replacement | None:
        if equation.name not in _SUMS or is_inner(equation.outputs[0]):
            return None
        found = terms(equation)
        padded = [_padded(maker.get(t)) if not is_literal(t) else None for t in found]
        axes = [p.axis for p in padded if p is not None]
        axis = max(axes, key=axes.count, default=0)
        if axes.count(axis) < 2:
            return None
        parts = [p if p is not None and p.axis == axis else None for p in padded]
        return _concatenated(equation, found, parts, axis)

    return dce(rewrite(graph, joined))


def _padded(equation: Equation | None) -> _Padded | None:
    """The array that an equation pads with zeros along one axis; ``None`` if it does not."""
    if equation is None or equation.name != "pad":
        return None
    array, value = equation.inputs
    config = equation.params["padding_config"]
    axes = [n for n, sides in enumerate(config) if any(sides)]
    if len(axes) != 1 or not is_literal(value) or value.val != 0:
        return None
    low, high, between = config[axes[0]]
    if low < 0 or high < 0 or between:
        return None
    return _Padded(array, axes[0], low, low + array.aval.shape[axes[0]])


def _concatenated(
    equation: Equation, terms: Sequence[Atom], padded: Sequence[_Padded | None], axis: int
) -> Replacement:
    """The sum, part by part along an axis. Terms stay in their order."""
    aval = equation.outputs[0].aval
    ends = {0, aval.shape[axis], *(n for p in padded if p is not None for n in (p.start, p.stop))}
    bounds = sorted(ends)

    def part(array: jax.Array, place: _Padded | None, first: int, last: int) -> jax.Array:
        if not array.ndim:  # a number, the same everywhere
            return array
        shift = 0 if place is None else place.start
        return jax.lax.slice_in_dim(array, first - shift, last - shift, axis=axis)

    def total(*arrays: jax.Array) -> list[jax.Array]:
        parts = []
        for first, last in itertools.pairwise(bounds):
            pairs = zip(arrays, padded, strict=True)
            here = [(a, p) for a, p in pairs if p is None or p.start <= first < p.stop]
            terms = [part(*pair, first, last) for pair in here] or [jnp.zeros((), aval.dtype)]
            shape = (*aval.shape[:axis], last - first, *aval.shape[axis + 1 :])
            parts.append(jnp.broadcast_to(functools.reduce(jax.lax.add, terms), shape))
        return [jnp.concatenate(parts, axis)]

    values = [p.array if p is not None else t for t, p in zip(terms, padded, strict=True)]
    return build(total, values, equation.source)
