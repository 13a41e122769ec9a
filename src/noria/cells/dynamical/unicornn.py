"""Undamped independent controlled oscillatory RNN."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._types import Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import between
from noria.initializers import uniform


def _fan_in(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """He's uniform distribution of a leaky ReLU of slope 8."""
    bound = (6 / (1 + 8**2) / shape[-1]) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class UnICORNNCell(VectorCell):
    """The undamped independent controlled oscillatory network: each unit is an oscillator.

    ::

        z' = z - dt * sigmoid(c) * (tanh(w * y + V x + b) + alpha * y)
        y' = y + dt * sigmoid(c) * z'

    Args:
        dt: the largest size of a step; ``sigmoid(c)`` scales it for each unit.
        alpha: the frequency of the oscillators without an input. Both defaults are those of the
            authors' code for permuted MNIST.

    Source: Rusch and Mishra 2021, arXiv 2103.05487. RecurrentLayers.jl has a full matrix for ``w``
    by default, and ``alpha = 0``, ``dt = 1``.
    """

    dt: float = 0.19
    alpha: float = 30.65
    w: jax.Array = vector("hidden", between(0, 1))
    V: jax.Array = matrix("hidden", "in", _fan_in)
    b: jax.Array = vector("hidden")
    c: jax.Array = vector("hidden", uniform(0.1))
    y: jax.Array = state("hidden")
    z: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        y, z = state
        dt = self.dt * sigmoid(self.c)
        z = z - dt * (jnp.tanh(self.w * y + self.V @ x + self.b) + self.alpha * y)
        y = y + dt * z
        return self.State(y, z)
