"""Products of matrices with weights become products of vectors with weights.

There is a microkernel for the product of a vector with a weight. Heads and rows are pieces::

    out[k] = r[k] U[k]     heads: a product with each part of a weight
    out[k] = M[k] W        a product of each row

The code grows with the number of pieces, so `Tuning.pieces` limits it. All rows of a matrix read
the same weight, so `Tuning.row_pieces` is less. A product with more pieces, or without a weight, is
a loop over rows (`matrices`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from noria.backends.native.lower.supported import kind_of
from noria.backends.native.machine import tuning
from noria.ir.graph import Equation


class Refused(Exception):
    """A product cannot be written in pieces, or would have too many."""


def in_pieces(equation: Equation, weights: Sequence[bool]) -> Callable[..., list[Any]]:
    """A JAX function with the results of a product, in products of vectors with weights.

    Args:
        equation: an equation without native code.
        weights: for each operand, whether it is the same for all steps and examples.

    Raises:
        Refused: here, or when the function is traced.
    """
    if equation.name != "dot_general" or not any(weights):
        raise Refused
    (left, right), (first, second) = equation.params["dimension_numbers"]
    dtypes = {v.aval.dtype for v in (*equation.inputs, *equation.outputs)}
    is_float = kind_of(equation.inputs[0].aval.dtype) == "f"
    if len(left) != 1 or first != second or first not in ((), (0,)) or len(dtypes) > 1:
        raise Refused
    if not is_float:
        raise Refused
    pieces, along = _Pieces(), (left[0] - len(first), right[0] - len(first))

    def product(a: jax.Array, b: jax.Array) -> list[jax.Array]:
        if not first:
            return [pieces.product((a, b), along, weights)]
        pairs = zip(pieces.rows(a), pieces.rows(b), strict=True)
        return [_stacked([pieces.product(pair, along, weights) for pair in pairs])]

    return product


class _Pieces:
    """Counts the pieces of one equation."""

    def __init__(self) -> None:
        self._count, self._most = 0, tuning().pieces

    def rows(self, a: jax.Array) -> list[jax.Array]:
        """The parts of an array along its first axis."""
        self._count += len(a)
        if self._count > self._most:
            raise Refused
        flat, length = a.reshape(-1), a[0].size
        cuts = (jax.lax.slice(flat, (k * length,), ((k + 1) * length,)) for k in range(len(a)))
        return [cut.reshape(a.shape[1:]) for cut in cuts]

    def product(
        self, pair: Sequence[jax.Array], along: Sequence[int], weights: Sequence[bool]
    ) -> jax.Array:
        """The product of a vector, or of each row of a matrix, with a matrix that is a weight."""
        (a, b), turned = pair, (along[1], along[0])
        if not weights[1] or b.ndim < 2:
            if not weights[0] or a.ndim < 2:
                raise Refused
            found = self.product((b, a), turned, weights[::-1])
            return found.T if found.ndim > 1 else found
        if a.ndim > 2 or b.ndim > 2:
            raise Refused
        if a.ndim == 1:
            return jax.lax.dot_general(a, b, (((0,), (along[1],)), ((), ())))
        if along[0] != 1 or len(a) > tuning().row_pieces:
            raise Refused
        return _stacked([self.product((row, b), (0, along[1]), weights) for row in self.rows(a)])


def _stacked(arrays: Sequence[jax.Array]) -> jax.Array:
    """`jnp.stack`, in terms of primitives with native code."""
    return jnp.concatenate([a.reshape(-1) for a in arrays]).reshape(len(arrays), *arrays[0].shape)
