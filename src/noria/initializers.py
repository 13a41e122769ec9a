"""Initialisers ``(key, shape, dtype) -> array`` for weights laid out ``(out, in)``.

Most are initialisers of `jax.nn.initializers` with the axes of this layout. ``lecun`` and ``he``
depend on the axis of the fan-in, and JAX's default is ``(in, out)``. Any function of this form
works.

A cell calls its initialiser once for each gate block, with shape ``(hidden, in)`` or ``(hidden,
hidden)``. So `orthogonal` gives orthogonal blocks, not one tall matrix with orthonormal columns.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers as _jax

from noria._types import Initializer, Key

_OUT_IN = {"in_axis": -1, "out_axis": -2}

zeros: Initializer = _jax.zeros
ones: Initializer = _jax.ones


def constant(value: float) -> Initializer:
    """Every entry is ``value``.

    Args:
        value: the number.

    Returns:
        An initialiser.

    Examples:
        >>> import jax, noria as nr
        >>> nr.initializers.constant(0.5)(jax.random.key(0), (2,), "float32").tolist()
        [0.5, 0.5]
    """
    return _jax.constant(value)


def uniform(bound: float) -> Initializer:
    """U(-bound, bound).

    PyTorch draws all arrays of a recurrent layer with ``bound = 1 / sqrt(hidden)``.

    Args:
        bound: largest absolute value.

    Returns:
        An initialiser.

    Examples:
        >>> import jax, noria as nr
        >>> w = nr.initializers.uniform(0.1)(jax.random.key(0), (2, 3), "float32")
        >>> bool(abs(w).max() <= 0.1)
        True
    """

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def normal(deviation: float = 0.01) -> Initializer:
    """N(0, deviation^2).

    Args:
        deviation: standard deviation.

    Returns:
        An initialiser.

    Examples:
        >>> import jax, noria as nr
        >>> nr.initializers.normal(0.1)(jax.random.key(0), (2, 3), "float32").shape
        (2, 3)
    """
    return _jax.normal(deviation)


def glorot_uniform() -> Initializer:
    """U(-b, b) with b = sqrt(6 / (in + out)).

    Returns:
        An initialiser.

    Examples:
        >>> import jax, noria as nr
        >>> w = nr.initializers.glorot_uniform()(jax.random.key(0), (2, 4), "float32")
        >>> bool(abs(w).max() <= 1.0)
        True

    Source: Glorot and Bengio 2010, eq. 16.
    """
    return _jax.glorot_uniform(**_OUT_IN)


def glorot_normal() -> Initializer:
    """Truncated normal of variance 2 / (in + out).

    Returns:
        An initialiser.

    Examples:
        >>> import jax, noria as nr
        >>> nr.initializers.glorot_normal()(jax.random.key(0), (2, 3), "float32").shape
        (2, 3)

    Source: Glorot and Bengio 2010.
    """
    return _jax.glorot_normal(**_OUT_IN)


def lecun_normal() -> Initializer:
    """Truncated normal of variance 1 / in.

    Returns:
        An initialiser.

    Examples:
        >>> import jax, noria as nr
        >>> nr.initializers.lecun_normal()(jax.random.key(0), (2, 3), "float32").shape
        (2, 3)

    Source: LeCun et al. 1998, "Efficient BackProp".
    """
    return _jax.lecun_normal(**_OUT_IN)


def he_normal() -> Initializer:
    """Truncated normal of variance 2 / in.

    Returns:
        An initialiser.

    Examples:
        >>> import jax, noria as nr
        >>> nr.initializers.he_normal()(jax.random.key(0), (2, 3), "float32").shape
        (2, 3)

    Source: He et al. 2015, arXiv 1502.01852, eq. 10.
    """
    return _jax.he_normal(**_OUT_IN)


def orthogonal(gain: float = 1.0) -> Initializer:
    """A random orthogonal matrix times ``gain``.

    ::

        W W^T = gain^2 I        (W^T W, if there are more rows than columns)

    Keras uses it for recurrent weights by default.

    Args:
        gain: factor of all singular values.

    Returns:
        An initialiser.

    Examples:
        >>> import jax, noria as nr
        >>> w = nr.initializers.orthogonal()(jax.random.key(0), (2, 2), "float32")
        >>> (w @ w.T).round(3).tolist() == [[1.0, 0.0], [0.0, 1.0]]
        True

    Source: Saxe et al. 2014, arXiv 1312.6120.
    """
    return _jax.orthogonal(gain, column_axis=-1)


def identity(gain: float = 1.0) -> Initializer:
    """The identity matrix times ``gain``.

    Args:
        gain: the diagonal.

    Returns:
        An initialiser.

    Examples:
        >>> import jax, noria as nr
        >>> nr.initializers.identity(2.0)(jax.random.key(0), (2, 2), "float32").tolist()
        [[2.0, 0.0], [0.0, 2.0]]

    Source: Le, Jaitly and Hinton 2015, arXiv 1504.00941.
    """

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        rows, columns = shape
        return gain * jnp.eye(rows, columns, dtype=dtype)

    return init
