"""Selective state space of Mamba."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import softplus

from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.heads import step_bias


def _log_counts(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Logarithms of 1, 2, ... in each row."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype)), shape)


class MambaCell(VectorCell):
    """The selective state space model S6 of Mamba: a state of several numbers for each feature.

    ::

        u  = W_u x,  B = W_B u,  C = W_C u
        Delta = softplus(W_up W_down u + b_Delta)
        h'_ij = exp(-Delta_i exp(A_log_ij)) h_ij + Delta_i u_i B_j
        y  = h' C + D * u                                    the output

    ``A = -exp(A_log)`` starts at -1, -2, ... in each row, ``D`` at 1. ``b_Delta`` starts such that
    its softplus is from 0.001 to 0.1.

    Args:
        state_size: numbers for each feature, the paper's N.
        rank: rows of ``W_down``.

    Source: Gu and Dao 2023, arXiv 2312.00752, algorithm 2. The paper's block computes ``u`` by a
    convolution and SiLU, and gates the output. They are no part of the cell. The cell S6 of memax
    has one number for each feature, and a fixed ``C``.
    """

    state_size: int = size(default=16)
    rank: int = size(default=1)
    W_u: jax.Array = matrix("hidden", "in")
    W_B: jax.Array = matrix("state", "hidden")
    W_C: jax.Array = matrix("state", "hidden")
    W_down: jax.Array = matrix("rank", "hidden")
    W_up: jax.Array = matrix("hidden", "rank")
    b_Delta: jax.Array = vector("hidden", step_bias)
    A_log: jax.Array = matrix("hidden", "state", _log_counts)
    D: jax.Array = vector("hidden", 1)
    h: jax.Array = state("hidden", "state")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        u = self.W_u @ x
        Delta = softplus(self.W_up @ (self.W_down @ u) + self.b_Delta)
        decays = jnp.exp(-Delta[:, None] * jnp.exp(self.A_log))
        return decays * h + (Delta * u)[:, None] * (self.W_B @ u)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """What ``C`` reads from the state, and the skip."""
        u = self.W_u @ x
        return h @ (self.W_C @ u) + self.D * u
