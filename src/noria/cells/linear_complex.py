"""State-space models and other cells whose state is a vector of complex numbers, one by one.

Complex parameters are pairs of real arrays. If the state is not the output, ``state_size`` numbers
are the state, and ``hidden_size`` features are the output.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid, silu

from noria._errors import check_choice
from noria._types import Initializer, Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import total
from noria.cells.starts import normal_by_columns
from noria.initializers import lecun_normal, log_uniform, normal, ones, ring


def _complex(re: jax.Array, im: jax.Array, like: jax.Array) -> jax.Array:
    """``re + i im`` with the dtype of ``like``; 16-bit numbers become 32-bit ones."""
    part = jnp.finfo(like.dtype).dtype
    return jax.lax.complex(re.astype(part), im.astype(part))


def _logarithm(init: Initializer) -> Initializer:
    """The logarithms of what ``init`` draws."""
    return lambda key, shape, dtype=jnp.float32: jnp.log(init(key, shape, dtype))


def _log_phases(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``log theta`` for angles theta from U(0, 2 pi)."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1e-6, 2 * math.pi))


def _discrete(A: jax.Array, Delta: jax.Array, method: str) -> tuple[jax.Array, jax.Array]:
    """The factors of state and input of a step of ``dh/dt = A h + u`` that lasts ``Delta``."""
    if method == "zoh":
        factor = jnp.exp(Delta * A)
        return factor, (factor - 1) / A
    inverse = 1 / (1 - Delta / 2 * A)
    return inverse * (1 + Delta / 2 * A), inverse * Delta


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
        decay = jnp.exp(_complex(-nu, jnp.exp(self.theta_log), h))
        gamma = jnp.exp(self.gamma_log) * jnp.sqrt(-jnp.expm1(-2 * nu))
        return decay * h + _complex(gamma * (self.B_re @ x), gamma * (self.B_im @ x), h)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """The real part of a read-out, and a skip connection."""
        y = self.C_re @ h.real - self.C_im @ h.imag
        return y.astype(x.dtype) + self.D @ x


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
    P: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.in_size != cell.hidden_size)
    log_Delta: jax.Array = vector("hidden", _logarithm(log_uniform(0.001, 0.1)))
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
        A = _complex(-jnp.exp(log_A), total(zero, self.A_lin, self.A_inv), h)
        Delta = jnp.exp(self.log_Delta)[:, None] + zero
        a, b = _discrete(A, _complex(Delta, zero, h), self.method)
        return a * h + b * _complex(self.B_re * u[:, None], total(zero, self.B_im) * u[:, None], h)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """The real part of a read-out, and a skip connection."""
        u = x if self.P is None else self.P @ x
        y = self.C_re * h.real
        if self.C_im is not None:
            y = 2 * (y - self.C_im * h.imag)
        return y.sum(1).astype(x.dtype) + self.D * u


def _normal_hippo(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues above the real axis of the normal part of HiPPO-LegS, and their vectors."""
    n = np.arange(2 * pairs)
    root = np.sqrt(n + 0.5)
    skew = np.where(n[:, None] > n, -1.0, np.where(n[:, None] < n, 1.0, 0.0)) * np.outer(root, root)
    values, vectors = np.linalg.eigh(-1j * skew)
    return values[pairs:], vectors[:, pairs:]


def _hippo_angles(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The imaginary parts of the eigenvalues."""
    del key
    return jnp.asarray(_normal_hippo(shape[0])[0], dtype)


def _hippo_inputs(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Both parts of ``V^-1 B`` for the eigenvectors V and a real B, drawn from N(0, 1 / in)."""
    B = normal_by_columns(1)(key, (2 * shape[1], shape[2]), dtype)
    V = _normal_hippo(shape[1])[1]
    return jnp.stack([jnp.asarray(part.T, dtype) @ B for part in (V.real, -V.imag)])


def _hippo_outputs(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Both parts of ``C V`` for the eigenvectors V and a complex C of the variance 1 / state."""
    re, im = normal_by_columns(1)(key, (2, shape[1], 2 * shape[2]), dtype)
    V = _normal_hippo(shape[2])[1]
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
    log_Delta: jax.Array = vector("state", _logarithm(log_uniform(0.001, 0.1)))
    B: jax.Array = array(2, "state", "in", initializer=_hippo_inputs)
    C: jax.Array = array(2, "hidden", "state", initializer=_hippo_outputs)
    D: jax.Array = matrix("hidden", "in", lecun_normal())
    h: jax.Array = state("state", is_complex=True)

    def __check_init__(self) -> None:
        check_choice("S5Cell", "method", self.method, ("zoh", "bilinear"))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        Lambda = _complex(self.Lambda_re, self.Lambda_im, h)
        Delta = self.step_rescale * jnp.exp(self.log_Delta)
        a, b = _discrete(Lambda, _complex(Delta, jnp.zeros_like(Delta), h), self.method)
        return a * h + b * _complex(self.B[0] @ x, self.B[1] @ x, h)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """The real part of a read-out, and a skip connection."""
        y = 2 * (self.C[0] @ h.real - self.C[1] @ h.imag)
        return y.astype(x.dtype) + self.D @ x


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
        centred = h.reshape(-1) - jnp.mean(h)
        normed = centred / jnp.sqrt(jnp.mean(centred * centred) + 1e-5)
        return self.W_o @ (normed * silu(self.W_g @ x + self.b_g)) + self.b_o


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
        rate = _complex(none - jnp.abs(self.alpha)[:, None], none - self.omega, S)
        return jnp.exp(rate) * S + _complex(u[:, None] + none, none, S)

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """A gated read-out of the normalised state."""
        parts = jnp.concatenate([S.real.reshape(-1), S.imag.reshape(-1)]).astype(x.dtype)
        z = self.W_3 @ parts + self.b_3
        centred = z - jnp.mean(z)
        g = sigmoid(self.W_4 @ x + self.b_4)
        normed = centred / jnp.sqrt(jnp.mean(centred * centred) + 1e-5)
        return normed * g + (self.W_5 @ x + self.b_5) * (1 - g)
