"""Recurrent network with momentum."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class MomentumRNNCell(VectorCell):
    """The simple recurrent network whose input has momentum.

    ::

        v' = mu v + s (W x + b)
        h' = activation(U h + v')

    Args:
        mu: share of the velocity ``v`` that stays.
        s: step size of the input.
        activation: activation of the state.

    Source: Nguyen et al. 2020, arXiv 2006.06919. In the paper the bias is a column of W; the
    authors' code has a second one outside of ``v``. The Adam and RMSprop forms are not here.
    """

    mu: float = 0.6
    s: float = 0.6
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    v: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, v = state
        v = self.mu * v + self.s * (self.W @ x + self.b)
        return self.State(self.activation(self.U @ h + v), v)
