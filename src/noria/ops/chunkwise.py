"""Linear recurrences of a matrix, chunk by chunk: products of matrices in place of steps.

The state ``S`` is a matrix of keys by values. A step scales its rows and adds ``R`` products of a
vector of keys and a vector of values, each of which may read the state itself::

    z_r = w_r^T S + v_r                      feedback, value
    y_j = q_j^T S                            reads of the state before the step
    S'  = d * S + sum_r u_r z_r^T            decay, write

Within a chunk the state is never formed. With ``P[t, s]`` for the product of the decays of all
steps between ``s`` and ``t``, and ``S`` for the state before the chunk::

    M[t, s] = w_t^T (P[t, s] * u_s)  for s < t
    Z       = (1 - M)^-1 (W S + V)           all z of the chunk; W = w times the decays before
    Y       = Q S + A Z                      A as M with q for w
    S'      = D S + U^T Z                    U = u times the decays after

The chunk is halved again and again. A pair of steps in different halves meets in the middle:
``P[t, s]`` is the product of the decays from the middle to ``t`` times that from ``s`` to the
middle. So all decays are products of factors, as in the step by step form. There is no logarithm
and no quotient: a decay may be zero or negative, its gradient is exact there, and nothing overflows
unless the recurrence itself does. The inverse of ``1 - M`` is composed from the inverses of halves
(Yang et al. 2024, arXiv 2406.06484, has the WY form; Yang et al. 2023, arXiv 2312.06635, chunks).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from noria._integers import ceil_div
from noria.ops.linear_recurrence import linear_recurrence


@dataclass(frozen=True)
class Chunking:
    """Thresholds of the chunkwise form; ``python benchmarks/chunkwise.py`` repeats the measurement.

    Attributes:
        steps: the steps of a chunk, a power of two.
        channel_steps: the same, if each key has a decay of its own.
        feedback_steps: the same, if the update reads the state.
        rows: steps times examples times heads of a segment. What a chunk computes is kept for one
            segment only: the gradient computes it again.
    """

    steps: int = 64
    channel_steps: int = 64
    feedback_steps: int = 32
    rows: int = 4096


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
    size = _chunk_size(decay, feedback, chunking)
    time, rows = decay.shape[0], math.prod(start.shape[:-2])
    per_segment = chunking.segment(rows)
    steps = _Steps(decay, write, value, feedback, read, reset)
    run = partial(_segment, size, initial)
    if time <= per_segment:
        final, reads = run(start, _padded(steps, ceil_div(max(time, 1), size) * size))
        return final, None if reads is None else reads[:time]
    count = ceil_div(time, per_segment)
    steps = jax.tree.map(
        lambda a: a.reshape(count, per_segment, *a.shape[1:]), _padded(steps, count * per_segment)
    )
    final, reads = jax.lax.scan(jax.checkpoint(run), start, steps)
    if reads is not None:
        reads = reads.reshape(count * per_segment, *reads.shape[2:])[:time]
    return final, reads


class _Steps(NamedTuple):
    decay: Any
    write: Any
    value: Any
    feedback: Any
    read: Any
    reset: Any


def _chunk_size(decay: jax.Array, feedback: jax.Array | None, chunking: Chunking) -> int:
    size = chunking.steps if decay.shape[-1] == 1 else chunking.channel_steps
    size = size if feedback is None else min(size, chunking.feedback_steps)
    return min(size, 1 << max(0, decay.shape[0] - 1).bit_length())


def _padded(steps: _Steps, time: int) -> _Steps:
    """The same with steps at the end that keep the state."""
    missing = time - steps.decay.shape[0]
    if not missing:
        return steps

    def padded(a: jax.Array) -> jax.Array:
        return jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1))

    decay = jnp.pad(
        steps.decay, [(0, missing)] + [(0, 0)] * (steps.decay.ndim - 1), constant_values=1
    )
    return jax.tree.map(padded, steps)._replace(decay=decay)


def _segment(
    size: int, initial: jax.Array | None, start: jax.Array, steps: _Steps
) -> tuple[jax.Array, jax.Array | None]:
    """The state after some steps, and the reads."""
    if steps.reset is not None:
        axes = (*steps.reset.shape, *(1,) * (steps.decay.ndim + 1 - steps.reset.ndim))
        steps = steps._replace(reset=steps.reset.astype(bool).reshape(axes))
    steps = steps._replace(decay=steps.decay[..., None, :])
    decay, write, value, feedback, read, reset = (_chunks(a, size) for a in steps)
    value, offset = _rows(value), 0.0
    given = 0.0
    if reset is not None:
        since = _since_reset(decay, reset)
        initial = initial[..., None, :, :]
        if feedback is not None:
            value = value + _rows(feedback * since) @ initial
            feedback = jnp.where(reset, 0, feedback)
        if read is not None:
            offset = _rows(read * since) @ initial
            read = jnp.where(reset, 0, read)
        given = jnp.swapaxes(decay[..., -1, :, :] * since[..., -1, :, :], -1, -2) * initial
        decay = jnp.where(reset, 0, decay)
    readers = [a for a in (feedback, read) if a is not None]
    form = _between(decay[..., 0, :], readers, write, feedback is not None)
    outside = jnp.swapaxes(_rows(write * form.after[..., None, :]), -1, -2)
    factors = [form.total[..., 0, :, None]]
    if feedback is not None:
        value = form.inverse @ value
        scale = form.inverse @ _rows(feedback * form.before[..., None, :])
        factors.append(outside @ scale)
    final, before = _carried(start, outside @ value + given, *factors)
    if read is None:
        return final, None
    query = _rows(read * form.before[..., None, :])
    scores = form.scores[-1]
    if feedback is not None:
        query = query + scores @ scale
    reads = query @ before + scores @ value + offset
    reads = reads.reshape(*reads.shape[:-2], size, read.shape[-2], reads.shape[-1])
    return final, _unchunked(reads)


def _carried(
    start: jax.Array, shift: jax.Array, decay: jax.Array, mix: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The state after all chunks, and before each: ``S' = decay * S + mix S + shift``."""

    def one(state: jax.Array, chunk: Any) -> tuple[jax.Array, jax.Array]:
        shift, decay, mix = chunk
        after = decay * state + shift
        return after if mix is None else after + mix @ state, state

    given = jax.tree.map(lambda a: jnp.moveaxis(a, -3, 0), (shift, decay, mix))
    final, before = jax.lax.scan(one, start, given)
    return final, jnp.moveaxis(before, 0, -3)


