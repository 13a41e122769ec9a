"""Initialisers ``(key, shape, dtype) -> array`` for weights laid out ``(out, in)``.

Most are initialisers of `jax.nn.initializers` with the axes of this layout. ``lecun`` and ``he``
depend on the axis of the fan-in, and JAX's default is ``(in, out)``. Any function of this form
works.

A cell calls its initialiser once for each gate block, with shape ``(hidden, in)`` or ``(hidden,
hidden)``. So `orthogonal` gives orthogonal blocks, not one tall matrix with orthonormal columns.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers as _jax
from jax.scipy.linalg import block_diag

from noria import _legendre
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
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


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
    return lambda key, shape, dtype=jnp.float32: gain * jnp.eye(shape[0], shape[1], dtype=dtype)


def log_uniform(low: float, high: float) -> Initializer:
    """Numbers whose logarithms are uniform: exp(U(log low, log high)).

    State-space models draw their step sizes so.

    Args:
        low: smallest number, above 0.
        high: largest number.

    Returns:
        An initialiser.

    Raises:
        ValueError: if not 0 < low <= high.

    Examples:
        >>> import jax, noria as nr
        >>> d = nr.initializers.log_uniform(0.001, 0.1)(jax.random.key(0), (9,), "float32")
        >>> bool((d >= 0.001).all() and (d <= 0.1).all())
        True

    Source: Gu et al. 2022, arXiv 2206.11893, section 4.
    """
    if not 0 < low <= high:
        raise ValueError(f"log_uniform({low}, {high}): expected 0 < low <= high.")

    return lambda key, shape, dtype=jnp.float32: jnp.exp(
        jax.random.uniform(key, shape, dtype, math.log(low), math.log(high))
    )


def chrono(longest: float) -> Initializer:
    """Biases of forget gates for memories of up to ``longest`` steps: log(U(1, longest - 1)).

    The biases of the input gates are the negative numbers.

    Args:
        longest: the longest dependency that is expected, in steps, above 2.

    Returns:
        An initialiser.

    Raises:
        ValueError: for 2 steps or fewer.

    Examples:
        >>> import jax, noria as nr
        >>> b = nr.initializers.chrono(100)(jax.random.key(0), (9,), "float32")
        >>> bool((b >= 0).all())
        True

    Source: Tallec and Ollivier 2018, arXiv 1804.11188, eq. 16.
    """
    if longest <= 2:
        raise ValueError(f"chrono({longest}): expected more than 2 steps.")

    return lambda key, shape, dtype=jnp.float32: jnp.log(
        jax.random.uniform(key, shape, dtype, 1, longest - 1)
    )


def ring(r_min: float, r_max: float) -> Initializer:
    """Decays whose eigenvalues are uniform on a ring of the complex plane.

    ::

        exp(-exp(nu)) = r,   r^2 ~ U(r_min^2, r_max^2)

    Args:
        r_min: smallest modulus ``r``, 0 or more.
        r_max: largest modulus, below 1.

    Returns:
        An initialiser of ``nu``.

    Raises:
        ValueError: if not 0 <= r_min < r_max < 1.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> nu = nr.initializers.ring(0.9, 0.99)(jax.random.key(0), (9,), "float32")
        >>> r = jnp.exp(-jnp.exp(nu))
        >>> bool((r > 0.89).all() and (r < 1).all())
        True

    Source: Orvieto et al. 2023, arXiv 2303.06349, lemma 3.2.
    """
    if not 0 <= r_min < r_max < 1:
        raise ValueError(f"ring({r_min}, {r_max}): expected 0 <= r_min < r_max < 1.")

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        least = max(r_min**2, float(jnp.finfo(dtype).tiny))
        square = jax.random.uniform(key, shape, dtype, least, r_max**2)
        return jnp.log(-0.5 * jnp.log(square))

    return init


def legendre(theta: float | None = None) -> Initializer:
    """The matrices of a memory of Legendre polynomials: ``A`` for a matrix, ``B`` for a vector.

    ::

        with theta: c' = A c + B x              LegT, a window of theta steps, held for a step
        without:    dc/dt = (A c + B x) / t     LegS, all steps since the start
                    A_nk = -r_n r_k for n > k, -(n + 1) for n = k;  B_n = r_n = sqrt(2 n + 1)

    The polynomials are normalised; those of ``LMUCell`` are not. S4 starts from ``A`` of LegS.

    Args:
        theta: length of the window, in steps.

    Returns:
        An initialiser of square matrices ``(order, order)`` and of vectors ``(order,)``.

    Raises:
        ValueError: for a window of no steps. When it draws, for another shape.

    Examples:
        >>> import jax, noria as nr
        >>> nr.initializers.legendre()(jax.random.key(0), (2, 2), "float32").round().tolist()
        [[-1.0, 0.0], [-2.0, -2.0]]

    Source: Gu et al. 2020, arXiv 2008.07669, theorems 1 and 2.
    """
    if theta is not None:
        _legendre.check_window("legendre", theta)

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        if len(shape) not in (1, 2) or shape[0] != shape[-1]:
            raise ValueError(f"legendre: {shape} is neither (order, order) nor (order,).")
        A, B = _legendre.normalised(shape[0], theta)
        return jnp.asarray(A if len(shape) == 2 else B, dtype)

    return init


def spectral(radius: float = 0.9, density: float = 1.0) -> Initializer:
    """A random matrix whose largest eigenvalue has the modulus ``radius``: a reservoir.

    Args:
        radius: the spectral radius.
        density: share of the entries that are not zero, above 0.

    Returns:
        An initialiser of square matrices. It finds eigenvalues with NumPy, so it does not run
        inside of `jax.jit`.

    Raises:
        ValueError: for a negative radius, or a density outside of (0, 1].

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> U = nr.initializers.spectral(0.5)(jax.random.key(0), (6, 6), "float32")
        >>> float(abs(jnp.linalg.eigvals(U)).max().round(4))
        0.5

    Source: Jaeger 2001, "The echo state approach to analysing and training recurrent neural
    networks", GMD report 148.
    """
    if radius < 0 or not 0 < density <= 1:
        raise ValueError(
            f"spectral({radius}, {density}): expected a radius of at least 0 and "
            "a density above 0, of at most 1."
        )

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        entries, kept = jax.random.split(key)
        full = jax.random.uniform(entries, shape, dtype, -1, 1)
        matrix = np.asarray(jnp.where(jax.random.bernoulli(kept, density, shape), full, 0))
        largest = np.abs(np.linalg.eigvals(matrix.astype(np.float64))).max()
        return jnp.asarray(matrix * (radius / largest if largest else 0.0), dtype)

    return init


def block_diagonal(init: Initializer, blocks: int) -> Initializer:
    """A matrix that is zero but for ``blocks`` blocks on the diagonal.

    Args:
        init: initialiser of each block.
        blocks: number of blocks; it divides the rows and the columns.

    Returns:
        An initialiser of matrices.

    Raises:
        ValueError: when it draws, if the blocks do not divide the shape.

    Examples:
        >>> import jax, noria as nr
        >>> init = nr.initializers.block_diagonal(nr.initializers.ones, 2)
        >>> init(jax.random.key(0), (2, 4), "float32").tolist()
        [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    """

    def draw(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        rows, columns = shape
        if rows % blocks or columns % blocks:
            raise ValueError(
                f"block_diagonal(..., {blocks}): {shape} has no {blocks} equal blocks."
            )
        part = rows // blocks, columns // blocks
        return block_diag(*(init(k, part, dtype) for k in jax.random.split(key, blocks)))

    return draw
