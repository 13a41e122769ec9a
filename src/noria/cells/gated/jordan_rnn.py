"""Jordan network."""

from collections.abc import Callable

import jax
from jax.nn import sigmoid

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell


class JordanRNNCell(VectorCell):
    """Jordan's network: the output is fed back, not the hidden layer.

    ::

        n  = sigmoid(W x + U y + b)
        y' = activation(V n + c)

    The output ``y`` is the state, with ``hidden`` features. The hidden layer ``n`` has ``inner``
    features. Jordan's context units have connections to themselves in addition; here they do not.

    Args:
        inner_size: features of the hidden layer.
        activation: the function of the output.

    Source: Jordan 1986, "Serial order: a parallel distributed processing approach", ICS report
    8604, University of California, San Diego.
    """

    inner_size: int = size(default=32)
    activation: Callable[[jax.Array], jax.Array] = sigmoid
    W: jax.Array = matrix("inner", "in")
    U: jax.Array = matrix("inner", "hidden")
    b: jax.Array = vector("inner")
    V: jax.Array = matrix("hidden", "inner")
    c: jax.Array = vector("hidden")
    y: jax.Array = state("hidden")

    def __call__(self, y: jax.Array, x: jax.Array) -> jax.Array:
        n = sigmoid(self.W @ x + self.U @ y + self.b)
        return self.activation(self.V @ n + self.c)
