"""Retention."""

import jax
import jax.numpy as jnp
import numpy as np

from noria.cells.declare import state
from noria.cells.heads import MemoryCell, outer, read


class RetNetCell(MemoryCell):
    """Retention: a memory that decays at a rate fixed for each head, with rotated keys.

    ::

        q  = W_q x,  k = W_k x,  v = W_v x                   for each head
        S' = gamma R S + k v^T
        y  = S'^T q / sqrt(key)                              the output

    ``gamma`` is ``1 - 2^(-5 - h)`` for head h = 0, 1, ... ``R`` turns the pair of rows j and
    ``j + key / 2`` by ``-theta_j``, with ``theta_j = 10000^(-2 j / key)`` for j = 0, 1, ... This is
    the paper's rotation of queries and keys by their positions, without a counter of steps.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key; even, if they are rotated.
        rotary: whether there is a rotation; without it ``R`` is the identity.

    Source: Sun et al. 2023, arXiv 2307.08621. The norm of each head and the output gate are no part
    of the cell. torchscale and flash-linear-attention rotate by positions.
    """

    rotary: bool = True
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __check_init__(self) -> None:
        if self.rotary and self.key_size % 2:
            raise ValueError(
                f"RetNetCell(key_size={self.key_size}): expected an even size, or rotary=False."
            )

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        gamma = jnp.asarray(1 - 2.0 ** (-5 - np.arange(self.heads)), self.dtype)
        return gamma[:, None, None] * self._turned(S) + outer(self.key_of(x), self.value(x))

    def _turned(self, S: jax.Array) -> jax.Array:
        if not self.rotary:
            return S
        half = self.key_size // 2
        theta = 10000.0 ** (-np.arange(half) / half)[:, None]
        cos, sin = jnp.asarray(np.cos(theta), self.dtype), jnp.asarray(np.sin(theta), self.dtype)
        a, b = S[:, :half], S[:, half:]
        return jnp.concatenate([cos * a + sin * b, cos * b - sin * a], axis=1)

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return (read(S, self.query(x)) * self.key_size**-0.5).reshape(-1)
