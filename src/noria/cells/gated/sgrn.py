"""Simple gated recurrent network."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class SGRNCell(VectorCell):
    """The simple gated recurrent network: one gate, and one input matrix for gate and candidate.

    ::

        p  = W x
        f  = sigmoid(p + U h + b)
        h' = tanh((1 - f) * p + f * h)

    Source: Zu and Wei 2020, doi 10.1049/gtd2.12056. In torchrecurrent and LuxRecurrentLayers.jl
    the candidate has the bias, too.
    """

    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        p = self.W @ x
        f = sigmoid(p + self.U @ h + self.b)
        return jnp.tanh((1 - f) * p + f * h)
