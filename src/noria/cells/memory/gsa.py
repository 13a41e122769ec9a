"""Gated slot attention."""

from typing import Any

import jax
from jax.nn import sigmoid, silu, softmax

from noria.cells.declare import matrix, size, state
from noria.cells.heads import MemoryCell, outer, read


class GSACell(MemoryCell):
    """Gated slot attention: two memories with a row for each slot, read through a softmax.

    ::

        q  = silu(W_q x),  k = silu(W_k x),  v = silu(W_v x)                  for each head
        alpha = sigmoid(W_a x)^(1 / tau)                                      for each slot
        K' = diag(alpha) K + (1 - alpha) k^T
        V' = diag(alpha) V + (1 - alpha) v^T
        y  = V'^T softmax(K' q)                                               the output

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        slots: rows of a memory, the paper's m.
        tau: how slowly a memory forgets.

    Source: Zhang et al. 2024, arXiv 2409.07146, eq. 6, without norm and output matrix.
    flash-linear-attention divides ``q`` by ``sqrt(key)``.
    """

    slots: int = size(default=64)
    tau: float = 8.0
    W_a: jax.Array = matrix("heads * slots", "in")
    K: jax.Array = state("heads", "slots", "key")
    V: jax.Array = state("heads", "slots", "hidden // heads")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        K, V = state
        alpha = self.split(sigmoid(self.W_a @ x) ** (1 / self.tau))
        k, v = silu(self.key_of(x)), silu(self.value(x))
        keep = alpha[:, :, None]
        return self.State(keep * K + outer(1 - alpha, k), keep * V + outer(1 - alpha, v))

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """What the slots have whose keys are like the query."""
        scores = read(state.K.mT, silu(self.query(x)))
        return read(state.V, softmax(scores, axis=-1)).reshape(-1)
