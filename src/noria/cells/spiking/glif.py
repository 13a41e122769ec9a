"""Gated leaky integrate-and-fire."""

import math
from typing import Any

import jax
from jax.nn import sigmoid

from noria.cells.declare import OfCell, matrix, state, vector
from noria.cells.spikes import SpikingCell
from noria.initializers import constant


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


_threshold = OfCell(lambda cell: constant(_logit(cell.threshold)))


class GLIFCell(SpikingCell):
    """Gated leaky integrate-and-fire: gates mix two kinds of leak, of integration and of reset.

    ::

        I  = (1 - beta (1 - g)) * (W x + b)
        u' = (1 - alpha (1 - tau)) * (1 - gamma s) * u - (1 - alpha) * leak
             + I - (1 - gamma) * v * s
        s' = H(u' - theta)

    The output is ``s'``. Each of ``alpha``, ``beta``, ``gamma``, ``tau``, ``leak``, ``g``, ``v``
    and ``theta`` is the sigmoid of a trained parameter, with a number for each unit. With
    ``alpha = 1`` the leak is exponential, with 0 also linear. With ``gamma = 1`` a spike sets the
    membrane to 0, with 0 it subtracts ``v``. Gates start at 0.55, 0.65 and 0.55.

    Args:
        threshold: the first value of ``theta`` and of ``v``, above 0 and below 1.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.

    Raises:
        ValueError: if ``threshold`` is not between 0 and 1.

    Source: Yao, Li, Mo and Cheng 2022, arXiv 2210.13768, with soft gates for each unit. In the
    paper ``g`` has a number for each of the few steps of a sequence, and the derivative of a spike
    is a rectangle.
    """

    threshold: float = 0.5
    a_alpha: jax.Array = vector("hidden", _logit(0.55))
    a_beta: jax.Array = vector("hidden", _logit(0.65))
    a_gamma: jax.Array = vector("hidden", _logit(0.55))
    a_tau: jax.Array = vector("hidden", _logit(0.25))
    a_leak: jax.Array = vector("hidden", _logit(0.0625))
    a_g: jax.Array = vector("hidden", _logit(0.5))
    a_reset: jax.Array = vector("hidden", _threshold)
    a_threshold: jax.Array = vector("hidden", _threshold)
    W: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    s: jax.Array = state("hidden")
    u: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"GLIFCell(threshold={self.threshold}): expected a number between 0 and 1."
            )

    def __call__(self, state: Any, x: jax.Array) -> Any:
        s, u = state
        alpha, beta, gamma = map(sigmoid, (self.a_alpha, self.a_beta, self.a_gamma))
        tau, leak, g, v = map(sigmoid, (self.a_tau, self.a_leak, self.a_g, self.a_reset))
        current = (1 - beta * (1 - g)) * (self.W @ x + self.b)
        u = (1 - alpha * (1 - tau)) * (1 - gamma * s) * u - (1 - alpha) * leak
        u = u + current - (1 - gamma) * v * s
        return self.State(self._spike(u - sigmoid(self.a_threshold)), u)
