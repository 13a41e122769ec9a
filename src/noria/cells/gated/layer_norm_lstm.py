"""Long short-term memory with layer normalisation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import normalized
from noria.initializers import ones


class LayerNormLSTMCell(VectorCell):
    """The long short-term memory with normalised sums and a normalised memory.

    ::

        f, i, o, g = four parts of  LN(W x; alpha_x, beta_x) + LN(U h; alpha_h, beta_h) + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c'; alpha_c, beta_c))

        LN(a; alpha, beta) = alpha * (a - mean(a)) / sqrt(var(a) + epsilon) + beta

    Args:
        epsilon: added to the variances.

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450. One normalisation runs over all four parts
    together, as in TensorFlow Addons. Other libraries normalise each part, or the sum of both
    products.
    """

    epsilon: float = 1e-5
    W: jax.Array = matrix("4 * hidden", "in")
    U: jax.Array = matrix("4 * hidden", "hidden")
    b: jax.Array = vector("4 * hidden")
    alpha_x: jax.Array = vector("4 * hidden", ones)
    alpha_h: jax.Array = vector("4 * hidden", ones)
    alpha_c: jax.Array = vector("hidden", ones)
    beta_x: jax.Array = vector("4 * hidden")
    beta_h: jax.Array = vector("4 * hidden")
    beta_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def _norm(self, a: jax.Array, alpha: jax.Array, beta: jax.Array) -> jax.Array:
        return alpha * normalized(a, self.epsilon) + beta

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        wx = self._norm(self.W @ x, self.alpha_x, self.beta_x)
        uh = self._norm(self.U @ h, self.alpha_h, self.beta_h)
        f, i, o, g = jnp.split(wx + uh + self.b, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return self.State(sigmoid(o) * jnp.tanh(self._norm(c, self.alpha_c, self.beta_c)), c)
