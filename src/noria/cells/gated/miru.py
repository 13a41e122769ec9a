"""Minion recurrent unit."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total


class MiRUCell(VectorCell):
    """The minion recurrent unit: a GRU with numbers in the place of gates.

    ::

        n  = tanh(W_n x + U_n (r * h) + b_n)
        h' = update * h + (1 - update) * n

        variant 1: r = sigmoid(W_r x + U_r h + b_r)
        variant 2: r = reset

    Args:
        variant: 1 keeps the reset gate, 2 has two numbers and no gate.
        update: how much of the old state a step keeps, the paper's lambda.
        reset: how much of the old state a candidate sees, the paper's beta; for variant 2.

    Source: Zyarah and Kudithipudi 2025, arXiv 2503.06175. RecurrentLayers.jl has tanh in the reset
    gate.
    """

    variant: int = 2
    update: float = 0.5
    reset: float = 0.5
    W_r: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.variant == 1)
    U_r: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.variant == 1)
    b_r: jax.Array | None = vector("hidden", when=lambda cell: cell.variant == 1)
    W_n: jax.Array = matrix("hidden", "in")
    U_n: jax.Array = matrix("hidden", "hidden")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("MiRUCell", "variant", self.variant, (1, 2))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        seen = self.reset * h
        if self.variant == 1:
            seen = sigmoid(total(times(self.W_r, x), times(self.U_r, h), self.b_r)) * h
        n = jnp.tanh(self.W_n @ x + self.U_n @ seen + self.b_n)
        return self.update * h + (1 - self.update) * n
