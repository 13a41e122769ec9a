"""Stackable recurrent cell."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.initializers import orthogonal


class STARCell(VectorCell):
    """The stackable recurrent cell: one gate, and a tanh around the whole update.

    ::

        k  = sigmoid(W_x x + W_h h + b_k)
        z  = tanh(W_z x + b_z)
        h' = tanh((1 - k) * h + k * z)

    All matrices start orthogonal.

    Source: Turkoglu et al. 2019, arXiv 1911.11033. The authors' code has the gate for keeping
    instead, shifted as in `JANETCell`, with a chrono-initialised bias.
    """

    W_x: jax.Array = matrix("hidden", "in", orthogonal())
    W_h: jax.Array = matrix("hidden", "hidden", orthogonal())
    b_k: jax.Array = vector("hidden")
    W_z: jax.Array = matrix("hidden", "in", orthogonal())
    b_z: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        k = sigmoid(self.W_x @ x + self.W_h @ h + self.b_k)
        z = jnp.tanh(self.W_z @ x + self.b_z)
        return jnp.tanh((1 - k) * h + k * z)
