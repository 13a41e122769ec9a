"""Simple gated linear attention."""

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.heads import MemoryCell, outer, read


class SimpleGLACell(MemoryCell):
    """Gated retention, or simple gated linear attention: one decay for each head, from x.

    ::

        q  = W_q x,  k = W_k x,  v = W_v x                   for each head
        a  = sigmoid(w_a . x + b_a)^(1 / tau)
        S' = a S + k v^T
        y  = S'^T q                                          the output

    ``w_a`` is a row of ``W_a``.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        tau: how slow the decay is.

    Source: Sun et al. 2024, arXiv 2405.05254, as gated retention, without its rotation; the bias
    is that of flash-linear-attention, which also divides the output by ``sqrt(key)``.
    """

    tau: float = 16.0
    W_a: jax.Array = matrix("heads", "in")
    b_a: jax.Array = vector("heads")
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        a = jnp.exp(log_sigmoid(self.W_a @ x + self.b_a) / self.tau)
        return a[:, None, None] * S + outer(self.key_of(x), self.value(x))

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, self.query(x)).reshape(-1)
