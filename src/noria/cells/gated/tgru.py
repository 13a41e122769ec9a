"""Strongly typed GRU."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class TGRUCell(VectorCell):
    """The strongly typed GRU, T-GRU: its gates see the last two inputs, and not the state.

    ::

        z  = W_z x + V_z p + b_z
        f  = sigmoid(W_f x + V_f p + b_f)
        o  = tanh(W_o x + V_o p + b_o)
        h' = f * h + z * o
        p' = x

    ``p`` is the input of the step before.

    Source: Balduzzi and Ghifary 2016, arXiv 1602.02218.
    """

    W_z: jax.Array = matrix("hidden", "in")
    V_z: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden")
    W_f: jax.Array = matrix("hidden", "in")
    V_f: jax.Array = matrix("hidden", "in")
    b_f: jax.Array = vector("hidden")
    W_o: jax.Array = matrix("hidden", "in")
    V_o: jax.Array = matrix("hidden", "in")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    p: jax.Array = state("in")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, p = state
        z = self.W_z @ x + self.V_z @ p + self.b_z
        f = sigmoid(self.W_f @ x + self.V_f @ p + self.b_f)
        o = jnp.tanh(self.W_o @ x + self.V_o @ p + self.b_o)
        return self.State(f * h + z * o, x)
