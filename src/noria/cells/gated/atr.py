"""Addition-subtraction twin-gated network."""

import jax
from jax.nn import sigmoid

from noria.cells.declare import matrix, state
from noria.cells.declared import VectorCell


class ATRCell(VectorCell):
    """The addition-subtraction twin-gated network: both gates come from the same two products.

    ::

        p  = W x
        q  = U h
        i  = sigmoid(p + q)
        f  = sigmoid(p - q)
        h' = i * p + f * h

    There are no biases.

    Source: Zhang et al. 2018, arXiv 1810.12546.
    """

    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        p = self.W @ x
        q = self.U @ h
        return sigmoid(p + q) * p + sigmoid(p - q) * h
