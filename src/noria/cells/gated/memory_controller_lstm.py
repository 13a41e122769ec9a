"""Memory controller long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class MemoryControllerLSTMCell(VectorCell):
    """The long short-term memory with one gate for the output and one for what recurs.

    ::

        f  = sigmoid(W_f x + U_f v + b_f)
        i  = sigmoid(W_i x + U_i v + b_i)
        o  = sigmoid(W_o x + U_o v + b_o)
        m  = sigmoid(W_m x + U_m v + b_m)
        n  = tanh(W_n x + U_n v + b_n)
        c' = f * c + i * n
        v' = m * tanh(c')
        h  = o * tanh(c')        the output

    Source: Ben-Ari and Shwartz-Ziv 2017, NIPS workshop on time series, where its name is MC-LSTM;
    `MassConservingLSTMCell` has the same short name. RecurrentLayers.jl leaves out the sigmoids and
    the tanh of ``n``.
    """

    W_f: jax.Array = matrix("hidden", "in")
    W_i: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    W_m: jax.Array = matrix("hidden", "in")
    W_n: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    U_m: jax.Array = matrix("hidden", "hidden")
    U_n: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden")
    b_i: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    b_m: jax.Array = vector("hidden")
    b_n: jax.Array = vector("hidden")
    v: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        v, c = state
        f = sigmoid(self.W_f @ x + self.U_f @ v + self.b_f)
        i = sigmoid(self.W_i @ x + self.U_i @ v + self.b_i)
        o = sigmoid(self.W_o @ x + self.U_o @ v + self.b_o)
        m = sigmoid(self.W_m @ x + self.U_m @ v + self.b_m)
        n = jnp.tanh(self.W_n @ x + self.U_n @ v + self.b_n)
        c = f * c + i * n
        return self.State(m * jnp.tanh(c), c), o * jnp.tanh(c)
