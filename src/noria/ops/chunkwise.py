"""Linear recurrences of a matrix, chunk by chunk: products of matrices in place of steps.

Within a chunk the state is never formed. With ``P[t, s]`` for the product of the decays of all
steps between ``s`` and ``t``, and ``S`` for the state before the chunk::

    M[t, s] = w_t^T (P[t, s] * u_s)  for s < t
    Z       = (1 - M)^-1 (W S + V)           all z of the chunk; W = w times the decays before
    Y       = Q S + A Z                      Q as W, and A as M, with q for w
    S'      = D S + U^T Z                    U = u times the decays after

All decays are products of factors, as they are step by step. There is no logarithm and no quotient.
So a decay may be zero or negative, its gradient is exact there, and nothing overflows unless the
recurrence itself does. With one decay for each key, the chunk is halved again and again. For steps
in different halves, ``P[t, s]`` has two factors: the product from ``s`` to the middle, and the
product from the middle to ``t``.

The inverse is a product of powers in blocks of 8 steps, and composed from halves above. Powers of
larger blocks cancel: for 32 equal keys they reach 1e8 where the inverse has ones. A triangular
solve takes four times as long.

Yang et al. 2023 (arXiv 2312.06635) give the chunkwise form, Yang et al. 2024 (arXiv 2406.06484) its
extension to delta rules. Both keep decays as logarithms.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from noria._integers import ceil_div
from noria.ops.chunk_decays import exclusive, since_reset
from noria.ops.chunk_scores import rows_of, scores_of
from noria.ops.unit_triangular import inverse


@dataclass(frozen=True)
class Chunking:
    """Thresholds of the chunkwise form, from a few measurements on one machine with AVX-512.

    ``python benchmarks/chunkwise.py`` compares the form with the plain loop at these values.

    Attributes:
        steps: the steps of a chunk, a power of two. More steps cost more scores, fewer cost more
            states.
        key_steps: the same, if each key has a decay of its own.
        rows: steps times examples times heads of a segment. A gradient computes a segment again,
            and keeps only the states between segments. Small segments stay in the cache.
    """

    steps: int = 32
    key_steps: int = 16
    rows: int = 1024

    def segment(self, rows: int) -> int:
        """The steps of a segment, for so many examples times heads."""
        return self.steps * max(1, self.rows // (self.steps * max(1, rows)))


CHUNKING = Chunking()


def matrix_recurrence(
    decay: jax.Array,
    write: jax.Array,
    value: jax.Array,
    start: jax.Array,
    *,
    feedback: jax.Array | None = None,
    read: jax.Array | None = None,
    reset: jax.Array | None = None,
    initial: jax.Array | None = None,
    chunking: Chunking = CHUNKING,
) -> tuple[jax.Array, jax.Array | None]:
    """A matrix ``S`` of keys by values that each step scales, reads and adds to.

    With ``R`` updates and ``J`` reads in a step, whose index ``t`` is left out::

        S   = reset ? initial : S
        z_r = w_r^T S + v_r
        y_j = q_j^T S
        S'  = d * S + sum_r u_r z_r^T

    Linear attention has ``d = 1`` and no ``w``; RetNet and Mamba-2 have a number ``d``, gated
    linear attention a ``d`` for each key. A delta rule has ``u = k``, ``w = -b k`` and ``v = b v``.

    Args:
        decay: ``d``, ``(time, ..., keys)``, or ``(time, ..., 1)`` for one number.
        write: ``u``, ``(time, ..., R, keys)``.
        value: ``v``, ``(time, ..., R, values)``.
        start: the state before the first step, ``(..., keys, values)``.
        feedback: ``w``, ``(time, ..., R, keys)``; zero by default.
        read: ``q``, ``(time, ..., J, keys)``. It reads the state before the update. To read the
            state after it, use ``q = d * q' + sum_r (q'^T u_r) w_r`` and add
            ``sum_r (q'^T u_r) v_r``.
        reset: where ``initial`` is put back, ``(time,)`` or with more axes of ``start`` in order.
        initial: ``(..., keys, values)``; broadcast to ``start``.
        chunking: the length of chunks.

    Returns:
        The state after the last step, and ``y``, ``(time, ..., J, values)``, or ``None`` without
        ``read``. Arrays of 16 bits are computed with in float32 and rounded once.

    JAX differentiates it, in forward mode too. Unlike the steps one by one, a step that is infinite
    or NaN also spoils earlier steps of its chunk.
    """
    rows, time, dtype = math.prod(start.shape[:-2]), decay.shape[0], start.dtype
    steps = _Steps(decay[..., None, :], write, value, feedback, read, reset)
    start, initial, steps = jax.tree.map(_wide, (start, initial, steps))
    size = chunking.steps if decay.shape[-1] == 1 else chunking.key_steps
    size = min(size, 1 << max(0, time - 1).bit_length())
    run = partial(_segment, size, initial)
    segment = chunking.segment(rows)
    count = ceil_div(time, segment)
    if count <= 1:
        final, reads = run(start, _padded(steps, size * max(1, ceil_div(time, size))))
    else:
        steps = jax.tree.map(
            lambda a: a.reshape(count, segment, *a.shape[1:]), _padded(steps, count * segment)
        )
        final, reads = jax.lax.scan(jax.checkpoint(run), start, steps)
        reads = None if reads is None else reads.reshape(-1, *reads.shape[2:])
    return final.astype(dtype), None if reads is None else reads[:time].astype(dtype)


class _Steps(NamedTuple):
    """The arguments of `matrix_recurrence` that differ from step to step."""

    decay: Any
    write: Any
    value: Any
    feedback: Any
    read: Any
    reset: Any


def _wide(a: jax.Array) -> jax.Array:
    narrow = jnp.issubdtype(a.dtype, jnp.floating) and jnp.finfo(a.dtype).bits < 32
    return a.astype(jnp.float32) if narrow else a


def _padded(steps: _Steps, time: int) -> _Steps:
    """The same with steps at the end that keep the state."""
    missing = time - steps.decay.shape[0]

    def padded(a: jax.Array, by: float = 0) -> jax.Array:
        return jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1), constant_values=by)

    kept = jax.tree.map(padded, steps)._replace(decay=padded(steps.decay, 1))
    return kept if missing else steps


def _segment(
    size: int, initial: Any, start: jax.Array, steps: _Steps
) -> tuple[jax.Array, jax.Array | None]:
    """The state after some steps, and the reads; the number of steps is a multiple of ``size``."""
    reset, count = steps.reset, steps.decay.shape[0] // size
    if reset is not None:
        axes = (*reset.shape, *(1,) * (steps.decay.ndim - reset.ndim))
        reset = jnp.broadcast_to(reset.astype(bool).reshape(axes), (*steps.decay.shape[:-2], 1, 1))
        steps = steps._replace(reset=reset)
    decay, write, value, feedback, read, reset = (_chunks(a, size) for a in steps)
    value, offset, given = rows_of(value), 0.0, 0.0
    if reset is not None:
        since = since_reset(decay, reset)
        initial = jnp.broadcast_to(initial, start.shape)[..., None, :, :]
        shape = (*start.shape[:-2], count, *start.shape[-2:])
        initial = jnp.broadcast_to(initial, shape).reshape(-1, *start.shape[-2:])
        if feedback is not None:
            value = value + rows_of(feedback * since) @ initial
            feedback = jnp.where(reset, 0, feedback)
        if read is not None:
            offset = rows_of(read * since) @ initial
            read = jnp.where(reset, 0, read)
        given = jnp.swapaxes((decay * since)[..., -1, :, :], -1, -2) * initial
        decay = jnp.where(reset, 0, decay)
    scores = scores_of(decay, [a for a in (feedback, read) if a is not None], write)
    before, after = exclusive(decay), exclusive(decay, reverse=True)
    outside = jnp.swapaxes(rows_of(write * after), -1, -2)
    factors = [jnp.swapaxes((decay * before)[..., -1, :, :], -1, -2)]
    if feedback is not None:
        solved = inverse(scores[0], write.shape[-2])
        value = solved @ value
        scale = solved @ rows_of(feedback * before)
        factors.append(outside @ scale)
    final, states = _carried(start, outside @ value + given, *factors)
    if read is None:
        return final, None
    query = rows_of(read * before)
    if feedback is not None:
        query = query + scores[-1] @ scale
    reads = query @ states + scores[-1] @ value + offset
    reads = reads.reshape(*start.shape[:-2], count, size, read.shape[-2], reads.shape[-1])
    reads = jnp.moveaxis(reads, (-4, -3), (0, 1))
    return final, reads.reshape(-1, *reads.shape[2:])


def _chunks(a: Any, size: int) -> Any:
    """``(time, ..., n, d)`` as ``(... * chunks, size, n, d)``.

    One batch axis, because XLA multiplies small matrices ten times slower with two of them.
    """
    if a is None:
        return None
    a = jnp.moveaxis(a.reshape(-1, size, *a.shape[1:]), (0, 1), (-4, -3))
    return a.reshape(-1, *a.shape[-3:])


def _carried(
    start: jax.Array, shift: jax.Array, decay: jax.Array, mix: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The state after all chunks, and before each: ``S' = decay * S + mix S + shift``."""

    def one(state: jax.Array, chunk: Any) -> tuple[jax.Array, jax.Array]:
        shift, decay, mix = chunk
        after = decay * state + shift
        return after if mix is None else after + mix @ state, state

    given = jax.tree.map(
        lambda a: jnp.moveaxis(a.reshape(*start.shape[:-2], -1, *a.shape[-2:]), -3, 0),
        (shift, decay, mix),
    )
    final, states = jax.lax.scan(one, start, given)
    return final, jnp.moveaxis(states, 0, -3).reshape(-1, *start.shape[-2:])
