"""Orthogonal RNN by Householder reflections."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import wide


def _reflections_of(u: jax.Array) -> jax.Array:
    """The product of ``I - 2 u_i u_i^T / |u_i|^2`` for the rows of ``u``, first row leftmost.

    It is ``I - u^T T^-1 u``, where ``T`` is upper triangular: ``u u^T`` with half its diagonal.
    """
    rows = wide(u)
    products = rows @ rows.T
    T = jnp.triu(products, 1) + jnp.diag(jnp.diag(products)) / 2
    W = jnp.eye(u.shape[1], dtype=rows.dtype) - rows.T @ jax.scipy.linalg.solve_triangular(T, rows)
    return W.astype(u.dtype)


def _leaky(z: jax.Array) -> jax.Array:
    """Leaky ReLU of slope 0.1."""
    return jax.nn.leaky_relu(z, 0.1)


class ORNNCell(VectorCell):
    """A recurrent matrix that is a product of Householder reflections.

    ::

        H_i = I - 2 u_i u_i^T / |u_i|^2
        W   = H_1 H_2 ... H_reflections
        h'  = activation(V x + W h + b)

    Row i of ``u`` (from 0) is used from entry i on, as in the paper. Its other entries have no
    effect. With ``reflections`` equal to ``hidden`` each orthogonal matrix of one sign of the
    determinant can be reached.

    Args:
        reflections: number of reflections, at most ``hidden``.
        activation: any element-wise function; leaky ReLU of slope 0.1, as in the authors' code.

    Source: Mhammedi et al. 2017, arXiv 1612.00188.
    """

    reflections: int = size(default=2)
    activation: Callable[[jax.Array], jax.Array] = _leaky
    V: jax.Array = matrix("hidden", "in")
    u: jax.Array = matrix("reflections", "hidden", jax.nn.initializers.normal(1.0))
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.reflections > self.hidden_size:
            raise ValueError(
                f"ORNNCell: reflections is {self.reflections}; "
                f"expected at most hidden_size={self.hidden_size}."
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        W = _reflections_of(jnp.triu(self.u))
        return self.activation(self.V @ x + W @ h + self.b)
