"""State space of Centaurus."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import complex_like, wide
from noria.cells.starts import uniform_by_columns
from noria.initializers import normal


def _angles(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``pi m / M`` along the last axis."""
    del key
    return jnp.broadcast_to(jnp.asarray(np.pi * np.arange(shape[1]) / shape[1], dtype), shape)


def _log_steps(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Logarithms from 0.001 to 0.1."""
    del key
    return jnp.linspace(math.log(0.001), math.log(0.1), shape[0], dtype=dtype)


class CentaurusCell(VectorCell):
    """The bottleneck block of Centaurus: parts of a state share its input and are mixed.

    ::

        A  = -exp(log_A) + i A_im,   Delta = exp(log_Delta)
        h' = exp(Delta A) * h + Delta * (B x)            the same B x for all parts of a state
        y  = C (sum of E * Re(h') over the parts)        the output

    Each of the ``state_size`` states has ``parts`` complex numbers.

    Args:
        state_size: number of states, the paper's N.
        parts: numbers of each state, the paper's M.

    Source: Pei 2025, arXiv 2501.13230, in the form of lrnnx. The other blocks of the paper have
    diagonal or sparse ``B`` and ``C``.
    """

    state_size: int = size(default=64)
    parts: int = size(default=8)
    log_A: jax.Array = matrix("state", "parts", math.log(0.5))
    A_im: jax.Array = matrix("state", "parts", _angles)
    log_Delta: jax.Array = vector("state", _log_steps)
    B: jax.Array = matrix("state", "in", uniform_by_columns)
    C: jax.Array = matrix("hidden", "state", uniform_by_columns)
    E: jax.Array = matrix("state", "parts", normal(2**0.5))
    h: jax.Array = state("state", "parts", is_complex=True)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        Delta = jnp.exp(self.log_Delta)[:, None]
        decays = jnp.exp(complex_like(-Delta * jnp.exp(self.log_A), Delta * self.A_im, h))
        drive = Delta * (self.B @ x)[:, None]
        return decays * h + complex_like(drive, jnp.zeros_like(drive), h)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """A read-out of the mixed parts."""
        return self.C @ (wide(self.E) * h.real).sum(1).astype(x.dtype)
