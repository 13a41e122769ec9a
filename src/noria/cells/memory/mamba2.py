"""State space of Mamba-2."""

import jax
import jax.numpy as jnp
from jax.nn import softplus

from noria.cells.declare import matrix, size, state, vector
from noria.cells.heads import HeadsCell, decay, rates, step_bias


class Mamba2Cell(HeadsCell):
    """The state space model of Mamba-2: a matrix for each head, with one decay.

    ::

        u  = W_u x                                           for each head
        B  = W_B x,  C = W_C x                               for all heads
        Delta = softplus(w_Delta . x + b_Delta)
        h' = exp(-Delta exp(A_log)) h + B (Delta u)^T
        y  = h'^T C + D u                                    the output

    Rows of ``h`` belong to ``B``. ``A = -exp(A_log)`` starts in -U(1, 16), ``D`` at 1. ``b_Delta``
    starts such that its softplus is from 0.001 to 0.1.

    Args:
        heads: number of matrices; it divides ``hidden``.
        state_size: numbers for each feature, the paper's N.

    Source: Dao and Gu 2024, arXiv 2405.21060. The paper's block has a convolution and SiLU before
    ``u``, ``B`` and ``C``, and a gate and a norm of the output. They are no part of the cell.
    """

    state_size: int = size(default=128)
    W_u: jax.Array = matrix("hidden", "in")
    W_B: jax.Array = matrix("state", "in")
    W_C: jax.Array = matrix("state", "in")
    W_Delta: jax.Array = matrix("heads", "in")
    b_Delta: jax.Array = vector("heads", step_bias)
    A_log: jax.Array = vector("heads", rates)
    D: jax.Array = vector("heads", 1)
    h: jax.Array = state("heads", "state", "hidden // heads")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        u, B = self.split(self.W_u @ x), self.W_B @ x
        a = self.W_Delta @ x + self.b_Delta
        written = softplus(a)[:, None] * u
        return decay(a, self.A_log)[:, None, None] * h + B[:, None] * written[:, None, :]

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """What ``C`` reads from the state, and the skip."""
        y = jnp.einsum("n,hnp->hp", self.W_C @ x, h)
        return (y + self.D[:, None] * self.split(self.W_u @ x)).reshape(-1)
