"""The two kinds of arithmetic in which `noria.ops.linear_recurrence` runs.

======== ========= ========= ======= ====== ==============================
semiring ``⊗``     ``⊕``     zero    one    for example
======== ========= ========= ======= ====== ==============================
affine   product   sum       0       1      ``h' = a * h + b``
max-plus sum       maximum   -inf    0      ``m' = max(m + f, i)``
======== ========= ========= ======= ====== ==============================

A scale of zero resets the state, even a state that is infinite or NaN.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Row = tuple[jax.Array, ...]


@dataclass(frozen=True, eq=False)
class Semiring:
    """An addition ``⊕`` and a multiplication ``⊗`` of arrays.

    Attributes:
        zero: the neutral element of ``⊕``, a scale that resets the state.
        one: the neutral element of ``⊗``.
        plus: the addition.
        times: the multiplication of a scale and a state.
        slopes: from scales, shift and state of ``h' = a_1 ⊗ h_1 ⊕ a_2 ⊗ h_2 ... ⊕ b`` to the
            derivatives of ``h'``: by each ``h``, by each ``a``, and by ``b`` (``None`` is one).
        primitives: multiplication and addition, as a graph shows them.
    """

    zero: float
    one: float
    plus: Callable[[Any, Any], Any]
    times: Callable[[Any, Any], Any]
    slopes: Callable[[Row, Any, Row], tuple[Row, Row, Any]]
    primitives: tuple[Any, Any]

    def dot(self, row: Sequence[Any], state: Sequence[Any]) -> Any:
        """``row_1 ⊗ state_1 ⊕ row_2 ⊗ state_2 ...``."""
        return functools.reduce(self.plus, map(self.times, row, state))


def times(scale: jax.Array, state: jax.Array) -> jax.Array:
    """The product; a scale of exactly zero gives zero, even for a state that is infinite or NaN."""
    return jnp.where(scale == 0, jnp.zeros_like(state), scale * state)


def _affine_slopes(a: Row, b: jax.Array, before: Row) -> tuple[Row, Row, None]:
    return a, before, None


def _moved(scale: jax.Array, state: jax.Array) -> jax.Array:
    """The sum; a scale of minus infinity gives that, even for a state that is infinite or NaN."""
    return jnp.where(scale == -jnp.inf, -jnp.inf, state + scale)


def _max_plus_slopes(a: Row, b: jax.Array, before: Row) -> tuple[Row, Row, jax.Array]:
    """One for the largest term and zero for the others; JAX divides it among equal ones."""

    def largest(*terms: jax.Array) -> jax.Array:
        return functools.reduce(jnp.maximum, terms)

    _, pull = jax.vjp(largest, *map(_moved, a, before), b)
    *terms, shift = pull(jnp.ones_like(b))
    by = tuple(
        jnp.where(scale == -jnp.inf, 0, term).astype(b.dtype)
        for scale, term in zip(a, terms, strict=True)
    )
    return by, by, shift


AFFINE = Semiring(0, 1, operator.add, times, _affine_slopes, (jax.lax.mul_p, jax.lax.add_p))
MAX_PLUS = Semiring(
    -jnp.inf, 0, jnp.maximum, _moved, _max_plus_slopes, (jax.lax.add_p, jax.lax.max_p)
)
