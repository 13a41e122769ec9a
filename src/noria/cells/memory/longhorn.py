"""Longhorn."""

import jax
from jax.nn import sigmoid

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell


class LonghornCell(VectorCell):
    """Longhorn: the closed form of one step of online regression, for each feature of the state.

    ::

        u  = W_u x,  k = W_k u,  q = W_q u
        beta  = sigmoid(W_up W_down u + b)
        delta = beta / (1 + beta (k . k))
        S'_ij = (1 - delta_i k_j^2) S_ij + delta_i u_i k_j
        y  = S' q + D * u                                    the output

    Rows of ``S`` are values here, as in the paper. ``D`` starts at 1.

    Args:
        key_size: features of a key.
        rank: rows of ``W_down``.

    Source: Liu et al. 2024, arXiv 2407.14207. The paper's block computes ``u`` by a convolution and
    SiLU, and gates the output; they are no part of the cell.
    """

    key_size: int = size(default=16)
    rank: int = size(default=1)
    W_u: jax.Array = matrix("hidden", "in")
    W_k: jax.Array = matrix("key", "hidden")
    W_q: jax.Array = matrix("key", "hidden")
    W_down: jax.Array = matrix("rank", "hidden")
    W_up: jax.Array = matrix("hidden", "rank")
    b: jax.Array = vector("hidden")
    D: jax.Array = vector("hidden", 1)
    S: jax.Array = state("hidden", "key")

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        u = self.W_u @ x
        k = self.W_k @ u
        beta = sigmoid(self.W_up @ (self.W_down @ u) + self.b)
        delta = beta / (1 + beta * (k * k).sum())
        return (1 - delta[:, None] * (k * k)) * S + (delta * u)[:, None] * k

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query, and the skip."""
        u = self.W_u @ x
        return S @ (self.W_q @ u) + self.D * u
