"""Convolutional gated recurrent unit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, state, vector
from noria.cells.spatial import SpatialCell, kernel_init


class ConvGRUCell(SpatialCell):
    """The convolutional gated recurrent unit, ConvGRU or GRU-RCN.

    ::

        z  = sigmoid(W_z (*) x + U_z (*) h + b_z)
        r  = sigmoid(W_r (*) x + U_r (*) h + b_r)
        n  = activation(W_n (*) x + U_n (*) (r * h) + b_n)
        h' = (1 - z) * h + z * n

    ``(*)`` is a convolution. Channels of ``W`` and ``b`` are those of z, r and n, one after the
    other, and channels of ``U`` are those of z and r.

    Args:
        activation: activation of the candidate; tanh by default.

    Source: Ballas, Yao, Pal and Courville 2016, arXiv 1511.06432, section 3.1. The paper has no
    biases. The reset gate comes before the convolution, and an open ``z`` takes the candidate.
    """

    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = array("taps", "features", "3 * hidden", initializer=kernel_init)
    U: jax.Array = array("recurrent_taps", "hidden", "2 * hidden", initializer=kernel_init)
    U_n: jax.Array = array("recurrent_taps", "hidden", "hidden", initializer=kernel_init)
    b: jax.Array = vector("3 * hidden")
    h: jax.Array = state("space", "hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        a_z, a_r, a_n = jnp.split(self.convolved(x, self.W) + self.b, 3, axis=-1)
        u_z, u_r = jnp.split(self.mixed(h, self.U), 2, axis=-1)
        z, r = sigmoid(a_z + u_z), sigmoid(a_r + u_r)
        n = self.activation(a_n + self.mixed(r * h, self.U_n))
        return (1 - z) * h + z * n
