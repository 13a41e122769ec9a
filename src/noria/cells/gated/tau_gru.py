"""Gated recurrent unit with weighted time-delay feedback."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell


class TauGRUCell(VectorCell):
    """A GRU with weighted feedback from the state some steps ago.

    ::

        h_d = the state ``delay`` steps before h, 0 before the start
        u  = tanh(U_1 h + W_1 x + b_1)
        z  = tanh(U_2 h_d + W_2 x + b_2)
        g  = sigmoid(U_3 h + W_3 x + b_3)
        a  = sigmoid(U_4 h + W_4 x + b_4)
        h' = (1 - g) * h + g * (u + a * z)

    The second state, ``past``, has the last ``delay`` states before ``h``, the oldest first.

    Args:
        delay: number of steps, the paper's tau divided by the step size.

    Source: Erichson et al. 2022, arXiv 2212.00228, whose letters ``U`` and ``W`` are exchanged
    here. Some code delays the input of ``z`` and ``a`` as well. The layer of torchrecurrent does
    not return ``past``, so two pieces of a sequence differ from the whole.
    """

    delay: int = size(default=10)
    W_1: jax.Array = matrix("hidden", "in")
    U_1: jax.Array = matrix("hidden", "hidden")
    b_1: jax.Array = vector("hidden")
    W_2: jax.Array = matrix("hidden", "in")
    U_2: jax.Array = matrix("hidden", "hidden")
    b_2: jax.Array = vector("hidden")
    W_3: jax.Array = matrix("hidden", "in")
    U_3: jax.Array = matrix("hidden", "hidden")
    b_3: jax.Array = vector("hidden")
    W_4: jax.Array = matrix("hidden", "in")
    U_4: jax.Array = matrix("hidden", "hidden")
    b_4: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    past: jax.Array = state("delay", "hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, past = state
        u = jnp.tanh(self.U_1 @ h + self.W_1 @ x + self.b_1)
        z = jnp.tanh(self.U_2 @ past[0] + self.W_2 @ x + self.b_2)
        g = sigmoid(self.U_3 @ h + self.W_3 @ x + self.b_3)
        a = sigmoid(self.U_4 @ h + self.W_4 @ x + self.b_4)
        past = jnp.concatenate([past[1:], h[None]])
        return self.State((1 - g) * h + g * (u + a * z), past)
