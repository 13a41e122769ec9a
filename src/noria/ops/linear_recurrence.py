"""Linear recurrences, element-wise: the state is ``h_t = a_t * h_(t-1) + b_t``, and all steps can be taken in parallel.

On CPUs one `jax.lax.scan` runs over time, vectorised over all else. Elsewhere each chunk of steps is composed by
`jax.lax.associative_scan`, all chunks at once, and one short scan carries the state from chunk to chunk::

    (a, b) after (a', b')     is  (a * a', a * b' + b)       composed within a chunk only
    state at the chunk's end  =   a_chunk * state + b_chunk  step by step over the chunks

A scale of zero forgets the state whatever it is. Nothing is divided, and products of ``a`` span at most one chunk. Should even those overflow, the whole sequence is done step
by step instead: a product that is infinite times a state that is zero would be NaN, where the steps one by one give zero.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

#: Steps that are composed at once. Long enough to keep a device busy, short enough that few products overflow.
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
        a: ``(time, ...)``.
        b: ``(time, ...)``, of the same shape and dtype, floating, complex or whole numbers.
        start: ``(...)``, the state before the first step.
        reverse: take the steps from the last to the first.
        parallel: compose chunks of steps, or take one step after the other; default the latter on CPUs only.

    Returns:
        ``(time, ...)``; step t stands at index t in either direction.

    The derivative is again such a recurrence, in the other direction, for cotangents ``c_t`` of ``h_t``::

        g_t = a_(t+1) * g_(t+1) + c_t       dL/db_t = g_t       dL/da_t = g_t * h_(t-1)       dL/dstart = a_1 * g_1
    """
    if not a.shape[0]:
        return b
    if not jnp.issubdtype(b.dtype, jnp.inexact):
        return _solve(a, b, start, reverse, parallel)
    return _recurrence(a, b, start, reverse, parallel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _recurrence(
    a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool, parallel: bool | None
) -> jax.Array:
    return _solve(a, b, start, reverse, parallel)


def _forward(
    a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool, parallel: bool | None
) -> Any:
    states = _recurrence(a, b, start, reverse, parallel)
    return states, (a, start, states)


def _pull_back(reverse: bool, parallel: bool | None, kept: Any, cotangent: jax.Array) -> Any:
    a, start, states = kept
    first = -1 if reverse else 0
    # The last step has no next one: what stands in its place meets a start of zero.
    following = shifted(a, jnp.zeros_like(start), not reverse)
    g = _recurrence(following, cotangent, jnp.zeros_like(start), not reverse, parallel)
    return g * shifted(states, start, reverse), g, times(a[first], g[first])


_recurrence.defvjp(_forward, _pull_back)


def times(scale: jax.Array, state: jax.Array) -> jax.Array:
    """Their product, where a scale of exactly zero forgets the state, even one that is infinite or NaN: a reset."""
    return jnp.where(scale == 0, jnp.zeros_like(state), scale * state)


def shifted(states: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    """What stands before each step: ``start``, then all of ``states`` but the last taken."""
    if not states.shape[0]:
        return states
    pieces = [states[1:], start[None]] if reverse else [start[None], states[:-1]]
    return jnp.concatenate(pieces)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _solve(
    a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool, parallel: bool | None
) -> jax.Array:
    step_by_step = functools.partial(_sequential, reverse=reverse)
    composed = functools.partial(_parallel, reverse=reverse)
    if parallel is None:
        return jax.lax.platform_dependent(a, b, start, cpu=step_by_step, default=composed)
    return (composed if parallel else step_by_step)(a, b, start)


def _sequential(a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    def step(state: jax.Array, factors: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scale, shift = factors
        state = times(scale, state) + shift
        return state, state

    return jax.lax.scan(step, start, (a, b), reverse=reverse)[1]


def _parallel(a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    """Chunks of steps composed. Under `jax.vmap` one more axis of the state, so that the choice below stays one choice."""

    @jax.custom_batching.custom_vmap
    def solve(a: jax.Array, b: jax.Array, start: jax.Array) -> jax.Array:
        return _composed(a, b, start, reverse)

    @solve.def_vmap
    def _(size: int, mapped: list[bool], *arrays: jax.Array) -> tuple[jax.Array, bool]:
        a, b, start = (
            x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))
            for x, is_mapped in zip(arrays, mapped, strict=True)
        )
        states = _parallel(jnp.moveaxis(a, 0, 1), jnp.moveaxis(b, 0, 1), start, reverse)
        return jnp.moveaxis(states, 1, 0), True

    return solve(a, b, start)


def _composed(a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    time = a.shape[0]
    count = -(-time // CHUNK)
    size = -(-time // count)
    # Steps that change nothing fill up the last chunk.
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
    return jax.lax.cond(finite, lambda: states, lambda: _sequential(a, b, start, reverse))


def _chunks(a: jax.Array, filling: jax.Array, count: int, size: int) -> jax.Array:
    """``(time, ...)`` as ``(count, size, ...)``."""
    missing = jnp.broadcast_to(filling, (count * size - a.shape[0], *filling.shape))
    return jnp.concatenate([a, missing]).reshape(count, size, *filling.shape)


def _compose(a: jax.Array, b: jax.Array, reverse: bool) -> tuple[jax.Array, jax.Array]:
    """Of each chunk all steps up to each step as one: ``h = scale * (state before the chunk) + shift``."""

    def after(first: Any, then: Any) -> Any:
        return times(then[0], first[0]), times(then[0], first[1]) + then[1]

    return jax.lax.associative_scan(after, (a, b), axis=1, reverse=reverse)
