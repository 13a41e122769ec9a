"""Cells that nobody prepared the compiler for: each backend against the definition."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import assert_agree, pulled, pulled_at_once, scanned
from models import AUTO, assert_close, learned, noise, random

import noria as nr

BATCH, TIME, IN = 3, 5, 3
LENGTHS = jnp.array([5, 0, 3])
RESETS = jnp.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [1, 1, 0, 0, 1]], bool)

#: Every cell by name: from the real dtype to the cell and one example's initial state.
ZOO: dict[str, Callable[[Any], tuple[Any, Any]]] = {}


class Complex(tuple[int, ...]):
    """The shape of an array of complex numbers."""


class ZooCell(nr.Cell):
    """A step ``step(state, x, **parameters)``, and perhaps ``read(state, x, **parameters)``."""

    parameters: dict[str, Any]
    zero: Any
    step: Callable[..., Any] = eqx.field(static=True)
    read: Callable[..., Any] | None = eqx.field(static=True)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        return self.step(state, x, **self.parameters)

    def output(self, state: Any, x: jax.Array) -> Any:
        return (
            super().output(state, x)
            if self.read is None
            else self.read(state, x, **self.parameters)
        )

    def initial_state(self) -> Any:
        return jtu.tree_map(jnp.zeros_like, self.zero)


class DrawingCell(ZooCell):
    """A step that draws random numbers."""

    def __call__(self, state: Any, x: jax.Array, *, key: Any) -> Any:  # type: ignore[override]
        return self.step(state, x, key, **self.parameters)


def zoo(
    state: Any = (4,), *, read: Any = None, kind: type[ZooCell] = ZooCell, **shapes: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a step into the zoo: shapes of its state and of its parameters, which are random."""

    def enter(step: Callable[..., Any]) -> Callable[..., Any]:
        def make(dtype: Any) -> tuple[Any, Any]:
            parameters = noise(zeros(shapes, dtype), len(step.__name__), 0.5)
            cell = kind(parameters, zeros(state, dtype), step, read)
            return cell, cell.initial_state()

        ZOO[step.__name__] = make
        return step

    return enter


def zeros(shapes: Any, dtype: Any) -> Any:
    """Arrays for a tree of shapes; ``int`` is one whole number, ``bool`` one truth value."""

    def one(shape: Any) -> jax.Array:
        if isinstance(shape, type):
            return jnp.zeros((), jnp.int32 if shape is int else jnp.bool_)
        return jnp.zeros(shape, complex_of(dtype) if isinstance(shape, Complex) else dtype)

    return jtu.tree_map(one, shapes, is_leaf=lambda s: isinstance(s, type) or _is_shape(s))


def _is_shape(s: Any) -> bool:
    return isinstance(s, tuple) and all(isinstance(size, int) for size in s)


def complex_of(dtype: Any) -> Any:
    return jnp.complex128 if dtype == jnp.float64 else jnp.complex64


# --- weights --------------------------------------------------------------------------------------


@zoo(Us=[(4, 4)] * 3, Ws=[(4, 3)] * 3, b=(4,))
def gates_from_a_list(h, x, Us, Ws, b):
    z, r, n = (U @ h + W @ x + b for U, W in zip(Us, Ws, strict=True))
    z = jax.nn.sigmoid(z)
    return z * h + (1 - z) * jnp.tanh(r) * jax.nn.sigmoid(n)


@zoo(V=(4, 4), g=(4,), W=(4, 3))
def weight_normalised(h, x, V, g, W):
    U = V * g[:, None] / jnp.linalg.norm(V, axis=1, keepdims=True)
    return jnp.tanh(U @ h + W @ x)


@zoo(U=(4, 4), W=(4, 3), scale=())
def spectrally_scaled(h, x, U, W, scale):
    return jnp.tanh(scale * (U / jnp.linalg.norm(U, ord=2)) @ h + W @ x)


@zoo(U=(4, 4), W=(4, 3))
def power_iteration(h, x, U, W):
    v = jnp.ones(4, U.dtype)
    for _ in range(2):
        v = U.T @ (U @ v)
        v = v / jnp.sqrt(v @ v)
    return jnp.tanh(U / jnp.sqrt(jnp.sum((U @ v) ** 2)) @ h + W @ x)


@zoo(A=(4, 4), W=(4, 3))
def orthogonal(h, x, A, W):
    return jnp.tanh(jax.scipy.linalg.expm(A - A.T) @ h + W @ x)


