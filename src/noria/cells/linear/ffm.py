"""Fast and forgetful memory."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import complex_like, normalized


def _forgetting(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Decays, evenly spaced: the slowest leaves a share of 0.01 after 1024 steps."""
    del key
    return jnp.linspace(0.67, math.log(100) / 1024, shape[0], dtype=dtype)


def _frequencies(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``2 pi / p`` for evenly spaced periods p from 1 to 1024 steps."""
    del key
    return 2 * math.pi / jnp.linspace(1, 1024, shape[0], dtype=dtype)


class FFMCell(VectorCell):
    """Fast and forgetful memory: sums of gated inputs that decay and turn.

    ::

        u  = (W_1 x + b_1) * sigmoid(W_2 x + b_2)
        S' = exp(-|alpha_m| - i omega_c) * S + u_m       for each m and c
        z  = W_3 [Re S', Im S'] + b_3
        g  = sigmoid(W_4 x + b_4)
        y  = N(z) * g + (W_5 x + b_5) * (1 - g)          the output

    ``N`` is a layer norm without gain and bias. ``omega`` starts at periods from 1 to 1024 steps.
    The slowest decay leaves 0.01 after 1024 steps.

    Args:
        memory_size: number of decays, the paper's m.
        context_size: number of frequencies, the paper's c.

    Source: Morad, Kortvelesy, Liwicki and Prorok 2023, arXiv 2310.04128. The authors' code in
    PyTorch has ``+ i omega``, the conjugate. Their code in JAX, and memax, have the gate ``g``
    inside of the norm.
    """

    memory_size: int = size(default=32)
    context_size: int = size(default=4)
    W_1: jax.Array = matrix("memory", "in")
    b_1: jax.Array = vector("memory")
    W_2: jax.Array = matrix("memory", "in")
    b_2: jax.Array = vector("memory")
    alpha: jax.Array = vector("memory", _forgetting)
    omega: jax.Array = vector("context", _frequencies)
    W_3: jax.Array = matrix("hidden", "2 * memory * context")
    b_3: jax.Array = vector("hidden")
    W_4: jax.Array = matrix("hidden", "in")
    b_4: jax.Array = vector("hidden")
    W_5: jax.Array = matrix("hidden", "in")
    b_5: jax.Array = vector("hidden")
    S: jax.Array = state("memory", "context", is_complex=True)

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        u = (self.W_1 @ x + self.b_1) * sigmoid(self.W_2 @ x + self.b_2)
        none = jnp.zeros(S.shape, x.dtype)
        rate = complex_like(none - jnp.abs(self.alpha)[:, None], none - self.omega, S)
        return jnp.exp(rate) * S + complex_like(u[:, None] + none, none, S)

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """A gated read-out of the normalised state."""
        parts = jnp.concatenate([S.real.reshape(-1), S.imag.reshape(-1)]).astype(x.dtype)
        z = self.W_3 @ parts + self.b_3
        g = sigmoid(self.W_4 @ x + self.b_4)
        return normalized(z, 1e-5) * g + (self.W_5 @ x + self.b_5) * (1 - g)
