"""Hierarchically gated recurrent network 2."""

import jax
from jax.nn import sigmoid, silu

from noria.cells.declare import matrix, size, state
from noria.cells.heads import HeadsCell, outer, read


class HGRN2Cell(HeadsCell):
    """The second hierarchically gated recurrent network: the key is what the forget gate lets in.

    ::

        q  = silu(W_q x),  v = W_v x                         for each head
        f  = lower_bound + (1 - lower_bound) * sigmoid(W_f x)
        S' = diag(f) S + (1 - f) v^T
        y  = S'^T q                                          the output

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a gate, which is a key; the paper's ratio of expansion.
        lower_bound: smallest forget gate, from 0 to below 1; the paper learns one for each layer.

    Source: Qin et al. 2024, arXiv 2404.07904. The norm of the output is no part of the cell.
    """

    key_size: int = size(default=16)
    lower_bound: float = 0.0
    W_q: jax.Array = matrix("heads * key", "in")
    W_f: jax.Array = matrix("heads * key", "in")
    W_v: jax.Array = matrix("hidden", "in")
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __check_init__(self) -> None:
        if not 0 <= self.lower_bound < 1:
            raise ValueError(
                f"HGRN2Cell(lower_bound={self.lower_bound}): expected a number from 0 to below 1."
            )

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        f = self.lower_bound + (1 - self.lower_bound) * sigmoid(self.split(self.W_f @ x))
        return f[:, :, None] * S + outer(1 - f, self.split(self.W_v @ x))

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, silu(self.split(self.W_q @ x))).reshape(-1)
