"""Continuous-time RNN."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class CTRNNCell(VectorCell):
    """A continuous-time network, solved by Euler's method, with a time constant for each unit.

    ::

        tau   = exp(log_tau)
        rate:     tau dh/dt = -h + activation(W x + U h + b)
        current:  tau dh/dt = -h + W x + U activation(h) + b

    The output is ``h`` in the form of rates and ``activation(h)`` in the form of currents. The
    latter with ``init={"U": nr.initializers.normal(1.5 / hidden**0.5)}`` is the network of
    Sussillo and Abbott, who train the read-out only.

    Args:
        form: ``"rate"`` or ``"current"``.
        dt: the time of a step.
        unfolds: number of steps of Euler's method in a step.
        activation: any element-wise function.

    Source: Funahashi and Nakamura 1993, doi 10.1016/S0893-6080(05)80125-X; currents by Sussillo
    and Abbott 2009, doi 10.1016/j.neuron.2009.07.018.
    """

    form: str = "rate"
    dt: float = 0.1
    unfolds: int = 1
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    log_tau: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("CTRNNCell", "form", self.form, ("rate", "current"))
        if self.unfolds < 1:
            raise ValueError(f"CTRNNCell(unfolds={self.unfolds}): expected at least 1.")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        rate = self.dt / self.unfolds * jnp.exp(-self.log_tau)
        u = self.W @ x + self.b
        for _ in range(self.unfolds):
            if self.form == "rate":
                drive = self.activation(u + self.U @ h)
            else:
                drive = u + self.U @ self.activation(h)
            h = h + rate * (drive - h)
        return h

    def output(self, state: jax.Array, x: jax.Array) -> jax.Array:
        """The rates of the units."""
        return state if self.form == "rate" else self.activation(state)
