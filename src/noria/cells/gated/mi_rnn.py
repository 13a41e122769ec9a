"""Recurrent network with multiplicative integration."""

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class MIRNNCell(VectorCell):
    """The simple recurrent network with multiplicative integration of input and state.

    ::

        h' = tanh(alpha * (W x) * (U h) + beta_1 * (U h) + beta_2 * (W x) + b)

    ``alpha``, ``beta_1`` and ``beta_2`` are vectors; they start at 1. With ``alpha`` of 0 and both
    ``beta`` of 1 it is the usual network.

    Source: Wu et al. 2016, arXiv 1606.06630, the general form. RecurrentLayers.jl has the product
    alone, the paper's simple form.
    """

    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    alpha: jax.Array = vector("hidden", 1)
    beta_1: jax.Array = vector("hidden", 1)
    beta_2: jax.Array = vector("hidden", 1)
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        w, u = self.W @ x, self.U @ h
        return jnp.tanh(self.alpha * w * u + self.beta_1 * u + self.beta_2 * w + self.b)
