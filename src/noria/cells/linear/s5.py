"""Simplified state space layer, S5."""

from typing import Any

import jax
import jax.numpy as jnp

from noria._errors import check_choice
from noria._legendre import normal_hippo
from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import complex_like, discrete, wide
from noria.cells.starts import logarithm, normal_by_columns
from noria.initializers import lecun_normal, log_uniform


def _hippo_angles(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The imaginary parts of the eigenvalues."""
    del key
    return jnp.asarray(normal_hippo(shape[0])[0], dtype)


def _hippo_inputs(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Both parts of ``V^-1 B`` for the eigenvectors V and a real B, drawn from N(0, 1 / in)."""
    B = normal_by_columns(1)(key, (2 * shape[1], shape[2]), dtype)
    V = normal_hippo(shape[1])[1]
    return jnp.stack([jnp.asarray(part.T, dtype) @ B for part in (V.real, -V.imag)])


def _hippo_outputs(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Both parts of ``C V`` for the eigenvectors V and a complex C of the variance 1 / state."""
    re, im = normal_by_columns(1)(key, (2, shape[1], 2 * shape[2]), dtype)
    V = normal_hippo(shape[2])[1]
    V_re, V_im = jnp.asarray(V.real, dtype), jnp.asarray(V.imag, dtype)
    return jnp.stack([re @ V_re - im @ V_im, re @ V_im + im @ V_re])


class S5Cell(VectorCell):
    """A diagonal state-space model with one state for all features, S5.

    ::

        Lambda = Lambda_re + i Lambda_im,   Delta = step_rescale * exp(log_Delta)
        a, b   = exp(Delta Lambda), (exp(Delta Lambda) - 1) / Lambda         (zero-order hold)
        a, b   = (1 + Delta/2 Lambda) / (1 - Delta/2 Lambda), Delta / (1 - Delta/2 Lambda)
        h'     = a * h + b * (B x)                       (the second a, b: bilinear)
        y      = 2 Re(C h') + D x                        the output

    ``B`` and ``C`` have their real and imaginary parts along the first axis. The state stands for
    itself and its conjugate, hence the 2. ``Lambda`` are the eigenvalues of the normal part of
    HiPPO-LegS at the start, and ``B`` and ``C`` are drawn in the basis of its eigenvectors.

    Args:
        state_size: complex numbers of the state, half the order of HiPPO.
        method: ``"zoh"`` or ``"bilinear"``.
        step_rescale: factor of all step sizes, for data of another sampling rate.

    Source: Smith, Warrington and Linderman 2023, arXiv 2208.04933. The authors' code has a
    diagonal ``D``, and may start from several blocks of HiPPO. It draws ``B`` with the variance
    ``1 / (2 state_size)`` instead of ``1 / in``.
    """

    state_size: int = size(default=32)
    method: str = "zoh"
    step_rescale: float = 1.0
    Lambda_re: jax.Array = vector("state", -0.5)
    Lambda_im: jax.Array = vector("state", _hippo_angles)
    log_Delta: jax.Array = vector("state", logarithm(log_uniform(0.001, 0.1)))
    B: jax.Array = array(2, "state", "in", initializer=_hippo_inputs)
    C: jax.Array = array(2, "hidden", "state", initializer=_hippo_outputs)
    D: jax.Array = matrix("hidden", "in", lecun_normal())
    h: jax.Array = state("state", is_complex=True)

    def __check_init__(self) -> None:
        check_choice("S5Cell", "method", self.method, ("zoh", "bilinear"))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        Lambda = complex_like(self.Lambda_re, self.Lambda_im, h)
        Delta = self.step_rescale * jnp.exp(self.log_Delta)
        a, b = discrete(Lambda, complex_like(Delta, jnp.zeros_like(Delta), h), self.method)
        return a * h + b * complex_like(self.B[0] @ x, self.B[1] @ x, h)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """The real part of a read-out, and a skip connection."""
        C = wide(self.C)
        y = 2 * (C[0] @ h.real - C[1] @ h.imag)
        return y.astype(x.dtype) + self.D @ x
