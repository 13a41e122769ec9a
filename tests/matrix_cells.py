"""Cells with equations on matrices that the published ones of `published` do not have."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from models import random

import noria as nr


class Mixed(nr.Cell):
    """Norms of rows and of columns, a transpose, parts of each row, a product of two matrices."""

    W: jax.Array

    def __call__(self, state: Any, x: jax.Array) -> Any:
        _, S = state
        k, v, q = self.W @ x
        S = jax.nn.softmax(S, -1) + k[:, :, None] * v[:, None, :] / (1 + abs(S).max(1))[:, None]
        S = S + 0.1 * jnp.swapaxes(S, 1, 2) + 0.1 * S.sum(0)
        S = jnp.concatenate([S[:, :, 1:], S[:, :, :1]], 2)
        S = jnp.tanh(S - 0.1 * jnp.einsum("hij,hkj->hik", S, S))
        return jnp.einsum("hk,hkv->hv", q, S), jnp.flip(S, 1)

    def initial_state(self) -> Any:
        _, heads, size, _ = self.W.shape
        return jnp.zeros((heads, size), self.W.dtype), jnp.zeros((heads, size, size), self.W.dtype)


class LTC(nr.Cell):
    """Liquid time constants: each pair of units has a synapse, a sigmoid of the sender."""

    steepness: jax.Array
    threshold: jax.Array
    weight: jax.Array
    reversal: jax.Array

    def __call__(self, v: jax.Array, x: jax.Array) -> jax.Array:
        for _ in range(2):
            gate = jax.nn.sigmoid(self.steepness * (v[:, None] - self.threshold)) * self.weight**2
            v = (v + x.sum() + (gate * self.reversal).sum(0)) / (2 + gate.sum(0))
        return v

    def initial_state(self) -> jax.Array:
        return jnp.zeros(len(self.weight), self.weight.dtype)


class WindowAttention(nr.Cell):
    """Attention over the last inputs, which are the state; keys and values have heads."""

    Q: jax.Array
    K: jax.Array
    window: int = eqx.field(static=True)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        y, rows = state
        rows = jnp.concatenate([rows[1:], (self.K @ (x + y.sum()))[None]])
        heads, size = self.Q.shape[:2]
        q, keys = jnp.tanh(self.Q @ x), rows.reshape(self.window, heads, size)
        scores = jax.nn.softmax(jnp.einsum("hd,whd->hw", q, keys), -1)
        return jnp.einsum("hw,whd->hd", scores, keys), rows

    def initial_state(self) -> Any:
        heads, size = self.Q.shape[:2]
        zeros = jnp.zeros((self.window, heads * size), self.Q.dtype)
        return jnp.zeros((heads, size), self.Q.dtype), zeros


def ltc(heads: int, size: int, features: int, dtype: Any) -> LTC:
    return LTC(*(random(n, size, size, dtype=dtype) for n in range(4)))


def window_attention(heads: int, size: int, features: int, dtype: Any) -> WindowAttention:
    Q = random(0, heads, size, features, dtype=dtype)
    return WindowAttention(Q, random(1, heads * size, features, dtype=dtype) / 2, 18)


def mixed(heads: int, size: int, features: int, dtype: Any) -> Mixed:
    return Mixed(random(3, 3, heads, size, features, dtype=dtype) / 2)


#: By name: from heads, width of a head, features of the input, and dtype to a cell.
CELLS: dict[str, Callable[..., nr.Cell]] = {
    "ltc": ltc,
    "mixed": mixed,
    "window attention": window_attention,
}
