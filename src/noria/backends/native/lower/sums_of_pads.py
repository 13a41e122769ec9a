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
from noria.ir.passes import Replacement, dce, is_zero, producers, rewrite, users

_SUMS = ("add", "add_any")

#: Parts of terms that are added, for each term. A sum of pads by themselves has three for each, and
#: as many zeros. Windows that overlap could have as many as there are terms.
_PARTS = 6


class _Term(NamedTuple):
    """An array of a sum, from a start to a stop along an axis; beside it are zeros."""

    array: Atom
    axis: int
    start: int
    stop: int


def without_sums_of_pads(graph: Graph) -> Graph:
    """The graph without sums of two and more arrays that are padded along the same axis."""
    if sum(e.name == "pad" for e in graph.equations) < 2:
        return graph
    return dce(rewrite(graph, _Sums(graph).joined))


class _Sums:
    """The sums of a graph."""

    def __init__(self, graph: Graph):
        self._maker = producers(graph.equations)
        self._uses = users(graph.equations, graph.outputs)

    def joined(self, equation: Equation) -> Replacement | None:
        """A sum with all its terms as a concatenation; ``None`` if it stays as it is."""
        if equation.name not in _SUMS or self._is_inner(equation.outputs[0]):
            return None
        terms = self._terms(equation)
        padded = [self._padded(term) for term in terms]
        axes = [term.axis for term in padded if term is not None]
        axis = max(axes, key=axes.count, default=0)
        if axes.count(axis) < 2:
            return None
        width = equation.outputs[0].aval.shape[axis]
        return _concatenated(
            equation,
            [
                found if found is not None and found.axis == axis else _Term(term, axis, 0, width)
                for term, found in zip(terms, padded, strict=True)
            ],
            axis,
        )

    def _is_inner(self, atom: Atom) -> bool:
        """Whether a sum is a term of one other sum, and once."""
        reader, *others = self._uses.get(atom, [None])
        if reader is None or others or reader.name not in _SUMS:
            return False
        return sum(v is atom for v in reader.inputs) == 1

    def _made_by(self, atom: Atom) -> Equation | None:
        return None if is_literal(atom) else self._maker.get(atom)

    def _terms(self, equation: Equation) -> list[Atom]:
        """The terms of a sum and of the sums in it, in their order."""
        found: list[Atom] = []
        todo = [*reversed(equation.inputs)]
        while todo:
            atom = todo.pop()
            inner = self._made_by(atom)
            if inner is not None and inner.name in _SUMS and self._is_inner(atom):
                todo += reversed(inner.inputs)
            else:
                found.append(atom)
        return found

    def _padded(self, atom: Atom) -> _Term | None:
        """An array that is padded with zeros along one axis; ``None`` if it is not."""
        equation = self._made_by(atom)
        if (
            equation is None
            or equation.name != "pad"
            or not is_zero(equation.inputs[1], self._maker)
        ):
            return None
        array, config = equation.inputs[0], equation.params["padding_config"]
        axes = [n for n, sides in enumerate(config) if any(sides)]
        if len(axes) != 1:
            return None
        low, high, between = config[axes[0]]
        if min(low, high) < 0 or between:
            return None
        return _Term(array, axes[0], low, low + array.aval.shape[axes[0]])


def _concatenated(equation: Equation, terms: Sequence[_Term], axis: int) -> Replacement | None:
    """The sum, part by part along an axis; ``None`` if there are too many parts of terms."""
    aval = equation.outputs[0].aval
    ends = {0, aval.shape[axis], *(n for term in terms for n in (term.start, term.stop))}
    bounds = [*itertools.pairwise(sorted(ends))]
    here = [
        [n for n, term in enumerate(terms) if term.start <= first < term.stop]
        for first, _ in bounds
    ]
    if sum(map(len, here)) > _PARTS * len(terms):
        return None

    def part(array: jax.Array, start: int, first: int, last: int) -> jax.Array:
        if not array.ndim:  # a number, the same everywhere
            return array
        return jax.lax.slice_in_dim(array, first - start, last - start, axis=axis)

    def total(*arrays: jax.Array) -> list[jax.Array]:
        sums = []
        for numbers, (first, last) in zip(here, bounds, strict=True):
            parts = [part(arrays[n], terms[n].start, first, last) for n in numbers]
            found = functools.reduce(jax.lax.add, parts or [jnp.zeros((), aval.dtype)])
            shape = (*aval.shape[:axis], last - first, *aval.shape[axis + 1 :])
            sums.append(jnp.broadcast_to(found, shape))
        return [jnp.concatenate(sums, axis)]

    return build(total, [term.array for term in terms], equation.source)