@zoo(U=(4, 4), W=(4, 3))
def same_weight_twice(h, x, U, W):
    return jnp.tanh(U @ jnp.tanh(U @ h + W @ x) + U.T @ h)


@zoo((3,), W=(3, 3), b=(3,))
def shared_between_input_and_state(h, x, W, b):
    return jnp.tanh(W @ x + W @ h + b)


@zoo(U=(4, 4), W=(4, 3), unused=(2, 2))
def untouched_parameter(h, x, U, W, unused):
    return jnp.tanh(U @ h + W @ x)


@zoo(U=(4, 4), W=(4, 3), order=[int, int])
def picked_by_whole_numbers(h, x, U, W, order):
    return jnp.tanh(U[order[0]] @ h + W @ x + h[jnp.stack(order)].sum())


# --- products -------------------------------------------------------------------------------------


@zoo((2, 3), U=(2, 3, 3), mix=(2, 2), W=(2, 3, 3))
def heads(h, x, U, mix, W):
    return jnp.tanh(
        jnp.einsum("hij,hj->hi", U, h)
        + jnp.einsum("hij,j->hi", W, x)
        + jnp.einsum("hg,gi->hi", mix, h)
    )


@zoo(((4,), (4,)), U=(4, 4), W=(4, 3), scale=(2,))
def one_number_for_all_features(state, x, U, W, scale):
    h, c = state
    a = U @ h
    return jnp.tanh(h[1] * (W @ x) + a[2] * h + scale[1] * c + x[0]), c[3] * jnp.tanh(a) + jnp.tanh(
        h
    )[2] * a


@zoo(M=(4, 7), b=(4,))
def product_with_a_concatenation(h, x, M, b):
    return jnp.tanh(M @ jnp.concatenate([x, h]) + b)


@zoo(((2, 5), (3,)), W=(10, 3), K=(2, 2, 3), V=(3, 10))
def convolutional_state(state, x, W, K, V):
    h, c = state
    h = jnp.tanh(jax.lax.conv_general_dilated(h[None], K, (1,), "SAME")[0] + (W @ x).reshape(2, 5))
    return h, 0.5 * c + V @ h.reshape(-1)


