"""Additive linear attention of LightNet."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import silu

from noria.cells.declare import state
from noria.cells.heads import MemoryCell, outer, read


class LightNetCell(MemoryCell):
    """The additive recurrence of LightNet: each row is a mean of all values, weighted by the keys.

    ::

        q  = silu(W_q x),  k = W_k x,  v = W_v x             for each head
        z' = log(exp(z) + exp(k))
        S' = diag(exp(z - z')) S + exp(k - z') v^T
        y  = S'^T q                                          the output

    The paper's sum of ``exp(k)`` is ``exp(z)``. ``z`` starts at -1e30, and nothing overflows.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.

    Source: Qin et al. 2024, arXiv 2405.21022. The encoding of positions, the norm and the output
    gate are no part of the cell. flash-linear-attention divides the output by ``sqrt(key)``.
    """

    S: jax.Array = state("heads", "key", "hidden // heads")
    z: jax.Array = state("heads", "key", initializer=-1e30)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        S, z_before = state
        k = self.key_of(x)
        z = jnp.maximum(z_before, k) + jnp.log1p(jnp.exp(-jnp.abs(z_before - k)))
        kept = jnp.exp(z_before - z)[:, :, None] * S
        return self.State(kept + outer(jnp.exp(k - z), self.value(x)), z)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(state.S, silu(self.query(x))).reshape(-1)
