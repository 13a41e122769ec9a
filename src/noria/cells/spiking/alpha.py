"""Alpha neuron, a spike response model."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.spikes import SpikingCell


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
