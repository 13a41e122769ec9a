"""Linear attention with quadratic features: Based and ReBased."""

from typing import Any

import jax
import jax.numpy as jnp

from noria.cells.declare import state, vector
from noria.cells.heads import MemoryCell, dot, outer, read
from noria.cells.parts import normalized


class _KernelCell(MemoryCell):
    """Linear attention with features that differ for queries and keys."""

    def _keys(self, x: jax.Array) -> jax.Array:
        """The features of the keys."""
        raise NotImplementedError

    def _queries(self, x: jax.Array) -> jax.Array:
        """The features of the queries."""
        raise NotImplementedError

    def __call__(self, state: Any, x: jax.Array) -> Any:
        S, z = state
        k = self._keys(x)
        return self.State(S + outer(k, self.value(x)), z + k)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        S, z = state
        q = self._queries(x)
        return (read(S, q) / (dot(z, q) + 1e-12)[:, None]).reshape(-1)


def _squares(a: jax.Array) -> jax.Array:
    """All products of two features of a head."""
    return outer(a, a).reshape(len(a), -1)


class BasedCell(_KernelCell):
    """The linear attention of Based, whose kernel is the Taylor polynomial of the exponential.

    ::

        q  = phi(W_q x),  k = phi(W_k x),  v = W_v x          for each head
        S' = S + k v^T
        z' = z + k
        y  = S'^T q / (z' . q + 1e-12)                        the output

        phi(a) = [1, s a, s^2 a_i a_j / sqrt(2)]              for all i and j; s = key^(-1/4)

    Products of features are ``1 + u + u^2 / 2`` with ``u = a . b / sqrt(key)``.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: numbers in a key, which has ``key^2 + key + 1`` features.

    Source: Arora et al. 2024, arXiv 2402.18668, with the 1e-12 of the authors' code. The model has
    layers with a sliding window beside it. flash-linear-attention stores each pair of i and j once.
    """

    S: jax.Array = state("heads", "key * key + key + 1", "hidden // heads")
    z: jax.Array = state("heads", "key * key + key + 1")

    def _keys(self, x: jax.Array) -> jax.Array:
        return self._phi(self.key_of(x))

    def _queries(self, x: jax.Array) -> jax.Array:
        return self._phi(self.query(x))

    def _phi(self, a: jax.Array) -> jax.Array:
        a = a / self.key_size**0.25
        return jnp.concatenate([jnp.ones_like(a[:, :1]), a, _squares(a) / 2**0.5], axis=-1)


class ReBasedCell(_KernelCell):
    """The linear attention of ReBased, whose kernel is a square with a learned minimum.

    ::

        q  = phi(gamma_q * norm(W_q x) + beta_q)              for each head
        k  = phi(gamma_k * norm(W_k x) + beta_k),  v = W_v x
        S' = S + k v^T
        z' = z + k
        y  = S'^T q / (z' . q + 1e-12)                        the output

        phi(a) = a_i a_j / sqrt(key)                          for all i and j

    Products of features are ``(a . b)^2 / key``. ``norm`` has mean 0 and variance 1 over the
    features of all heads.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: numbers in a key, which has ``key^2`` features.

    Source: Aksenov et al. 2024, arXiv 2402.10644, with the norm and the 1e-12 of the authors' code.
    flash-linear-attention has a norm for each head, with one gamma and one beta for all heads, for
    queries and for keys.
    """

    gamma_q: jax.Array = vector("heads * key", 1)
    beta_q: jax.Array = vector("heads * key")
    gamma_k: jax.Array = vector("heads * key", 1)
    beta_k: jax.Array = vector("heads * key")
    S: jax.Array = state("heads", "key * key", "hidden // heads")
    z: jax.Array = state("heads", "key * key")

    def _keys(self, x: jax.Array) -> jax.Array:
        return self._phi(self.gamma_k * normalized(self.W_k @ x, 1e-5) + self.beta_k)

    def _queries(self, x: jax.Array) -> jax.Array:
        return self._phi(self.gamma_q * normalized(self.W_q @ x, 1e-5) + self.beta_q)

    def _phi(self, a: jax.Array) -> jax.Array:
        return _squares(self.split(a)) / self.key_size**0.5
