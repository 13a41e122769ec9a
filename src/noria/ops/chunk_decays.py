"""Products of decays within the chunks of `noria.ops.chunkwise`: ``(chunks, size, 1, d)``."""

import jax
import jax.numpy as jnp

from noria.ops.linear_recurrence import linear_recurrence


def exclusive(decay: jax.Array, reverse: bool = False) -> jax.Array:
    """The product of the decays of all steps of the chunk before each one; in reverse, after it."""
    a = jnp.moveaxis(decay, -3, 0)
    one = jnp.ones_like(a[:1])
    a = jnp.concatenate([a[1:], one] if reverse else [one, a[:-1]])
    found = linear_recurrence(a, jnp.zeros_like(a), one[0], reverse)
    return jnp.moveaxis(found, 0, -3)


def since_reset(decay: jax.Array, reset: jax.Array) -> jax.Array:
    """The decays from the last reset in the chunk to each step; zero where there was none."""
    a = jnp.moveaxis(decay, -3, 0)
    reset = jnp.moveaxis(reset, -3, 0)
    a = jnp.where(reset, 0, jnp.concatenate([jnp.zeros_like(a[:1]), a[:-1]]))
    shift = jnp.broadcast_to(reset, a.shape).astype(a.dtype)
    return jnp.moveaxis(linear_recurrence(a, shift, jnp.zeros_like(a[0])), 0, -3)


def between(decay: jax.Array) -> jax.Array:
    """``P``: from ``(..., size)`` to ``(..., size, size)``, strictly lower triangular."""
    size = decay.shape[-1]
    a = jnp.moveaxis(decay, -1, 0)
    a = jnp.concatenate([jnp.zeros_like(a[:1]), a[:-1]])[..., None]
    ones = jnp.eye(size, k=-1, dtype=a.dtype).reshape(size, *(1,) * (a.ndim - 2), size)
    shape = (*a.shape[:-1], size)
    a, ones = jnp.broadcast_to(a, shape), jnp.broadcast_to(ones, shape)
    return jnp.moveaxis(linear_recurrence(a, ones, jnp.zeros(shape[1:], a.dtype)), 0, -2)
