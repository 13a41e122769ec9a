"""Parts that many cells share."""

import jax
import jax.numpy as jnp


def times(W: jax.Array | None, x: jax.Array) -> jax.Array | None:
    """``W x``, or ``None`` for a matrix that a cell does not have."""
    return None if W is None else W @ x


def total(*terms: jax.Array | None) -> jax.Array:
    """The sum of the terms that are there."""
    there = [term for term in terms if term is not None]
    return sum(there[1:], jnp.asarray(there[0]))


def wide_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """``dtype``, or float32 for one of 16 bits."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype


def wide(array: jax.Array) -> jax.Array:
    """An array of at least 32 bits, as factorisations need."""
    return array.astype(wide_dtype(array.dtype))
