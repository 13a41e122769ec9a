"""JANET."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class JANETCell(VectorCell):
    """JANET, "just another network": an LSTM with the forget gate alone.

    ::

        s  = W_f x + U_f h + b_f
        c  = tanh(W_c x + U_c h + b_c)
        h' = sigmoid(s) * h + (1 - sigmoid(s - beta)) * c

    ``b_f`` starts at 1. The paper draws it for the longest dependency of the data, ``T`` steps:
    ``init={"b_f": nr.initializers.chrono(T)}``.

    Args:
        beta: shift of the input gate; 0 makes it ``1 - f``.

    Source: van der Westhuizen and Lasenby 2018, arXiv 1804.04849. The other libraries keep the
    state twice, as ``h`` and ``c``.
    """

    beta: float = 1.0
    W_f: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden", 1)
    W_c: jax.Array = matrix("hidden", "in")
    U_c: jax.Array = matrix("hidden", "hidden")
    b_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        s = self.W_f @ x + self.U_f @ h + self.b_f
        c = jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        return sigmoid(s) * h + (1 - sigmoid(s - self.beta)) * c
