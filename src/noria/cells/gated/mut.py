"""MUT1, MUT2 and MUT3."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import check_projected, projected, times, total


class MUTCell(VectorCell):
    """Three cells that a search among ten thousand found, MUT1 to MUT3.

    ::

        n  = tanh(U_n (r * h) + a + b_n)
        h' = z * n + (1 - z) * h

        variant 1: z = sigmoid(W_z x + b_z)
                   r = sigmoid(W_r x + U_r h + b_r)
                   a = tanh(x)
        variant 2: z = sigmoid(W_z x + U_z h + b_z)
                   r = sigmoid(x + U_r h + b_r)
                   a = W_n x
        variant 3: z = sigmoid(W_z x + U_z tanh(h) + b_z)
                   r = sigmoid(W_r x + U_r h + b_r)
                   a = W_n x

    Args:
        variant: 1, 2 or 3.
        project: whether ``W_n x`` stands for ``x`` in variant 1, and ``W_r x`` in variant 2.
            ``False`` is the paper, whose input is as large as the state.

    Source: Jozefowicz, Zaremba and Sutskever 2015, PMLR 37, "An empirical exploration of recurrent
    network architectures". The other libraries always project.
    """

    variant: int = 1
    project: bool = True
    W_z: jax.Array = matrix("hidden", "in")
    U_z: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.variant > 1)
    b_z: jax.Array = vector("hidden")
    W_r: jax.Array | None = matrix(
        "hidden", "in", when=lambda cell: cell.project or cell.variant != 2
    )
    U_r: jax.Array = matrix("hidden", "hidden")
    b_r: jax.Array = vector("hidden")
    W_n: jax.Array | None = matrix(
        "hidden", "in", when=lambda cell: cell.project or cell.variant > 1
    )
    U_n: jax.Array = matrix("hidden", "hidden")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("MUTCell", "variant", self.variant, (1, 2, 3))
        check_projected(self, self.project or self.variant == 3)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        seen = jnp.tanh(h) if self.variant == 3 else h
        z = sigmoid(total(self.W_z @ x, times(self.U_z, seen), self.b_z))
        r = sigmoid(projected(self.W_r, x) + self.U_r @ h + self.b_r)
        a = projected(self.W_n, x)
        a = jnp.tanh(a) if self.variant == 1 else a
        n = jnp.tanh(self.U_n @ (r * h) + a + self.b_n)
        return z * n + (1 - z) * h
