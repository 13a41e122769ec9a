"""Element-wise recurrences ``h_t = max(h_(t-1) + a_t, b_t)``, such as the stabilizer of an mLSTM.

In the semiring of maximum and sum this is a linear recurrence. Steps compose as its steps do::

    (a, b) after (a', b')     is  (a + a', max(a + b', b))

A scale of minus infinity resets the state, even a state that is infinite or NaN. On CPUs the steps
are taken one by one, on other devices `jax.lax.associative_scan` composes them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from noria._jax import LinearMap, tangent_type
from noria.ops.linear_recurrence import linear_recurrence, shifted


def max_plus_recurrence(
    a: jax.Array,
    b: jax.Array,
    start: jax.Array,
    reverse: bool = False,
    parallel: bool | None = None,
) -> jax.Array:
    """The state after each step, ``h_t = max(h_(t-1) + a_t, b_t)``.

    Arguments and result are those of `linear_recurrence`, and floating.

    The derivatives ``d_t`` of a step with respect to the state before are known. So the tangents
    follow a linear recurrence, and the cotangents one in the opposite direction. For cotangents
    ``c_t`` of ``h_t``::

        g_t = d_(t + 1) * g_(t + 1) + c_t
    """
    return _recurrence(a, b, start, reverse, parallel) if a.shape[0] else b


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _recurrence(
    a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool, parallel: bool | None
) -> jax.Array:
    step_by_step = functools.partial(_sequential, reverse=reverse)
    composed = functools.partial(_composed, reverse=reverse)
    if parallel is None:
        return jax.lax.platform_dependent(a, b, start, cpu=step_by_step, default=composed)
    return (composed if parallel else step_by_step)(a, b, start)


@_recurrence.defjvp
def _(reverse: bool, parallel: bool | None, primals: Any, tangents: Any) -> Any:
    a, b, start = primals
    states = _recurrence(a, b, start, reverse, parallel)
    push, pull = (functools.partial(rule, reverse, parallel) for rule in (_push, _pull))
    linear = LinearMap(push, pull, (tangent_type(states),), (0,))
    return states, linear([a, b, shifted(states, start, reverse)], tangents)[0]


def _push(
    reverse: bool, parallel: bool | None, residuals: list[jax.Array], tangents: list[jax.Array]
) -> list[jax.Array]:
    (a, b, before), (of_a, of_b, of_start) = residuals, tangents
    nothing = jnp.zeros_like(a)
    _, slope = jax.jvp(_step, (before, a, b), (jnp.ones_like(a), nothing, nothing))
    _, shifts = jax.jvp(_step, (before, a, b), (nothing, of_a, of_b))
    return [linear_recurrence(slope, shifts, of_start, reverse, parallel)]


def _pull(
    reverse: bool, parallel: bool | None, residuals: list[jax.Array], cotangents: list[jax.Array]
) -> list[jax.Array]:
    (a, b, before), (cotangent,) = residuals, cotangents
    nothing = jnp.zeros_like(before[0])
    _, pull = jax.vjp(_step, before, a, b)
    slope, _, _ = pull(jnp.ones_like(a))
    following = shifted(slope, nothing, not reverse)
    g = linear_recurrence(following, cotangent, nothing, not reverse, parallel)
    of_before, of_a, of_b = pull(g)
    return [of_a, of_b, of_before[-1 if reverse else 0]]


def _plus(state: jax.Array, scale: jax.Array) -> jax.Array:
    """The sum; a scale of minus infinity gives that, even for a state that is infinite or NaN."""
    return jnp.where(scale == -jnp.inf, -jnp.inf, state + scale)


def _step(state: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.maximum(_plus(state, a), b)


def _sequential(a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    def step(state: jax.Array, factors: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        state = _step(state, *factors)
        return state, state

    return jax.lax.scan(step, start, (a, b), reverse=reverse)[1]


def _composed(a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    def after(first: Any, then: Any) -> Any:
        return _plus(first[0], then[0]), _step(first[1], *then)

    scales, shifts = jax.lax.associative_scan(after, (a, b), reverse=reverse)
    return _step(start, scales, shifts)
