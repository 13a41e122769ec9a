"""Recurrent highway network."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, size, state
from noria.cells.declared import VectorCell

#: Glorot's bound for each matrix of a stack.
_each_glorot = jax.nn.initializers.glorot_uniform(in_axis=-1, out_axis=-2, batch_axis=0)


class RecurrentHighwayCell(VectorCell):
    """The recurrent highway network: several gated layers in each step.

    ::

        s_0 = s
        h_l = tanh(R_H[l] s_(l-1) + b_H[l] + W_H x)       for l = 1 .. depth
        t_l = sigmoid(R_T[l] s_(l-1) + b_T[l] + W_T x)    with x for l = 1 only
        c_l = 1 - t_l
        s_l = h_l * t_l + s_(l-1) * c_l
        s'  = s_depth

    Args:
        depth: number of layers in a step; the paper has up to 10.
        coupled: ``False`` for carry gates of their own,
            ``c_l = sigmoid(R_C[l] s_(l-1) + b_C[l] + W_C x)``.

    Source: Zilly et al. 2016, arXiv 1607.03474. The biases ``b_T`` start at -2, and ``b_C`` at 2,
    so that the layers keep most of the state.
    """

    depth: int = size(default=3)
    coupled: bool = True
    W_H: jax.Array = matrix("hidden", "in")
    W_T: jax.Array = matrix("hidden", "in")
    W_C: jax.Array | None = matrix("hidden", "in", when=lambda cell: not cell.coupled)
    R_H: jax.Array = array("depth", "hidden", "hidden", initializer=_each_glorot)
    R_T: jax.Array = array("depth", "hidden", "hidden", initializer=_each_glorot)
    R_C: jax.Array | None = array(
        "depth", "hidden", "hidden", initializer=_each_glorot, when=lambda cell: not cell.coupled
    )
    b_H: jax.Array = matrix("depth", "hidden", 0.0)
    b_T: jax.Array = matrix("depth", "hidden", -2.0)
    b_C: jax.Array | None = matrix("depth", "hidden", 2.0, when=lambda cell: not cell.coupled)
    s: jax.Array = state("hidden")

    def __call__(self, s: jax.Array, x: jax.Array) -> jax.Array:
        for l in range(self.depth):
            sums = []
            for W, R, b in self._gates():
                a = R[l] @ s + b[l]
                sums.append(a if l else a + W @ x)
            h, t = jnp.tanh(sums[0]), sigmoid(sums[1])
            s = h * t + s * (1 - t if self.coupled else sigmoid(sums[2]))
        return s

    def _gates(self) -> Any:
        """The weights of ``h``, ``t`` and, if it has its own, ``c``."""
        gates = [(self.W_H, self.R_H, self.b_H), (self.W_T, self.R_T, self.b_T)]
        return gates if self.coupled else [*gates, (self.W_C, self.R_C, self.b_C)]
