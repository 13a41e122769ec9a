"""Structured state space, S4."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._legendre import normal_hippo
from noria._types import Initializer, Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import complex_like, has_other_size, wide
from noria.cells.starts import logarithm
from noria.initializers import log_uniform, normal


def _angles(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The imaginary parts of the eigenvalues of the normal part of HiPPO-LegS."""
    del key
    return jnp.broadcast_to(jnp.asarray(normal_hippo(shape[-1])[0], dtype), shape)


def _in_eigenvectors(gain: float, offset: float) -> Initializer:
    """Both parts of ``V* a`` for the eigenvectors V and ``a_n = gain sqrt(n + offset)``."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        del key
        a = gain * np.sqrt(np.arange(2 * shape[-1]) + offset)
        found = normal_hippo(shape[-1])[1].conj().T @ a
        parts = jnp.asarray(np.stack([found.real, found.imag]), dtype)
        return jnp.broadcast_to(parts[:, None, :], shape)

    return init


class S4Cell(VectorCell):
    """A state-space model for each feature whose matrix is diagonal plus of rank one, S4.

    ::

        A  = diag(Lambda) - P P^*,   Lambda = -exp(log_A) + i A_im
        h' = (1 - Delta/2 A)^-1 ((1 + Delta/2 A) h + Delta B x)           (bilinear)
        y  = 2 Re(sum of C h' over n) + D x                              the output

        d  = 1 / (2 / Delta - Lambda)
        z  = (2 / Delta + Lambda) h - P (P^* h) + 2 B x                  the inverse in
        h' = d z - d P (1 + P^* d P)^-1 (P^* d z)                        linear time

    There are ``state_size`` complex numbers for each feature, with ``Delta = exp(log_Delta)``. They
    stand for themselves and their conjugates, hence the 2; ``P^* a`` is twice the real part of the
    sum. ``P``, ``B`` and ``C`` have their real and imaginary parts along the first axis. ``P``,
    ``B`` and ``Lambda`` start as HiPPO-LegS in the basis of the eigenvectors of its normal part. If
    ``in`` and ``hidden`` differ, ``W x`` stands for ``x``.

    Args:
        state_size: complex numbers of each feature, half the order of HiPPO.

    Source: Gu, Goel and Re 2022, arXiv 2111.00396, section 3 and appendix C, with the stable form
    ``P P^*`` of Goel et al. 2022, arXiv 2202.09729. Training by convolution gives the same numbers.
    """

    state_size: int = size(default=32)
    W: jax.Array | None = matrix("hidden", "in", when=has_other_size)
    log_Delta: jax.Array = vector("hidden", logarithm(log_uniform(0.001, 0.1)))
    log_A: jax.Array = matrix("hidden", "state", float(np.log(0.5)))
    A_im: jax.Array = matrix("hidden", "state", _angles)
    P: jax.Array = array(2, "hidden", "state", initializer=_in_eigenvectors(1, 0.5))
    B: jax.Array = array(2, "hidden", "state", initializer=_in_eigenvectors(2**0.5, 0.5))
    C: jax.Array = array(2, "hidden", "state", initializer=normal(0.5**0.5))
    D: jax.Array = vector("hidden", normal(1))
    h: jax.Array = state("hidden", "state", is_complex=True)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        u = x if self.W is None else self.W @ x
        Lambda = complex_like(-jnp.exp(self.log_A), self.A_im, h)
        P = complex_like(self.P[0], self.P[1], h)
        rate = 2 * jnp.exp(-self.log_Delta)[:, None]
        rate = complex_like(rate, jnp.zeros_like(rate), h)
        d = 1 / (rate - Lambda)
        z = (rate + Lambda) * h - P * _inner(P, h)
        z = z + complex_like(2 * self.B[0] * u[:, None], 2 * self.B[1] * u[:, None], h)
        return d * z - d * P * (_inner(P, d * z) / (1 + _inner(P, d * P)))

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """The real part of a read-out, and a skip connection."""
        u = x if self.W is None else self.W @ x
        C = wide(self.C)
        y = 2 * (C[0] * h.real - C[1] * h.imag).sum(1)
        return y.astype(x.dtype) + self.D * u


def _inner(P: jax.Array, a: jax.Array) -> jax.Array:
    """``P^* a`` of vectors with their conjugates, for each row."""
    found = 2 * (P.real * a.real + P.imag * a.imag).sum(1, keepdims=True)
    return jax.lax.complex(found, jnp.zeros_like(found))
