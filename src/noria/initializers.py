"""Initialisers ``(key, shape, dtype) -> array`` for weights laid out ``(out, in)``.

They are those of `jax.nn.initializers` with the axes told for this layout: for ``lecun`` and ``he`` it matters which
axis is the fan-in, and JAX's own default is ``(in, out)``. Any function of the same form serves.

A cell calls its initialiser once for each gate block, with shape ``(hidden, in)`` or ``(hidden, hidden)``, so
`orthogonal` gives orthogonal blocks and not one tall matrix with orthonormal columns.
"""

import jax
import jax.numpy as jnp
from jax.nn import initializers as _jax

from noria._types import Initializer

_OUT_IN = {"in_axis": -1, "out_axis": -2}

zeros: Initializer = _jax.zeros
ones: Initializer = _jax.ones


def constant(value: float) -> Initializer:
    """Every entry is ``value``."""
    return _jax.constant(value)


def uniform(bound: float) -> Initializer:
    """U(-bound, bound). PyTorch draws all arrays of a recurrent layer with ``bound = 1 / sqrt(hidden)``."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def normal(deviation: float = 0.01) -> Initializer:
    """N(0, deviation²)."""
    return _jax.normal(deviation)


def glorot_uniform() -> Initializer:
    """U(-b, b) with b = sqrt(6 / (in + out)). Glorot and Bengio 2010, eq. 16."""
    return _jax.glorot_uniform(**_OUT_IN)


def glorot_normal() -> Initializer:
    """Truncated normal of variance 2 / (in + out). Glorot and Bengio 2010."""
    return _jax.glorot_normal(**_OUT_IN)


def lecun_normal() -> Initializer:
    """Truncated normal of variance 1 / in. LeCun et al. 1998."""
    return _jax.lecun_normal(**_OUT_IN)


def he_normal() -> Initializer:
    """Truncated normal of variance 2 / in. He et al. 2015."""
    return _jax.he_normal(**_OUT_IN)


def orthogonal(gain: float = 1.0) -> Initializer:
    """A random orthogonal matrix times ``gain``. Saxe et al. 2014."""
    return _jax.orthogonal(gain, column_axis=-1)


def identity(gain: float = 1.0) -> Initializer:
    """The identity matrix times ``gain``. Le, Jaitly and Hinton 2015."""

    def init(key, shape, dtype=jnp.float32):
        rows, columns = shape
        return gain * jnp.eye(rows, columns, dtype=dtype)

    return init
