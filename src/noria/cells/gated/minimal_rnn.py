"""Minimal RNN."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class MinimalRNNCell(VectorCell):
    """The minimal RNN: the input goes into the space of the state, and one gate mixes the two.

    ::

        z  = tanh(W x + b_z)
        u  = sigmoid(U h + V z + b_u)
        h' = u * h + (1 - u) * z

    Source: Chen 2017, arXiv 1711.06788. RecurrentLayers.jl computes the gate from the ``z`` of the
    step before.
    """

    W: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden")
    U: jax.Array = matrix("hidden", "hidden")
    V: jax.Array = matrix("hidden", "hidden")
    b_u: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = jnp.tanh(self.W @ x + self.b_z)
        u = sigmoid(self.U @ h + self.V @ z + self.b_u)
        return u * h + (1 - u) * z