@zoo(((2, 3), (2, 3)), K=(8, 3, 3), b=(8,))
def convolutional_lstm(state, x, K, b):
    h, c = state
    both = jnp.concatenate([x[None], h])[None]
    i, f, g, o = jnp.split(jax.lax.conv_general_dilated(both, K, (1,), "SAME")[0] + b[:, None], 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


@zoo(((2,), (2, 2)), K=(2, 3), V=(2, 3), Q=(2, 3), rate=())
def outer_product_memory(state, x, K, V, Q, rate):
    _, M = state
    k = jax.nn.softmax(K @ x)
    M = M + jax.nn.sigmoid(rate) * jnp.outer(V @ x - M @ k, k)
    return M @ (Q @ x), M


@zoo(U=(4, 4), A=(4, 4), W=(4, 3))
def implicit_step(h, x, U, A, W):
    return jnp.linalg.solve(2 * jnp.eye(4, dtype=A.dtype) + 0.1 * A, jnp.tanh(U @ h) + W @ x)


# --- inside of the step ---------------------------------------------------------------------------


@zoo(U=(4, 4), W=(4, 3), scale=(4,), bias=(4,))
def layer_norm(h, x, U, W, scale, bias):
    a = U @ h + W @ x
    a = (a - a.mean()) * jax.lax.rsqrt(a.var() + 1e-2)
    return 0.5 * h + jnp.tanh(scale * a + bias)


@zoo(U=(4, 4), V=(4, 4), W=(4, 3))
def branches_on_the_state(h, x, U, V, W):
    return jnp.where(h > 0, jnp.tanh(U @ h), 0.5 * (V @ h)) + W @ x


@zoo(U=(5, 4), b=(5,), V=(4, 5), W=(5, 3))
def inner_mlp(h, x, U, b, V, W):
    return 0.5 * h + V @ jax.nn.gelu(U @ h + W @ x + b)


@zoo(W=(8, 3), R=(3, 8, 4), b=(3, 8))
def recurrent_highway(h, x, W, R, b):
    def layer(s, weights):
        R, b, first = weights
        a, t = jnp.split(R @ s + b + first * (W @ x), 2)
        t = jax.nn.sigmoid(t)
        return t * jnp.tanh(a) + (1 - t) * s, None

    return jax.lax.scan(layer, h, (R, b, jnp.array([1, 0, 0], h.dtype)))[0]


@zoo(U=(4, 4), W=(4, 3))
def inner_loop(h, x, U, W):
    return jax.lax.fori_loop(0, 3, lambda _, s: 0.5 * s + jnp.tanh(U @ s + W @ x), h)


@zoo(U=(4, 4), V=(4, 4), W=(4, 3))
def inner_conditional(h, x, U, V, W):
    return jnp.tanh(jax.lax.cond(h[0] > 0, lambda h: U @ h, lambda h: 2 * V @ h, h) + W @ x)


@zoo(U=(4, 4), W=(4, 3))
def rematerialised(h, x, U, W):
    return jax.checkpoint(lambda h, x: jnp.tanh(U @ jnp.sin(U @ h) + W @ x))(h, x)


@jax.jit
def _gate(U, h, a):
    return jax.nn.sigmoid(U @ h + a)


@zoo(U=(4, 4), V=(4, 4), W=(4, 3))
def jitted_gates(h, x, U, V, W):
    return _gate(U, h, W @ x) * h + _gate(V, h, W @ x)


@zoo(U=(4, 4), W=(4, 3))
def sorted_and_summed(h, x, U, W):
    return jnp.tanh(jnp.sort(U @ h)) + jnp.cumsum(jax.nn.softmax(W @ x + h))


@zoo(E=(4, 4), U=(4, 4), W=(4, 3))
def looks_itself_up(h, x, E, U, W):
    return jnp.tanh(E[jnp.argmax(h)] + U @ h + W @ x)


@zoo(b=(4,), W=(4, 3))
def parameter_or_a_number(h, x, b, W):
    return jnp.where(h > 0, b, 0.5) + 0.5 * h + W @ x


@zoo((3,), b=(1,))
def parameter_beside_a_number(h, x, b):
    return jnp.sin(jnp.concatenate([b, jnp.ones(1, b.dtype), h[:1]])) + 0.5 * h + x


@zoo((), U=(), V=(3,))
def two_numbers_of_which_one_is_used(h, x, U, V):
    return jax.lax.fori_loop(0, 2, lambda _, s: (jnp.tanh(U * s[0]), s[1] * U), (h + V @ x, h))[0]


@zoo(U=(4, 4), W=(4, 3))
def stopped_gradient(h, x, U, W):
    return jnp.tanh(U @ jax.lax.stop_gradient(h) + W @ x) + 0.3 * h


# --- states ---------------------------------------------------------------------------------------


@zoo(Complex((4,)), size=(4,), angle=(4,), B=Complex((4, 3)))
def complex_diagonal(h, x, size, angle, B):
    return jnp.exp(jax.lax.complex(-jnp.exp(size), angle)) * h + B @ x.astype(B.dtype)


@zoo(((4,), Complex((4,))), U=Complex((4, 4)), W=(4, 3))
def complex_beside_real(state, x, U, W):
    h, c = state
    c = 0.5 * (U @ c) + jax.lax.complex(W @ x, h)
    return jnp.tanh(c.real * c.imag + jnp.abs(c)), c


@zoo(((4,), int), U=(4, 4), W=(4, 3))
def step_counter(state, x, U, W):
    h, n = state
    return jnp.tanh(U @ h + W @ x) / (n + 1).astype(h.dtype) + h, n + 1


@zoo(((4,), bool), U=(4, 4), W=(4, 3))
def truth_value(state, x, U, W):
    h, on = state
    h = jnp.where(on, jnp.tanh(U @ h), h) + W @ x
    return h, h[0] > h[1]


class Attending(NamedTuple):
    """What is emitted, the last three states, and the next place to write."""

    h: Any
    buffer: Any
    place: Any


@zoo(Attending((4,), (3, 4), int), Q=(4, 4), K=(4, 4), W=(4, 3))
def attention_over_a_ring(state, x, Q, K, W):
    h, buffer, place = state
    weights = jax.nn.softmax((buffer @ K) @ (Q @ h) / 2)
    h = jnp.tanh(weights @ buffer + W @ x)
    return Attending(h, buffer.at[place % 3].set(h), place + 1)


@zoo({"fast": (4,), "slow": (4,)}, read=lambda s, x, **_: s["fast"] - s["slow"], U=(4, 4), W=(4, 3))
def named_states(state, x, U, W):
    fast = jnp.tanh(U @ state["fast"] + W @ x + state["slow"])
    return {"fast": fast, "slow": 0.9 * state["slow"] + 0.1 * fast}


@zoo(((4,), (4,)), U=(4, 4), W=(4, 3))
def passed_through(state, x, U, W):
    h, c = state
    return jnp.tanh(U @ h + W @ x + c), c


@zoo(((3,), (3,)))
def exchanged(state, x):
    h, c = state
    return c, h


@zoo(W=(4, 3))
def memoryless(h, x, W):
    return jnp.tanh(W @ x)


@zoo(((4,), (4,), (4,), (3,)), U=(4, 4), W=(4, 3), b=(4,))
def replaced_by_a_parameter(state, x, U, W, b):
    h, c, d, last = state
    return jnp.tanh(U @ h + W @ (x * last) + c * d), b, jnp.ones_like(d), x


@zoo(Wz=(4, 3), Wn=(4, 3), b=(4,))
def gates_of_the_input_only(h, x, Wz, Wn, b):
    z = jax.nn.sigmoid(Wz @ x + b)
    return (1 - z) * h + z * (Wn @ x)


def _read(h, x, C, D, **_):
    return {"y": jnp.tanh(C @ h) * (D @ x), "x": x, "h": h, "one": jnp.ones(2, h.dtype)}


@zoo(U=(4, 4), W=(4, 3), C=(2, 4), D=(2, 3), read=_read)
def reads_out(h, x, U, W, C, D):
    return jnp.tanh(U @ h + W @ x)


# --- random numbers -------------------------------------------------------------------------------


@zoo(kind=DrawingCell, U=(4, 4), W=(4, 3))
def dropout(h, x, key, U, W):
    kept = jax.random.bernoulli(key, 0.7, h.shape)
    return jnp.tanh(U @ jnp.where(kept, h / 0.7, 0) + W @ x)


@zoo(kind=DrawingCell, U=(4, 4), W=(4, 3), spread=(4,))
def zoneout(h, x, key, U, W, spread):
    keep, key = jax.random.split(key)
    new = jnp.tanh(U @ h + W @ x + spread * jax.random.normal(key, h.shape, h.dtype))
    return jnp.where(jax.random.bernoulli(keep, 0.3, h.shape), h, new)


# --- rules of derivatives -------------------------------------------------------------------------


@jax.custom_jvp
def sign_jvp(a):
    """The sign, with the derivative of the identity."""
    return jnp.sign(a)


@sign_jvp.defjvp
def _(primals, tangents):
    return jnp.sign(primals[0]), tangents[0]


@jax.custom_vjp
def sign_vjp(a):
    """The same by the other kind of rule."""
    return jnp.sign(a)


sign_vjp.defvjp(lambda a: (jnp.sign(a), None), lambda _, g: (g,))


@jax.custom_vjp
def times(a, s):
    """A product whose rule pretends that it was a sum."""
    return a * s


times.defvjp(lambda a, s: (a * s, None), lambda _, g: (g, g))


@jax.custom_vjp
def nudged(a):
    """The identity, whose rule returns the same cotangent whatever comes in."""
    return a


nudged.defvjp(lambda a: (a, None), lambda _, g: (jnp.full_like(g, 0.1),))


@zoo(U=(4, 4), W=(4, 3))
def rule_that_ignores_its_cotangent(h, x, U, W):
    return jnp.tanh(nudged(U @ h) + nudged(W @ x))


@jax.custom_vjp
def bent(a):
    """A hyperbolic tangent, whose rule returns a function of its argument alone."""
    return jnp.tanh(a)


bent.defvjp(lambda a: (jnp.tanh(a), a), lambda a, g: (0.1 * jnp.sin(a),))


@zoo(U=(4, 4), W=(4, 3))
def running_sums(h, x, U, W):
    """The master gate of Shen et al. 2019, arXiv 1810.09536, and one from the other end."""
    a = jax.nn.softmax(U @ h + W @ x)
    kept = jnp.cumsum(a)
    return kept * h + (1 - kept) * jnp.tanh(jax.lax.cumsum(a, reverse=True) - h)


@zoo(W=(4, 3))
def rule_that_reads_its_argument_only(h, x, W):
    return bent(h) + W @ x


@jax.custom_vjp
def rounded(a):
    """Eighths, whose rule passes the cotangent of small numbers on, and scales it."""
    return jnp.round(8 * a) / 8


rounded.defvjp(
    lambda a: (jnp.round(8 * a) / 8, a), lambda a, g: (jnp.where(jnp.abs(a) < 0.5, 0.9 * g, 0),)
)


@zoo(U=(4, 4), W=(4, 3))
def rounded_weights(h, x, U, W):
    return jnp.tanh(rounded(U) @ h + rounded(W) @ x)


@zoo(U=(4, 4), V=(4, 4), W=(4, 3))
def rectifiers(h, x, U, V, W):
    return jax.nn.relu(U @ h + W @ x) - 0.3 * jax.nn.softplus(V @ h) + jax.nn.silu(W @ x)


@zoo(U=(4, 4), W=(4, 3))
def rule_for_tangents(h, x, U, W):
    return 0.5 * sign_jvp(U @ h + W @ x) + 0.5 * h


@zoo(U=(4, 4), W=(4, 3))
def rule_for_cotangents(h, x, U, W):
    return 0.5 * sign_vjp(U @ h + W @ x) + 0.5 * h


@zoo(U=(4, 4), W=(4, 3))
def binary_weights(h, x, U, W):
    return jnp.tanh(sign_vjp(U) @ h + sign_jvp(W) @ x)


@zoo(U=(4, 4), W=(4, 3), s=(4,))
def rule_with_a_parameter(h, x, U, W, s):
    return jnp.tanh(times(U @ h + W @ x, s))


# --- arrays of the state that need no loop --------------------------------------------------------


@zoo(((4,), (3,)), W=(12, 3), V=(12, 3))
def quasi_recurrent(state, x, W, V):
    """Bradbury et al. 2017, arXiv 1611.01576, fo-pooling with a width of two."""
    c, before = state
    z, f, o = jnp.split(W @ x + V @ before, 3)
    f = jax.nn.sigmoid(f)
    return f * c + (1 - f) * jnp.tanh(z) * jax.nn.sigmoid(o), x


@zoo(((4,), (4,)), W=(12, 3), b=(8,), V=(4, 3))
def simple_recurrent_unit(state, x, W, b, V):
    """Lei et al. 2018, arXiv 1709.02755, without the state in its gates."""
    _, c = state
    z, f, r = jnp.split(W @ x, 3)
    f, r = jax.nn.sigmoid(f + b[:4]), jax.nn.sigmoid(r + b[4:])
    c = f * c + (1 - f) * z
    return r * jnp.tanh(c) + (1 - r) * (V @ x), c


@zoo(((4,), (3,)), W=(12, 3), U=(12, 4), mix=(3,))
def shifted_gru(state, x, W, U, mix):
    """A GRU of a mixture of this input and the one before, as in RWKV."""
    h, before = state
    mixed = x + jax.nn.sigmoid(mix) * (before - x)
    (a, b, c), (d, e, f) = jnp.split(W @ mixed, 3), jnp.split(U @ h, 3)
    z, r = jax.nn.sigmoid(a + d), jax.nn.sigmoid(b + e)
    return (1 - z) * jnp.tanh(c + r * f) + z * h, x


@zoo(((4,), (4, 4)), W=(4, 3), taps=(4, 4), decay=(4,))
def causal_convolution(state, x, W, taps, decay):
    """Four taps of a projected input, as in Mamba."""
    h, window = state
    window = jnp.concatenate([window[1:], (W @ x)[None]])
    a = jax.nn.silu(jnp.sum(taps * window, axis=0))
    return jax.nn.sigmoid(decay) * h + a, window


@zoo(((4,), (6,)), W=(4, 6), U=(4, 4))
def newest_first(state, x, W, U):
    """The window is rolled, and its newest entries come first."""
    h, window = state
    window = jnp.roll(window, 2).at[:2].set(x[:2] * x[2])
    return jnp.tanh(W @ window + U @ h), window


@zoo(((4,), ()), W=(4, 3), angle=(4,))
def rotated(state, x, W, angle):
    """RetNet's rotation by the number of the step, real."""
    h, t = state
    return 0.9 * h + jnp.cos(t * angle) * (W @ x), t + jnp.ones_like(t)


@zoo(((4,), int), U=(4, 4), W=(4, 3))
def clockwork(state, x, U, W):
    """Koutnik et al. 2014, arXiv 1402.3511: groups of units that take a step now and then."""
    h, t = state
    due = t & jnp.asarray([0, 0, 1, 3], t.dtype) == 0
    return jnp.where(due, jnp.tanh(W @ x + U @ h), h), t + 1


@zoo(((4,), int), U=(4, 4), W=(4, 3), period=(4,), shift=(4,))
def phased(state, x, U, W, period, shift):
    """Neil et al. 2016, arXiv 1610.09513: a gate that opens periodically."""
    h, t = state
    phase = jnp.sin(t.astype(period.dtype) * period + shift)
    k = jax.nn.sigmoid(4 * phase)
    return k * jnp.tanh(W @ x + U @ h) + (1 - k) * h, t + 1


@zoo(((4,), (4,), (4,), (4,), (3,)), W=(4, 3), V=(4, 4), b=(4,))
def delays_of_delays(state, x, W, V, b):
    """No array needs a loop; the second comes from parameters, a product is used twice."""
    _, given, older, product, before = state
    a = W @ (x - before)
    return jnp.tanh(a + V @ older) * given, b * b, product + given, a, x * x


@zoo(((4,), (4,), int, (3,)), W=(4, 3), U=(4, 4))
def everything_at_once(state, x, W, U):
    """A delay that reads a counter, an output, and a loop that reads all but the output."""
    _, c, t, before = state
    c = jnp.tanh(U @ c + W @ before * t.astype(x.dtype))
    return c * jnp.cos(W @ x), c, t - 2, x + t.astype(x.dtype)


@zoo((Complex((4,)), Complex((4,)), Complex((4,))), angle=(4,), B=Complex((4, 3)))
def complex_delay(state, x, angle, B):
    """A delay and an output of complex numbers."""
    _, h, before = state
    turn = 0.9 * jnp.exp(jax.lax.complex(jnp.zeros_like(angle), angle))
    h = turn * h + before
    return h * before, h, B @ x.astype(B.dtype)


#: The cells of this section: where each array of the state is computed, and whether the rest is
#: linear.
NEEDS_NO_LOOP: dict[str, tuple[tuple[str, ...], bool]] = {
    "quasi_recurrent": (("loop", "delay"), True),
    "simple_recurrent_unit": (("output", "loop"), True),
    "shifted_gru": (("loop", "delay"), False),
    "causal_convolution": (("loop", "delay"), True),
    "newest_first": (("loop", "delay"), False),
    "rotated": (("loop", "counter"), True),
    "clockwork": (("loop", "counter"), False),
    "phased": (("loop", "counter"), False),
    "delays_of_delays": (("delay",) * 5, True),
    "everything_at_once": (("output", "loop", "counter", "delay"), False),
    "complex_delay": (("output", "loop", "delay"), True),
}

# --- plain functions ------------------------------------------------------------------------------


def _closing_over(dtype: Any) -> tuple[Any, Any]:
    U, W = 0.5 * random(1, 4, 4, dtype=dtype), random(2, 4, 3, dtype=dtype)
    return lambda h, x: jnp.tanh(U @ h + W @ x), jnp.zeros(4, dtype)


def _sums_up(h: jax.Array, x: jax.Array) -> jax.Array:
    return 0.9 * h + x


ZOO["plain_function_closing_over_arrays"] = _closing_over
ZOO["plain_function"] = lambda dtype: (_sums_up, jnp.zeros(3, dtype))


# --- the tests ------------------------------------------------------------------------------------

#: The cells that there is no machine code for, each with what it has none for.
REFUSED = {
    "picked_by_whole_numbers": "gather of",
    "sorted_and_summed": "sort of",
    "looks_itself_up": "dynamic_slice of",
    "attention_over_a_ring": "scatter of",
}

cells = pytest.mark.parametrize(
    ("name", "backend"),
    [
        (name, backend)
        for backend in ("scan", "native")
        for name in ZOO
        if backend == "scan" or name not in REFUSED
    ],
)
#: Not run by default: all ways with all cells. Each cell is run in one way, on one backend.
one_way_each = pytest.mark.covered(1, together="name", group="ways")


def layer_of(name: str, dtype: Any = jnp.float64, **options: Any) -> nr.Recurrence:
    """A layer with an initial state that is learned."""
    return learned(*ZOO[name](dtype), **options)


def start_of(layer: nr.Recurrence, batch: int) -> Any:
    """Another state for each example."""
    return noise(jtu.tree_map(lambda leaf: jnp.stack([leaf] * batch), layer.initial_state()), 5)


def key_of(layer: nr.Recurrence) -> dict[str, Any]:
    return {"key": jax.random.key(8)} if isinstance(layer.cell, DrawingCell) else {}


def assert_defined(name: str, layer: nr.Recurrence, xs: jax.Array, **options: Any) -> Any:
    """Check that a layer of the zoo gives what the definition gives."""
    definition = layer_of(name, xs.dtype, reverse=layer.reverse, backend="reference")
    options |= key_of(layer)
    return assert_agree(layer, definition, xs, start_of(layer, len(xs)), **options)


@one_way_each
@cells
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_masked_sequences_equal_the_definition(name, backend, reverse):
    """With lengths, one of them zero, NaN past the end, and resets."""
    xs = random(0, BATCH, TIME, IN)
    xs = jnp.where(jnp.arange(TIME)[:, None] < LENGTHS[:, None, None], xs, jnp.nan)
    layer = layer_of(name, reverse=reverse, backend=backend)
    found = assert_defined(name, layer, xs, tolerance=1e-10, lengths=LENGTHS, resets=RESETS)
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(found))


