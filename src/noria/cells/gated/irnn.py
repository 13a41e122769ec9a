"""RNN with ReLU and identity."""

import jax

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.initializers import identity, normal


class IRNNCell(VectorCell):
    """An RNN with ReLU whose recurrent matrix starts as the identity.

    ::

        h' = relu(W x + U h + b)

    ``W`` starts with a standard deviation of 0.001. For short memories the paper scales the
    identity: ``init={"U": nr.initializers.identity(0.01)}``.

    Source: Le, Jaitly and Hinton 2015, arXiv 1504.00941.
    """

    W: jax.Array = matrix("hidden", "in", normal(0.001))
    U: jax.Array = matrix("hidden", "hidden", identity())
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.W @ x + self.U @ h + self.b)
