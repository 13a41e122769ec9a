"""Strongly typed RNN."""

import jax
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class TRNNCell(VectorCell):
    """The strongly typed RNN, T-RNN: gate and content depend on the input alone.

    ::

        z  = W x
        f  = sigmoid(V x + b)
        h' = f * h + (1 - f) * z

    Source: Balduzzi and Ghifary 2016, arXiv 1602.02218. RecurrentLayers.jl has tanh in the gate.
    """

    W: jax.Array = matrix("hidden", "in")
    V: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = self.W @ x
        f = sigmoid(self.V @ x + self.b)
        return f * h + (1 - f) * z
