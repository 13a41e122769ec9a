"""Rotational recurrent network, RotRNN."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import block_product, wide
from noria.cells.starts import normal_by_columns
from noria.initializers import lecun_normal, normal


def _log_decays(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``log(-log gamma)``, uniform between those of 0.999 and 0.9."""
    low, high = (math.log(-math.log(gamma)) for gamma in (0.999, 0.9))
    return jax.random.uniform(key, shape, dtype, low, high)


def _phases(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """U(0, 2 pi)."""
    return jax.random.uniform(key, shape, dtype, 0, 2 * math.pi)


class RotRNNCell(VectorCell):
    """A linear recurrence whose matrices are rotations that decay, RotRNN.

    ::

        gamma = exp(-exp(gamma_log))
        P     = exp(M - M^T)
        xi    = sqrt((1 - gamma^2) / trace(B^T B))
        r'    = gamma R(theta) r + xi P^T B x            for each head
        y     = C [P r' of all heads] + D x              the output

    ``R(theta)`` turns each pair of neighbours in ``r`` by an angle. ``h = P r`` is the state of the
    paper: ``h' = gamma A h + xi B x``, where ``A = P R(theta) P^T`` is a rotation. In the basis of
    ``P`` a step costs no product of a matrix and the state.

    Args:
        state_size: numbers of the state, twice a multiple of ``heads``.
        heads: parts of the state with a ``gamma`` each.

    Source: Biegun, Dolga, Cunningham and Barber 2024, arXiv 2407.07239. The cell of this name in
    memax is another model: products of rotations that depend on x.
    """

    state_size: int = size(default=64)
    heads: int = size(default=4)
    theta: jax.Array = matrix("heads", "state // heads // 2", _phases)
    gamma_log: jax.Array = vector("heads", _log_decays)
    M: jax.Array = array("heads", "state // heads", "state // heads", initializer=normal(1))
    B: jax.Array = array("heads", "state // heads", "in", initializer=normal_by_columns())
    C: jax.Array = matrix("hidden", "state", normal_by_columns())
    D: jax.Array = matrix("hidden", "in", lecun_normal())
    r: jax.Array = state("heads", "state // heads")

    def __check_init__(self) -> None:
        if self.state_size % (2 * self.heads):
            raise ValueError(
                f"RotRNNCell(state_size={self.state_size}, heads={self.heads}): expected "
                "a state_size that 2 * heads divides."
            )

    def __call__(self, r: jax.Array, x: jax.Array) -> jax.Array:
        decay = jnp.exp(self.gamma_log)
        squares = (self.B * self.B).sum((1, 2))
        xi = jnp.sqrt(-jnp.expm1(-2 * decay) / squares)
        into = xi[:, None, None] * jnp.einsum("hji,hjk->hik", self._basis(), self.B)
        gamma, pairs = jnp.exp(-decay)[:, None], r.reshape(self.heads, -1, 2)
        cos, sin = gamma * jnp.cos(self.theta), gamma * jnp.sin(self.theta)
        first = cos * pairs[..., 0] - sin * pairs[..., 1]
        second = sin * pairs[..., 0] + cos * pairs[..., 1]
        return jnp.stack([first, second], -1).reshape(r.shape) + into @ x

    def output(self, r: jax.Array, x: jax.Array) -> jax.Array:
        """A read-out of the state in the paper's basis, and a skip connection."""
        h = block_product(self._basis(), r)
        return self.C @ h + self.D @ x

    def _basis(self) -> jax.Array:
        """The rotations ``P``, computed in at least 32 bits."""
        M = wide(self.M)
        P = jax.scipy.linalg.expm(M - M.swapaxes(1, 2))
        return P.astype(self.M.dtype)
