"""Random feature attention."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.heads import MemoryCell, dot, outer, read, unit
from noria.initializers import normal, ones


class RFACell(MemoryCell):
    """Random feature attention: linear attention that approximates softmax, and may forget.

    ::

        q  = phi(W_q x),  k = phi(W_k x),  v = W_v x          for each head
        g  = sigmoid(w_g . x + b_g)
        S' = g S + (1 - g) k v^T                              S + k v^T with gate=False
        z' = g z + (1 - g) k                                  z + k     with gate=False
        y  = S'^T q / max(z' . q, floor)                      the output

        phi(a) = [sin(W (sigma * a')), cos(W (sigma * a'))] / sqrt(features)
        a'     = a / sqrt(a . a + 1e-6)

    ``w_g`` is a row of ``W_g``. ``W`` has a matrix of normal random numbers for each head, which is
    not trained. With ``sigma = 1``, products of features are near ``exp(-|a' - b'|^2 / 2)``, which
    is ``exp(a' . b')`` times a constant.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: numbers in a key, which has ``2 * features`` features.
        features: rows of ``W``, the paper's D.
        gate: whether the memory forgets.
        floor: the least denominator; products of random features may be near 0 or negative.

    Source: Peng et al. 2021, arXiv 2103.02143, RFA with a Gaussian kernel, and RFA-Gate. The
    authors' code also has a lower bound of the denominator, and draws another ``W`` for each batch.
    """

    features: int = size(default=64)
    gate: bool = True
    floor: float = 0.01
    W: jax.Array = array("heads", "features", "key", initializer=normal(1.0), trained=False)
    sigma: jax.Array = array("heads", "key", initializer=ones)
    W_g: jax.Array | None = matrix("heads", "in", when=lambda cell: cell.gate)
    b_g: jax.Array | None = vector("heads", when=lambda cell: cell.gate)
    S: jax.Array = state("heads", "2 * features", "hidden // heads")
    z: jax.Array = state("heads", "2 * features")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        S, z = state
        k = self._phi(self.key_of(x))
        kv = outer(k, self.value(x))
        if self.W_g is None or self.b_g is None:
            return self.State(S + kv, z + k)
        g = sigmoid(self.W_g @ x + self.b_g)[:, None]
        return self.State(g[:, :, None] * S + (1 - g)[:, :, None] * kv, g * z + (1 - g) * k)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        S, z = state
        q = self._phi(self.query(x))
        return (read(S, q) / jnp.maximum(dot(z, q), self.floor)[:, None]).reshape(-1)

    def _phi(self, a: jax.Array) -> jax.Array:
        angles = jnp.einsum("hij,hj->hi", self.W, self.sigma * unit(a))
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return waves / self.features**0.5
