"""Parallel Legendre memory unit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import identity, relu

from noria._legendre import check_window, delay
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.initializers import glorot_normal


class ParallelLMUCell(VectorCell):
    """The Legendre memory unit without a recurrence around its memory.

    ::

        u  = f1(U_x x + b_u)
        m' = A m + B u                                  for each channel of u
        y  = f2(W_m m' + W_x x + b_o)                   the output

    ``m`` are coefficients of Legendre polynomials. ``A`` and ``B`` are those of `LMUCell`.

    Args:
        order: coefficients of a channel.
        channels: numbers in ``u``.
        theta: length of the window, in steps.
        f1: activation of ``u``.
        f2: activation of the output.

    Source: Chilkuri and Eliasmith 2021, arXiv 2102.11417. The layer LMUFFT of keras-lmu is the
    memory; its user adds the rest.
    """

    order: int = size(default=32)
    channels: int = size(default=1)
    theta: float = 100.0
    f1: Callable[[jax.Array], jax.Array] = identity
    f2: Callable[[jax.Array], jax.Array] = relu
    U_x: jax.Array = matrix("channels", "in", glorot_normal())
    b_u: jax.Array = vector("channels")
    W_m: jax.Array = matrix("hidden", "channels * order", glorot_normal())
    W_x: jax.Array = matrix("hidden", "in", glorot_normal())
    b_o: jax.Array = vector("hidden")
    m: jax.Array = state("channels", "order")

    def __check_init__(self) -> None:
        check_window("ParallelLMUCell", self.theta)

    def __call__(self, m: jax.Array, x: jax.Array) -> jax.Array:
        A, B = (jnp.asarray(a, self.dtype) for a in delay(self.order, self.theta))
        u = self.f1(self.U_x @ x + self.b_u)
        return m @ A.T + u[:, None] * B

    def output(self, m: jax.Array, x: jax.Array) -> jax.Array:
        """A layer of the memory and the input."""
        return self.f2(self.W_m @ m.reshape(-1) + self.W_x @ x + self.b_o)
