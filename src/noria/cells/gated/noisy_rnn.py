"""Noisy recurrent network."""

from typing import Any

import jax
import jax.numpy as jnp

from noria._types import Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


def _over_columns(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """N(0, 1 / n^2) for n columns."""
    return jax.random.normal(key, shape, dtype) / shape[-1]


class NoisyRNNCell(VectorCell):
    """A step of a stochastic differential equation: a Lipschitz RNN whose state has noise.

    ::

        A  = (1 - beta) (M_A + M_A^T) + beta (M_A - M_A^T) - gamma I
        W  = (1 - beta) (M_W + M_W^T) + beta (M_W - M_W^T) - gamma I
        f  = A h + tanh(W h + U x + b)
        h' = h + delta f + sqrt(delta) (sigma_1 + sigma_2 f) * xi,    xi ~ N(0, 1)

    There is noise if the step gets a key, as ``layer(xs, key=key)``, and not in inference mode.
    Without a key ``xi`` is 0.

    Args:
        beta: the weight of the skew-symmetric part, from 0.5 to 1.
        gamma: what is taken from the diagonal of both matrices.
        delta: the size of a step.
        sigma_1: deviation of the additive noise.
        sigma_2: deviation of the multiplicative noise.
        inference: whether a key is ignored. `noria.inference` and `noria.training` set it for a
            whole model.

    Source: Lim et al. 2021, arXiv 2102.04877, discretised by the method of Euler and Maruyama. The
    authors' code trains ``delta``, as a vector, and multiplies ``f`` by uniform noise.
    """

    beta: float = 0.8
    gamma: float = 0.01
    delta: float = 0.01
    sigma_1: float = 0.02
    sigma_2: float = 0.02
    inference: bool = False
    M_A: jax.Array = matrix("hidden", "hidden", _over_columns)
    M_W: jax.Array = matrix("hidden", "hidden", _over_columns)
    U: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        A, W = self._bounded(self.M_A), self._bounded(self.M_W)
        f = A @ h + jnp.tanh(W @ h + self.U @ x + self.b)
        if key is None or self.inference:
            return h + self.delta * f
        xi = jax.random.normal(key, h.shape, h.dtype)
        return h + self.delta * f + self.delta**0.5 * (self.sigma_1 + self.sigma_2 * f) * xi

    def _bounded(self, M: jax.Array) -> jax.Array:
        symmetric, skew_part = M + M.T, M - M.T
        one = jnp.eye(self.hidden_size, dtype=M.dtype)
        return (1 - self.beta) * symmetric + self.beta * skew_part - self.gamma * one
