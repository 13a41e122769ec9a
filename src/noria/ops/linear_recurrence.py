"""Element-wise linear recurrences ``h_t = a_t * h_(t-1) + b_t``, sequential or parallel in time.

On CPUs one `jax.lax.scan` runs over time and is vectorised over all other axes. On other devices
`jax.lax.associative_scan` composes the steps of all chunks in parallel. A short scan then carries
the state from chunk to chunk::

    (a, b) after (a', b')     is  (a * a', a * b' + b)       composed within a chunk only
    state at the chunk's end  =   a_chunk * state + b_chunk  step by step over the chunks

A scale of zero resets the state, even a state that is infinite or NaN. The computation has no
division, and a product of scales spans at most one chunk. If such a product overflows, the steps
are taken one by one instead: an infinite product times a zero state would be NaN, and the steps
one by one give zero.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from noria._integers import ceil_div
from noria._jax import LinearMap, everywhere, tangent_type

#: Steps of a chunk: many enough to keep a device busy, few enough that products rarely overflow
#: (``python benchmarks/tuning.py CHUNK``).
CHUNK = 256


def linear_recurrence(
    a: jax.Array,
    b: jax.Array,
    start: jax.Array,
    reverse: bool = False,
    parallel: bool | None = None,
) -> jax.Array:
    """The state after each step, ``h_t = a_t * h_(t-1) + b_t``.

    Args:
        a: scales, ``(time, ...)``.
        b: shifts, of the shape and dtype of ``a``: floating, complex or integer.
        start: the state before the first step, ``(...)``.
        reverse: run from the last step to the first.
        parallel: compose chunks of steps if true, take the steps one by one if false. By default
            steps are taken one by one on CPUs and composed on other devices.

    Returns:
        The states, ``(time, ...)``. In both directions index t holds the state after step t.

    The tangents of the states are a linear recurrence with shifts ``da_t * h_(t-1) + db_t``.
    The VJP is a linear recurrence in the opposite direction. For cotangents ``c_t`` of ``h_t``::

        g_t        = a_(t+1) * g_(t+1) + c_t
        dL/db_t    = g_t
        dL/da_t    = g_t * h_(t-1)
        dL/dstart  = a_1 * g_1
    """
    if not a.shape[0]:
        return b
    if not jnp.issubdtype(b.dtype, jnp.inexact):
        return _solve(a, b, start, reverse, parallel)
    return _recurrence(a, b, start, reverse, parallel)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _recurrence(
    a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool, parallel: bool | None
) -> jax.Array:
    return _solve(a, b, start, reverse, parallel)


@_recurrence.defjvp
def _(reverse: bool, parallel: bool | None, primals: Any, tangents: Any) -> Any:
    a, b, start = primals
    states = _recurrence(a, b, start, reverse, parallel)
    push, pull = (functools.partial(rule, reverse, parallel) for rule in (_push, _pull))
    linear = LinearMap(push, pull, (tangent_type(states),), (0,))
    return states, linear([a, start, states], tangents)[0]


def _push(
    reverse: bool, parallel: bool | None, residuals: list[jax.Array], tangents: list[jax.Array]
) -> list[jax.Array]:
    (a, start, states), (of_a, of_b, of_start) = residuals, tangents
    shifts = of_a * shifted(states, start, reverse) + of_b
    return [_recurrence(a, shifts, of_start, reverse, parallel)]


def _pull(
    reverse: bool, parallel: bool | None, residuals: list[jax.Array], cotangents: list[jax.Array]
) -> list[jax.Array]:
    (a, start, states), (cotangent,) = residuals, cotangents
    first = -1 if reverse else 0
    # The last step has no successor. Its scale is arbitrary: the recurrence starts from zero.
    following = shifted(a, jnp.zeros_like(start), not reverse)
    g = _recurrence(following, cotangent, jnp.zeros_like(start), not reverse, parallel)
    return [g * shifted(states, start, reverse), g, times(a[first], g[first])]


def times(scale: jax.Array, state: jax.Array) -> jax.Array:
    """The product; a scale of exactly zero gives zero, even for a state that is infinite or NaN."""
    return jnp.where(scale == 0, jnp.zeros_like(state), scale * state)


def shifted(states: jax.Array, start: jax.Array, reverse: bool, axis: int = 0) -> jax.Array:
    """The state before each step: ``start``, then all ``states`` except the final one.

    ``axis`` is the time axis of ``states``.
    """
    time = states.shape[axis]
    if not time:
        return states
    first, part = jnp.expand_dims(start, axis), functools.partial(jax.lax.slice_in_dim, states)
    pieces = [part(1, time, axis=axis), first] if reverse else [first, part(0, time - 1, axis=axis)]
    return jnp.concatenate(pieces, axis)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _solve(
    a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool, parallel: bool | None
) -> jax.Array:
    step_by_step = functools.partial(_sequential, reverse=reverse)
    composed = functools.partial(_composed, reverse=reverse)
    if parallel is None:
        return jax.lax.platform_dependent(a, b, start, cpu=step_by_step, default=composed)
    return (composed if parallel else step_by_step)(a, b, start)


def _sequential(a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    def step(state: jax.Array, factors: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scale, shift = factors
        state = times(scale, state) + shift
        return state, state

    return jax.lax.scan(step, start, (a, b), reverse=reverse)[1]


def _composed(a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    """The states, by composition within chunks; step by step if a product of scales overflows."""
    time = a.shape[0]
    count = ceil_div(time, CHUNK)
    size = ceil_div(time, count)
    # Identity steps pad the last chunk.
    scales, shifts = _compose(
        _chunks(a, jnp.ones_like(start), count, size),
        _chunks(b, jnp.zeros_like(start), count, size),
        reverse,
    )
    last = 0 if reverse else -1

    def carry(state: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scale, shift = chunk
        return times(scale, state) + shift, state

    _, before = jax.lax.scan(carry, start, (scales[:, last], shifts[:, last]), reverse=reverse)
    states = (times(scales, before[:, None]) + shifts).reshape(count * size, *start.shape)[:time]
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        return states
    finite = jnp.isfinite(scales).all() & jnp.isfinite(shifts).all()
    return jax.lax.cond(
        everywhere(finite), lambda: states, lambda: _sequential(a, b, start, reverse)
    )


def _chunks(a: jax.Array, filling: jax.Array, count: int, size: int) -> jax.Array:
    """``(time, ...)`` as ``(count, size, ...)``."""
    missing = jnp.broadcast_to(filling, (count * size - a.shape[0], *filling.shape))
    return jnp.concatenate([a, missing]).reshape(count, size, *filling.shape)


def _compose(a: jax.Array, b: jax.Array, reverse: bool) -> tuple[jax.Array, jax.Array]:
    """For each step, the scale and shift that map the state before its chunk to the new state."""

    def after(first: Any, then: Any) -> Any:
        return times(then[0], first[0]), times(then[0], first[1]) + then[1]

    return jax.lax.associative_scan(after, (a, b), axis=1, reverse=reverse)
