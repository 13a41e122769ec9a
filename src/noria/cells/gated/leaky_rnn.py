"""Leaky RNN."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class LeakyRNNCell(VectorCell):
    """An RNN whose units keep a part of their old values.

    ::

        h' = (1 - rate) * h + rate * activation(W x + U h + b)

    Args:
        rate: the step divided by the time constant, in (0, 1]; 1 is a plain RNN.
        activation: the function inside the leak.

    Source: Jaeger et al. 2007, doi 10.1016/j.neunet.2007.04.016. reservoirpy calls this equation
    ``"internal"``. Its ``"external"`` one has the activation outside of the leak.
    """

    rate: float = 0.3
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"LeakyRNNCell(rate={self.rate}): expected a number in (0, 1].")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        n = self.activation(self.W @ x + self.U @ h + self.b)
        return (1 - self.rate) * h + self.rate * n
