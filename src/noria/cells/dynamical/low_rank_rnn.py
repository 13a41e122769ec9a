"""Low-rank RNN."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, size, state
from noria.cells.declared import VectorCell
from noria.cells.starts import normal_by_columns
from noria.initializers import normal


class LowRankRNNCell(VectorCell):
    """A network of currents whose matrix is random and fixed, plus a part of low rank.

    ::

        J  = g chi + m n^T / hidden
        h' = h + dt (-h + J activation(h) + W x)
        y  = activation(h')

    ``chi`` is drawn from N(0, 1 / hidden) and is not trained. With ``g = 0`` the cell has none.

    Args:
        rank: the rank of the trained part.
        g: factor of the fixed part; the activity without an input is chaotic above about 1.
        dt: the time of a step over the time constant of the units.
        activation: any element-wise function.

    Source: Mastrogiuseppe and Ostojic 2018, doi 10.1016/j.neuron.2018.07.003. The paper designs
    ``m`` and ``n``; here they are trained.
    """

    rank: int = size(default=1)
    g: float = 0.8
    dt: float = 0.1
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    chi: jax.Array | None = matrix(
        "hidden", "hidden", normal_by_columns(), trained=False, when=lambda cell: cell.g != 0
    )
    m: jax.Array = matrix("hidden", "rank", normal(1.0))
    n: jax.Array = matrix("hidden", "rank", normal(1.0))
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        r = self.activation(h)
        drive = self.m @ (self.n.T @ r) / self.hidden_size + self.W @ x
        if self.chi is not None:
            drive = drive + self.g * (self.chi @ r)
        return h + self.dt * (drive - h)

    def output(self, state: jax.Array, x: jax.Array) -> jax.Array:
        """The rates of the units."""
        return self.activation(state)
