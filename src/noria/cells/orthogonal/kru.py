"""Kronecker recurrent unit."""

import functools

import jax
import jax.numpy as jnp

from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.matrices import modrelu
from noria.cells.starts import each
from noria.initializers import orthogonal


class KRUCell(VectorCell):
    """The Kronecker recurrent unit: the recurrent matrix is a Kronecker product of small ones.

    ::

        U  = K_1 (x) K_2 (x) ... (x) K_factors
        h' = modrelu(U h + W x, b)
        modrelu(z, b) = sign(z) * relu(|z| + b)

    The factors start orthogonal. To keep them near, add a multiple of `penalty` to the loss.

    Args:
        factors: number of factors.
        factor_size: rows and columns of a factor.

    Raises:
        ValueError: if ``hidden`` is not ``factor_size ** factors``.

    Source: Jose, Cisse and Fleuret 2017, arXiv 1705.10142. The paper's state and factors are
    complex, and its factors may differ in size. This is the real form.
    """

    factors: int = size(default=2)
    factor_size: int = size(default=2)
    K: jax.Array = array("factors", "factor", "factor", initializer=each(orthogonal()))
    W: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.hidden_size != self.factor_size**self.factors:
            raise ValueError(
                f"{self._call}: hidden_size is {self.hidden_size}; expected "
                f"factor_size ** factors = {self.factor_size**self.factors}."
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        U = functools.reduce(jnp.kron, self.K)
        return modrelu(U @ h + self.W @ x, self.b)

    def penalty(self) -> jax.Array:
        """How far the factors are from orthogonal ones.

        Returns:
            The sum of the squares of ``K^T K - I`` over all factors.
        """
        products = jnp.swapaxes(self.K, 1, 2) @ self.K
        return jnp.sum((products - jnp.eye(self.factor_size, dtype=self.K.dtype)) ** 2)