@one_way_each
@cells
def test_float32_equals_the_definition(name, backend):
    """With all arrays in float64: of the definition's own errors in float32, some are 9e-6."""
    layer, xs = layer_of(name, jnp.float32, backend=backend), random(0, 2, TIME, IN)
    # A key gives other numbers in float64, and arrays of a closure have their dtype.
    if key_of(layer) or name == "plain_function_closing_over_arrays":
        assert_defined(name, layer, xs.astype(jnp.float32), tolerance=1e-5)
        return
    narrow, start = xs.astype(jnp.float32), start_of(layer, len(xs))
    found = scanned(layer, narrow, start)
    exact = nr.cast(nr.with_backend(layer, "reference"), jnp.float64)
    expected = scanned(exact, *nr.cast((narrow, start), jnp.float64))
    assert_close(found, nr.cast(expected, jnp.float32), 1e-5)


@one_way_each
@cells
@pytest.mark.parametrize(
    ("save", "checkpoint"), [("states", None), ("gates", "sqrt"), ("states", 2)]
)
def test_save_and_checkpoint_do_not_change_gradients(name, backend, save, checkpoint):
    layer = layer_of(name, backend=backend, save=save, checkpoint=checkpoint)
    assert_defined(name, layer, random(0, 2, TIME, IN), tolerance=1e-10)


