"""Gated recurrent unit with multiplicative integration."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state
from noria.cells.declared import VectorCell


class MIGRUCell(VectorCell):
    """The GRU with multiplicative integration of input and state.

    ::

        z  = sigmoid(M(W_z x, U_z h))
        r  = sigmoid(M(W_r x, U_r h))
        n  = tanh(M(W_n x, U_n (r * h)))
        h' = (1 - z) * h + z * n

        M(w, u) = alpha * w * u + beta_1 * u + beta_2 * w + b

    Each ``M`` has its own ``alpha``, ``beta_1``, ``beta_2`` and ``b``: the rows of these matrices,
    in the order z, r, n. They start at 1, and ``b`` at 0.

    Source: Wu et al. 2016, arXiv 1606.06630, the general form.
    """

    W_z: jax.Array = matrix("hidden", "in")
    W_r: jax.Array = matrix("hidden", "in")
    W_n: jax.Array = matrix("hidden", "in")
    U_z: jax.Array = matrix("hidden", "hidden")
    U_r: jax.Array = matrix("hidden", "hidden")
    U_n: jax.Array = matrix("hidden", "hidden")
    alpha: jax.Array = matrix(3, "hidden", 1)
    beta_1: jax.Array = matrix(3, "hidden", 1)
    beta_2: jax.Array = matrix(3, "hidden", 1)
    b: jax.Array = matrix(3, "hidden", 0)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = sigmoid(self._integrated(0, self.W_z @ x, self.U_z @ h))
        r = sigmoid(self._integrated(1, self.W_r @ x, self.U_r @ h))
        n = jnp.tanh(self._integrated(2, self.W_n @ x, self.U_n @ (r * h)))
        return (1 - z) * h + z * n

    def _integrated(self, gate: int, w: jax.Array, u: jax.Array) -> jax.Array:
        alpha, beta_1, beta_2 = self.alpha[gate], self.beta_1[gate], self.beta_2[gate]
        return alpha * w * u + beta_1 * u + beta_2 * w + self.b[gate]
