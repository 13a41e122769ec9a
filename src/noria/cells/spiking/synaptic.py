"""Current-based leaky integrate-and-fire."""

from typing import Any

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, state, vector
from noria.cells.spikes import LeakyCell


class SynapticCell(LeakyCell):
    """Current-based leaky integrate-and-fire: synapses leak, too, before the membrane does.

    ::

        R  = H(u - threshold)                       (no gradient)
        i' = alpha * i + W x + b
        u' = beta * u + i' - R * threshold          (subtract)
        s  = H(u' - threshold)

    The output is ``s``. ``alpha`` and ``beta`` are 0.9 and as in `LIFCell`, which has the other
    resets, too. They leave ``i`` as it is.

    Args:
        threshold: the threshold, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.
        reset: what a spike does to the membrane: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: whether the reset comes with the next step, or right after the spike.

    Source: Eshraghian et al. 2021, arXiv 2109.12894. In snnTorch's ``Synaptic`` and ``RSynaptic``
    ``reset_delay=False`` does not reach the membrane.
    """

    alpha: jax.Array = vector("hidden", 0.9, trained=False)
    W: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    i: jax.Array = state("hidden")
    u: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        i, u = state
        i = jnp.clip(self.alpha, 0, 1) * i + self.W @ x + self.b
        u, s = self._step(u, i)
        return self.State(i, u), s