@functools.cache
def each_on_its_own(name: str) -> tuple[Any, Any]:
    """By the definition, example after example, each with its own key."""
    xs, keys = random(0, BATCH, TIME, IN), jax.random.split(jax.random.key(8), BATCH)

    def alone(layer: Any, start: Any, xs: Any) -> Any:
        pick = lambda n: jtu.tree_map(lambda leaf: leaf[n], (start, xs, keys))  # noqa: E731
        return jtu.tree_map(
            lambda *leaves: jnp.stack(leaves), *(one_example(layer, *pick(n)) for n in range(BATCH))
        )

    layer = layer_of(name, backend="reference")
    return pulled(alone, layer, start_of(layer, BATCH), xs)


def one_example(layer: Any, state: Any, x: Any, key: Any) -> Any:
    return layer.scan(state, x, key=key)


@one_way_each
@cells
def test_vmap_equals_each_on_its_own(name, backend):
    """Examples mapped by `jax.vmap`, each with its own key."""
    xs, keys = random(0, BATCH, TIME, IN), jax.random.split(jax.random.key(8), BATCH)
    layer = layer_of(name, backend=backend)

    def mapped(layer: Any, start: Any, xs: Any) -> Any:
        return jax.vmap(one_example, in_axes=(None, 0, 0, 0))(layer, start, xs, keys)

    found = pulled_at_once(mapped, layer, start_of(layer, BATCH), xs)
    assert_close(found, each_on_its_own(name), 1e-10)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ZOO)
