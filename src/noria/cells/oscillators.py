"""Cells of two coupled equations: oscillators, and a memory with two learned time scales."""

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


def _hidden(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """U(-1 / sqrt(hidden), 1 / sqrt(hidden)) for arrays whose first axis is ``hidden``."""
    bound = shape[0] ** -0.5
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


class CoRNNCell(VectorCell):
    """The coupled oscillatory network: positions ``y`` and velocities ``z`` of oscillators.

    ::

        a  = tanh(W y + W_z z + V x + b) - gamma * y
        z' = z + dt * (a - epsilon * z)                  (explicit)
        z' = (z + dt * a) / (1 + dt * epsilon)           (implicit)
        y' = y + dt * z'

    Args:
        dt: the size of a step.
        gamma: the frequency of the oscillators without an input.
        epsilon: the damping.
        implicit: whether the damping acts on the velocity after the step. The defaults of
            ``dt``, ``gamma`` and ``epsilon`` are those of the authors' code for sequential MNIST.

    Source: Rusch and Mishra 2021, arXiv 2010.00951, eq. 3. RecurrentLayers.jl has ``gamma =
    epsilon = 0`` and ``dt = 1``, where the oscillators have neither frequency nor damping.
    """

    dt: float = 0.042
    gamma: float = 2.7
    epsilon: float = 4.7
    implicit: bool = False
    W: jax.Array = matrix("hidden", "hidden")
    W_z: jax.Array = matrix("hidden", "hidden")
    V: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    y: jax.Array = state("hidden")
    z: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        y, z = state
        a = jnp.tanh(self.W @ y + self.W_z @ z + self.V @ x + self.b) - self.gamma * y
        if self.implicit:
            z = (z + self.dt * a) / (1 + self.dt * self.epsilon)
        else:
            z = z + self.dt * (a - self.epsilon * z)
        y = y + self.dt * z
        return self.State(y, z)


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
