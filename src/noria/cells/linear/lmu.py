"""Legendre memory unit."""

from typing import Any

import jax
import jax.numpy as jnp

from noria._legendre import check_window, delay
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import lecun_uniform
from noria.initializers import glorot_normal


class LMUCell(VectorCell):
    """The Legendre memory unit: a memory ``m`` of the last ``theta`` values of one number ``u``.

    ::

        u  = e_x x + e_h h + e_m m
        m' = A m + B u
        h' = tanh(W_x x + W_h h + W_m m')

    ``m`` are coefficients of Legendre polynomials. ``A`` and ``B`` follow from ``order`` and
    ``theta`` by a zero-order hold. They are computed in 64 bits, and are no parameters.

    Args:
        order: number of coefficients.
        theta: length of the window, in steps.

    Source: Voelker, Kajic and Eliasmith 2019, NeurIPS 32. keras-lmu leaves
    out ``e_h h``, ``e_m m`` and ``W_x x`` by default, and may have several memories.
    """

    order: int = size(default=32)
    theta: float = 100.0
    e_x: jax.Array = vector("in", lecun_uniform())
    e_h: jax.Array = vector("hidden", lecun_uniform())
    e_m: jax.Array = vector("order")
    W_x: jax.Array = matrix("hidden", "in", glorot_normal())
    W_h: jax.Array = matrix("hidden", "hidden", glorot_normal())
    W_m: jax.Array = matrix("hidden", "order", glorot_normal())
    h: jax.Array = state("hidden")
    m: jax.Array = state("order")

    def __check_init__(self) -> None:
        check_window("LMUCell", self.theta)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, m = state
        A, B = (jnp.asarray(a, self.dtype) for a in delay(self.order, self.theta))
        u = self.e_x @ x + self.e_h @ h + self.e_m @ m
        m = A @ m + B * u
        h = jnp.tanh(self.W_x @ x + self.W_h @ h + self.W_m @ m)
        return self.State(h, m)
