"""FastRNN."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, state, vector
from noria.cells.declared import VectorCell


class FastRNNCell(VectorCell):
    """An RNN with a weighted residual connection: two numbers are trained in addition.

    ::

        n  = activation(W x + U h + b)
        h' = sigmoid(alpha) * n + sigmoid(beta) * h

    ``alpha`` starts at -3 and ``beta`` at 3, as in the authors' EdgeML.

    Args:
        activation: the function of the candidate.

    Source: Kusupati et al. 2018, arXiv 1901.02358. RecurrentLayers.jl exchanges the two start
    values.
    """

    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    alpha: jax.Array = array(initializer=-3)
    beta: jax.Array = array(initializer=3)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        n = self.activation(self.W @ x + self.U @ h + self.b)
        return sigmoid(self.alpha) * n + sigmoid(self.beta) * h
