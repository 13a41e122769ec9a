"""Scaled Cayley orthogonal RNN."""

from typing import Any

import jax
import jax.numpy as jnp

from noria._types import Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.matrices import modrelu, rotations, skew
from noria.cells.parts import wide
from noria.initializers import uniform


def _cayley(A: jax.Array) -> jax.Array:
    """``(I + A)^-1 (I - A)``, computed in at least 32 bits."""
    skew = wide(A)
    one = jnp.eye(A.shape[0], dtype=skew.dtype)
    return jnp.linalg.solve(one + skew, one - skew).astype(A.dtype)


def _half_negative(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``-1`` for the first half of the entries, and 1 for the others."""
    return jnp.where(jnp.arange(shape[0]) < shape[0] // 2, -1, 1).astype(dtype)


class ScoRNNCell(VectorCell):
    """A recurrent matrix by the scaled Cayley transform: any orthogonal matrix for some ``D``.

    ::

        A  = skew-symmetric, with the entries a above the diagonal
        W  = (I + A)^-1 (I - A) diag(D)
        h' = modrelu(V x + W h, b)
        modrelu(z, b) = sign(z) * relu(|z| + b)

    ``D`` has the entries 1 and -1 and is not trained. Half of them are -1. The paper tunes the
    share; ``init={"D": 1.0}``, for example, makes all of them 1.

    Source: Helfrich, Willmott and Ye 2018, arXiv 1707.09520.
    """

    V: jax.Array = matrix("hidden", "in")
    a: jax.Array = vector("hidden * (hidden - 1) // 2", rotations)
    D: jax.Array = vector("hidden", _half_negative, trained=False)
    b: jax.Array = vector("hidden", uniform(0.01))
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        W = _cayley(skew(self.a, self.hidden_size)) * self.D
        return modrelu(self.V @ x + W @ h, self.b)
