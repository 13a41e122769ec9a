"""Leaky units that spike; gradients pass through a spike by a surrogate derivative."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.parts import times, total
from noria.cells.spikes import LeakyCell, SpikingCell


def _scaled(v: jax.Array | None, s: jax.Array) -> jax.Array | None:
    """``v * s``, or ``None`` for a vector that a cell does not have."""
    return None if v is None else v * s


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
        seen = total(times(self.V, s), _scaled(self.v, s))
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
        seen = total(times(self.V, s), _scaled(self.v, s))
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
        alpha, beta = jnp.clip(self.alpha, 0, 1), jnp.clip(self.beta, 0, 1)
        log_a, log_b = jnp.log(alpha), jnp.log(beta)
        tau = log_a / (log_b - log_a) + 1
        keep = 1 - stop_gradient(self._spike(u - self.threshold)) if self.reset == "zero" else 1
        e = keep * (alpha * e + current)
        i = keep * (beta * i - current)
        u = tau * (e + i)
        return self.State(e, i, u), self._spike(u - self.threshold)


class SpikingLSTMCell(SpikingCell):
    """An LSTM whose output spikes, SLSTM.

    ::

        R  = H(h - threshold)                       (no gradient)
        i  = sigmoid(W_i x + U_i h + b_i)
        f  = sigmoid(W_f x + U_f h + b_f)
        g  = tanh(W_g x + U_g h + b_g)
        o  = sigmoid(W_o x + U_o h + b_o)
        c' = f * c + i * g
        h' = o * tanh(c')
        h' = h' - R * threshold                     (subtract)
        h' = (1 - R) * h'                           (zero)
        s  = H(h' - threshold)

    The output is ``s``; the gates see ``h``, the membrane.

    Args:
        reset: what a spike does to ``h``: ``"none"``, ``"subtract"`` or ``"zero"``.
        threshold: the threshold, above 0; at 1 or more no unit spikes, since ``h'`` is below 1.
        surrogate: the derivative of a spike, one of those of `spike`.
        slope: how steep the smooth function behind this derivative is.
        scale: a factor of this derivative.

    Source: snnTorch, by Eshraghian et al. 2021, arXiv 2109.12894. The threshold of snnTorch's
    ``SLSTM`` is 1. The sLSTM of xLSTM is another cell.
    """

    reset: str = "none"
    threshold: float = 0.5
    W_i: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    W_f: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden")
    W_g: jax.Array = matrix("hidden", "in")
    U_g: jax.Array = matrix("hidden", "hidden")
    b_g: jax.Array = vector("hidden")
    W_o: jax.Array = matrix("hidden", "in")
    U_o: jax.Array = matrix("hidden", "hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("SpikingLSTMCell", "reset", self.reset, ("none", "subtract", "zero"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f)
        g = jnp.tanh(self.W_g @ x + self.U_g @ h + self.b_g)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.b_o)
        R = stop_gradient(self._spike(h - self.threshold))
        c = f * c + i * g
        h = o * jnp.tanh(c)
        if self.reset != "none":
            h = h - R * (self.threshold if self.reset == "subtract" else h)
        return self.State(h, c), self._spike(h - self.threshold)
