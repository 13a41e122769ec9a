"""Hierarchically gated recurrent network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid, silu

from noria._types import Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import normalized


def _rotary(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The angles ``10000^(-2 n / size)``."""
    del key
    return jnp.asarray(10000.0 ** (-2 * np.arange(shape[0]) / shape[0]), dtype)


class HGRNCell(VectorCell):
    """The token mixer of the hierarchically gated recurrent network, HGRU.

    ::

        c      = silu(W_c x + b_c)
        lambda = gamma + (1 - gamma) * sigmoid(W_mu x + b_mu)
        h'     = lambda * exp(i theta) * h + (1 - lambda) * c
        y      = W_o (N(h') * silu(W_g x + b_g)) + b_o   the output

    ``N`` is a layer norm of all real and imaginary parts, without gain and bias. The state and
    ``c`` have their real and imaginary parts along the first axis, since a real state has the
    same form.

    ``gamma`` is a lower bound of the gates for each unit. It is not trained. The paper trains it
    for all layers together: it grows from layer to layer, from 0 in the first one. For another
    layer pass, for instance, ``init={"gamma": 0.5}``.

    Args:
        is_complex: whether the state is complex. A real one has no ``theta``.

    Source: Qin, Yang and Zhong 2023, arXiv 2311.04823. The norm, and silu in the gate of the
    output, are those of the authors' code. flash-linear-attention has no complex state.
    """

    is_complex: bool = True
    W_c: jax.Array = matrix("(1 + is_complex) * hidden", "in")
    b_c: jax.Array = vector("(1 + is_complex) * hidden")
    W_mu: jax.Array = matrix("hidden", "in")
    b_mu: jax.Array = vector("hidden")
    gamma: jax.Array = vector("hidden", 0, trained=False)
    theta: jax.Array | None = vector("hidden", _rotary, when=lambda cell: cell.is_complex)
    W_g: jax.Array = matrix("(1 + is_complex) * hidden", "in")
    b_g: jax.Array = vector("(1 + is_complex) * hidden")
    W_o: jax.Array = matrix("hidden", "(1 + is_complex) * hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("1 + is_complex", "hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        c = silu(self.W_c @ x + self.b_c).reshape(h.shape)
        decay = self.gamma + (1 - self.gamma) * sigmoid(self.W_mu @ x + self.b_mu)
        if self.theta is not None:
            cos, sin = jnp.cos(self.theta), jnp.sin(self.theta)
            h = jnp.stack([cos * h[0] - sin * h[1], sin * h[0] + cos * h[1]])
        return decay * h + (1 - decay) * c

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """A gated read-out of the normalised state."""
        normed = normalized(h.reshape(-1), 1e-5)
        return self.W_o @ (normed * silu(self.W_g @ x + self.b_g)) + self.b_o
