"""Diagonal state space, S4D."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import complex_like, discrete, has_other_size, total, wide
from noria.cells.starts import logarithm
from noria.initializers import log_uniform, normal, ones


def _lin(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """S4D-Lin: ``pi n`` along the last axis."""
    del key
    return jnp.broadcast_to(jnp.asarray(np.pi * np.arange(shape[-1]), dtype), shape)


def _inv(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """S4D-Inv: ``N / pi (N / (2 n + 1) - 1)`` along the last axis of N / 2 numbers."""
    del key
    N, n = 2 * shape[-1], np.arange(shape[-1])
    return jnp.broadcast_to(jnp.asarray(N / np.pi * (N / (2 * n + 1) - 1), dtype), shape)


def _log_count(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """S4D-Real: ``log(n + 1)`` along the last axis."""
    del key
    return jnp.broadcast_to(jnp.asarray(np.log(1 + np.arange(shape[-1])), dtype), shape)


def _is(*kinds: str) -> Callable[[Any], bool]:
    return lambda cell: cell.kind in kinds


class S4DCell(VectorCell):
    """A diagonal state-space model for each feature, S4D.

    ::

        A     = -exp(log_A) + i A_im
        a, b  = exp(Delta A), (exp(Delta A) - 1) / A                   (zero-order hold)
        a, b  = (1 + Delta/2 A) / (1 - Delta/2 A), Delta / (1 - Delta/2 A)    (bilinear)
        h'    = a * h + b * B * x
        y     = 2 Re(sum of C * h' over n) + D * x       the output

    There is a row of ``state_size`` numbers for each feature, with ``Delta = exp(log_Delta)``.
    They stand for themselves and their conjugates, hence the 2. ``A`` starts at::

        Lin:   A_n = -1/2 + i pi n
        Inv:   A_n = -1/2 + i N/pi (N / (2 n + 1) - 1),   N = 2 state_size
        Real:  A_n = -(n + 1), real: there are no imaginary parts, and no 2

    ``A_im`` is ``A_lin`` or ``A_inv``. If ``in`` and ``hidden`` differ, ``P x`` stands for ``x``.

    Args:
        state_size: complex numbers of each feature.
        kind: ``"lin"``, ``"inv"`` or ``"real"``, the start of ``A``.
        method: ``"zoh"`` or ``"bilinear"``.

    Source: Gu, Gupta, Goel and Re 2022, arXiv 2206.11893.
    """

    state_size: int = size(default=32)
    kind: str = "lin"
    method: str = "zoh"
    P: jax.Array | None = matrix("hidden", "in", when=has_other_size)
    log_Delta: jax.Array = vector("hidden", logarithm(log_uniform(0.001, 0.1)))
    log_A: jax.Array | None = matrix("hidden", "state", math.log(0.5), when=_is("lin", "inv"))
    A_lin: jax.Array | None = matrix("hidden", "state", _lin, when=_is("lin"))
    A_inv: jax.Array | None = matrix("hidden", "state", _inv, when=_is("inv"))
    log_A_real: jax.Array | None = matrix("hidden", "state", _log_count, when=_is("real"))
    B_re: jax.Array = matrix("hidden", "state", ones)
    B_im: jax.Array | None = matrix("hidden", "state", 0, when=_is("lin", "inv"))
    C_re: jax.Array = matrix("hidden", "state", normal(0.5**0.5))
    C_im: jax.Array | None = matrix("hidden", "state", normal(0.5**0.5), when=_is("lin", "inv"))
    D: jax.Array = vector("hidden", normal(1))
    h: jax.Array = state("hidden", "state", is_complex=True)

    def __check_init__(self) -> None:
        check_choice("S4DCell", "kind", self.kind, ("lin", "inv", "real"))
        check_choice("S4DCell", "method", self.method, ("zoh", "bilinear"))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        u = x if self.P is None else self.P @ x
        log_A = total(self.log_A, self.log_A_real)
        zero = jnp.zeros_like(log_A)
        A = complex_like(-jnp.exp(log_A), total(zero, self.A_lin, self.A_inv), h)
        Delta = jnp.exp(self.log_Delta)[:, None] + zero
        a, b = discrete(A, complex_like(Delta, zero, h), self.method)
        return a * h + b * complex_like(
            self.B_re * u[:, None], total(zero, self.B_im) * u[:, None], h
        )

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """The real part of a read-out, and a skip connection."""
        u = x if self.P is None else self.P @ x
        y = wide(self.C_re) * h.real
        if self.C_im is not None:
            y = 2 * (y - wide(self.C_im) * h.imag)
        return y.sum(1).astype(x.dtype) + self.D * u