@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
def test_auto_runs_machine_code_unless_a_primitive_has_none(name):
    """The reason names the primitive."""
    found = nr.explain(layer_of(name), random(0, 2, TIME, IN), **key_of(layer_of(name)))
    refused = REFUSED.get(name)
    if "loop" not in found.states:
        assert found.reason == "no array of its state needs a loop"
        return
    if refused is None:
        assert found.backend == "native"
        reason, *notes = found.reason.split("; ")
        assert reason == "the fastest one on CPUs"
        assert all(note.startswith("the next state is affine by a constant") for note in notes)
        return
    assert found.backend == "scan"
    assert re.match(
        f"there is no native code for {refused}.*; this one runs any cell on any device$",
        found.reason,
    )
    with pytest.raises(
        ValueError, match=rf'backend="native" cannot run this step: .*{refused}.*; expected'
    ):
        nr.with_backend(layer_of(name), "native").scan(
            None, random(0, 2, TIME, IN), **key_of(layer_of(name))
        )


@pytest.mark.sampled(33)
@pytest.mark.parametrize("name", [name for name in ZOO if name not in REFUSED])
@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
def test_a_gradient_calls_two_kernels(name):
    """One for the forward loop and one for the reverse loop; none where nothing needs a loop."""
    layer, xs = layer_of(name), random(0, 2, TIME, IN)
    options = key_of(layer)
    arguments, rest = eqx.partition((layer, start_of(layer, 2), xs), eqx.is_array)

    def run(layer: Any, start: Any, xs: Any) -> Any:
        return layer.scan(start, xs, **options)

    lowered = jax.jit(lambda arrays: pulled(run, *eqx.combine(arrays, rest))).lower(arguments)
    expected = 0 if name == "memoryless" else 2
    assert lowered.as_text().count("custom_call @noria_") == expected


