"""Convolutional recurrent network."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from noria.cells.declare import array, state, vector
from noria.cells.spatial import SpatialCell, kernel_init


class ConvRNNCell(SpatialCell):
    """The convolutional recurrent network: convolutions in place of matrix products.

    ::

        h' = activation(W (*) x + U (*) h + b)

    ``(*)`` is a convolution.

    Args:
        activation: activation; tanh by default.

    Source: Liang and Hu 2015, CVPR, eqs. 1 and 2, where the activation is a ReLU with a local
    response normalisation, and ``x`` is the same at each step.
    """

    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = array("taps", "features", "hidden", initializer=kernel_init)
    U: jax.Array = array("recurrent_taps", "hidden", "hidden", initializer=kernel_init)
    b: jax.Array = vector("hidden")
    h: jax.Array = state("space", "hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return self.activation(self.convolved(x, self.W) + self.mixed(h, self.U) + self.b)
