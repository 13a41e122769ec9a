"""Relatives of the long short-term memory that change what the memory is or what sees it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softmax

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times
from noria.initializers import uniform


class MultiplicativeLSTMCell(VectorCell):
    """The long short-term memory whose recurrent weights depend on the input.

    ::

        m  = (W_m x) * (U_m h)
        i  = sigmoid(W_i x + U_i m + b_i)
        f  = sigmoid(W_f x + U_f m + b_f)
        o  = sigmoid(W_o x + U_o m + b_o)
        c' = f * c + i * tanh(W_h x + U_h m + b_h)
        h' = o * tanh(c')

    Source: Krause et al. 2016, arXiv 1609.07959. The paper writes no biases; libraries have them.
    """

    W_m: jax.Array = matrix("hidden", "in")
    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    W_h: jax.Array = matrix("hidden", "in")
    U_m: jax.Array = matrix("hidden", "hidden")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    U_h: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    b_h: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        m = (self.W_m @ x) * (self.U_m @ h)
        i = sigmoid(self.W_i @ x + self.U_i @ m + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ m + self.b_f)
        o = sigmoid(self.W_o @ x + self.U_o @ m + self.b_o)
        c = f * c + i * jnp.tanh(self.W_h @ x + self.U_h @ m + self.b_h)
        return self.State(o * jnp.tanh(c), c)


class WMCLSTMCell(VectorCell):
    """The long short-term memory with working memory connections from ``c`` to the gates.

    ::

        i  = sigmoid(W_i x + U_i h + tanh(V_i c) + b_i)
        f  = sigmoid(W_f x + U_f h + tanh(V_f c) + b_f)
        c' = f * c + i * tanh(W_g x + U_g h + b_g)
        o  = sigmoid(W_o x + U_o h + tanh(V_o c') + b_o)
        h' = o * tanh(c')

    Source: Landi et al. 2021, arXiv 2109.00020. RecurrentLayers.jl adds a bias inside the tanh of
    the connections; its old versions give the output gate the old memory.
    """

    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_g: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_g: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    V_i: jax.Array = matrix("hidden", "hidden")
    V_f: jax.Array = matrix("hidden", "hidden")
    V_o: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_g: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + jnp.tanh(self.V_i @ c) + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + jnp.tanh(self.V_f @ c) + self.b_f)
        c = f * c + i * jnp.tanh(self.W_g @ x + self.U_g @ h + self.b_g)
        o = sigmoid(self.W_o @ x + self.U_o @ h + jnp.tanh(self.V_o @ c) + self.b_o)
        return self.State(o * jnp.tanh(c), c)


class MemoryControllerLSTMCell(VectorCell):
    """The long short-term memory with one gate for the output and one for what recurs.

    ::

        f  = sigmoid(W_f x + U_f v + b_f)
        i  = sigmoid(W_i x + U_i v + b_i)
        o  = sigmoid(W_o x + U_o v + b_o)
        m  = sigmoid(W_m x + U_m v + b_m)
        n  = tanh(W_n x + U_n v + b_n)
        c' = f * c + i * n
        v' = m * tanh(c')
        h  = o * tanh(c')        the output

    Source: Ben-Ari and Shwartz-Ziv 2017, NIPS workshop on time series, where it is MC-LSTM, as is
    `MassConservingLSTMCell`. RecurrentLayers.jl leaves out the sigmoids and the tanh of ``n``.
    """

    W_f: jax.Array = matrix("hidden", "in")
    W_i: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    W_m: jax.Array = matrix("hidden", "in")
    W_n: jax.Array = matrix("hidden", "in")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    U_m: jax.Array = matrix("hidden", "hidden")
    U_n: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden")
    b_i: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    b_m: jax.Array = vector("hidden")
    b_n: jax.Array = vector("hidden")
    v: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        v, c = state
        f = sigmoid(self.W_f @ x + self.U_f @ v + self.b_f)
        i = sigmoid(self.W_i @ x + self.U_i @ v + self.b_i)
        o = sigmoid(self.W_o @ x + self.U_o @ v + self.b_o)
        m = sigmoid(self.W_m @ x + self.U_m @ v + self.b_m)
        n = jnp.tanh(self.W_n @ x + self.U_n @ v + self.b_n)
        c = f * c + i * n
        return self.State(m * jnp.tanh(c), c), o * jnp.tanh(c)


class ResLSTMCell(VectorCell):
    """The residual long short-term memory, with a path from the input to the output.

    ::

        i  = sigmoid(W_i x + U_i h + p_i * c + b_i)
        f  = sigmoid(W_f x + U_f h + p_f * c + b_f)
        c' = f * c + i * tanh(W_c x + U_c h + b_c)
        o  = sigmoid(W_o x + U_o h + P_o c' + b_o)
        h' = o * (W_p tanh(c') + W_h x)

    Args:
        project: ``False`` for ``x`` itself in place of ``W_h x``, in the upper layers of a stack.

    Raises:
        ValueError: if ``x`` and ``h`` differ in size without ``W_h``.

    Source: Kim, El-Khamy and Lee 2017, arXiv 1701.03360. Here ``c`` has the size of ``h``.
    """

    project: bool = True
    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_c: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    p_i: jax.Array = vector("hidden", uniform(0.1))
    p_f: jax.Array = vector("hidden", uniform(0.1))
    P_o: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    W_p: jax.Array = matrix("hidden", "hidden")
    W_h: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.project)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if not self.project and self.in_size != self.hidden_size:
            raise ValueError(f"{self._call}: project=False; expected in_size equal to hidden_size.")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.p_i * c + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.p_f * c + self.b_f)
        c = f * c + i * jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.P_o @ c + self.b_o)
        short = times(self.W_h, x)
        return self.State(o * (self.W_p @ jnp.tanh(c) + (x if short is None else short)), c)


def _log_decay(dt: jax.Array) -> jax.Array:
    """A discount for long times, 1 at time 0."""
    return 1 / jnp.log(math.e + dt)


class TimeAwareLSTMCell(VectorCell):
    """The time-aware long short-term memory (T-LSTM), for irregular steps.

    ::

        s  = tanh(W_d c + b_d)                    short-term part of the memory
        c* = c - s + s * decay(dt)                decay(dt) = 1 / log(e + dt)
        i  = sigmoid(W_i x + U_i h + b_i)
        f  = sigmoid(W_f x + U_f h + b_f)
        o  = sigmoid(W_o x + U_o h + b_o)
        c' = f * c* + i * tanh(W_c x + U_c h + b_c)
        h' = o * tanh(c')

    A layer takes the time since the step before as ``dt``.

    Args:
        decay: discount of ``s``; the paper has ``1 / dt`` for short times.

    Source: Baytas et al. 2017, doi 10.1145/3097983.3097997. The authors' code has a sigmoid in
    place of the first tanh.
    """

    decay: Callable[[jax.Array], jax.Array] = _log_decay
    W_d: jax.Array = matrix("hidden", "hidden")
    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    U_c: jax.Array = matrix("hidden", "hidden")
    b_d: jax.Array = vector("hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(  # type: ignore[override]
        self, state: Any, x: jax.Array, *, dt: jax.Array
    ) -> Any:
        h, c = state
        s = jnp.tanh(self.W_d @ c + self.b_d)
        c = c - s + s * self.decay(dt)
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.b_o)
        c = f * c + i * jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        return self.State(o * jnp.tanh(c), c)


def _cumax(a: jax.Array, copies: int) -> jax.Array:
    """Running sums of a softmax, a soft step from 0 to 1, with each sum in some copies."""
    sums = jnp.tri(a.shape[0], dtype=a.dtype)
    return jnp.repeat(sums, copies, axis=0) @ softmax(a)


#: Entries of a master gate, rounded up: a cell checks that nothing is left over.
_CHUNKS = "(hidden + chunk - 1) // chunk"


class ONLSTMCell(VectorCell):
    """The long short-term memory with ordered neurons, whose units forget in their order.

    ::

        F  = cumax(W_F x + U_F h + b_F)           the master gates, cumax(a) = cumsum(softmax(a))
        I  = 1 - cumax(W_I x + U_I h + b_I)
        w  = F * I
        f' = f * w + (F - w)                      f, i, o sigmoid gates of x and h
        i' = i * w + (I - w)
        c' = f' * c + i' * tanh(W_c x + U_c h + b_c)
        h' = o * tanh(c')

    Args:
        chunk_size: units that share an entry of ``F`` and ``I``; the paper has 10.

    Raises:
        ValueError: if ``hidden_size`` is no multiple of ``chunk_size``.

    Source: Shen et al. 2018, arXiv 1810.09536.
    """

    chunk_size: int = size(default=1)
    W_F: jax.Array = matrix(_CHUNKS, "in")
    W_I: jax.Array = matrix(_CHUNKS, "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_i: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    U_F: jax.Array = matrix(_CHUNKS, "hidden")
    U_I: jax.Array = matrix(_CHUNKS, "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    U_c: jax.Array = matrix("hidden", "hidden")
    b_F: jax.Array = vector(_CHUNKS)
    b_I: jax.Array = vector(_CHUNKS)
    b_f: jax.Array = vector("hidden")
    b_i: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.hidden_size % self.chunk_size:
            raise ValueError(f"{self._call}: expected hidden_size to be a multiple of chunk_size.")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        F = _cumax(self.W_F @ x + self.U_F @ h + self.b_F, self.chunk_size)
        I = 1 - _cumax(self.W_I @ x + self.U_I @ h + self.b_I, self.chunk_size)
        w = F * I
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.b_f) * w + (F - w)
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.b_i) * w + (I - w)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.b_o)
        c = f * c + i * jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        return self.State(o * jnp.tanh(c), c)
