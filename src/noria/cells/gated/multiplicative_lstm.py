"""Multiplicative long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class MultiplicativeLSTMCell(VectorCell):
    """The long short-term memory whose recurrent weights depend on the input.

    ::

        m  = (W_m x) * (U_m h)
        i  = sigmoid(W_i x + U_i m + b_i)
        f  = sigmoid(W_f x + U_f m + b_f)
        o  = sigmoid(W_o x + U_o m + b_o)
        c' = f * c + i * tanh(W_h x + U_h m + b_h)
        h' = o * tanh(c')

    Source: Krause et al. 2016, arXiv 1609.07959. The paper writes no biases; libraries have them.
    """

    W_m: jax.Array = matrix("hidden", "in")
    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    W_h: jax.Array = matrix("hidden", "in")
    U_m: jax.Array = matrix("hidden", "hidden")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    U_h: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    b_h: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        m = (self.W_m @ x) * (self.U_m @ h)
        i = sigmoid(self.W_i @ x + self.U_i @ m + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ m + self.b_f)
        o = sigmoid(self.W_o @ x + self.U_o @ m + self.b_o)
        c = f * c + i * jnp.tanh(self.W_h @ x + self.U_h @ m + self.b_h)
        return self.State(o * jnp.tanh(c), c)
