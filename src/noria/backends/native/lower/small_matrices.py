"""Equations on small matrices become equations on their rows.

There is native code for vectors, and for the product of a vector with a weight::

    out[k] = r[k] U[k]           heads: a product with each part of a weight
    out[k] = M[k] W              a product of each row
    (M q)[k] = M[k] · q          a product with a matrix of the state: a sum over each row,
    v M = v₁ M[1] + v₂ M[2] …    or a sum of rows
    (v kᵀ)[k] = v[k] k           moves: runs of elements that are neighbours

The code grows with the number of pieces, so `Tuning.pieces` limits it; XLA runs larger matrices.
"""

from bisect import bisect
from collections.abc import Callable, Container, Iterator, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria.backends.native.lower.supported import kind_of
from noria.backends.native.machine import tuning
from noria.ir.graph import Equation
from noria.ir.primitives import COMBINE, ELEMENTWISE, IN_PIECES


class Refused(Exception):
    """An equation cannot be written on rows, or would have too many pieces."""


def in_pieces(equation: Equation, weights: Sequence[bool]) -> Callable[..., list[Any]]:
    """A JAX function with the results of an equation, in equations on rows.

    Args:
        equation: an equation without native code.
        weights: for each operand, whether it is the same for all steps and examples.

    Raises:
        Refused: here, or when the function is traced.
    """
    name, pieces = equation.name, _Pieces()
    if name == "dot_general":
        return lambda a, b: [pieces.product(equation, a, b, *weights)]
    if name in IN_PIECES:
        return lambda *arrays: pieces.moved(equation, arrays)
    if name in COMBINE and equation.inputs[0].aval.ndim > 1:
        return lambda a: [pieces.reduced(equation, a)]
    shape = equation.outputs[0].aval.shape
    if name in ELEMENTWISE and any(v.aval.shape not in ((), shape) for v in equation.inputs):
        return lambda *arrays: equation.bind(
            *(jnp.broadcast_to(a, shape) if a.ndim else a for a in arrays)
        )
    raise Refused


