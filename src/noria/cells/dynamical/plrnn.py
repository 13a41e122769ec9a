"""Piecewise linear RNNs: plain, shallow and dendritic."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu

from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import uniform_by_columns
from noria.initializers import normal


def _positive_definite(key: Key, size: int, dtype: Any) -> jax.Array:
    """``R^T R / n + I`` over its largest eigenvalue, with R from N(0, 1)."""
    R = jax.random.normal(key, (size, size), dtype)
    K = R.T @ R / size + jnp.eye(size, dtype=dtype)
    return K / jnp.linalg.norm(K, 2)


def _positive_diagonal(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The diagonal of a matrix of `_positive_definite`."""
    return jnp.diag(_positive_definite(key, shape[0], dtype))


def _off_diagonal(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A matrix of `_positive_definite` with zeros on the diagonal."""
    return _without_diagonal(_positive_definite(key, shape[0], dtype))


def _without_diagonal(W: jax.Array) -> jax.Array:
    """The matrix with zeros on the diagonal."""
    return W * (1 - jnp.eye(W.shape[0], dtype=W.dtype))


class PLRNNCell(VectorCell):
    """The piecewise linear network: a diagonal linear part, and ReLU for the other units.

    ::

        z' = A * z + W relu(z) + C x + h                 (W without its diagonal)

    Source: Durstewitz 2017, doi 10.1371/journal.pcbi.1005542. The initial values are those of the
    code for Hess et al. 2023, with separate draws for ``A`` and ``W``. That code does not hold the
    diagonal of ``W`` at zero.
    """

    A: jax.Array = vector("hidden", _positive_diagonal)
    W: jax.Array = matrix("hidden", "hidden", _off_diagonal)
    C: jax.Array = matrix("hidden", "in")
    h: jax.Array = vector("hidden")
    z: jax.Array = state("hidden")

    def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
        return self.A * z + _without_diagonal(self.W) @ relu(z) + self.C @ x + self.h


class ShallowPLRNNCell(VectorCell):
    """A piecewise linear network with one layer of hidden units between two states.

    ::

        z' = A * z + W_1 relu(W_2 z + h_2) + C x + h_1
        z' = A * z + W_1 (relu(W_2 z + h_2) - relu(W_2 z)) + C x + h_1       (clipped)

    Args:
        units: number of hidden units.
        clipped: whether states stay bounded if all ``|A| < 1``.

    Source: Hess et al. 2023, arXiv 2306.04406.
    """

    units: int = size(default=50)
    clipped: bool = True
    A: jax.Array = vector("hidden", _positive_diagonal)
    W_1: jax.Array = matrix("hidden", "units", uniform_by_columns)
    W_2: jax.Array = matrix("units", "hidden", uniform_by_columns)
    C: jax.Array = matrix("hidden", "in")
    h_1: jax.Array = vector("hidden")
    h_2: jax.Array = vector("units", uniform_by_columns)
    z: jax.Array = state("hidden")

    def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
        a = self.W_2 @ z
        units = relu(a + self.h_2) - relu(a) if self.clipped else relu(a + self.h_2)
        return self.A * z + self.W_1 @ units + self.C @ x + self.h_1


class DendPLRNNCell(VectorCell):
    """A piecewise linear network whose activation is a sum of shifted ReLUs for each unit.

    ::

        p  = sum over b of  alpha_b relu(z - H_b)
        z' = A * z + W p + C x + h                       (W without its diagonal)

    Args:
        bases: number of ReLUs of a unit.

    Source: Brenner et al. 2022, arXiv 2207.02542. The authors' code can also draw the thresholds
    ``H`` from the range of the data.
    """

    bases: int = size(default=20)
    A: jax.Array = vector("hidden", _positive_diagonal)
    W: jax.Array = matrix("hidden", "hidden", _off_diagonal)
    alpha: jax.Array = vector("bases", uniform_by_columns)
    H: jax.Array = array("hidden", "bases", initializer=normal(1.0))
    C: jax.Array = matrix("hidden", "in")
    h: jax.Array = vector("hidden")
    z: jax.Array = state("hidden")

    def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
        p = relu(z[:, None] - self.H) @ self.alpha
        return self.A * z + _without_diagonal(self.W) @ p + self.C @ x + self.h
