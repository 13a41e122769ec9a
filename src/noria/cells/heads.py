"""Parts of cells whose memory is a matrix for each head: projections, feature maps, decays.

A memory ``S`` has the shape (heads, key, value): its rows are keys. It is the sum of ``k v^T``,
and ``read(S, q)`` is ``S^T q`` for each head.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import elu, relu, silu, softplus

from noria._types import Key
from noria.cells.declare import matrix, size
from noria.cells.declared import VectorCell
from noria.initializers import log_uniform


class HeadsCell(VectorCell):
    """A cell whose features are split into heads."""

    heads: int = size(default=1)

    def __check_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise ValueError(
                f"{type(self).__name__}(hidden_size={self.hidden_size}, heads={self.heads}): "
                "expected heads to divide hidden_size."
            )

    def split(self, a: jax.Array) -> jax.Array:
        """A vector as a row for each head."""
        return a.reshape(self.heads, -1)


class MemoryCell(HeadsCell):
    """A cell with a query, a key and a value for each head, which are linear in x."""

    key_size: int = size(default=16)
    W_q: jax.Array = matrix("heads * key", "in")
    W_k: jax.Array = matrix("heads * key", "in")
    W_v: jax.Array = matrix("hidden", "in")

    def query(self, x: jax.Array) -> jax.Array:
        """``W_q x`` by heads."""
        return self.split(self.W_q @ x)

    def key_of(self, x: jax.Array) -> jax.Array:
        """``W_k x`` by heads."""
        return self.split(self.W_k @ x)

    def value(self, x: jax.Array) -> jax.Array:
        """``W_v x`` by heads."""
        return self.split(self.W_v @ x)


def outer(k: jax.Array, v: jax.Array) -> jax.Array:
    """``k v^T`` for each head."""
    return k[:, :, None] * v[:, None, :]


def read(S: jax.Array, q: jax.Array) -> jax.Array:
    """``S^T q`` for each head."""
    return jnp.einsum("hk,hkv->hv", q, S)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a . b`` for each head."""
    return (a * b).sum(-1)


def unit(a: jax.Array) -> jax.Array:
    """``a / sqrt(a . a + 1e-6)`` for each head."""
    return a * jax.lax.rsqrt((a * a).sum(-1, keepdims=True) + 1e-6)


def unit_silu(a: jax.Array) -> jax.Array:
    """``unit(silu(a))``, the feature map of delta rules."""
    return unit(silu(a))


def positive(a: jax.Array) -> jax.Array:
    """``elu(a) + 1``, the feature map of linear attention."""
    return elu(a) + 1


def dpfp(a: jax.Array, nu: int) -> jax.Array:
    """The deterministic parameter-free projection: products of ``r = relu([a, -a])``.

    The features are ``nu`` blocks: ``r_i r_(i + j)`` for j from 1, indices modulo the size of r.
    """
    r = relu(jnp.concatenate([a, -a], axis=-1))
    rolled = [jnp.concatenate([r[:, j:], r[:, :j]], axis=-1) for j in range(1, nu + 1)]
    return jnp.concatenate([r * other for other in rolled], axis=-1)


def decay(a: jax.Array, A_log: jax.Array) -> jax.Array:
    """``exp(-exp(A_log) * softplus(a))``, the decay of selective state spaces."""
    return jnp.exp(-jnp.exp(A_log) * softplus(a))


def rates(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Logarithms of U(1, 16)."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1, 16))


def step_bias(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Biases whose softplus is a step size, log-uniform from 0.001 to 0.1."""
    d = log_uniform(0.001, 0.1)(key, shape, dtype)
    return d + jnp.log(-jnp.expm1(-d))