class _Pieces:
    """Counts the pieces of one equation."""

    def __init__(self) -> None:
        self._count, self._most = 0, tuning().pieces

    def _cut(self, flat: jax.Array, start: int, length: int) -> jax.Array:
        self._count += 1
        if self._count > self._most:
            raise Refused
        return jax.lax.slice(flat, (start,), (start + length,))

    def _rows(self, a: jax.Array) -> list[jax.Array]:
        flat, length = a.reshape(-1), a[0].size
        return [self._cut(flat, k * length, length).reshape(a.shape[1:]) for k in range(len(a))]

    def product(self, equation: Equation, a: jax.Array, b: jax.Array, *weights: bool) -> jax.Array:
        (left, right), (first, second) = equation.params["dimension_numbers"]
        dtypes = {v.aval.dtype for v in (*equation.inputs, *equation.outputs)}
        if not left and not first:
            shape = equation.outputs[0].aval.shape
            return jnp.broadcast_to(a.reshape(*a.shape, *[1] * b.ndim), shape) * jnp.broadcast_to(
                b, shape
            )
        if (
            len(left) != 1
            or first != second
            or first not in ((), (0,))
            or len(dtypes) > 1
            or kind_of(a.dtype) != "f"
        ):
            raise Refused
        along = left[0] - len(first), right[0] - len(first)
        if (a.ndim, b.ndim, along[1]) == (len(first) + 1, len(first) + 2, 0) and not any(weights):
            return (jnp.broadcast_to(a[..., None], b.shape) * b).sum(-2)
        if not first:
            return self._product((a, b), along, weights)
        pairs = zip(self._rows(a), self._rows(b), strict=True)
        return stacked([self._product(pair, along, weights) for pair in pairs])

    def _product(
        self, pair: Sequence[Any], along: Sequence[int], weights: Sequence[bool]
    ) -> jax.Array:
        (a, b), ranks = pair, tuple(one.ndim for one in pair)
        if ranks == (1, 1):
            return (a * b).sum()
        if ranks == (2, 1):
            return self._product((b, a), along[::-1], weights[::-1])
        if ranks == (1, 2):
            if weights[1]:
                return jax.lax.dot_general(a, b, ((along[:1], along[1:]), ((), ())))
            if along[1] == 1:
                return stacked([(a * row).sum() for row in self._rows(b)])
            return self._weighed([self._cut(a, k, 1) for k in range(len(a))], b)
        if ranks == (2, 2):
            if along[0] == 1 and not (weights[0] and along[1] == 0):
                return stacked(
                    [self._product((row, b), (0, along[1]), weights) for row in self._rows(a)]
                )
            if along == (0, 1):
                return self._product((b, a), (1, 0), weights[::-1]).T
            flat, places = (
                a.reshape(-1),
                np.moveaxis(np.arange(a.size).reshape(a.shape), along[0], 1),
            )
            return stacked(
                [
                    self._weighed([self._cut(flat, p, 1) for p in some], b)
                    for some in places.tolist()
                ]
            )
        raise Refused

    def _weighed(self, numbers: list[jax.Array], b: jax.Array) -> jax.Array:
        """The sum of the rows, each times a number."""
        parts = [
            jnp.broadcast_to(number, row.shape) * row
            for number, row in zip(numbers, self._rows(b), strict=True)
        ]
        return reduce(jax.lax.add, parts)

    def reduced(self, equation: Equation, a: jax.Array) -> jax.Array:
        """One axis after the other."""
        combine = getattr(jax.lax, COMBINE[equation.name])
        for axis in sorted(equation.params["axes"], reverse=True):
            whole = a.reshape(-1, a.shape[axis], int(np.prod(a.shape[axis + 1 :])))
            flat = whole.reshape(-1)
            shape, (count, depth, width) = (*a.shape[:axis], *a.shape[axis + 1 :]), whole.shape
            if width == 1:
                rows = [self._cut(flat, k * depth, depth) for k in range(count)]
                found = [
                    equation.primitive.bind(row, **{**equation.params, "axes": (0,)}).reshape(1)
                    for row in rows
                ]
            else:
                parts = [self._cut(flat, k * width, width) for k in range(count * depth)]
                found = [reduce(combine, parts[k * depth : (k + 1) * depth]) for k in range(count)]
            a = jnp.concatenate(found).reshape(shape)
        return a

    def moved(self, equation: Equation, arrays: Sequence[jax.Array]) -> list[Any]:
        """Runs of elements, and of the same element, found by moving their numbers."""
        starts = np.cumsum([0, *(a.size for a in arrays)]).tolist()
        numbers = [np.arange(n, m, dtype=np.int32) for n, m in pairwise(starts)]
        with jax.ensure_compile_time_eval():
            shaped = [n.reshape(a.shape) for n, a in zip(numbers, arrays, strict=True)]
            sources = [np.asarray(found).reshape(-1).tolist() for found in equation.bind(*shaped)]
        flat, found = [a.reshape(-1) for a in arrays], []
        for source, output in zip(sources, equation.outputs, strict=True):
            pieces = []
            for first, step, count in _runs(source, starts):
                n = bisect(starts, first) - 1
                piece = self._cut(flat[n], first - starts[n], count if step else 1)
                pieces.append(piece if step else jnp.broadcast_to(piece, (count,)))
            found.append(jnp.concatenate(pieces).reshape(output.aval.shape))
        return found


def stacked(arrays: Sequence[jax.Array]) -> jax.Array:
    """`jnp.stack`, in terms of primitives with native code."""
    return jnp.concatenate([a.reshape(-1) for a in arrays]).reshape(len(arrays), *arrays[0].shape)


def _runs(numbers: list[int], starts: Container[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of numbers as (first, step of 0 or 1, count); a run ends before each of ``starts``."""
    at = 0
    while at < len(numbers):
        first, end = numbers[at], at + 1
        step = 0 if numbers[end : end + 1] == [first] else 1
        while (
            end < len(numbers)
            and numbers[end] == numbers[end - 1] + step
            and not (step and numbers[end] in starts)
        ):
            end += 1
        yield first, step, end - at
        at = end
