"""Spiking long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.spikes import SpikingCell


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
