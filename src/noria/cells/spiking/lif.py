"""Leaky integrate-and-fire."""

import jax

from noria.cells.declare import matrix, state, vector
from noria.cells.spikes import LeakyCell


class LIFCell(LeakyCell):
    """Leaky integrate-and-fire: a membrane that leaks, and spikes above a threshold.

    ::

        R  = H(u - threshold)                       (no gradient)
        u' = beta * u + W x + b - R * threshold     (subtract)
        u' = (1 - R) * (beta * u + W x + b)         (zero)
        s  = H(u' - threshold)

    The output is ``s``. Without ``reset_delay``, ``u'`` loses ``(s - R) * threshold`` after the
    spike, or ``(s - R) * u'``. ``beta`` is 0.9 and clipped to the range from 0 to 1; it is not
    trained: `noria.thaw` changes this.

    Args:
        threshold: the threshold, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.
        reset: what a spike does to the membrane: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: whether the reset comes with the next step, or right after the spike.

    Source: Eshraghian et al. 2021, arXiv 2109.12894, with the delays of snnTorch. In snnTorch's
    ``Leaky`` a reset to zero keeps the input of the step.
    """

    W: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    u: jax.Array = state("hidden")

    def __call__(self, u: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._step(u, self.W @ x + self.b)
