"""Cells with a matrix in the state, or in the step, each in a few lines."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from models import random

import noria as nr

#: A step: state and the vectors of an input, by head, give the next state. The first entry of a
#: state is what the cell emits.
Step = Callable[..., tuple[Any, ...]]


class MatrixCell(nr.Cell):
    """A step on ``(heads, size)`` vectors that are linear functions of the input."""

    W: jax.Array
    step: Step = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        return self.step(*state, *(self.W @ x))

    def initial_state(self) -> Any:
        return tuple(jnp.zeros(shape, self.W.dtype) for shape in self.shapes)


def unit(k: jax.Array) -> jax.Array:
    return k / jnp.sqrt((k * k).sum(-1, keepdims=True) + 1)


def outer(u: jax.Array, w: jax.Array) -> jax.Array:
    return u[..., :, None] * w[..., None, :]


def read(q: jax.Array, S: jax.Array) -> jax.Array:
    """A sum of rows."""
    return jnp.einsum("hk,hkv->hv", q, S)


def retnet(y, S, q, k, v):
    S = 0.9 * S + outer(k, v)
    return read(q, S), S


def hgrn2(y, S, q, f, v):
    f = jax.nn.sigmoid(f)
    S = f[..., None] * S + outer(1 - f, v)
    return read(q, S), S


def deltanet(y, S, q, k, v):
    k = unit(k)
    S = S + outer(k, v - read(k, S))
    return read(q, S), S


def gated_deltanet(y, S, q, k, v, a, b):
    k, a = unit(k), jax.nn.sigmoid(a.mean(-1, keepdims=True))
    S = a[..., None] * (S - outer(k, jax.nn.sigmoid(b) * read(k, S))) + outer(k, v)
    return read(q, S), S


def mlstm(y, C, n, m, q, k, v, i, f):
    """Exponential gates, one a head, with a stabiliser."""
    i, f = i.mean(-1), jax.nn.log_sigmoid(f.mean(-1))
    new = jnp.maximum(f + m, i)
    i, f = jnp.exp(i - new)[:, None], jnp.exp(f + m - new)[:, None]
    C, n = f[..., None] * C + outer(i * v, k), f * n + i * k
    below = jnp.maximum(jnp.abs((n * q).sum(-1)), 1)
    return jnp.einsum("hvk,hk->hv", C, q) / below[:, None], C, n, new


def rwkv7(y, S, r, w, k, v, a):
    """The state has values along its rows; it is read along its features."""
    w, a, k = jnp.exp(-jax.nn.sigmoid(w)), jax.nn.sigmoid(a), unit(k)
    S = S * w[:, None, :] - outer(jnp.einsum("hvk,hk->hv", S, k), a * k) + outer(v, k)
    return jnp.einsum("hvk,hk->hv", S, r), S


def ttt(y, S, q, k, v):
    """A step of gradient descent on a squared error, by `jax.grad`."""
    k = unit(k)
    S = S - 0.5 * jax.grad(lambda S: ((read(k, S) - v) ** 2).sum())(S)
    return read(q, S), S


def mamba(y, S, u, d, b, c):
    """Channels times states; the decay is a function of both."""
    d, u, (b, c) = jax.nn.softplus(d[0]), u[0], (z[0, : S.shape[1]] for z in (b, c))
    A = -jnp.arange(1.0, S.shape[1] + 1, dtype=S.dtype)
    S = jnp.exp(d[:, None] * A) * S + outer(d * u, b)
    return S @ c, S


def norms(y, S, q, k, v):
    """Norms of rows and of columns, a softmax along rows, a transpose and a part of each row."""
    S = jax.nn.softmax(S, -1) + outer(k, v) / (1 + jnp.abs(S).max(1, keepdims=True))
    S = S + 0.1 * jnp.swapaxes(S, 1, 2)
    S = jnp.concatenate([S[:, :, 1:], S[:, :, :1]], 2)
    return read(q, S), S


def matrices(y, S, q, k, v):
    """A product of two matrices, and a sum over heads."""
    S = jnp.tanh(0.1 * jnp.einsum("hij,hjk->hik", S, S) + outer(k, v)) + 0.1 * S.sum(0)
    return read(q, S), S


def of_heads(step: Step, parts: int, *more: tuple[int, ...]) -> Any:
    def make(heads: int, size: int, **kinds: Any) -> MatrixCell:
        W = random(3, parts, heads, size, 4, **kinds) / 2
        square = (heads, size, size)
        shapes = (
            (heads, size),
            square,
            *(tuple({"h": heads, "d": size}[n] for n in s) for s in more),
        )
        return MatrixCell(W, step, shapes)

    return make


def mamba_cell(heads: int, size: int, **kinds: Any) -> MatrixCell:
    """``heads`` is the number of states of each of ``size`` channels, at most."""
    W = random(3, 4, 1, size, 4, **kinds) / 2
    return MatrixCell(W, mamba, ((size,), (size, min(heads, size))))


class LTC(nr.Cell):
    """Liquid time constants: each pair of units has a synapse, a sigmoid of the sender."""

    steepness: jax.Array
    threshold: jax.Array
    weight: jax.Array
    reversal: jax.Array

    def __call__(self, v: jax.Array, x: jax.Array) -> jax.Array:
        for _ in range(2):
            gate = jax.nn.sigmoid(self.steepness * (v[:, None] - self.threshold)) * self.weight**2
            above = v + x.sum() + (gate * self.reversal).sum(0)
            v = above / (2 + gate.sum(0))
        return v

    def initial_state(self) -> jax.Array:
        return jnp.zeros(len(self.weight), self.weight.dtype)


def ltc(heads: int, size: int, **kinds: Any) -> LTC:
    return LTC(*(random(n, size, size, **kinds) for n in range(4)))


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


def window_attention(heads: int, size: int, **kinds: Any) -> WindowAttention:
    return WindowAttention(
        random(0, heads, size, 4, **kinds), random(1, heads * size, 4, **kinds) / 2, 18
    )


#: By name: makes a cell of some heads of some size; its input has 4 numbers.
CELLS: dict[str, Callable[..., nr.Cell]] = {
    "retnet": of_heads(retnet, 3),
    "hgrn2": of_heads(hgrn2, 3),
    "deltanet": of_heads(deltanet, 3),
    "gated deltanet": of_heads(gated_deltanet, 5),
    "mlstm": of_heads(mlstm, 5, ("h", "d"), ("h",)),
    "rwkv7": of_heads(rwkv7, 5),
    "ttt": of_heads(ttt, 3),
    "mamba": mamba_cell,
    "norms": of_heads(norms, 3),
    "matrices": of_heads(matrices, 3),
    "ltc": ltc,
    "window attention": window_attention,
}
