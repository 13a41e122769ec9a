"""Recurrent additive network."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class RANCell(VectorCell):
    """The recurrent additive network: the content is linear in the input.

    ::

        i  = sigmoid(W_i x + U_i h + b_i)
        f  = sigmoid(W_f x + U_f h + b_f)
        c' = i * W_c x + f * c
        h' = activation(c')

    Args:
        activation: the function of the output: tanh, or ``lambda c: c`` for the paper's other
            variant.

    Source: Lee, Levy and Zettlemoyer 2017, arXiv 1705.07393. Some libraries have a bias in the
    content ``W_c x``.
    """

    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W_c: jax.Array = matrix("hidden", "in")
    W_i: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    W_f: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f)
        c = i * (self.W_c @ x) + f * c
        return self.State(self.activation(c), c)
