"""More cells with linear memories: averages, polynomials of the past, and selective ones."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import identity, relu, sigmoid

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.legendre import legendre
from noria.cells.parts import times, total, wide_dtype
from noria.initializers import glorot_normal, lecun_normal, normal


def _has_other_size(cell: Any) -> bool:
    return bool(cell.in_size != cell.hidden_size)


class EMACell(VectorCell):
    """An exponential moving average of the input, or its running sum.

    ::

        average:  h' = beta * h + (1 - beta) * x,   beta = sigmoid(b)
        sum:      h' = h + x

    If ``in`` and ``hidden`` differ, ``P x`` stands for ``x``. ``beta`` starts at 0.9.

    Args:
        form: ``"average"`` or ``"sum"``.

    Source: Brown 1956, "Exponential smoothing for predicting demand".
    """

    form: str = "average"
    P: jax.Array | None = matrix("hidden", "in", when=_has_other_size)
    b: jax.Array | None = vector("hidden", math.log(9), when=lambda cell: cell.form == "average")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("EMACell", "form", self.form, ("average", "sum"))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        x = x if self.P is None else self.P @ x
        if self.b is None:
            return h + x
        beta = sigmoid(self.b)
        return beta * h + (1 - beta) * x


def _signs(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """1, -1, 1, ... along the last axis, and noise of the deviation 0.02."""
    noise = 0.02 * jax.random.normal(key, shape, dtype)
    return noise + jnp.asarray((-1.0) ** np.arange(shape[-1]), dtype)


def _over_inputs(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """N(0, 1 / n), where n is the product of all sizes but the first."""
    return jax.random.normal(key, shape, dtype) * math.prod(shape[1:]) ** -0.5


class MegaEMACell(VectorCell):
    """The damped moving average of Mega, with several averages of each feature.

    ::

        alpha, delta = sigmoid(a), sigmoid(d)
        h' = alpha * (beta * x) + (1 - alpha * delta) * h     for n averages of each feature
        y  = sum of eta * h' over n                           the output

    If ``in`` and ``hidden`` differ, ``P x`` stands for ``x``.

    Args:
        ndim: averages of each feature, the paper's h.

    Source: Ma et al. 2023, arXiv 2209.10655. The authors' code adds ``omega * x`` to
    ``y``, and then applies silu.
    """

    ndim: int = size(default=16)
    P: jax.Array | None = matrix("hidden", "in", when=_has_other_size)
    a: jax.Array = matrix("hidden", "ndim", normal(0.2))
    d: jax.Array = matrix("hidden", "ndim", normal(0.2))
    beta: jax.Array = matrix("hidden", "ndim", _signs)
    eta: jax.Array = matrix("hidden", "ndim", _over_inputs)
    h: jax.Array = state("hidden", "ndim")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        x = x if self.P is None else self.P @ x
        alpha, delta = sigmoid(self.a), sigmoid(self.d)
        return alpha * (self.beta * x[:, None]) + (1 - alpha * delta) * h

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """A weighted sum of the averages of each feature."""
        return (self.eta * h).sum(1)


def _check_window(name: str, theta: float) -> None:
    if theta <= 0:
        raise ValueError(f"{name}(theta={theta}): expected a number of steps above 0.")


@functools.cache
def _translated(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """``A`` and ``B`` of LegT: those of the Legendre delay, with normalised polynomials."""
    A, B = legendre(order, theta)
    scale = (-1.0) ** np.arange(order) * np.sqrt(2 * np.arange(order) + 1)
    return A * scale / scale[:, None], B / scale


class HiPPOCell(VectorCell):
    """The HiPPO-RNN: a gated unit whose memory ``c`` approximates the past by polynomials.

    ::

        f  = W_f x + U_f h + b_f
        c' = memory of c and f
        g  = sigmoid(W_g x + V_g c' + b_g)
        n  = tanh(W_n x + V_n c' + b_n)
        h' = (1 - g) * h + g * n

        legs: c' = (I + A / 2t)^-1 ((I - A / 2t) c + B f / t),  at t = 0: c' = (f, 0, 0, ...)
        legt: c' = A c + B f
        legs: A_nk = r_n r_k for n > k, n + 1 for n = k;  B_n = r_n = sqrt(2 n + 1)
        legt: dc/dt = (-Z c + r f) / theta, held for a step;
              Z_nk = r_n r_k for n >= k, (-1)^(n - k) r_n r_k for n < k

    ``t`` is the number of the step, from 0. ``A`` and ``B`` are no parameters. LegS approximates
    all steps since the start, and LegT those in a window of ``theta`` steps.

    Args:
        measure: ``"legs"`` or ``"legt"``.
        theta: length of the window of LegT, in steps.
        memory_size: numbers in ``f``, each with its own memory.
        order: coefficients of a memory.

    Source: Gu, Dao, Ermon, Rudra and Re 2020, arXiv 2008.07669. The order of the updates and the
    bilinear form of LegS are those of the authors' code. There the matrices of LegS do not change
    after a largest step, 1024 by default.
    """

    measure: str = "legs"
    theta: float = 100.0
    memory_size: int = size(default=1)
    order: int = size(default=32)
    W_f: jax.Array = matrix("memory", "in", lecun_normal())
    U_f: jax.Array = matrix("memory", "hidden", lecun_normal())
    b_f: jax.Array = vector("memory")
    W_g: jax.Array = matrix("hidden", "in")
    V_g: jax.Array = matrix("hidden", "memory * order")
    b_g: jax.Array = vector("hidden")
    W_n: jax.Array = matrix("hidden", "in")
    V_n: jax.Array = matrix("hidden", "memory * order")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("memory", "order")

    def __check_init__(self) -> None:
        check_choice("HiPPOCell", "measure", self.measure, ("legs", "legt"))
        _check_window("HiPPOCell", self.theta)

    def __call__(self, state: Any, x: jax.Array, *, t: jax.Array) -> Any:  # type: ignore[override]
        h, c = state
        f = self.W_f @ x + self.U_f @ h + self.b_f
        if self.measure == "legs":
            c = self._legs(c, f, t)
        else:
            A, B = (jnp.asarray(a, self.dtype) for a in _translated(self.order, self.theta))
            c = c @ A.T + f[:, None] * B
        m = c.reshape(-1)
        g = sigmoid(self.W_g @ x + self.V_g @ m + self.b_g)
        n = jnp.tanh(self.W_n @ x + self.V_n @ m + self.b_n)
        return self.State((1 - g) * h + g * n, c)

    def _legs(self, c: jax.Array, f: jax.Array, t: jax.Array) -> jax.Array:
        wide = wide_dtype(self.dtype)
        n = np.arange(self.order)
        r = np.sqrt(2 * n + 1)
        A, B = (jnp.asarray(a, wide) for a in (np.tril(np.outer(r, r), -1) + np.diag(n + 1), r))
        start = f[:, None] * jnp.asarray(np.eye(1, self.order), self.dtype)
        step = 1 / jnp.maximum(t, 1).astype(wide)
        explicit = c - step / 2 * (c @ A.T) + step * (f[:, None] * B)
        implicit = jnp.asarray(np.eye(self.order), wide) + step / 2 * A
        after = jax.scipy.linalg.solve_triangular(implicit, explicit.T, lower=True).T
        return jnp.where(t == 0, start, after.astype(self.dtype))


class ParallelLMUCell(VectorCell):
    """The Legendre memory unit without a recurrence around its memory.

    ::

        u  = f1(U_x x + b_u)
        m' = A m + B u                                  for each channel of u
        y  = f2(W_m m' + W_x x + b_o)                   the output

    ``m`` are coefficients of Legendre polynomials. ``A`` and ``B`` are those of `LMUCell`.

    Args:
        order: coefficients of a channel.
        channels: numbers in ``u``.
        theta: length of the window, in steps.
        f1: activation of ``u``.
        f2: activation of the output.

    Source: Chilkuri and Eliasmith 2021, arXiv 2102.11417. The layer LMUFFT of keras-lmu is the
    memory; its user adds the rest.
    """

    order: int = size(default=32)
    channels: int = size(default=1)
    theta: float = 100.0
    f1: Callable[[jax.Array], jax.Array] = identity
    f2: Callable[[jax.Array], jax.Array] = relu
    U_x: jax.Array = matrix("channels", "in", glorot_normal())
    b_u: jax.Array = vector("channels")
    W_m: jax.Array = matrix("hidden", "channels * order", glorot_normal())
    W_x: jax.Array = matrix("hidden", "in", glorot_normal())
    b_o: jax.Array = vector("hidden")
    m: jax.Array = state("channels", "order")

    def __check_init__(self) -> None:
        _check_window("ParallelLMUCell", self.theta)

    def __call__(self, m: jax.Array, x: jax.Array) -> jax.Array:
        A, B = (jnp.asarray(a, self.dtype) for a in legendre(self.order, self.theta))
        u = self.f1(self.U_x @ x + self.b_u)
        return m @ A.T + u[:, None] * B

    def output(self, m: jax.Array, x: jax.Array) -> jax.Array:
        """A layer of the memory and the input."""
        return self.f2(self.W_m @ m.reshape(-1) + self.W_x @ x + self.b_o)


def _counted(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """-1, -2, ...: the eigenvalues of HiPPO-LegS."""
    del key
    return jnp.asarray(-1.0 - np.arange(shape[0]), dtype)


class S7Cell(VectorCell):
    """The selective and simplified state-space layer: all matrices depend on the input.

    ::

        Lambda = W_Lambda x + b_Lambda
        a  = 1 - 1 / (Lambda^2 + 0.5)                   between -1 and 1
        h' = a * h + B(x) x
        y  = C(x) h' + D(x) * x                         the output

        B(x) = W_B x + b_B,  C(x) = W_C x + b_C,  D(x) = W_D x + b_D

    ``W_B`` and ``W_C`` have three axes. If ``in`` and ``hidden`` differ, ``P x`` stands for ``x``.
    ``b_Lambda`` starts at -1, -2, ..., the eigenvalues of HiPPO-LegS.

    Args:
        state_size: numbers of the state.

    Source: Soydan et al. 2024, arXiv 2410.03464. All numbers are real. lrnnx has an input
    projection, a gate after the output, and a second input ``W_b x`` of the state. Its one bias is
    ``b_Lambda``, which starts at -1/2.
    """

    state_size: int = size(default=16)
    P: jax.Array | None = matrix("hidden", "in", when=_has_other_size)
    W_Lambda: jax.Array = matrix("state", "hidden", normal(0.02))
    b_Lambda: jax.Array = vector("state", _counted)
    W_B: jax.Array = array("state", "hidden", "hidden", initializer=normal(0.02))
    b_B: jax.Array = matrix("state", "hidden", _over_inputs)
    W_C: jax.Array = array("hidden", "state", "hidden", initializer=normal(0.02))
    b_C: jax.Array = matrix("hidden", "state", _over_inputs)
    W_D: jax.Array = matrix("hidden", "hidden", normal(0.02))
    b_D: jax.Array = vector("hidden", normal(1))
    h: jax.Array = state("state")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        x = x if self.P is None else self.P @ x
        Lambda = self.W_Lambda @ x + self.b_Lambda
        return (1 - 1 / (Lambda * Lambda + 0.5)) * h + (self.W_B @ x + self.b_B) @ x

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """A read-out and a skip connection, both of the input."""
        x = x if self.P is None else self.P @ x
        return (self.W_C @ x + self.b_C) @ h + (self.W_D @ x + self.b_D) * x


class SHMCell(VectorCell):
    """The stable Hadamard memory: a matrix that is calibrated element by element.

    ::

        k, q = relu(W_k x), relu(W_q x), each over its sum
        v    = W_v x
        C    = 1 + tanh(theta (W_c x)^T)
        M'   = C * M + sigmoid(w_eta x) v k^T
        y    = M' q                                     the output

    ``theta`` is a row of the matrix ``thetas``, drawn anew at each step. The step takes a ``key``
    for it. Without a key it takes the first row, as the authors' code for POPGym always does.

    Args:
        rows: rows of ``thetas``, the paper's L.

    Source: Le et al. 2025, arXiv 2410.10132. The authors' code has a layer norm before the cell and
    a linear layer behind it.
    """

    rows: int = size(default=128)
    W_k: jax.Array = matrix("hidden", "in")
    W_q: jax.Array = matrix("hidden", "in")
    W_v: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    w_eta: jax.Array = vector("in")
    thetas: jax.Array = matrix("rows", "hidden")
    M: jax.Array = state("hidden", "hidden")

    def __call__(self, M: jax.Array, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        row = 0 if key is None else jax.random.randint(key, (), 0, self.rows)
        theta = self.thetas[row]
        C = 1 + jnp.tanh(theta[:, None] * (self.W_c @ x))
        v = sigmoid(self.w_eta @ x) * (self.W_v @ x)
        return C * M + v[:, None] * _shares(self.W_k @ x)

    def output(self, M: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory holds for the query."""
        return M @ _shares(self.W_q @ x)


def _shares(a: jax.Array) -> jax.Array:
    """``relu(a)`` over its sum."""
    return relu(a) / (1e-5 + jnp.sum(relu(a)))


def _form(form: str) -> Callable[[Any], bool]:
    return lambda cell: bool(cell.form == form)


class BilinearRNNCell(VectorCell):
    """The bilinear RNN: the next state is a product of the state and the input, without a bias.

    ::

        dense:     h'_i = sum of W_ijk h_j x_k over j and k
        factored:  h'   = A ((B h) * (F x))
        rotation:  h'   = R(T x) h, a rotation of each pair of neighbours
        diagonal:  h'   = (d x) * h

    The state starts from ones, since zeros would stay zero.

    Args:
        form: ``"dense"``, ``"factored"``, ``"rotation"`` or ``"diagonal"``.
        normalise: whether each state is divided by its norm.
        rank: number of factors of the factored form.

    Source: Ebrahimi and Memisevic 2025, arXiv 2505.21749.
    """

    form: str = "dense"
    normalise: bool = False
    rank: int = size(default=16)
    W: jax.Array | None = array(
        "hidden", "hidden", "in", initializer=_over_inputs, when=_form("dense")
    )
    A: jax.Array | None = matrix("hidden", "rank", _over_inputs, when=_form("factored"))
    B: jax.Array | None = matrix("rank", "hidden", _over_inputs, when=_form("factored"))
    F: jax.Array | None = matrix("rank", "in", _over_inputs, when=_form("factored"))
    T: jax.Array | None = matrix("hidden // 2", "in", when=_form("rotation"))
    d: jax.Array | None = matrix("hidden", "in", when=_form("diagonal"))
    h: jax.Array = state("hidden", initializer=1)

    def __check_init__(self) -> None:
        forms = ("dense", "factored", "rotation", "diagonal")
        check_choice("BilinearRNNCell", "form", self.form, forms)
        if self.form == "rotation" and self.hidden_size % 2:
            raise ValueError(
                f"BilinearRNNCell(hidden_size={self.hidden_size}, form='rotation'): "
                "expected an even hidden_size."
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        if self.W is not None:
            h = (self.W @ x) @ h
        elif self.A is not None:
            h = self.A @ (total(times(self.B, h)) * total(times(self.F, x)))
        elif self.T is not None:
            cos, sin, pairs = jnp.cos(self.T @ x), jnp.sin(self.T @ x), h.reshape(-1, 2)
            first, second = pairs[:, 0], pairs[:, 1]
            h = jnp.stack([cos * first - sin * second, sin * first + cos * second], 1).reshape(-1)
        else:
            h = total(times(self.d, x)) * h
        return h / jnp.sqrt(h @ h + 1e-12) if self.normalise else h
