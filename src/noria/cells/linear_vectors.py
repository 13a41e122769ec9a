"""Cells whose next state is linear in the state, element by element, or in a part of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from noria._errors import check_choice
from noria._types import Initializer, Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.legendre import legendre
from noria.cells.parts import total
from noria.initializers import glorot_normal, uniform


def _lecun_uniform(gain: float = 1.0) -> Initializer:
    """U(-b, b) with b = gain * sqrt(3 / n), where n is the last size: variance gain^2 / n."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return uniform(gain * (3 / shape[-1]) ** 0.5)(key, shape, dtype)

    return init


def _blocks(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """N(0, 1 / n) for blocks of n columns."""
    return jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5


def _decays(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``Lambda`` such that ``sigmoid(Lambda)^8`` is drawn from U(0.9, 0.999)."""
    a = jax.random.uniform(key, shape, dtype, 0.9, 0.999) ** (1 / 8)
    return jnp.log(a / (1 - a))


def _positive(z: jax.Array) -> jax.Array:
    """``z + 0.5`` for ``z >= 0``, else ``sigmoid(z)``."""
    return jnp.where(z >= 0, z + 0.5, sigmoid(z))


class GILRCell(VectorCell):
    """The gated impulse linear recurrent layer: a gate between the state and a layer of x.

    ::

        g  = sigmoid(W_g x + b_g)
        h' = g * h + (1 - g) * activation(W_z x + b_z)

    Args:
        activation: any element-wise function.

    Source: Martin and Cundy 2018, arXiv 1709.04057. memax has a cell named after this paper that
    is a running sum without a gate.
    """

    activation: Callable[[jax.Array], jax.Array] = jnp.tanh
    W_g: jax.Array = matrix("hidden", "in")
    b_g: jax.Array = vector("hidden")
    W_z: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        g = sigmoid(self.W_g @ x + self.b_g)
        return g * h + (1 - g) * self.activation(self.W_z @ x + self.b_z)


class MinGRUCell(VectorCell):
    """The minimal GRU: a gate and a candidate that depend on x alone.

    ::

        z  = sigmoid(W_z x + b_z)
        n  = W_n x + b_n
        h' = (1 - z) * h + z * n                         (linear form)
        h' = (1 - z) * h + z * g(n)                      (log-space form)
        g(n) = n + 0.5 if n >= 0, else sigmoid(n)

    Args:
        log_space: whether the candidate is ``g(n) > 0``, as in the paper's log-space form.

    Source: Feng et al. 2024, arXiv 2410.01201. The paper's log-space code starts from ``g(0) =
    0.5``, this cell from zeros.
    """

    log_space: bool = False
    W_z: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden")
    W_n: jax.Array = matrix("hidden", "in")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = sigmoid(self.W_z @ x + self.b_z)
        n = self.W_n @ x + self.b_n
        return (1 - z) * h + z * (_positive(n) if self.log_space else n)


class MinLSTMCell(VectorCell):
    """The minimal LSTM: two gates, scaled to the sum 1, and a candidate of x alone.

    ::

        f  = sigmoid(W_f x + b_f)
        i  = sigmoid(W_i x + b_i)
        n  = W_n x + b_n
        h' = f / (f + i) * h + i / (f + i) * n           (linear form)
        h' = f / (f + i) * h + i / (f + i) * g(n)        (log-space form)
        g(n) = n + 0.5 if n >= 0, else sigmoid(n)

    Args:
        log_space: whether the candidate is ``g(n) > 0``, as in the paper's log-space form.

    Source: Feng et al. 2024, arXiv 2410.01201. lucidrains/minGRU-pytorch gives other results if
    a sequence is passed in pieces.
    """

    log_space: bool = False
    W_f: jax.Array = matrix("hidden", "in")
    b_f: jax.Array = vector("hidden")
    W_i: jax.Array = matrix("hidden", "in")
    b_i: jax.Array = vector("hidden")
    W_n: jax.Array = matrix("hidden", "in")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        f = sigmoid(self.W_f @ x + self.b_f)
        i = sigmoid(self.W_i @ x + self.b_i)
        n = self.W_n @ x + self.b_n
        n = _positive(n) if self.log_space else n
        return f / (f + i) * h + i / (f + i) * n


class QRNNCell(VectorCell):
    """The quasi-recurrent network: gates by a causal convolution of x, and pooling.

    ::

        w  = the last ``width`` inputs, the oldest first, zeros before the first step
        z  = tanh(W_z w + b_z)
        f, o, i = sigmoid(W_f w + b_f), sigmoid(W_o w + b_o), sigmoid(W_i w + b_i)
        c' = f * c + (1 - f) * z,  y = c'                (pooling f)
        c' = f * c + (1 - f) * z,  y = o * c'            (pooling fo)
        c' = f * c + i * z,        y = o * c'            (pooling ifo)

    Args:
        width: number of inputs in the convolution.
        pooling: ``"f"``, ``"fo"`` or ``"ifo"``.

    Source: Bradbury et al. 2017, arXiv 1611.01576, eqs. 1 to 5. The paper writes no biases; its
    authors' code has them.
    """

    width: int = size(default=2)
    pooling: str = "fo"
    W_z: jax.Array = matrix("hidden", "width * in")
    b_z: jax.Array = vector("hidden")
    W_f: jax.Array = matrix("hidden", "width * in")
    b_f: jax.Array = vector("hidden")
    W_o: jax.Array | None = matrix("hidden", "width * in", when=lambda cell: cell.pooling != "f")
    b_o: jax.Array | None = vector("hidden", when=lambda cell: cell.pooling != "f")
    W_i: jax.Array | None = matrix("hidden", "width * in", when=lambda cell: cell.pooling == "ifo")
    b_i: jax.Array | None = vector("hidden", when=lambda cell: cell.pooling == "ifo")
    c: jax.Array = state("hidden")
    past: jax.Array = state("width * in - in")

    def __check_init__(self) -> None:
        check_choice("QRNNCell", "pooling", self.pooling, ("f", "fo", "ifo"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        c, past = state
        w = jnp.concatenate([past, x])
        z = jnp.tanh(self.W_z @ w + self.b_z)
        f = sigmoid(self.W_f @ w + self.b_f)
        i = 1 - f if self.W_i is None else sigmoid(total(self.W_i @ w, self.b_i))
        c = f * c + i * z
        y = c if self.W_o is None else sigmoid(total(self.W_o @ w, self.b_o)) * c
        return self.State(c, w[self.in_size :]), y


class SRUCell(VectorCell):
    """The simple recurrent unit: gates that see the state element by element, and a highway.

    ::

        f  = sigmoid(W_f x + v_f * c + b_f)
        r  = sigmoid(W_r x + v_r * c + b_r)
        c' = f * c + (1 - f) * (W x)
        y  = r * c' + (1 - r) * alpha * x

    If ``in`` and ``hidden`` differ, ``P x`` stands for ``x`` in the last line.

    Args:
        alpha: factor of the highway, ``sqrt(1 + 2 exp(b))`` for the initial value b of ``b_r``.
        peephole: whether the gates see the state; ``False`` is version 1, linear in the state.

    Source: Lei et al. 2018, arXiv 1709.02755. The initial values and ``P`` are those of the
    authors' code.
    """

    alpha: float = 3.0**0.5
    peephole: bool = True
    W: jax.Array = matrix("hidden", "in", _lecun_uniform())
    W_f: jax.Array = matrix("hidden", "in", _lecun_uniform(0.5**0.5))
    v_f: jax.Array | None = vector("hidden", uniform(1.5**0.5), when=lambda cell: cell.peephole)
    b_f: jax.Array = vector("hidden")
    W_r: jax.Array = matrix("hidden", "in", _lecun_uniform(0.5**0.5))
    v_r: jax.Array | None = vector("hidden", uniform(1.5**0.5), when=lambda cell: cell.peephole)
    b_r: jax.Array = vector("hidden")
    P: jax.Array | None = matrix(
        "hidden", "in", _lecun_uniform(), when=lambda cell: cell.in_size != cell.hidden_size
    )
    c: jax.Array = state("hidden")

    def __call__(self, c: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        f, r = self.W_f @ x + self.b_f, self.W_r @ x + self.b_r
        if self.v_f is not None and self.v_r is not None:
            f, r = f + self.v_f * c, r + self.v_r * c
        f, r = sigmoid(f), sigmoid(r)
        c = f * c + (1 - f) * (self.W @ x)
        straight = x if self.P is None else self.P @ x
        return c, r * c + (1 - r) * (self.alpha * straight)


class RGLRUCell(VectorCell):
    """The real-gated linear recurrent unit of Griffin.

    ::

        r  = sigmoid(W_a x + b_a)
        i  = sigmoid(W_x x + b_x)
        a  = sigmoid(Lambda)^(c * r)
        h' = a * h + sqrt(1 - a^2) * (i * x)

    ``W_a`` and ``W_x`` are block-diagonal. If ``in`` and ``hidden`` differ, ``P x`` stands for
    ``x`` in all lines.

    Args:
        heads: number of blocks of the matrices of the gates; it divides ``hidden``.
        c: factor of the exponent; the initial ``Lambda`` is made for 8.

    Source: De et al. 2024, arXiv 2402.19427. ``sigmoid(Lambda)^c`` starts in U(0.9, 0.999) as in
    the paper. In recurrentgemma ``sigmoid(Lambda)`` does, and the first input is not scaled by the
    square root. Its gradient is clipped there; here it is computed from ``log a``, and is finite.
    """

    heads: int = size(default=1)
    c: float = 8.0
    P: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.in_size != cell.hidden_size)
    W_a: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=_blocks)
    b_a: jax.Array = vector("hidden")
    W_x: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=_blocks)
    b_x: jax.Array = vector("hidden")
    Lambda: jax.Array = vector("hidden", _decays)
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise ValueError(
                f"RGLRUCell: heads is {self.heads}; "
                f"expected a divisor of hidden_size={self.hidden_size}."
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        x = x if self.P is None else self.P @ x
        r = sigmoid(self._gate(self.W_a, x) + self.b_a)
        i = sigmoid(self._gate(self.W_x, x) + self.b_x)
        log_a = -self.c * r * softplus(-self.Lambda)
        return jnp.exp(log_a) * h + jnp.sqrt(-jnp.expm1(2 * log_a)) * (i * x)

    def _gate(self, W: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.einsum("hij,hj->hi", W, x.reshape(self.heads, -1)).reshape(-1)


class LMUCell(VectorCell):
    """The Legendre memory unit: a memory ``m`` of the last ``theta`` values of one number ``u``.

    ::

        u  = e_x x + e_h h + e_m m
        m' = A m + B u
        h' = tanh(W_x x + W_h h + W_m m')

    ``m`` are coefficients of Legendre polynomials. ``A`` and ``B`` follow from ``order`` and
    ``theta`` by a zero-order hold. They are computed in 64 bits, and are no parameters.

    Args:
        order: number of coefficients.
        theta: length of the window, in steps.

    Source: Voelker, Kajic and Eliasmith 2019, NeurIPS 32. keras-lmu leaves
    out ``e_h h``, ``e_m m`` and ``W_x x`` by default, and may have several memories.
    """

    order: int = size(default=32)
    theta: float = 100.0
    e_x: jax.Array = vector("in", _lecun_uniform())
    e_h: jax.Array = vector("hidden", _lecun_uniform())
    e_m: jax.Array = vector("order")
    W_x: jax.Array = matrix("hidden", "in", glorot_normal())
    W_h: jax.Array = matrix("hidden", "hidden", glorot_normal())
    W_m: jax.Array = matrix("hidden", "order", glorot_normal())
    h: jax.Array = state("hidden")
    m: jax.Array = state("order")

    def __check_init__(self) -> None:
        if self.theta <= 0:
            raise ValueError(f"LMUCell(theta={self.theta}): expected a number of steps above 0.")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, m = state
        A, B = (jnp.asarray(a, self.dtype) for a in legendre(self.order, self.theta))
        u = self.e_x @ x + self.e_h @ h + self.e_m @ m
        m = A @ m + B * u
        h = jnp.tanh(self.W_x @ x + self.W_h @ h + self.W_m @ m)
        return self.State(h, m)
