"""Lipschitz RNN."""

from typing import Any

import jax
import jax.numpy as jnp

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


def _small(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """N(0, (0.1 / n)^2) for n columns."""
    return jax.random.normal(key, shape, dtype) * (0.1 / shape[-1])


class LipschitzRNNCell(VectorCell):
    """A step of a differential equation whose two matrices have a bounded symmetric part.

    ::

        A  = (1 - beta) (M_A + M_A^T) + beta (M_A - M_A^T) - gamma I
        W  = (1 - beta) (M_W + M_W^T) + beta (M_W - M_W^T) - gamma I
        f(h) = A h + tanh(W h + U x + b)
        h' = h + epsilon f(h)                            (Euler)
        h' = h + epsilon f(h + epsilon / 2 f(h))         (midpoint)

    Args:
        beta: the weight of the skew-symmetric part, from 0.5 to 1.
        gamma: what is taken from the diagonal of both matrices.
        epsilon: the size of a step.
        solver: ``"euler"`` or ``"midpoint"``, the Runge-Kutta method of second order.

    Source: Erichson et al. 2021, arXiv 2006.12070. Their code multiplies rows by ``A`` and ``W``,
    which exchanges ``M`` and its transpose.
    """

    beta: float = 0.75
    gamma: float = 0.001
    epsilon: float = 0.03
    solver: str = "euler"
    M_A: jax.Array = matrix("hidden", "hidden", _small)
    M_W: jax.Array = matrix("hidden", "hidden", _small)
    U: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("LipschitzRNNCell", "solver", self.solver, ("euler", "midpoint"))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        A, W = self._bounded(self.M_A), self._bounded(self.M_W)
        u = self.U @ x + self.b

        def f(h: jax.Array) -> jax.Array:
            return A @ h + jnp.tanh(W @ h + u)

        if self.solver == "euler":
            return h + self.epsilon * f(h)
        return h + self.epsilon * f(h + self.epsilon / 2 * f(h))

    def _bounded(self, M: jax.Array) -> jax.Array:
        symmetric, skew_part = M + M.T, M - M.T
        one = jnp.eye(self.hidden_size, dtype=M.dtype)
        return (1 - self.beta) * symmetric + self.beta * skew_part - self.gamma * one