def gradient(cell: Any, start: jax.Array, time: int = 1) -> Any:
    """Of the sum of the final state, for an input of ones."""

    def run(cell: Any) -> Any:
        layer = nr.Recurrence(cell, start, backend="scan")
        return layer.scan(None, jnp.ones((time, IN)))[0].sum()

    return jax.grad(run)(cell)


@pytest.mark.parametrize("rule", [sign_jvp, sign_vjp])
def test_the_rule_decides_the_gradient(rule):
    """A sign with the derivative of the identity: the true derivative is zero."""

    class Sign(nr.Cell):
        U: jax.Array

        def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
            return rule(self.U @ h + x)

        def initial_state(self) -> jax.Array:
            return jnp.zeros(3)

    U, start = random(1, 3, 3), random(2, 3)
    assert_close(gradient(Sign(U), start).U, jnp.outer(jnp.ones(3), start), 1e-12)
    middle = jnp.sign(U @ start + 1)
    expected = jnp.outer(jnp.ones(3), middle) + jnp.outer(U.T @ jnp.ones(3), start)
    assert_close(gradient(Sign(U), start, time=2).U, expected, 1e-12)


def test_the_rule_decides_the_gradient_of_a_parameter():
    """A product with the rule of a sum: the parameter gets the cotangent, not times the state."""

    class Times(nr.Cell):
        s: jax.Array

        def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
            return times(h, self.s)

        def initial_state(self) -> jax.Array:
            return jnp.zeros(3)

    assert_close(gradient(Times(random(1, 3)), random(2, 3), time=4).s, jnp.full(3, 4.0), 1e-12)


