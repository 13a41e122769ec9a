"""Adaptive leaky integrate-and-fire, symplectic."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.spikes import SpikingCell
from noria.cells.starts import between, uniform_by_columns
from noria.initializers import orthogonal


class AdLIFCell(SpikingCell):
    """Adaptive leaky integrate-and-fire with a second variable that the membrane drives.

    ::

        m  = alpha * u + (1 - alpha) * (W x + V s + c - w)
        s' = H(m - threshold)
        u' = (1 - s') * m                                                     (no gradient by s')
        w' = rho * w + (1 - rho) * q * (a * u' + b * s')                      (symplectic)
        w' = rho * w + (1 - rho) * q * (a * u + b * s)                        (euler)

        alpha = exp(-1 / tau_u),    tau_u = tau_u_min + r_u * (tau_u_max - tau_u_min)
        rho   = exp(-1 / tau_w),    tau_w = tau_w_min + r_w * (tau_w_max - tau_w_min)

    The output is ``s'``. ``a``, ``b``, ``r_u`` and ``r_w`` are trained and clipped: ``b`` to the
    range from 0 to 2, the others to the range from 0 to 1.

    Args:
        scheme: ``"symplectic"``, the SE-adLIF neuron, or ``"euler"``, the EF-adLIF neuron.
        q: a factor of ``a`` and ``b``.
        tau_u_min: least time constant of the membranes, in steps.
        tau_u_max: greatest time constant of the membranes.
        tau_w_min: least time constant of ``w``.
        tau_w_max: greatest time constant of ``w``.
        threshold: the threshold, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.

    Source: Baronig et al. 2024, arXiv 2408.07517. Its authors clip after a step of the optimiser.
    The default numbers are those of their code for the data set SHD.
    """

    scheme: str = "symplectic"
    q: float = 120.0
    tau_u_min: float = 5.0
    tau_u_max: float = 25.0
    tau_w_min: float = 60.0
    tau_w_max: float = 300.0
    surrogate: str = "exponential"
    slope: float = 5.0
    scale: float = 0.4
    W: jax.Array = matrix("hidden", "in", uniform_by_columns)
    V: jax.Array = matrix("hidden", "hidden", orthogonal())
    c: jax.Array = vector("hidden")
    a: jax.Array = vector("hidden", between(0, 1))
    b: jax.Array = vector("hidden", between(0, 2))
    r_u: jax.Array = vector("hidden", between(0, 1))
    r_w: jax.Array = vector("hidden", between(0, 1))
    s: jax.Array = state("hidden")
    u: jax.Array = state("hidden")
    w: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("AdLIFCell", "scheme", self.scheme, ("symplectic", "euler"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        s, u, w = state
        a, b = jnp.clip(self.a, 0, 1), jnp.clip(self.b, 0, 2)
        alpha = _decay(self.r_u, self.tau_u_min, self.tau_u_max)
        rho = _decay(self.r_w, self.tau_w_min, self.tau_w_max)
        m = alpha * u + (1 - alpha) * (self.W @ x + self.V @ s + self.c - w)
        spikes = self._spike(m - self.threshold)
        after = (1 - stop_gradient(spikes)) * m
        drive = a * u + b * s if self.scheme == "euler" else a * after + b * spikes
        return self.State(spikes, after, rho * w + (1 - rho) * self.q * drive)


def _decay(r: jax.Array, low: float, high: float) -> jax.Array:
    """What a step keeps, for time constants between ``low`` and ``high``."""
    return jnp.exp(-1 / (low + jnp.clip(r, 0, 1) * (high - low)))
