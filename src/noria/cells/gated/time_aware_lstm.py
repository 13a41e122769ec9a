"""Time-aware long short-term memory."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


def _log_decay(dt: jax.Array) -> jax.Array:
    """A discount for long times, 1 at time 0."""
    return 1 / jnp.log(math.e + dt)


class TimeAwareLSTMCell(VectorCell):
    """The time-aware long short-term memory (T-LSTM), for irregular steps.

    ::

        s  = tanh(W_d c + b_d)                    short-term part of the memory
        c* = c - s + s * decay(dt)                decay(dt) = 1 / log(e + dt)
        i  = sigmoid(W_i x + U_i h + b_i)
        f  = sigmoid(W_f x + U_f h + b_f)
        o  = sigmoid(W_o x + U_o h + b_o)
        c' = f * c* + i * tanh(W_c x + U_c h + b_c)
        h' = o * tanh(c')

    A layer takes the time since the step before as ``dt``.

    Args:
        decay: discount of ``s``; the paper has ``1 / dt`` for short times.

    Source: Baytas et al. 2017, doi 10.1145/3097983.3097997. The authors' code has a sigmoid in
    place of the first tanh.
    """

    decay: Callable[[jax.Array], jax.Array] = _log_decay
    W_d: jax.Array = matrix("hidden", "hidden")
    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    U_c: jax.Array = matrix("hidden", "hidden")
    b_d: jax.Array = vector("hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(  # type: ignore[override]
        self, state: Any, x: jax.Array, *, dt: jax.Array
    ) -> Any:
        h, c = state
        s = jnp.tanh(self.W_d @ c + self.b_d)
        c = c - s + s * self.decay(dt)
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.b_o)
        c = f * c + i * jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        return self.State(o * jnp.tanh(c), c)
