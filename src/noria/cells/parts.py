"""Parts that many cells share."""

from typing import Any

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


def scaled(p: jax.Array | None, c: jax.Array) -> jax.Array | None:
    """``p * c``, or ``None`` for peepholes that a cell does not have."""
    return None if p is None else p * c


def projected(W: jax.Array | None, x: jax.Array) -> jax.Array:
    """``W x``, or ``x`` itself for a matrix that a cell does not have."""
    return x if W is None else W @ x


def check_projected(cell: Any, project: bool) -> None:
    """Reject an input that goes into the state without a matrix, but has another size."""
    if not project and cell.in_size != cell.hidden_size:
        raise ValueError(
            f"{type(cell).__name__}(in_size={cell.in_size}, hidden_size={cell.hidden_size}, "
            "project=False): expected equal sizes, or project=True."
        )


def complex_like(re: jax.Array, im: jax.Array, like: jax.Array) -> jax.Array:
    """``re + i im`` with the dtype of ``like``; 16-bit numbers become 32-bit ones."""
    part = jnp.finfo(like.dtype).dtype
    return jax.lax.complex(re.astype(part), im.astype(part))


def discrete(A: jax.Array, Delta: jax.Array, method: str) -> tuple[jax.Array, jax.Array]:
    """The factors of state and input of a step of ``dh/dt = A h + u`` that lasts ``Delta``."""
    if method == "zoh":
        factor = jnp.exp(Delta * A)
        return factor, (factor - 1) / A
    inverse = 1 / (1 - Delta / 2 * A)
    return inverse * (1 + Delta / 2 * A), inverse * Delta


def has_other_size(cell: Any) -> bool:
    return bool(cell.in_size != cell.hidden_size)


def block_product(R: jax.Array, x: jax.Array) -> jax.Array:
    """The product of a block-diagonal matrix and a vector: each head has a matrix of its own.

    ::

        diag(R_1, ..., R_k) x

    Args:
        R: ``(blocks, rows, columns)``, the blocks.
        x: ``(blocks * columns,)``, the vector.

    Returns:
        ``(blocks * rows,)``, the product.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> nr.cells.block_product(jnp.ones((2, 1, 2)), jnp.arange(4.0)).tolist()
        [1.0, 5.0]
    """
    return jnp.einsum("hij,hj->hi", R, x.reshape(len(R), -1)).reshape(-1)


def normalized(a: jax.Array, epsilon: float) -> jax.Array:
    """A layer norm without gain and bias: mean 0 and variance 1 along the last axis."""
    centred = a - jnp.mean(a, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred / jnp.sqrt(variance + epsilon)
