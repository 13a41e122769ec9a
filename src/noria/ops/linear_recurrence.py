"""Element-wise linear recurrences ``h_t = a_t ⊗ h_(t-1) ⊕ b_t``, one by one or parallel in time.

The state is one array, or a few arrays that depend on each other element by element. Then ``a`` is
a small block for each element, such as a rotation::

    x' = cos * x - sin * y + u           h' = a ⊗ h ⊕ b        a is 2 by 2
    y' = sin * x + cos * y + v

On CPUs one `jax.lax.scan` runs over time and is vectorised over all other axes. On other devices
`jax.lax.associative_scan` composes the steps of all chunks in parallel. A short scan then carries
the state from chunk to chunk::

    (a, b) after (a', b')     is  (a ⊗ a', a ⊗ b' ⊕ b)      composed within a chunk only
    state at the chunk's end  =   a_chunk ⊗ state ⊕ b_chunk  step by step over the chunks

The arithmetic is one of `noria.ops.semirings`. A scale of zero resets the state, even a state that
is infinite or NaN. The computation has no division, and a product of scales spans at most one
chunk. If such a product overflows, the steps are taken one by one instead: an infinite product
times a zero state would be NaN, and the steps one by one give zero.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._integers import ceil_div
from noria._jax import LinearMap, SymbolicZero, everywhere, tangent_type
from noria.ops.semirings import AFFINE, Row, Semiring

#: The scales of a step: entry ``[i][j]`` takes array j of the state to array i of the next state.
Block = tuple[Row, ...]

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
    """The state after each step, ``h_t = a_t * h_(t-1) + b_t``: `block_recurrence` of one array.

    Args:
        a: scales, ``(time, ...)``.
        b: shifts, of the shape and dtype of ``a``: floating, complex or integer.
        start: the state before the first step, ``(...)``.
        reverse: run from the last step to the first.
        parallel: compose chunks of steps if true, take the steps one by one if false. By default
            steps are taken one by one on CPUs and composed on other devices.

    Returns:
        The states, ``(time, ...)``. In both directions index t holds the state after step t.
    """
    return block_recurrence(AFFINE, ((a,),), (b,), (start,), reverse, parallel)[0]


def block_recurrence(
    ring: Semiring,
    a: Block,
    b: Row,
    start: Row,
    reverse: bool = False,
    parallel: bool | None = None,
) -> Row:
    """The arrays of the state after each step, ``h_i' = a_i1 ⊗ h_1 ⊕ a_i2 ⊗ h_2 ... ⊕ b_i``.

    Args:
        ring: the arithmetic. Maximum and sum need floating arrays.
        a: the rows of scales. All arrays have one shape and one dtype, as in `linear_recurrence`.
        b: shifts, one for each array of the state.
        start: the state before the first step.
        reverse: as in `linear_recurrence`.
        parallel: as in `linear_recurrence`.

    The tangents of the states follow a linear recurrence. Its scales ``d_t`` are the derivatives of
    a step by the state before, and its shifts those by ``a`` and ``b``. The cotangents follow one
    in the opposite direction. For cotangents ``c_t`` of ``h_t``, with products and sums::

        g_t        = d_(t+1)ᵀ g_(t+1) + c_t
        dL/db_t    = g_t * the derivative by b
        dL/da_t    = g_t * the derivative by a, which is h_(t-1) in the affine case
        dL/dstart  = d_1ᵀ g_1
    """
    if not b[0].shape[0]:
        return b
    if not jnp.issubdtype(b[0].dtype, jnp.inexact):
        return _solve(ring, a, b, start, reverse, parallel)
    return _recurrence(ring, reverse, parallel, a, b, start)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _recurrence(
    ring: Semiring, reverse: bool, parallel: bool | None, a: Block, b: Row, start: Row
) -> Row:
    return _solve(ring, a, b, start, reverse, parallel)


@_recurrence.defjvp
def _(ring: Semiring, reverse: bool, parallel: bool | None, primals: Any, tangents: Any) -> Any:
    states = _recurrence(ring, reverse, parallel, *primals)
    residuals, tree = jtu.tree_flatten((*primals, states))
    arguments = jtu.tree_structure(primals)

    def slopes(residuals: list[Any]) -> tuple[Block, Block, tuple[Any, ...], Row]:
        """The derivatives of all steps by state, scales and shifts, and the state before."""
        a, b, start, states = jtu.tree_unflatten(tree, residuals)
        before = tuple(
            shifted(some, first, reverse) for some, first in zip(states, start, strict=True)
        )
        found = [ring.slopes(row, shift, before) for row, shift in zip(a, b, strict=True)]
        of_state, of_scale, of_shift = zip(*found, strict=True)
        return of_state, of_scale, of_shift, start

    def push(residuals: list[Any], tangents: list[Any]) -> list[Any]:
        of_state, of_scale, of_shift, _ = slopes(residuals)
        to_a, to_b, to_start = jtu.tree_unflatten(arguments, tangents)
        shifts = tuple(
            _total(map(operator.mul, row, scales)) + _scaled(shift, slope)
            for row, scales, shift, slope in zip(of_scale, to_a, to_b, of_shift, strict=True)
        )
        return [*_recurrence(AFFINE, reverse, parallel, of_state, shifts, to_start)]

    def pull(residuals: list[Any], cotangents: list[Any]) -> list[Any]:
        of_state, of_scale, of_shift, start = slopes(residuals)
        given = tuple(
            jnp.zeros(c.shape, c.dtype) if isinstance(c, SymbolicZero) else c for c in cotangents
        )
        back = _transposed(of_state)
        # The last step has no successor. Its scale is arbitrary: the recurrence starts from zero.
        nothing = jtu.tree_map(jnp.zeros_like, start)
        following = jtu.tree_map(lambda d: shifted(d, nothing[0], not reverse), back)
        g = _recurrence(AFFINE, not reverse, parallel, following, given, nothing)
        last = -1 if reverse else 0
        of_start = [AFFINE.dot([d[last] for d in row], [one[last] for one in g]) for row in back]
        of_a = [one * slope for one, row in zip(g, of_scale, strict=True) for slope in row]
        return [*of_a, *map(_scaled, g, of_shift), *of_start]

    linear = LinearMap(push, pull, tuple(map(tangent_type, states)), (0,) * len(states))
    return states, tuple(linear(residuals, jtu.tree_leaves(tangents)))


def _total(terms: Any) -> Any:
    return functools.reduce(operator.add, terms)


def _scaled(array: Any, slope: Any) -> Any:
    return array if slope is None else array * slope


def _transposed(rows: Sequence[Row]) -> Block:
    return tuple(zip(*rows, strict=True))


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


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _solve(
    ring: Semiring, a: Block, b: Row, start: Row, reverse: bool, parallel: bool | None
) -> Row:
    step_by_step = functools.partial(_sequential, ring, reverse)
    composed = functools.partial(_composed, ring, reverse)
    if parallel is None:
        return jax.lax.platform_dependent(a, b, start, cpu=step_by_step, default=composed)
    return (composed if parallel else step_by_step)(a, b, start)


def _step(ring: Semiring, a: Sequence[Row], b: Row, state: Row) -> Row:
    return tuple(ring.plus(ring.dot(row, state), shift) for row, shift in zip(a, b, strict=True))


def _sequential(ring: Semiring, reverse: bool, a: Block, b: Row, start: Row) -> Row:
    def step(state: Row, factors: tuple[Block, Row]) -> tuple[Row, Row]:
        state = _step(ring, *factors, state)
        return state, state

    return jax.lax.scan(step, start, (a, b), reverse=reverse)[1]


def _composed(ring: Semiring, reverse: bool, a: Block, b: Row, start: Row) -> Row:
    """The states, by composition within chunks; step by step if a product of scales overflows."""
    time = b[0].shape[0]
    count = ceil_div(time, CHUNK)
    size = ceil_div(time, count)

    def chunks(array: jax.Array, filling: float) -> jax.Array:
        """``(time, ...)`` as ``(count, size, ...)``; identity steps pad the last chunk."""
        missing = jnp.full((count * size - time, *array.shape[1:]), filling, array.dtype)
        return jnp.concatenate([array, missing]).reshape(count, size, *array.shape[1:])

    unit = [[ring.one if i == j else ring.zero for j in range(len(b))] for i in range(len(b))]
    steps = (
        tuple(tuple(map(chunks, *rows)) for rows in zip(a, unit, strict=True)),
        tuple(chunks(shift, ring.zero) for shift in b),
    )

    def after(first: tuple[Block, Row], then: tuple[Block, Row]) -> tuple[Block, Row]:
        columns = _transposed(first[0])
        a = tuple(tuple(ring.dot(row, column) for column in columns) for row in then[0])
        return a, _step(ring, *then, first[1])

    def carry(state: Row, chunk: tuple[Block, Row]) -> tuple[Row, Row]:
        return _step(ring, *chunk, state), state

    # For each step, the scales and shifts that map the state before its chunk to the new state.
    scales, shifts = jax.lax.associative_scan(after, steps, axis=1, reverse=reverse)
    whole = jtu.tree_map(lambda some: some[:, 0 if reverse else -1], (scales, shifts))
    _, before = jax.lax.scan(carry, start, whole, reverse=reverse)
    found = _step(ring, scales, shifts, tuple(state[:, None] for state in before))
    states = tuple(some.reshape(count * size, *some.shape[2:])[:time] for some in found)
    if ring is not AFFINE or not jnp.issubdtype(b[0].dtype, jnp.inexact):
        return states
    finite = [jnp.isfinite(some).all() for some in jtu.tree_leaves((scales, shifts))]
    return jax.lax.cond(
        everywhere(functools.reduce(operator.and_, finite)),
        lambda: states,
        lambda: _sequential(ring, reverse, a, b, start),
    )
