"""Minimal gated unit."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total


class MGUCell(VectorCell):
    """The minimal gated unit: one gate resets the state and updates it.

    ::

        f  = sigmoid(W_f x + U_f h + b_f)
        n  = tanh(W_n x + U_n (f * h) + b_n)
        h' = (1 - f) * h + f * n

    Args:
        variant: which inputs the gate has: 0 for all, 1 without ``W_f x``, 2 without ``W_f x`` and
            ``b_f``, 3 for ``b_f`` alone.

    Source: Zhou et al. 2016, arXiv 1603.09420, eqs. 5 to 7; variants of Heck and Salem 2017, arXiv
    1701.03452. Flax linen and RecurrentLayers.jl exchange ``f`` and ``1 - f``.
    """

    variant: int = 0
    W_f: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.variant == 0)
    U_f: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.variant < 3)
    b_f: jax.Array | None = vector("hidden", when=lambda cell: cell.variant != 2)
    W_n: jax.Array = matrix("hidden", "in")
    U_n: jax.Array = matrix("hidden", "hidden")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("MGUCell", "variant", self.variant, (0, 1, 2, 3))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        f = sigmoid(total(times(self.W_f, x), times(self.U_f, h), self.b_f))
        n = jnp.tanh(self.W_n @ x + self.U_n @ (f * h) + self.b_n)
        return (1 - f) * h + f * n
