"""Recurrent matrices with a structure, and the activation that goes with them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu

from noria._types import Key
from noria.cells.parts import wide


def modrelu(z: jax.Array, b: jax.Array) -> jax.Array:
    """``sign(z) * relu(|z| + b)``, the modReLU of real numbers."""
    return jnp.sign(z) * relu(jnp.abs(z) + b)


def skew(a: jax.Array, hidden: int) -> jax.Array:
    """The skew-symmetric matrix whose entries above the diagonal are ``a``, row by row."""
    upper = jnp.zeros((hidden, hidden), a.dtype).at[jnp.triu_indices(hidden, 1)].set(a)
    return upper - upper.T


def exponential(A: jax.Array) -> jax.Array:
    """``exp(A)``, computed in at least 32 bits."""
    return jax.scipy.linalg.expm(wide(A)).astype(A.dtype)


def rotations(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Entries of a skew-symmetric matrix with 2 x 2 blocks on the diagonal.

    Entries of the blocks are ``-sqrt((1 - cos t) / (1 + cos t))``, with t from U(0, pi / 2).
    """
    hidden = int((1 + (1 + 8 * shape[0]) ** 0.5) / 2 + 0.5)
    rows, columns = jnp.triu_indices(hidden, 1)
    t = jax.random.uniform(key, shape, dtype, 0, jnp.pi / 2)
    block = (columns == rows + 1) & (rows % 2 == 0)
    return jnp.where(block, -jnp.sqrt((1 - jnp.cos(t)) / (1 + jnp.cos(t))), 0)
