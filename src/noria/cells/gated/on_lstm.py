"""Ordered neurons long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softmax

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell


def _cumax(a: jax.Array, copies: int) -> jax.Array:
    """Running sums of a softmax, a soft step from 0 to 1, with each sum in some copies."""
    sums = jnp.tri(a.shape[0], dtype=a.dtype)
    return jnp.repeat(sums, copies, axis=0) @ softmax(a)


class ONLSTMCell(VectorCell):
    """The long short-term memory with ordered neurons, whose units forget in their order.

    ::

        F  = cumax(W_F x + U_F h + b_F)           the master gates, cumax(a) = cumsum(softmax(a))
        I  = 1 - cumax(W_I x + U_I h + b_I)
        w  = F * I
        f' = f * w + (F - w)                      f, i, o sigmoid gates of x and h
        i' = i * w + (I - w)
        c' = f' * c + i' * tanh(W_c x + U_c h + b_c)
        h' = o * tanh(c')

    Args:
        chunk_size: units that share an entry of ``F`` and ``I``; the paper has 10.

    Raises:
        ValueError: if ``hidden_size`` is no multiple of ``chunk_size``.

    Source: Shen et al. 2018, arXiv 1810.09536.
    """

    chunk_size: int = size(default=1)
    W_F: jax.Array = matrix("hidden // chunk", "in")
    W_I: jax.Array = matrix("hidden // chunk", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_i: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    U_F: jax.Array = matrix("hidden // chunk", "hidden")
    U_I: jax.Array = matrix("hidden // chunk", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    U_c: jax.Array = matrix("hidden", "hidden")
    b_F: jax.Array = vector("hidden // chunk")
    b_I: jax.Array = vector("hidden // chunk")
    b_f: jax.Array = vector("hidden")
    b_i: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.hidden_size % self.chunk_size:
            raise ValueError(f"{self._call}: expected hidden_size to be a multiple of chunk_size.")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        F = _cumax(self.W_F @ x + self.U_F @ h + self.b_F, self.chunk_size)
        I = 1 - _cumax(self.W_I @ x + self.U_I @ h + self.b_I, self.chunk_size)
        w = F * I
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f) * w + (F - w)
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.b_i) * w + (I - w)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.b_o)
        c = f * c + i * jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        return self.State(o * jnp.tanh(c), c)
