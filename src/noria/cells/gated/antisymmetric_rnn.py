"""Antisymmetric RNN."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total
from noria.initializers import lecun_normal


class AntisymmetricRNNCell(VectorCell):
    """Euler steps of a differential equation whose matrix has imaginary eigenvalues.

    ::

        a  = (W - W^T) h - gamma h
        h' = h + epsilon * tanh(a + V x + b)

        gated: h' = h + epsilon * sigmoid(a + V_z x + b_z) * tanh(a + V x + b)

    Args:
        epsilon: the step size.
        gamma: the diffusion, which makes the steps stable.
        gated: whether a gate scales the steps; it shares the matrix.

    Source: Chang et al. 2019, arXiv 1902.09689. RecurrentLayers.jl starts from ``epsilon`` 1 and
    ``gamma`` 0, outside the paper's stable range.
    """

    epsilon: float = 0.01
    gamma: float = 0.01
    gated: bool = False
    W: jax.Array = matrix("hidden", "hidden", lecun_normal())
    V: jax.Array = matrix("hidden", "in", lecun_normal())
    b: jax.Array = vector("hidden")
    V_z: jax.Array | None = matrix("hidden", "in", lecun_normal(), when=lambda cell: cell.gated)
    b_z: jax.Array | None = vector("hidden", when=lambda cell: cell.gated)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        a = (self.W - self.W.T) @ h - self.gamma * h
        n = jnp.tanh(a + self.V @ x + self.b)
        if self.gated:
            n = sigmoid(total(a, times(self.V_z, x), self.b_z)) * n
        return h + self.epsilon * n
