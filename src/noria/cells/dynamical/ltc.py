"""Liquid time-constant network."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from noria._types import Initializer, Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import between


def _positive(low: float, high: float) -> Initializer:
    """Numbers whose softplus is U(low, high)."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.log(jnp.expm1(jax.random.uniform(key, shape, dtype, low, high)))

    return init


def _polarity(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """1 or -1."""
    return jax.random.rademacher(key, shape, dtype)


class LTCCell(VectorCell):
    """The liquid time-constant network: each synapse is a conductance with its own sigmoid.

    ::

        c dv/dt = g * (e - v) + sum_j S_j * (E_j - v)
        S_j     = w_j * sigmoid(gamma_j * (v_j - mu_j))

    The sum runs over the units and, with parameters of their own, the inputs: ``w_x``, ``mu_x``,
    ``gamma_x`` and ``E_x``. In each of the ``unfolds`` parts of a step the method of the paper,
    "fused", computes ::

        v = (C v + g e + sum_j S_j E_j) / (C + g + sum_j S_j),    C = c * unfolds / dt

    ``w``, ``g`` and ``c`` are the softplus of the arrays, which keeps them positive.

    Args:
        dt: the time of a step.
        unfolds: number of parts of a step.

    Source: Hasani et al. 2021, arXiv 2006.04439. The authors' library ncps clips parameters after
    a step of the optimiser, or has the softplus of the parameters. It adds scales and shifts of
    inputs and outputs, which a layer around the cell may have, and masks of synapses.
    """

    dt: float = 1.0
    unfolds: int = 6
    w: jax.Array = matrix("hidden", "hidden", _positive(0.001, 1))
    mu: jax.Array = matrix("hidden", "hidden", between(0.3, 0.8))
    gamma: jax.Array = matrix("hidden", "hidden", between(3, 8))
    E: jax.Array = matrix("hidden", "hidden", _polarity)
    w_x: jax.Array = matrix("hidden", "in", _positive(0.001, 1))
    mu_x: jax.Array = matrix("hidden", "in", between(0.3, 0.8))
    gamma_x: jax.Array = matrix("hidden", "in", between(3, 8))
    E_x: jax.Array = matrix("hidden", "in", _polarity)
    g: jax.Array = vector("hidden", _positive(0.001, 1))
    e: jax.Array = vector("hidden", between(-0.2, 0.2))
    c: jax.Array = vector("hidden", _positive(0.4, 0.6))
    v: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.unfolds < 1:
            raise ValueError(f"LTCCell(unfolds={self.unfolds}): expected at least 1.")

    def conductances(self) -> tuple[jax.Array, jax.Array]:
        """The weights of the synapses of the units and of the inputs."""
        return softplus(self.w), softplus(self.w_x)

    def __call__(self, v: jax.Array, x: jax.Array) -> jax.Array:
        (w, w_x), g = self.conductances(), softplus(self.g)
        C = softplus(self.c) * (self.unfolds / self.dt)
        S_x = w_x * sigmoid(self.gamma_x * (x - self.mu_x))
        above, below = g * self.e + (S_x * self.E_x).sum(1), C + g + S_x.sum(1)
        for _ in range(self.unfolds):
            S = w * sigmoid(self.gamma * (v - self.mu))
            v = (C * v + above + (S * self.E).sum(1)) / (below + S.sum(1))
        return v
