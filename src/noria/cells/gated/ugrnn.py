"""Update gate RNN."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class UGRNNCell(VectorCell):
    """The update gate RNN: one gate between the old state and a candidate without a reset.

    ::

        c  = tanh(W_c x + U_c h + b_c)
        g  = sigmoid(W_g x + U_g h + b_g)
        h' = g * h + (1 - g) * c

    The bias ``b_g`` starts at 1.

    Source: Collins, Sohl-Dickstein and Sussillo 2016, arXiv 1611.09913.
    """

    W_c: jax.Array = matrix("hidden", "in")
    U_c: jax.Array = matrix("hidden", "hidden")
    b_c: jax.Array = vector("hidden")
    W_g: jax.Array = matrix("hidden", "in")
    U_g: jax.Array = matrix("hidden", "hidden")
    b_g: jax.Array = vector("hidden", 1)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        c = jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        g = sigmoid(self.W_g @ x + self.U_g @ h + self.b_g)
        return g * h + (1 - g) * c
