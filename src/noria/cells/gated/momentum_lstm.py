"""Long short-term memory with momentum."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import forget_one


class MomentumLSTMCell(VectorCell):
    """The long short-term memory whose input has momentum.

    ::

        v' = mu v + s (W x + b)
        i, f, g, o = four parts of  U h + v'
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Args:
        mu: share of the velocity ``v`` that stays.
        s: step size of the input.

    Source: Nguyen et al. 2020, arXiv 2006.06919. In the paper the bias is a column of W. The
    authors' code has a second one outside of ``v``, an orthogonal ``W`` and a ``U`` with a diagonal
    of ones.
    """

    mu: float = 0.6
    s: float = 0.6
    W: jax.Array = matrix("4 * hidden", "in")
    U: jax.Array = matrix("4 * hidden", "hidden")
    b: jax.Array = vector("4 * hidden", forget_one)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    v: jax.Array = state("4 * hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, v = state
        v = self.mu * v + self.s * (self.W @ x + self.b)
        i, f, g, o = jnp.split(self.U @ h + v, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return self.State(sigmoid(o) * jnp.tanh(c), c, v)
