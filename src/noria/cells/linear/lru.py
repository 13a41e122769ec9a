"""Linear recurrent unit."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import complex_like, wide
from noria.cells.starts import normal_by_columns
from noria.initializers import lecun_normal, ring


def _log_phases(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``log theta`` for angles theta from U(0, 2 pi)."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1e-6, 2 * math.pi))


class LRUCell(VectorCell):
    """The linear recurrent unit: complex decays, and no activation.

    ::

        lambda = exp(-exp(nu_log) + i exp(theta_log))
        gamma  = exp(gamma_log) * sqrt(1 - |lambda|^2)
        h'     = lambda * h + gamma * (B x)
        y      = Re(C h') + D x                          the output

    The ``lambda`` start on the ring from 0 to 0.999:
    ``init={"nu_log": nr.initializers.ring(0.9, 0.999)}`` makes another one.

    Args:
        state_size: complex numbers of the state.

    Source: Orvieto et al. 2023, arXiv 2303.06349. The paper trains ``log gamma``, which starts at
    ``log sqrt(1 - |lambda|^2)``. Here ``gamma_log`` is its distance from there, so that it suits
    any start of ``nu_log``. The other libraries have a diagonal ``D``.
    """

    state_size: int = size(default=64)
    nu_log: jax.Array = vector("state", ring(0, 0.999))
    theta_log: jax.Array = vector("state", _log_phases)
    gamma_log: jax.Array = vector("state")
    B_re: jax.Array = matrix("state", "in", normal_by_columns(0.5**0.5))
    B_im: jax.Array = matrix("state", "in", normal_by_columns(0.5**0.5))
    C_re: jax.Array = matrix("hidden", "state", normal_by_columns(1))
    C_im: jax.Array = matrix("hidden", "state", normal_by_columns(1))
    D: jax.Array = matrix("hidden", "in", lecun_normal())
    h: jax.Array = state("state", is_complex=True)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        nu = jnp.exp(self.nu_log)
        decay = jnp.exp(complex_like(-nu, jnp.exp(self.theta_log), h))
        gamma = jnp.exp(self.gamma_log) * jnp.sqrt(-jnp.expm1(-2 * nu))
        return decay * h + complex_like(gamma * (self.B_re @ x), gamma * (self.B_im @ x), h)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """The real part of a read-out, and a skip connection."""
        y = wide(self.C_re) @ h.real - wide(self.C_im) @ h.imag
        return y.astype(x.dtype) + self.D @ x
