"""Long short-term memory with uniform refined gates."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._types import Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


def _uniform_gates(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Biases whose gates are U(1 / hidden, 1 - 1 / hidden)."""
    low = 1 / max(shape[0], 2)
    return jax.scipy.special.logit(jax.random.uniform(key, shape, dtype, low, 1 - low))


class URLSTMCell(VectorCell):
    """The long short-term memory with a uniform and refined forget gate.

    ::

        f  = sigmoid(W_f x + U_f h + b_f)
        r  = sigmoid(W_r x + U_r h - b_f)
        g  = 2 r * f + (1 - 2 r) * f^2
        u  = tanh(W_u x + U_u h + b_u)
        c' = g * c + (1 - g) * u
        o  = sigmoid(W_o x + U_o h + b_o)
        h' = o * tanh(c')

    At the start ``sigmoid(b_f)`` is uniform between ``1 / hidden`` and ``1 - 1 / hidden``.

    Source: Gu et al. 2019, arXiv 1910.09890. Both gates share the bias ``b_f``. Some ports add
    biases of their own to ``f`` and ``r``.
    """

    W_f: jax.Array = matrix("hidden", "in")
    W_r: jax.Array = matrix("hidden", "in")
    W_u: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_r: jax.Array = matrix("hidden", "hidden")
    U_u: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden", _uniform_gates)
    b_u: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f)
        r = sigmoid(self.W_r @ x + self.U_r @ h - self.b_f)
        g = 2 * r * f + (1 - 2 * r) * f**2
        u = jnp.tanh(self.W_u @ x + self.U_u @ h + self.b_u)
        c = g * c + (1 - g) * u
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.b_o)
        return self.State(o * jnp.tanh(c), c)
