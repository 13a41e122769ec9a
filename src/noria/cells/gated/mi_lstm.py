"""Long short-term memory with multiplicative integration."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class MILSTMCell(VectorCell):
    """The long short-term memory with multiplicative integration of input and state.

    ::

        i, f, g, o = four parts of  alpha * (W x) * (U h) + beta_1 * (U h) + beta_2 * (W x) + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    ``alpha``, ``beta_1`` and ``beta_2`` are vectors; they start at 1.

    Source: Wu et al. 2016, arXiv 1606.06630, the general form. RecurrentLayers.jl has the product
    alone, the paper's simple form.
    """

    W: jax.Array = matrix("4 * hidden", "in")
    U: jax.Array = matrix("4 * hidden", "hidden")
    alpha: jax.Array = vector("4 * hidden", 1)
    beta_1: jax.Array = vector("4 * hidden", 1)
    beta_2: jax.Array = vector("4 * hidden", 1)
    b: jax.Array = vector("4 * hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        w, u = self.W @ x, self.U @ h
        a = self.alpha * w * u + self.beta_1 * u + self.beta_2 * w + self.b
        i, f, g, o = jnp.split(a, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return self.State(sigmoid(o) * jnp.tanh(c), c)
