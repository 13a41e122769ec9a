"""FastGRNN."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import projected, times, total


class FastGRNNCell(VectorCell):
    """A gated FastRNN: gate and candidate share their matrices, which may be of low rank.

    ::

        p  = W x + U h
        z  = sigmoid(p + b_z)
        n  = tanh(p + b_n)
        h' = (sigmoid(zeta) * (1 - z) + sigmoid(nu)) * n + z * h

    The numbers ``zeta`` and ``nu`` are trained; they start at 1 and -4. The paper's sparse and
    quantised weights are no part of the cell.

    Args:
        w_rank: rank of ``W``, which is then ``W_1 W_2``; 0 for a full matrix.
        u_rank: the same for ``U``.

    Source: Kusupati et al. 2018, arXiv 1901.02358. RecurrentLayers.jl and torchrecurrent have tanh
    in the gate.
    """

    w_rank: int = 0
    u_rank: int = 0
    W: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.w_rank < 1)
    W_1: jax.Array | None = matrix("hidden", "w_rank", when=lambda cell: cell.w_rank > 0)
    W_2: jax.Array | None = matrix("w_rank", "in", when=lambda cell: cell.w_rank > 0)
    U: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.u_rank < 1)
    U_1: jax.Array | None = matrix("hidden", "u_rank", when=lambda cell: cell.u_rank > 0)
    U_2: jax.Array | None = matrix("u_rank", "hidden", when=lambda cell: cell.u_rank > 0)
    b_z: jax.Array = vector("hidden")
    b_n: jax.Array = vector("hidden")
    zeta: jax.Array = array(initializer=1)
    nu: jax.Array = array(initializer=-4)
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        for name in ("w_rank", "u_rank"):
            if (rank := getattr(self, name)) < 0:
                raise ValueError(
                    f"FastGRNNCell({name}={rank}): expected 0 or a rank of at least 1."
                )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        low_x = times(self.W_1, projected(self.W_2, x))
        low_h = times(self.U_1, projected(self.U_2, h))
        p = total(times(self.W, x), low_x, times(self.U, h), low_h)
        z = sigmoid(p + self.b_z)
        n = jnp.tanh(p + self.b_n)
        return (sigmoid(self.zeta) * (1 - z) + sigmoid(self.nu)) * n + z * h
