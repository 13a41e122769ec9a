"""Recurrent leaky integrate-and-fire."""

from typing import Any

import jax

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.parts import scaled, times, total
from noria.cells.spikes import LeakyCell


class RLeakyCell(LeakyCell):
    """Leaky integrate-and-fire with recurrent weights: the units see each other's spikes.

    ::

        R  = H(u - threshold)                                 (no gradient)
        u' = beta * u + W x + V s + b - R * threshold         (subtract)
        s' = H(u' - threshold)

    The output is ``s'``. For the other resets and ``beta`` see `LIFCell`.

    Args:
        recurrent: ``"dense"``, ``V`` is a matrix; or ``"diagonal"``, each unit sees itself.
        threshold: the threshold, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.
        reset: what a spike does to the membrane: ``"subtract"``, ``"zero"`` or ``"none"``.
        reset_delay: whether the reset comes with the next step, or right after the spike.

    Source: snnTorch, by Eshraghian et al. 2021, arXiv 2109.12894.
    """

    recurrent: str = "dense"
    W: jax.Array = matrix("hidden", "in")
    V: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.recurrent == "dense")
    v: jax.Array | None = vector("hidden", 1, when=lambda cell: cell.recurrent == "diagonal")
    b: jax.Array = vector("hidden")
    s: jax.Array = state("hidden")
    u: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("RLeakyCell", "recurrent", self.recurrent, ("dense", "diagonal"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        s, u = state
        seen = total(times(self.V, s), scaled(self.v, s))
        u, s = self._step(u, self.W @ x + seen + self.b)
        return self.State(s, u)
