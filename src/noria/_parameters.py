"""The dtype of parameters, and one call of an initialiser."""

from typing import Any

import jax
import jax.numpy as jnp

from noria._types import Initializer


def draw(init: Initializer, key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Call ``init``; 16-bit floats are drawn in float32 and rounded, unless it is `of_any_dtype`.

    The factorisation of an orthogonal initialiser has no 16-bit kernel.
    """
    is_narrow = jnp.finfo(dtype).bits < 32 and not hasattr(init, "of_any_dtype")
    wide = jnp.float32 if is_narrow else dtype
    array = jnp.asarray(init(key, shape, wide))
    if array.shape != shape:
        raise ValueError(f"initialiser {init}: it returned shape {array.shape}; expected {shape}.")
    return array.astype(dtype)


def of_any_dtype(init: Initializer) -> Initializer:
    """``init``, marked as one that draws numbers of 16 bits itself."""
    init.of_any_dtype = True  # type: ignore[attr-defined]
    return init


def default_dtype(dtype: Any) -> jnp.dtype:
    """``dtype``, or JAX's default floating type: float32, or float64 where 64 bits are enabled."""
    chosen: jnp.dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
    if not jnp.issubdtype(chosen, jnp.floating):
        raise TypeError(f"dtype is {chosen}; expected a floating type such as jnp.float32.")
    return chosen


def complex_dtype(dtype: Any) -> jnp.dtype:
    """The complex dtype for numbers of a floating one: complex128 for float64, else complex64."""
    return jnp.dtype(jnp.complex128 if jnp.finfo(dtype).bits == 64 else jnp.complex64)


def parameter(
    call: str,
    name: str,
    given: Any,
    form: str,
    axes: int,
    shape: tuple[int, ...] | None = None,
    dtype: Any = None,
) -> jax.Array:
    """An array of the caller as a parameter, after a check.

    Args:
        call: the call in messages.
        name: the parameter in messages.
        given: the array.
        form: its shape in words, for messages.
        axes: the number of its axes.
        shape: its shape, if other arrays say it.
        dtype: its dtype, if other arrays say it.
    """
    array = jnp.asarray(given)
    if array.ndim != axes or 0 in array.shape or (shape is not None and array.shape != shape):
        raise ValueError(f"{call}: {name} has shape {array.shape}; expected {shape or form}.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{call}: {name} is {array.dtype}; expected a floating dtype.")
    if dtype is not None and array.dtype != dtype:
        raise TypeError(f"{call}: {name} is {array.dtype}; expected {dtype} as the other array is.")
    return array
