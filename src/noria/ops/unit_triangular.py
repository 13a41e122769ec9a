"""Lower triangular matrices from halves, and their inverse for a unit diagonal."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def assembled(diagonal: jax.Array, below: jax.Array) -> jax.Array:
    """Lower triangular matrices from the matrices of their halves and the part below."""
    pairs = diagonal.reshape(*below.shape[:-2], 2, *diagonal.shape[-2:])
    first, second = pairs[..., 0, :, :], pairs[..., 1, :, :]
    zero = jnp.zeros((*first.shape[:-1], second.shape[-1]), below.dtype)
    above = jnp.concatenate([first, zero], -1)
    return jnp.concatenate([above, jnp.concatenate([below, second], -1)], -2)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def inverse(matrix: jax.Array, rank: int) -> jax.Array:
    """``(1 - matrix)^-1`` for a matrix that is strictly lower triangular in blocks of ``rank``."""
    size = matrix.shape[-1]
    steps = min(8, size // rank)
    block = steps * rank

    def cut(height: int, row: int, column: int, stride: int) -> jax.Array:
        return jnp.stack(
            [
                matrix[..., i + row : i + row + height, i + column : i + column + height]
                for i in range(0, size, stride)
            ],
            -3,
        )

    power = cut(block, 0, 0, block)
    found = power + jnp.eye(block, dtype=matrix.dtype)
    for _ in range(max(0, steps.bit_length() - 2)):
        power = power @ power
        found = found + found @ power
    while block < size:
        below = cut(block, block, 0, 2 * block)
        first, second = found[..., 0::2, :, :], found[..., 1::2, :, :]
        found = assembled(found, second @ (below @ first))
        block *= 2
    return found[..., 0, :, :]


@inverse.defjvp
def _(rank: int, primals: Any, tangents: Any) -> Any:
    found = inverse(primals[0], rank)
    return found, found @ tangents[0] @ found
