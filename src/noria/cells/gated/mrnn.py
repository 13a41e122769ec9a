"""Multiplicative RNN."""

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell


class MRNNCell(VectorCell):
    """The multiplicative RNN: the input chooses the recurrent matrix, in factors.

    ::

        m  = (W_m x) * (U_m h)
        h' = tanh(W_h x + U_h m + b)

    Args:
        factors: features of ``m``; as many as the state has are usual.

    Source: Sutskever, Martens and Hinton 2011, "Generating text with recurrent neural networks",
    ICML. RecurrentLayers.jl has it as a wrapper of other cells.
    """

    factors: int = size(default=32)
    W_m: jax.Array = matrix("factors", "in")
    U_m: jax.Array = matrix("factors", "hidden")
    W_h: jax.Array = matrix("hidden", "in")
    U_h: jax.Array = matrix("hidden", "factors")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        m = (self.W_m @ x) * (self.U_m @ h)
        return jnp.tanh(self.W_h @ x + self.U_h @ m + self.b)