def _since_reset(decay: jax.Array, reset: jax.Array) -> jax.Array:
    """The decays from the last reset in the chunk to each step; zero where there was none."""
    previous = jnp.pad(decay[..., :-1, :, :], [(0, 0)] * (decay.ndim - 3) + [(1, 0), (0, 0), (0, 0)])
    previous = jnp.where(reset, 0, previous)
    shift = jnp.broadcast_to(reset, previous.shape).astype(decay.dtype)
    previous, shift = (jnp.moveaxis(a, -3, 0) for a in (previous, shift))
    return jnp.moveaxis(linear_recurrence(previous, shift, jnp.zeros_like(shift[0])), 0, -3)


def _rows(a):
    return a.reshape(*a.shape[:-3], a.shape[-3] * a.shape[-2], a.shape[-1])


def _chunks(a: Any, size: int) -> Any:
    """``(time, ..., n, d)`` as ``(..., chunks, size, n, d)``."""
    if a is None:
        return None
    a = a.reshape(a.shape[0] // size, size, *a.shape[1:])
    return jnp.moveaxis(a, (0, 1), (-4, -3))


def _unchunked(a):
    a = jnp.moveaxis(a, (-4, -3), (0, 1))
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])


class _Form(NamedTuple):
    scores: Any
    inverse: Any
    before: Any
    after: Any
    total: Any


def _between(decay, readers, write, inverted) -> _Form:
    """Scores"""
    size = decay.shape[-2]
    plain = decay.shape[-1] == 1 and not inverted
    before = after = jnp.ones_like(decay)[..., None, :]
    total = decay[..., None, :]
    ranks = [r.shape[-2] for r in readers]
    rank = write.shape[-2]
    lead = decay.shape[:-1]
    if plain:
        scores = [jnp.zeros((*lead, 1, 1), decay.dtype)]
    else:
        scores = [jnp.zeros((*lead, r, rank), decay.dtype) for r in ranks]
    inverse = jnp.broadcast_to(jnp.eye(rank, dtype=decay.dtype), (*lead, rank, rank))
    h = 1
    while h < size:
        left, right = (lambda a: a[..., 0::2, :, :]), (lambda a: a[..., 1::2, :, :])
        b, a = right(before), left(after)
        if plain:
            pieces = [b * jnp.swapaxes(a, -1, -2)]
        else:
            def halves(x, which, scale):
                x = x.reshape(*x.shape[:-3], size // (2 * h), 2, h, *x.shape[-2:])[
                    ..., which, :, :, :
                ]
                return _rows(x * scale[..., None, :])

            writers = jnp.swapaxes(halves(write, 0, a), -1, -2)
            pieces = [halves(r, 1, b) @ writers for r in readers]
        if inverted:
            inverse = _assembled(inverse, right(inverse) @ (pieces[0] @ left(inverse)))
        scores = [_assembled(s, p) for s, p in zip(scores, pieces, strict=True)]
        before = jnp.concatenate([left(before), right(before) * left(total)], -2)
        after = jnp.concatenate([left(after) * right(total), right(after)], -2)
        total = left(total) * right(total)
        h *= 2
    scores = [s[..., 0, :, :] for s in scores]
    if plain:
        writers = jnp.swapaxes(_rows(write), -1, -2)

        def spread(r):
            p = scores[0][..., :, None, :, None]
            p = jnp.broadcast_to(p, (*p.shape[:-3], r, size, rank))
            return p.reshape(*p.shape[:-4], size * r, size * rank)

        scores = [
            (_rows(reader) @ writers) * spread(r) for reader, r in zip(readers, ranks, strict=True)
        ]
    return _Form(
        scores, inverse[..., 0, :, :] if inverted else None,
        before[..., 0, :, :], after[..., 0, :, :], total[..., 0, :, :],
    )


def _assembled(diagonal, below):
    left, right = diagonal[..., 0::2, :, :], diagonal[..., 1::2, :, :]
    return jnp.concatenate(
        [
            jnp.concatenate([left, jnp.zeros((*left.shape[:-1], right.shape[-1]), left.dtype)], -1),
            jnp.concatenate([below, right], -1),
        ],
        -2,
    )
