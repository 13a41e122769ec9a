"""Intersection RNN."""

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import check_projected, projected


class IntersectionRNNCell(VectorCell):
    """The intersection RNN, +RNN: a gate over time for the state, a gate over depth for the output.

    ::

        n   = tanh(W_n x + U_n h + b_n)
        m   = relu(W_m x + U_m h + b_m)
        g   = sigmoid(W_g x + U_g h + b_g)
        d   = sigmoid(W_d x + U_d h + b_d)
        h'  = g * h + (1 - g) * n
        y   = d * x + (1 - d) * m

    The output of a step is ``y``, not the state. The biases ``b_g`` and ``b_d`` start at 1.

    Args:
        project: whether ``P x`` stands for ``x`` everywhere, as in the first layer of the authors'
            stacks. ``False`` needs an input as large as the state.

    Source: Collins, Sohl-Dickstein and Sussillo 2016, arXiv 1611.09913. RecurrentLayers.jl has
    ``1 - g`` instead of ``1 - d`` in the output.
    """

    project: bool = True
    P: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.project)
    W_n: jax.Array = matrix("hidden", "hidden")
    U_n: jax.Array = matrix("hidden", "hidden")
    b_n: jax.Array = vector("hidden")
    W_m: jax.Array = matrix("hidden", "hidden")
    U_m: jax.Array = matrix("hidden", "hidden")
    b_m: jax.Array = vector("hidden")
    W_g: jax.Array = matrix("hidden", "hidden")
    U_g: jax.Array = matrix("hidden", "hidden")
    b_g: jax.Array = vector("hidden", 1)
    W_d: jax.Array = matrix("hidden", "hidden")
    U_d: jax.Array = matrix("hidden", "hidden")
    b_d: jax.Array = vector("hidden", 1)
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_projected(self, self.project)

    def __call__(self, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = projected(self.P, x)
        n = jnp.tanh(self.W_n @ x + self.U_n @ h + self.b_n)
        m = relu(self.W_m @ x + self.U_m @ h + self.b_m)
        g = sigmoid(self.W_g @ x + self.U_g @ h + self.b_g)
        d = sigmoid(self.W_d @ x + self.U_d @ h + self.b_d)
        return g * h + (1 - g) * n, d * x + (1 - d) * m