def test_an_untouched_parameter_has_gradient_zero():
    cell, start = ZOO["untouched_parameter"](jnp.float64)
    found = nr.grad(
        lambda cell: nr.Recurrence(cell, start, backend="scan")(jnp.ones((TIME, IN))).sum()
    )(cell)
    assert not np.asarray(found.parameters["unused"]).any()
    assert np.asarray(found.parameters["U"]).any()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("checkpoint", [None, "sqrt"])
def test_arrays_that_a_plain_function_closes_over_are_differentiated(checkpoint):
    W, xs = random(2, 4, 3), random(0, BATCH, TIME, IN)

    def loss(backend: str, U: jax.Array, W: jax.Array) -> jax.Array:
        cell = lambda h, x: jnp.tanh(jax.jit(lambda h: U @ h)(h) + W @ x)  # noqa: E731
        options: dict[str, Any] = {"checkpoint": checkpoint} if backend == "scan" else {}
        layer = nr.Recurrence(cell, jnp.zeros(4), backend=backend, **options)
        return jnp.sum(layer(xs) ** 2)

    found, expected = (
        jax.grad(functools.partial(loss, backend), argnums=(0, 1))(random(1, 4, 4), W)
        for backend in ("scan", "reference")
    )
    assert_close(found, expected, 1e-10)
