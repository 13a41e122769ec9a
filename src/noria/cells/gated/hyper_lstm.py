"""Long short-term memory with a hypernetwork."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import normalized
from noria.cells.starts import each, each_glorot
from noria.initializers import normal, orthogonal


def _forget_row(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A row for each of four gates: 1 in the second, else 0."""
    del key
    return jnp.zeros(shape, dtype).at[1].set(1)


def _tenth(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``0.1 / n`` for n columns."""
    del key
    return jnp.full(shape, 0.1 / shape[-1], dtype)


def _normed(a: jax.Array, alpha: jax.Array, beta: jax.Array) -> jax.Array:
    """A layer norm of each row, or of a vector."""
    return alpha * normalized(a, 1e-3) + beta


def _each(W: jax.Array, a: jax.Array) -> jax.Array:
    """``W a`` for each gate: a matrix times one vector, as a row of the result."""
    return (W.reshape(-1, W.shape[-1]) @ a).reshape(W.shape[:2])


def _scales(D: jax.Array, z: jax.Array) -> jax.Array:
    """``D z`` for each gate: a matrix times a row of ``z``."""
    return jnp.einsum("ghe,ge->gh", D, z)


class HyperLSTMCell(VectorCell):
    """A long short-term memory whose weights a smaller one scales at each step.

    ::

        i^, f^, g^, o^ = LN(W^ [x, h] + U^ k)           the smaller LSTM, with the state k, l
        l' = sigmoid(f^) * l + sigmoid(i^) * tanh(g^)
        k' = sigmoid(o^) * tanh(LN(l'))

        for each gate of i, f, g, o:
            z_x, z_h, z_b = Z_x k + e_x,  Z_h k + e_h,  Z_b k        from the old k
            a  = LN((D_x z_x) * (W x) + (D_h z_h) * (U h) + D_b z_b + b)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c'))

    Each ``LN`` is a layer norm of one gate, with a gain and a bias of its own, and 1e-3 added to
    the variance. Its bias for a forget gate starts at 1.

    Args:
        hyper_size: features of the smaller memory.
        embedding_size: features of each ``z``.

    Source: Ha, Dai and Le 2016, arXiv 1609.09106, with layer norms. The initial values of
    ``Z``, ``e`` and ``D`` are the paper's: ``D_x z_x`` and ``D_h z_h`` start at 0.1. The authors'
    code computes each ``z`` from ``k'``.
    """

    hyper_size: int = size(default=128)
    embedding_size: int = size(default=4)
    W_hat: jax.Array = array(4, "hyper", "in + hidden", initializer=each_glorot)
    U_hat: jax.Array = array(4, "hyper", "hyper", initializer=each(orthogonal()))
    alpha_hat: jax.Array = matrix(4, "hyper", 1)
    beta_hat: jax.Array = matrix(4, "hyper", _forget_row)
    alpha_l: jax.Array = vector("hyper", 1)
    beta_l: jax.Array = vector("hyper")
    Z_x: jax.Array = array(4, "embedding", "hyper", initializer=0)
    Z_h: jax.Array = array(4, "embedding", "hyper", initializer=0)
    Z_b: jax.Array = array(4, "embedding", "hyper", initializer=normal(0.01))
    e_x: jax.Array = matrix(4, "embedding", 1)
    e_h: jax.Array = matrix(4, "embedding", 1)
    D_x: jax.Array = array(4, "hidden", "embedding", initializer=_tenth)
    D_h: jax.Array = array(4, "hidden", "embedding", initializer=_tenth)
    D_b: jax.Array = array(4, "hidden", "embedding", initializer=0)
    W: jax.Array = array(4, "hidden", "in", initializer=each_glorot)
    U: jax.Array = array(4, "hidden", "hidden", initializer=each(orthogonal()))
    b: jax.Array = matrix(4, "hidden", 0)
    alpha: jax.Array = matrix(4, "hidden", 1)
    beta: jax.Array = matrix(4, "hidden", _forget_row)
    alpha_c: jax.Array = vector("hidden", 1)
    beta_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    k: jax.Array = state("hyper")
    l: jax.Array = state("hyper")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, k, l = state
        a_hat = _each(self.W_hat, jnp.concatenate([x, h])) + _each(self.U_hat, k)
        a = _scales(self.D_x, _each(self.Z_x, k) + self.e_x) * _each(self.W, x)
        a = a + _scales(self.D_h, _each(self.Z_h, k) + self.e_h) * _each(self.U, h)
        a = a + _scales(self.D_b, _each(self.Z_b, k)) + self.b
        i, f, g, o = _normed(a, self.alpha, self.beta)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(_normed(c, self.alpha_c, self.beta_c))

        i, f, g, o = _normed(a_hat, self.alpha_hat, self.beta_hat)
        l = sigmoid(f) * l + sigmoid(i) * jnp.tanh(g)
        k = sigmoid(o) * jnp.tanh(_normed(l, self.alpha_l, self.beta_l))
        return self.State(h, c, k, l)
