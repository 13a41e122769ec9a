"""Rewrite rules for contractions: one form for all the spellings of a product.

=================== ================================== ============================================
`sums_to_products`  ``(k[:, None] * S).sum(0)``        ``k @ S``
`outer_products`    a ``dot_general`` without a sum    ``u[:, None] * w``, also if it is transposed
`normal_products`   ``einsum("ghij,hj->ghi", R, h)``   heads, rows and depth: one axis each
=================== ================================== ============================================

In the normal form a product is a ``dot_general`` of a vector and a matrix for each head. They have
the axes ``(heads, depth)`` and ``(heads, rows, depth)``, in this order. One head has no axis. A
matrix of the state is not moved, so its depth may stand before its rows. A weight is transposed,
once for all steps. Of two matrices the first one has rows too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from noria.compiler.levels import CONSTANT, STATE, level_of, made_into_matrices
from noria.ir.build import build
from noria.ir.graph import Atom, Equation, Graph, Value, is_literal
from noria.ir.passes import Replacement, dce, dependence, producers, rewrite, users
from noria.ir.primitives import is_contraction


def canonical_contractions(graph: Graph, sources: dict[Value, int], *, once: bool = False) -> Graph:
    """Apply every rule; ``sources`` gives the level of each input, see `canonicalize`."""
    if not any(map(_is_matrix_work, graph.equations)):
        return graph
    for rule in (sums_to_products, outer_products, partial(normal_products, once=once)):
        graph = rule(graph, dependence(graph.equations, sources))
    return graph


def _is_matrix_work(equation: Equation) -> bool:
    """Whether a rule may apply to an equation; to none of a step on vectors."""
    if equation.name == "dot_general":
        return _is_deep(equation) or not is_contraction(equation)
    return equation.name == "reduce_sum" and equation.inputs[0].aval.ndim > 1


def _is_constant(levels: dict[Value, int], atom: Atom) -> bool:
    return is_literal(atom) or levels.get(atom, 0) <= CONSTANT


def _ordered(a: jax.Array, axes: Sequence[int], order: Sequence[int]) -> jax.Array:
    """An array whose axes are named by ``axes``, with its axes in ``order``."""
    moved = [axes.index(axis) for axis in order]
    return a if moved == sorted(moved) else a.transpose(moved)


# --- sums of element-wise products ----------------------------------------------------------------


def sums_to_products(graph: Graph, levels: dict[Value, int]) -> Graph:
    """The sum of an element-wise product with a broadcast is a product of a vector and a matrix.

    For float32 and float64: a sum of narrower numbers is rounded in another way.
    """
    maker, uses = producers(graph.equations), users(graph.equations, graph.outputs)

    def contract(equation: Equation) -> Replacement | None:
        if equation.name != "reduce_sum" or is_literal(equation.inputs[0]):
            return None
        product = maker.get(equation.inputs[0])
        if product is None or product.name != "mul" or len(uses[product.outputs[0]]) > 1:
            return None
        value = product.outputs[0].aval
        if value.dtype not in (np.float32, np.float64) or any(map(is_literal, product.inputs)):
            return None
        factors = [_Factor.of(v, value.shape, maker) for v in product.inputs]
        factors.sort(key=lambda factor: len(factor.kept))
        summed = [*equation.params["axes"]]
        if not {*summed} <= {*factors[0].kept} < {*factors[1].kept}:
            return None
        if all(_is_constant(levels, factor.atom) for factor in factors):
            return None
        atoms = [factor.atom for factor in factors]
        return build(lambda *a: [_contracted(a, factors, summed)], atoms, equation.source)

    return dce(rewrite(graph, contract))


@dataclass(frozen=True)
class _Factor:
    """A factor of an element-wise product, before its broadcast.

    Attributes:
        atom: the value.
        axes: for each of its axes the axis of the product; ``None`` if it has one element only.
    """

    atom: Atom
    axes: tuple[int | None, ...]

    @classmethod
    def of(cls, atom: Atom, shape: Sequence[int], maker: dict[Any, Equation]) -> "_Factor":
        equation, places = maker.get(atom), list(range(atom.aval.ndim))
        is_broadcast = equation is not None and equation.name == "broadcast_in_dim"
        if equation is not None and is_broadcast and not is_literal(equation.inputs[0]):
            atom, places = equation.inputs[0], list(equation.params["broadcast_dimensions"])
        sizes = zip(places, atom.aval.shape, strict=True)
        return cls(atom, tuple(place if n == shape[place] else None for place, n in sizes))

    @property
    def kept(self) -> list[int]:
        return [axis for axis in self.axes if axis is not None]

    def squeezed(self, a: jax.Array) -> jax.Array:
        if None not in self.axes:
            return a
        sizes = zip(a.shape, self.axes, strict=True)
        return a.reshape([size for size, axis in sizes if axis is not None])


def _contracted(
    arrays: Sequence[jax.Array], factors: Sequence[_Factor], summed: Sequence[int]
) -> jax.Array:
    """The product of a vector and a matrix, exact also where products are not by default."""
    vector, matrix = (factor.kept for factor in factors)
    batch = [axis for axis in vector if axis not in summed]
    one, two = (factor.squeezed(a) for factor, a in zip(factors, arrays, strict=True))
    found = jax.lax.dot_general(
        one,
        two,
        (
            ([vector.index(n) for n in summed], [matrix.index(n) for n in summed]),
            ([vector.index(n) for n in batch], [matrix.index(n) for n in batch]),
        ),
        precision=jax.lax.Precision.HIGHEST,
    )
    axes = [*batch, *(axis for axis in matrix if axis not in vector)]
    return _ordered(found, axes, sorted(axes))


# --- outer products -------------------------------------------------------------------------------


def outer_products(graph: Graph, levels: dict[Value, int]) -> Graph:
    """A product that sums nothing is element-wise work on broadcasts, and so is its transpose."""

    def is_outer(equation: Equation) -> bool:
        return (
            equation.name == "dot_general"
            and not is_contraction(equation)
            and len({v.aval.dtype for v in (*equation.inputs, *equation.outputs)}) == 1
            and not any(_is_constant(levels, v) for v in equation.inputs)
        )

    outer = {e.outputs[0]: e for e in graph.equations if is_outer(e)}
    if not outer:
        return graph

    def spread(equation: Equation) -> Replacement | None:
        product, order = equation, list(range(equation.outputs[0].aval.ndim))
        if equation.name == "transpose" and equation.inputs[0] in outer:
            product, order = outer[equation.inputs[0]], list(equation.params["permutation"])
        if product.outputs[0] not in outer:
            return None
        _, result, axes = _labels(product)
        order, shape = [result[n] for n in order], equation.outputs[0].aval.shape

        def multiply(*arrays: jax.Array) -> list[jax.Array]:
            one, two = (
                jax.lax.broadcast_in_dim(
                    _ordered(a, some, sorted(some, key=order.index)),
                    shape,
                    sorted(map(order.index, some)),
                )
                for a, some in zip(arrays, axes, strict=True)
            )
            return [one * two]

        return build(multiply, product.inputs, product.source)

    return dce(rewrite(graph, spread))


def _labels(equation: Equation) -> tuple[list[int], list[int], tuple[list[int], list[int]]]:
    """Axes by name: the summed axes, the axes of the result, and the axes of both operands.

    The axes of the left operand are numbered first, then the other axes of the right operand.
    """
    (left, right), (first, second) = equation.params["dimension_numbers"]
    a, b = (v.aval.ndim for v in equation.inputs)
    axes = list(range(a)), list(range(a, a + b))
    for one, two in (*zip(left, right, strict=True), *zip(first, second, strict=True)):
        axes[1][two] = one
    result = [*first, *(n for n in axes[0] if n not in (*left, *first))]
    return [*left], [*result, *(n for n in axes[1] if n >= a)], axes


# --- heads, rows, depth ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Operand:
    """An operand of a product, and the names of its axes with more than one element.

    Attributes:
        atom: the value.
        axes: its axes.
        is_weight: whether it depends on parameters only, so that it may be transposed.
    """

    atom: Atom
    axes: tuple[int, ...]
    is_weight: bool

    def free(self, *others: Sequence[int]) -> list[int]:
        return [axis for axis in self.axes if not any(axis in some for some in others)]

    def groups(self, batch: list[int], depth: list[int]) -> list[list[int]] | None:
        """Its axes by purpose, in the order of the normal form; ``None`` if that moves numbers."""
        free = self.free(batch, depth)
        for form in ([batch, free, depth], [batch, depth, free]):
            if [axis for group in form for axis in group] == [*self.axes]:
                return form
        return [batch, free, depth] if self.is_weight else None


def normal_products(graph: Graph, levels: dict[Value, int], *, once: bool = False) -> Graph:
    """Products with several heads, or several axes for one purpose, get their normal form."""
    maker = producers(graph.equations)
    matrices = set() if once else made_into_matrices(graph.equations, levels)

    def normalize(equation: Equation) -> Replacement | None:
        if not is_contraction(equation) or not _is_deep(equation):
            return None
        summed, result, axes = _labels(equation)
        shapes = zip(axes, equation.inputs, strict=True)
        sizes = {n: size for some, v in shapes for n, size in zip(some, v.aval.shape, strict=True)}
        pair = [
            _operand(v, some, sizes, _is_constant(levels, v), maker)
            for v, some in zip(equation.inputs, axes, strict=True)
        ]
        shared = [n for n in pair[0].axes if n in pair[1].axes]
        rows = [math.prod(sizes[n] for n in operand.free(shared)) for operand in pair]
        if pair[0].is_weight or (not pair[1].is_weight and rows[1] < rows[0]):
            pair.reverse()
        batch = [n for n in pair[0].axes if n in shared and n not in summed]
        depth = [n for n in pair[0].axes if n in summed]
        groups = [operand.groups(batch, depth) for operand in pair]
        if pair[0].is_weight or not depth or groups[0] is None or groups[1] is None:
            return None
        is_early = pair[1].is_weight and level_of(levels, pair[0].atom) < STATE
        if is_early and equation.outputs[0] not in matrices:
            return None  # it leaves the loop in any form
        function = _Product(equation, pair, [g for g in groups if g], depth, result, sizes)
        return None if function.is_normal else build(function, function.atoms, equation.source)

    return dce(rewrite(graph, normalize))


def _is_deep(equation: Equation) -> bool:
    return any(v.aval.ndim > 2 for v in equation.inputs)


def _operand(
    atom: Atom, axes: Sequence[int], sizes: dict[int, int], is_weight: bool, maker: dict[Any, Any]
) -> _Operand:
    """An operand; of one that is no weight, without its transpose."""
    turn = None if is_literal(atom) or is_weight else maker.get(atom)
    if turn is not None and turn.name == "transpose":
        permutation = turn.params["permutation"]
        atom, axes = turn.inputs[0], [axes[permutation.index(n)] for n in range(len(axes))]
    return _Operand(atom, tuple(n for n in axes if sizes[n] > 1), is_weight)


@dataclass(frozen=True)
class _Product:
    """A product in its normal form, as a function of its operands.

    Attributes:
        equation: the product as it is.
        pair: its operands, the vector first.
        groups: the axes of each by purpose.
        depth: the axes that are summed over.
        result: the axes of the result.
        sizes: the size of each axis.
    """

    equation: Equation
    pair: list[_Operand]
    groups: list[list[list[int]]]
    depth: list[int]
    result: list[int]
    sizes: dict[int, int]

    @property
    def atoms(self) -> list[Atom]:
        return [operand.atom for operand in self.pair]

    @property
    def is_normal(self) -> bool:
        same = all(a is b for a, b in zip(self.atoms, self.equation.inputs, strict=True))
        whole = all(len(o.axes) == o.atom.aval.ndim for o in self.pair)
        single = all(len(group) <= 1 for some in self.groups for group in some)
        kept = all(
            [n for group in some for n in group] == [*o.axes]
            for o, some in zip(self.pair, self.groups, strict=True)
        )
        return same and whole and single and kept

    def __call__(self, *arrays: jax.Array) -> list[jax.Array]:
        batch, one, two = self.groups[0][0], *(self._rows(some) for some in self.groups)
        kept = [[g for g in some if g] for some in self.groups]
        heads = [0] if batch else []
        params = self.equation.params
        vector, matrix = map(self._merged, arrays, self.pair, kept)
        found = jax.lax.dot_general(
            vector,
            matrix,
            (([kept[0].index(self.depth)], [kept[1].index(self.depth)]), (heads, heads)),
            precision=params["precision"],
            preferred_element_type=params["preferred_element_type"],
        )
        axes = [*batch, *one, *two]
        found = found.reshape([self.sizes[n] for n in axes])
        found = _ordered(found, axes, [n for n in self.result if self.sizes[n] > 1])
        return [found.reshape(self.equation.outputs[0].aval.shape)]

    def _rows(self, groups: list[list[int]]) -> list[int]:
        return next((g for g in groups[1:] if g != self.depth), [])

    def _merged(self, a: jax.Array, operand: _Operand, groups: list[list[int]]) -> jax.Array:
        """An operand with one axis for each purpose."""
        a = a.reshape([self.sizes[n] for n in operand.axes])
        a = _ordered(a, operand.axes, [n for group in groups for n in group])
        return a.reshape([math.prod(self.sizes[n] for n in group) for group in groups])
