"""Coupled oscillatory RNN."""

from typing import Any

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


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
