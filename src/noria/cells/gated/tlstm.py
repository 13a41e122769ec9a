"""Strongly typed long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class TLSTMCell(VectorCell):
    """The strongly typed long short-term memory, whose gates see two inputs and no state.

    ::

        z  = W_z x + V_z x_before + b_z
        f  = sigmoid(W_f x + V_f x_before + b_f)
        o  = tanh(W_o x + V_o x_before + b_o)
        c' = f * c + (1 - f) * z
        h  = o * c'        the output

    Source: Balduzzi and Ghifary 2016, arXiv 1602.02218. `TimeAwareLSTMCell` is another T-LSTM.
    """

    W_z: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    V_z: jax.Array = matrix("hidden", "in")
    V_f: jax.Array = matrix("hidden", "in")
    V_o: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    c: jax.Array = state("hidden")
    x_before: jax.Array = state("in")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        c, x_before = state
        z = self.W_z @ x + self.V_z @ x_before + self.b_z
        f = sigmoid(self.W_f @ x + self.V_f @ x_before + self.b_f)
        o = jnp.tanh(self.W_o @ x + self.V_o @ x_before + self.b_o)
        c = f * c + (1 - f) * z
        return self.State(c, x), o * c
