"""Light recurrent unit."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class LightRUCell(VectorCell):
    """The light recurrent unit: a candidate of the input alone, and one gate.

    ::

        n  = tanh(W_n x)
        f  = sigmoid(W_f x + U_f h + b_f)
        h' = (1 - f) * h + f * n

    Source: Ye et al. 2024, doi 10.3390/electronics13163204. Neither the paper nor
    RecurrentLayers.jl has a bias in the candidate.
    """

    W_n: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        n = jnp.tanh(self.W_n @ x)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f)
        return (1 - f) * h + f * n
