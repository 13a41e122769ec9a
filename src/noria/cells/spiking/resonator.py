"""Balanced resonate-and-fire."""

from typing import Any

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, state, vector
from noria.cells.spikes import SpikingCell
from noria.cells.starts import between


class ResonatorCell(SpikingCell):
    """Resonate-and-fire, balanced: damped oscillations, and a spike at a large amplitude.

    ::

        p  = (-1 + sqrt(1 - (dt * omega)^2)) / dt
        d  = p - |beta| - q
        u' = u + dt * (d * u - omega * v + W x + V s)
        v' = v + dt * (omega * u + d * v)
        s' = H(u' - threshold - q)
        q' = gamma * q + s'

        not balanced: d = -|beta|, q = 0

    The output is ``s'``. Real and imaginary part of the paper's complex state are ``u`` and ``v``.
    ``omega`` is drawn from U(5, 10) and ``beta``, the offset of the damping, from U(2, 3).
    ``omega`` counts by its modulus and has to stay below ``1 / dt``.

    Args:
        balanced: whether the damping keeps oscillations from growing, and spikes raise it and the
            threshold for some steps.
        dt: the time of a step.
        gamma: what a step keeps of ``q``.
        threshold: the threshold, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.

    Source: Higuchi et al. 2024, arXiv 2402.14603; resonators by Izhikevich 2001, doi
    10.1016/S0893-6080(01)00078-8, with a reset that both cells here do without.
    """

    balanced: bool = True
    dt: float = 0.01
    gamma: float = 0.9
    surrogate: str = "double_gaussian"
    scale: float = 0.5
    W: jax.Array = matrix("hidden", "in")
    V: jax.Array = matrix("hidden", "hidden")
    omega: jax.Array = vector("hidden", between(5, 10))
    beta: jax.Array = vector("hidden", between(2, 3))
    s: jax.Array = state("hidden")
    u: jax.Array = state("hidden")
    v: jax.Array = state("hidden")
    q: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        s, u, v, q = state
        omega, d = jnp.abs(self.omega), -jnp.abs(self.beta)
        if self.balanced:
            p = (-1 + jnp.sqrt(1 - (self.dt * omega) ** 2)) / self.dt
            d = p + d - q
        current = self.W @ x + self.V @ s
        u, v = (
            u + self.dt * (d * u - omega * v + current),
            v + self.dt * (omega * u + d * v),
        )
        s = self._spike(u - self.threshold - (q if self.balanced else 0))
        return self.State(s, u, v, self.gamma * q + s if self.balanced else q)
