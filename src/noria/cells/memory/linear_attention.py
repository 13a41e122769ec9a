"""Linear attention."""

from collections.abc import Callable
from typing import Any

import jax

from noria.cells.declare import state
from noria.cells.heads import MemoryCell, dot, outer, positive, read


class LinearAttentionCell(MemoryCell):
    """Linear attention: a memory of all keys and values, and the sum of the keys.

    ::

        q  = phi(W_q x),  k = phi(W_k x),  v = W_v x         for each head
        S' = S + k v^T
        z' = z + k
        y  = S'^T q / (z' . q)                               the output

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        feature_map: the function phi, with positive values; by default ``elu(a) + 1``.

    Source: Katharopoulos et al. 2020, arXiv 2006.16236, eqs. 16 to 20. The authors' code adds 1e-6
    to ``z' . q``, flash-linear-attention leaves ``z`` out by default.
    """

    feature_map: Callable[[jax.Array], jax.Array] = positive
    S: jax.Array = state("heads", "key", "hidden // heads")
    z: jax.Array = state("heads", "key")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        S, z = state
        k, v = self.feature_map(self.key_of(x)), self.value(x)
        return self.State(S + outer(k, v), z + k)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        S, z = state
        q = self.feature_map(self.query(x))
        return (read(S, q) / dot(z, q)[:, None]).reshape(-1)
