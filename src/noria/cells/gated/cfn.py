"""Chaos-free network."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class CFNCell(VectorCell):
    """The chaos-free network: without an input the state goes to zero.

    ::

        t  = sigmoid(U_t h + V_t x + b_t)
        e  = sigmoid(U_e h + V_e x + b_e)
        h' = t * tanh(h) + e * tanh(W x)

    ``t`` and ``e`` are the paper's theta and eta. ``b_t`` starts at 1 and ``b_e`` at -1.

    Source: Laurent and von Brecht 2016, arXiv 1612.06212.
    """

    U_t: jax.Array = matrix("hidden", "hidden")
    V_t: jax.Array = matrix("hidden", "in")
    b_t: jax.Array = vector("hidden", 1)
    U_e: jax.Array = matrix("hidden", "hidden")
    V_e: jax.Array = matrix("hidden", "in")
    b_e: jax.Array = vector("hidden", -1)
    W: jax.Array = matrix("hidden", "in")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        t = sigmoid(self.U_t @ h + self.V_t @ x + self.b_t)
        e = sigmoid(self.U_e @ h + self.V_e @ x + self.b_e)
        return t * jnp.tanh(h) + e * jnp.tanh(self.W @ x)
