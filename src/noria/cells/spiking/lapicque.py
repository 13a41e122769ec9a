"""Lapicque's neuron."""

import jax

from noria.cells.declare import matrix, state, vector
from noria.cells.spikes import ResetCell


class LapicqueCell(ResetCell):
    """Lapicque's neuron: a membrane that is a resistor and a capacitor, and spikes.

    ::

        r  = H(u - threshold)                                   (no gradient)
        u' = u + dt / (R C) * (R (W x + b) - u) - r * threshold (subtract)
        u' = (1 - r) * (u + dt / (R C) * (R (W x + b) - u))     (zero)
        s  = H(u' - threshold)

    The output is ``s``. It is `LIFCell` with ``beta = 1 - dt / (R C)``, and an input that is
    multiplied by ``dt / C``.

    Args:
        R: the resistance, above 0.
        C: the capacitance, above 0.
        dt: the duration of a step, above 0; at most ``R C``, so that ``u`` does not change its
            sign.
        threshold: the threshold, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.
        reset: what a spike does to the membrane: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: whether the reset comes with the next step, or right after the spike.

    Raises:
        ValueError: if ``R``, ``C`` or ``dt`` is not above 0, or ``dt`` is above ``R C``.

    Source: Lapicque 1907, "Recherches quantitatives sur l'excitation electrique des nerfs traitee
    comme une polarisation", J. Physiol. Pathol. Gen. 9, as snnTorch has it.
    """

    R: float = 1.0
    C: float = 10.0
    dt: float = 1.0
    W: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    u: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if not (self.R > 0 and self.C > 0 and 0 < self.dt <= self.R * self.C):
            raise ValueError(
                f"LapicqueCell(R={self.R}, C={self.C}, dt={self.dt}): expected numbers above 0, "
                "and dt of at most R * C."
            )

    def __call__(self, u: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        current = self.W @ x + self.b
        return self._fired(u, u + self.dt / (self.R * self.C) * (self.R * current - u))
