"""Cells as a user writes them; no library has a kernel for any."""

import math
from typing import Any

import jax
import jax.numpy as jnp

import noria as nr


class Written(nr.Cell):
    """A cell with an input matrix and one state of as many units as it has biases."""

    W: jax.Array
    b: jax.Array

    def initial_state(self) -> Any:
        return jnp.zeros_like(self.b)


class LayerNormLSTM(nr.Cell):
    """An LSTM with both products and the cell state normalised.

    Source: Ba, Kiros and Hinton 2016, eqs. 20 to 22, without the shifts of the products.
    """

    W: jax.Array
    U: jax.Array
    b: jax.Array
    gain_x: jax.Array
    gain_h: jax.Array
    gain_c: jax.Array

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        gates = self.gain_x * normalised(self.W @ x) + self.gain_h * normalised(self.U @ h) + self.b
        i, f, g, o = jnp.split(gates, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(self.gain_c * normalised(c)), c

    def initial_state(self) -> Any:
        return jnp.zeros_like(self.gain_c), jnp.zeros_like(self.gain_c)


class PeepholeLSTM(nr.Cell):
    """An LSTM whose gates see the cell state (Gers and Schmidhuber 2000)."""

    W: jax.Array
    U: jax.Array
    b: jax.Array
    p_i: jax.Array
    p_f: jax.Array
    p_o: jax.Array

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i, f, g, o = jnp.split(self.W @ x + self.U @ h + self.b, 4)
        c_new = jax.nn.sigmoid(f + self.p_f * c) * c + jax.nn.sigmoid(i + self.p_i * c) * jnp.tanh(
            g
        )
        return jax.nn.sigmoid(o + self.p_o * c_new) * jnp.tanh(c_new), c_new

    def initial_state(self) -> Any:
        return jnp.zeros_like(self.p_o), jnp.zeros_like(self.p_o)


class MGU(nr.Cell):
    """The minimal gated unit (Zhou et al. 2016, eqs. 6 to 8)."""

    W: jax.Array
    U_f: jax.Array
    U_n: jax.Array
    b: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        f, n = jnp.split(self.W @ x + self.b, 2)
        f = jax.nn.sigmoid(f + self.U_f @ h)
        n = jnp.tanh(n + self.U_n @ (f * h))
        return (1 - f) * h + f * n

    def initial_state(self) -> jax.Array:
        return jnp.zeros(self.U_n.shape[0], self.U_n.dtype)


class IndRNN(Written):
    """Each unit sees only itself (Li et al. 2018, eq. 2)."""

    u: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.W @ x + self.u * h + self.b)


class Leaky(Written):
    """A leaky integrator, written by hand."""

    U: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return 0.7 * h + 0.3 * jnp.tanh(self.W @ x + self.U @ h + self.b)


class MinGRU(nr.Cell):
    """Gate and candidate depend on the input alone (Feng et al. 2024)."""

    W_z: jax.Array
    W_n: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = jax.nn.sigmoid(self.W_z @ x)
        return (1 - z) * h + z * (self.W_n @ x)

    def initial_state(self) -> jax.Array:
        return jnp.zeros(self.W_n.shape[0], self.W_n.dtype)


def normalised(a: jax.Array) -> jax.Array:
    return (a - a.mean()) * jax.lax.rsqrt(a.var() + 1e-5)


def make(name: str, n: int, m: int) -> nr.Cell:
    """The cell of that name with ``n`` inputs and ``m`` units, its weights drawn at random."""
    a, b, c = jax.random.split(jax.random.key(0), 3)

    def normal(key: Any, *shape: int) -> jax.Array:
        return jax.random.normal(key, shape, jnp.float32) / math.sqrt(shape[-1])

    def full(value: float, *shape: int) -> jax.Array:
        return jnp.full(shape, value, jnp.float32)

    match name:
        case "lstm":
            return nr.LSTMCell(n, m, key=a, dtype=jnp.float32)
        case "gru":
            return nr.GRUCell(n, m, key=a, dtype=jnp.float32)
        case "rnn":
            return nr.RNNCell(n, m, key=a, dtype=jnp.float32)
        case "lnlstm":
            gains = (
                full(0.3, 4 * m),
                full(0.3, 4 * m),
                full(1, m),
            )  # of 1 for the products it would be chaotic
            return LayerNormLSTM(normal(a, 4 * m, n), normal(b, 4 * m, m), full(0, 4 * m), *gains)
        case "peephole":
            return PeepholeLSTM(
                normal(a, 4 * m, n), normal(b, 4 * m, m), full(0, 4 * m), *normal(c, 3, m)
            )
        case "mgu":
            return MGU(normal(a, 2 * m, n), normal(b, m, m), normal(c, m, m), full(0, 2 * m))
        case "indrnn":
            return IndRNN(normal(a, m, n), full(0, m), jax.random.uniform(b, (m,), jnp.float32))
        case "leaky":
            return Leaky(normal(a, m, n), full(0, m), normal(b, m, m))
        case "mingru":
            return MinGRU(normal(a, m, n), normal(b, m, n))
    raise ValueError(f"bench.cells.make: no cell is named {name!r}.")
