"""Gated impulse linear recurrence."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class GILRCell(VectorCell):
    """The gated impulse linear recurrent layer: a gate between the state and a layer of x.

    ::

        g  = sigmoid(W_g x + b_g)
        h' = g * h + (1 - g) * activation(W_z x + b_z)

    Args:
        activation: any element-wise function.

    Source: Martin and Cundy 2018, arXiv 1709.04057. memax has a cell named after this paper that
    is a running sum without a gate.
    """

    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W_g: jax.Array = matrix("hidden", "in")
    b_g: jax.Array = vector("hidden")
    W_z: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        g = sigmoid(self.W_g @ x + self.b_g)
        return g * h + (1 - g) * self.activation(self.W_z @ x + self.b_z)
