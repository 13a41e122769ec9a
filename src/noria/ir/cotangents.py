"""Cotangents of lists of arrays: zeros, sums, and their types."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._jax import SymbolicZero

#: Cotangents of parameters, steps and state, ``None`` for zero.
Cotangents = tuple[list[Any], list[Any], list[Any]]

#: Cotangents of final state and emitted values: arrays, symbolic zeros, or ``None`` for
#: integers.
Ends = tuple[Sequence[Any], Sequence[Any]]

#: From cotangents of the hoisted values to cotangents of parameters and steps.
PullPrologue = Callable[[list[Any]], tuple[list[Any], list[Any]]]


def instantiate(cotangent: jax.Array | SymbolicZero) -> jax.Array:
    """A cotangent as an array, also of a symbolic zero."""
    return (
        jnp.zeros(cotangent.shape, cotangent.dtype)
        if isinstance(cotangent, SymbolicZero)
        else cotangent
    )


def or_zeros(
    cotangent: jax.Array | None, like: jax.Array | jax.ShapeDtypeStruct
) -> jax.Array | np.ndarray:
    """A cotangent for ``like``; ``None`` is zero, and integers have the dtype float0."""
    if not jnp.issubdtype(like.dtype, jnp.inexact):
        return np.zeros(like.shape, jax.dtypes.float0)
    return jnp.zeros(like.shape, like.dtype) if cotangent is None else cotangent


def add(a: jax.Array | None, b: jax.Array | None) -> jax.Array | None:
    """The sum of two cotangents, ``None`` where there is none."""
    if a is None or a.dtype == jax.dtypes.float0:
        return b
    return a if b is None else jax.lax.add(a, b)
