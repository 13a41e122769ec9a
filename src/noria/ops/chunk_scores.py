"""The scores of all pairs of steps within the chunks of `noria.ops.chunkwise`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from noria.ops.chunk_decays import between
from noria.ops.unit_triangular import assembled


def rows_of(a: jax.Array) -> jax.Array:
    """``(..., size, n, d)`` as ``(..., size * n, d)``."""
    return a.reshape(*a.shape[:-3], a.shape[-3] * a.shape[-2], a.shape[-1])


def scores_of(decay: jax.Array, readers: Sequence[jax.Array], write: jax.Array) -> list[jax.Array]:
    """``q_t^T (P[t, s] * u_s)`` for each reader: ``(..., size * J, size * R)``."""
    if not readers:
        return []
    size, rank = write.shape[-3:-1]
    if decay.shape[-1] > 1:
        counts = [reader.shape[-2] for reader in readers]
        found = _key_scores(decay, jnp.concatenate(readers, -2), write)
        found = found.reshape(*found.shape[:-2], size, sum(counts), size * rank)
        ends = [sum(counts[:i]) for i in range(1, len(counts))]
        return [rows_of(part) for part in jnp.split(found, ends, -2)]
    decays = between(decay[..., 0, 0])[..., :, None, :, None]
    writers = jnp.swapaxes(rows_of(write), -1, -2)

    def one(reader: jax.Array) -> jax.Array:
        count = reader.shape[-2]
        shape = (*reader.shape[:-3], size, count, size, rank)
        found = (rows_of(reader) @ writers).reshape(shape) * decays
        return found.reshape(*shape[:-4], size * count, size * rank)

    return [one(reader) for reader in readers]


def _key_scores(decay: jax.Array, reader: jax.Array, write: jax.Array) -> jax.Array:
    """The same with a decay for each key, by halves."""
    size, half = decay.shape[-3], 1
    found = jnp.zeros((decay.shape[0] * size, reader.shape[-2], write.shape[-2]), decay.dtype)
    while half < size:
        (_, q), (u, _) = _halves(reader, half), _halves(write, half)
        before, after = _halves(decay, half)
        q = q * _exclusive_of_few(after)
        u = u * _exclusive_of_few(before, reverse=True)
        found = assembled(found, rows_of(q) @ jnp.swapaxes(rows_of(u), -1, -2))
        half *= 2
    return found


def _halves(a: jax.Array, half: int) -> tuple[jax.Array, jax.Array]:
    """The first and second half of each two: ``(..., half, n, d)``."""
    # Cotangents of `split` are concatenated; cotangents of slices are padded and added.
    first, second = jax.lax.split(a.reshape(-1, 2, half, *a.shape[-2:]), (1, 1), axis=1)
    return first[:, 0], second[:, 0]


def _exclusive_of_few(decay: jax.Array, reverse: bool = False) -> jax.Array:
    """The same as `exclusive`, step by step without a loop."""
    count = decay.shape[-3]
    found = [jnp.ones_like(decay[:, :1])]
    steps = jax.lax.split(decay, (1,) * count, axis=1)
    for step in steps[:0:-1] if reverse else steps[:-1]:
        found.append(found[-1] * step)
    return jnp.concatenate(found[::-1] if reverse else found, 1)
