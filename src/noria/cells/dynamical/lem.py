"""Long expressive memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._types import Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


def _hidden(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """U(-1 / sqrt(hidden), 1 / sqrt(hidden)) for arrays whose first axis is ``hidden``."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class LEMCell(VectorCell):
    """The long expressive memory: two equations, each with a learned size of its step.

    ::

        d_1 = dt * sigmoid(W_1 y + V_1 x + b_1)
        d_2 = dt * sigmoid(W_2 y + V_2 x + b_2)
        z'  = (1 - d_1) * z + d_1 * tanh(W_z y + V_z x + b_z)
        y'  = (1 - d_2) * y + d_2 * tanh(W_y z' + V_y x + b_y)

    Args:
        dt: the largest size of a step.

    Source: Rusch et al. 2022, arXiv 2110.04744. RecurrentLayers.jl and torchrecurrent compute
    ``y'`` from the old ``z``.
    """

    dt: float = 1.0
    W_1: jax.Array = matrix("hidden", "hidden", _hidden)
    V_1: jax.Array = matrix("hidden", "in", _hidden)
    b_1: jax.Array = vector("hidden", _hidden)
    W_2: jax.Array = matrix("hidden", "hidden", _hidden)
    V_2: jax.Array = matrix("hidden", "in", _hidden)
    b_2: jax.Array = vector("hidden", _hidden)
    W_z: jax.Array = matrix("hidden", "hidden", _hidden)
    V_z: jax.Array = matrix("hidden", "in", _hidden)
    b_z: jax.Array = vector("hidden", _hidden)
    W_y: jax.Array = matrix("hidden", "hidden", _hidden)
    V_y: jax.Array = matrix("hidden", "in", _hidden)
    b_y: jax.Array = vector("hidden", _hidden)
    y: jax.Array = state("hidden")
    z: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        y, z = state
        d_1 = self.dt * sigmoid(self.W_1 @ y + self.V_1 @ x + self.b_1)
        d_2 = self.dt * sigmoid(self.W_2 @ y + self.V_2 @ x + self.b_2)
        z = (1 - d_1) * z + d_1 * jnp.tanh(self.W_z @ y + self.V_z @ x + self.b_z)
        y = (1 - d_2) * y + d_2 * jnp.tanh(self.W_y @ z + self.V_y @ x + self.b_y)
        return self.State(y, z)
