"""Neuromodulated bistable recurrent cell."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import total
from noria.initializers import orthogonal


class NBRCCell(VectorCell):
    """The recurrently neuromodulated bistable cell: other units set how bistable a unit is.

    ::

        a  = 1 + tanh(U_a x + W_a h)
        c  = sigmoid(U_c x + W_c h)
        h' = c * h + (1 - c) * tanh(U x + a * h)

    ``W_a`` and ``W_c`` start orthogonal, as in the authors' code.

    Args:
        bias: whether ``a`` and ``c`` have biases ``b_a`` and ``b_c``, as in the authors' code; the
            paper's equations have none.

    Source: Vecoven, Ernst and Drion 2020, arXiv 2006.05252. RecurrentLayers.jl leaves ``W_a h``
    and ``W_c h`` out.
    """

    bias: bool = False
    U_a: jax.Array = matrix("hidden", "in")
    W_a: jax.Array = matrix("hidden", "hidden", orthogonal())
    b_a: jax.Array | None = vector("hidden", when=lambda cell: cell.bias)
    U_c: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "hidden", orthogonal())
    b_c: jax.Array | None = vector("hidden", when=lambda cell: cell.bias)
    U: jax.Array = matrix("hidden", "in")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        a = 1 + jnp.tanh(total(self.U_a @ x, self.W_a @ h, self.b_a))
        c = sigmoid(total(self.U_c @ x, self.W_c @ h, self.b_c))
        return c * h + (1 - c) * jnp.tanh(self.U @ x + a * h)
