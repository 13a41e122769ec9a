"""Cells whose units spike; gradients pass through a spike by a surrogate derivative."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import sigmoid

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import array, matrix, state, vector
from noria.cells.parts import times
from noria.cells.spikes import LeakyCell, SpikingCell
from noria.initializers import Initializer


def _between(low: float, high: float) -> Initializer:
    """An initialiser of U(low, high)."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, low, high)

    return init


def _by_columns(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """N(0, 1 / n) for n columns."""
    return jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5


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
        seen = times(self.V, s) if self.v is None else self.v * s
        u, s = self._step(u, self.W @ x + seen + self.b)
        return self.State(s, u)


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


class RSynapticCell(LeakyCell):
    """Current-based leaky integrate-and-fire with recurrent weights.

    ::

        R  = H(u - threshold)                       (no gradient)
        i' = alpha * i + W x + V s + b
        u' = beta * u + i' - R * threshold          (subtract)
        s' = H(u' - threshold)

    The output is ``s'``. ``alpha`` and ``beta`` are as in `SynapticCell`.

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
    alpha: jax.Array = vector("hidden", 0.9, trained=False)
    W: jax.Array = matrix("hidden", "in")
    V: jax.Array | None = matrix("hidden", "hidden", when=lambda cell: cell.recurrent == "dense")
    v: jax.Array | None = vector("hidden", 1, when=lambda cell: cell.recurrent == "diagonal")
    b: jax.Array = vector("hidden")
    s: jax.Array = state("hidden")
    i: jax.Array = state("hidden")
    u: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("RSynapticCell", "recurrent", self.recurrent, ("dense", "diagonal"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        s, i, u = state
        seen = times(self.V, s) if self.v is None else self.v * s
        i = jnp.clip(self.alpha, 0, 1) * i + self.W @ x + seen + self.b
        u, s = self._step(u, i)
        return self.State(s, i, u)


class AlphaCell(SpikingCell):
    """A spike response model: the membrane is a difference of two leaky currents.

    ::

        R  = H(u - threshold)                       (no gradient)
        e' = (1 - R) * (alpha * e + W x + b)
        i' = (1 - R) * (beta * i - W x - b)
        u' = tau * (e' + i'),    tau = log(alpha) / (log(beta) - log(alpha)) + 1
        s  = H(u' - threshold)

    The output is ``s``. ``alpha`` and ``beta`` are 0.9 and 0.8 and are not trained. ``alpha`` has
    to be larger.

    Args:
        reset: ``"zero"``, or ``"none"``, with ``R = 0``.
        threshold: the threshold, above 0.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.

    Source: snnTorch, by Eshraghian et al. 2021, arXiv 2109.12894. Its documentation has another
    ``tau`` than its code, and its code also has a reset by subtraction.
    """

    reset: str = "zero"
    alpha: jax.Array = vector("hidden", 0.9, trained=False)
    beta: jax.Array = vector("hidden", 0.8, trained=False)
    W: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    e: jax.Array = state("hidden")
    i: jax.Array = state("hidden")
    u: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("AlphaCell", "reset", self.reset, ("zero", "none"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        e, i, u = state
        current = self.W @ x + self.b
        log_a, log_b = jnp.log(self.alpha), jnp.log(self.beta)
        tau = log_a / (log_b - log_a) + 1
        keep = 1 - stop_gradient(self._spike(u - self.threshold)) if self.reset == "zero" else 1
        e = keep * (self.alpha * e + current)
        i = keep * (self.beta * i - current)
        u = tau * (e + i)
        return self.State(e, i, u), self._spike(u - self.threshold)


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
    of the step before, has no connection of a unit to itself, and also delays and refractory
    times.
    """

    tau_u: float = 20.0
    tau_a: float = 700.0
    threshold: float = 0.01
    surrogate: str = "triangle"
    scale: float = 0.3
    beta: jax.Array = vector("hidden", 1.8, trained=False)
    W: jax.Array = matrix("hidden", "in", _by_columns)
    V: jax.Array = matrix("hidden", "hidden", _by_columns)
    s: jax.Array = state("hidden")
    u: jax.Array = state("hidden")
    a: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        s, u, a = state
        alpha, rho = (float(jnp.exp(-1 / tau)) for tau in (self.tau_u, self.tau_a))
        B = self.threshold + self.beta * a
        u = alpha * u + (1 - alpha) * (self.W @ x + self.V @ s) - B * s
        a = rho * a + (1 - rho) * s
        B = self.threshold + self.beta * a
        return self.State(self._spike((u - B) / B), u, a)
