"""Bistable recurrent cell."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import total


class BRCCell(VectorCell):
    """The bistable recurrent cell: of all old values a unit sees its own alone, and it can latch.

    ::

        a  = 1 + tanh(U_a x + w_a * h)
        c  = sigmoid(U_c x + w_c * h)
        h' = c * h + (1 - c) * tanh(U x + a * h)

    ``w_a`` and ``w_c`` start at 1, as in the authors' code. A unit is bistable where ``a`` is above
    1.

    Args:
        bias: whether ``a`` and ``c`` have biases ``b_a`` and ``b_c``, as in the authors' code; the
            paper's equations have none.

    Source: Vecoven, Ernst and Drion 2020, arXiv 2006.05252.
    """

    bias: bool = False
    U_a: jax.Array = matrix("hidden", "in")
    w_a: jax.Array = vector("hidden", 1)
    b_a: jax.Array | None = vector("hidden", when=lambda cell: cell.bias)
    U_c: jax.Array = matrix("hidden", "in")
    w_c: jax.Array = vector("hidden", 1)
    b_c: jax.Array | None = vector("hidden", when=lambda cell: cell.bias)
    U: jax.Array = matrix("hidden", "in")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        a = 1 + jnp.tanh(total(self.U_a @ x, self.w_a * h, self.b_a))
        c = sigmoid(total(self.U_c @ x, self.w_c * h, self.b_c))
        return c * h + (1 - c) * jnp.tanh(self.U @ x + a * h)
