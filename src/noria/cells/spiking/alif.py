"""Adaptive leaky integrate-and-fire, LSNN."""

import math
from typing import Any

import jax

from noria.cells.declare import matrix, state, vector
from noria.cells.spikes import SpikingCell
from noria.cells.starts import normal_by_columns


class ALIFCell(SpikingCell):
    """Adaptive leaky integrate-and-fire: each spike raises the threshold of its unit for long.

    ::

        B  = threshold + beta * a
        u' = alpha * u + (1 - alpha) * (W x + V s) - B * s
        a' = rho * a + (1 - rho) * s,    B' = threshold + beta * a'
        s' = H((u' - B') / B')

        alpha = exp(-1 / tau_u),    rho = exp(-1 / tau_a)

    The output is ``s'``. ``beta`` is 1.8 and not trained. Where it is 0, units do not adapt: an
    LSNN has units of both kinds.

    Args:
        tau_u: time constant of the membranes, in steps.
        tau_a: time constant of the thresholds, in steps.
        threshold: the threshold without adaptation, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.

    Source: Bellec et al. 2018, arXiv 1803.09574. The authors' code takes spikes from the membrane
    of the step before, and no unit is connected to itself. It also has delays and refractory times.
    """

    tau_u: float = 20.0
    tau_a: float = 700.0
    threshold: float = 0.01
    surrogate: str = "triangle"
    scale: float = 0.3
    beta: jax.Array = vector("hidden", 1.8, trained=False)
    W: jax.Array = matrix("hidden", "in", normal_by_columns())
    V: jax.Array = matrix("hidden", "hidden", normal_by_columns())
    s: jax.Array = state("hidden")
    u: jax.Array = state("hidden")
    a: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        s, u, a = state
        alpha, rho = (math.exp(-1 / tau) for tau in (self.tau_u, self.tau_a))
        B = self.threshold + self.beta * a
        u = alpha * u + (1 - alpha) * (self.W @ x + self.V @ s) - B * s
        a = rho * a + (1 - rho) * s
        B = self.threshold + self.beta * a
        return self.State(self._spike((u - B) / B), u, a)
