"""Units that spike and adapt, resonate, or learn their time constants."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import array, matrix, state, vector
from noria.cells.spikes import SpikingCell
from noria.cells.starts import between, normal_by_columns, uniform_by_columns
from noria.initializers import orthogonal


class PLIFCell(SpikingCell):
    """Leaky integrate-and-fire with one time constant, which is trained.

    ::

        k  = sigmoid(a)                             (1 / tau)
        m  = u + k * (W x + b - u)
        s  = H(m - threshold)
        u' = (1 - s) * m

    The output is ``s``. ``a`` is one number for all units and starts at 0, where ``tau`` is 2.

    Args:
        detach_reset: whether gradients ignore the reset.
        threshold: the threshold, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.

    Source: Fang et al. 2020, arXiv 2007.05785. SpikingJelly also has a form without ``k`` before
    the input.
    """

    detach_reset: bool = False
    a: jax.Array = array(initializer=0)
    W: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    u: jax.Array = state("hidden")

    def __call__(self, u: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        m = u + sigmoid(self.a) * (self.W @ x + self.b - u)
        s = self._spike(m - self.threshold)
        return (1 - (stop_gradient(s) if self.detach_reset else s)) * m, s


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
