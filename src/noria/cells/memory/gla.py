"""Gated linear attention."""

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid

from noria.cells.declare import matrix, size, state, vector
from noria.cells.heads import MemoryCell, outer, read


class GLACell(MemoryCell):
    """Gated linear attention: a memory whose rows decay at rates that depend on x.

    ::

        q  = W_q x,  k = W_k x,  v = W_v x                   for each head
        a  = sigmoid(W_up W_down x + b_a)^(1 / tau)
        S' = diag(a) S + k v^T
        y  = S'^T q                                          the output

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        rank: rows of ``W_down``.
        tau: how slow the decay is.

    Source: Yang et al. 2023, arXiv 2312.06635. The norm of each head and the output gate are no
    part of the cell. flash-linear-attention divides the output by ``sqrt(key)``.
    """

    rank: int = size(default=16)
    tau: float = 16.0
    W_down: jax.Array = matrix("rank", "in")
    W_up: jax.Array = matrix("heads * key", "rank")
    b_a: jax.Array = vector("heads * key")
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        log_a = log_sigmoid(self.W_up @ (self.W_down @ x) + self.b_a) / self.tau
        a = self.split(jnp.exp(log_a))
        return a[:, :, None] * S + outer(self.key_of(x), self.value(x))

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, self.query(x)).reshape(-1)
