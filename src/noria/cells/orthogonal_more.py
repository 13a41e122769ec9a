"""More cells with orthogonal recurrent matrices: of Kronecker factors, of rotations, and near one.

A matrix that is computed from parameters is computed once a call, not once a step.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.orthogonal import exponential, modrelu, rotations, skew
from noria.cells.starts import each
from noria.initializers import orthogonal, uniform


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


def _angles(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """U(0, 2 pi)."""
    return jax.random.uniform(key, shape, dtype, 0, 2 * math.pi)


class NNRNNCell(VectorCell):
    """The non-normal RNN: the Schur form of a matrix, with eigenvalues near the unit circle.

    ::

        P  = exp(A),  A skew-symmetric, with the entries a above the diagonal
        L  = blocks  gamma_i [[cos theta_i, -sin theta_i], [sin theta_i, cos theta_i]]
        V  = P (L + T) P^T,  T with the entries t below the blocks
        h' = modrelu(U x + V h, b)
        modrelu(z, b) = sign(z) * relu(|z| + b)

    ``gamma`` starts at 1 and ``t`` at 0, so ``V`` starts orthogonal. To keep ``gamma`` near 1, add
    a multiple of `penalty` to the loss.

    Raises:
        ValueError: if ``hidden`` is odd.

    Source: Kerg et al. 2019, arXiv 1905.12080. In the authors' code ``T`` has one more entry in
    each block, and ``P`` takes steps of its own in training.
    """

    a: jax.Array = vector("hidden * (hidden - 1) // 2", rotations)
    gamma: jax.Array = vector("hidden // 2", 1)
    theta: jax.Array = vector("hidden // 2", _angles)
    t: jax.Array | None = vector(
        "hidden * (hidden - 2) // 2", when=lambda cell: cell.hidden_size > 2
    )
    U: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden", uniform(0.01))
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.hidden_size % 2:
            raise ValueError(
                f"{self._call}: hidden_size is {self.hidden_size}; expected an even number."
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        P = exponential(skew(self.a, self.hidden_size))
        V = P @ self._schur() @ P.T
        return modrelu(self.U @ x + V @ h, self.b)

    def _schur(self) -> jax.Array:
        """The matrix ``L + T``."""
        n = self.hidden_size
        even, odd = np.arange(0, n, 2), np.arange(1, n, 2)
        cos, sin = self.gamma * jnp.cos(self.theta), self.gamma * jnp.sin(self.theta)
        L = jnp.zeros((n, n), cos.dtype).at[even, even].set(cos).at[odd, odd].set(cos)
        L = L.at[even, odd].set(-sin).at[odd, even].set(sin)
        rows, columns = np.tril_indices(n, -1)
        below = rows // 2 != columns // 2
        return L if self.t is None else L.at[rows[below], columns[below]].set(self.t)

    def penalty(self) -> jax.Array:
        """How far the eigenvalues are from the unit circle.

        Returns:
            The mean of ``(gamma - 1)^2``.
        """
        return jnp.mean((self.gamma - 1) ** 2)


def _rotated(W: jax.Array, angles: jax.Array, first: int) -> jax.Array:
    """``W`` with its rows rotated in pairs, from row ``first`` on."""
    end = first + 2 * angles.shape[0]
    pairs = W[first:end].reshape(-1, 2, W.shape[1])
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    above = cos * pairs[:, 0] - sin * pairs[:, 1]
    below = sin * pairs[:, 0] + cos * pairs[:, 1]
    middle = jnp.stack([above, below], axis=1).reshape(-1, W.shape[1])
    return jnp.concatenate([W[:first], middle, W[end:]])


class EUNNCell(VectorCell):
    """The efficient unitary network: the recurrent matrix is layers of rotations of pairs.

    ::

        W  = F_layers ... F_2 F_1
        F_1, F_3, ...: rotations of the entries (0, 1), (2, 3), ... by the angles theta_A
        F_2, F_4, ...: rotations of the entries (1, 2), (3, 4), ... by the angles theta_B
        h' = modrelu(V x + W h, b)
        modrelu(z, b) = sign(z) * relu(|z| + b)

    Args:
        layers: number of layers, the paper's L; with ``hidden`` layers it reaches all rotations.

    Raises:
        ValueError: for a ``hidden`` below 3.

    Source: Jing et al. 2016, arXiv 1612.05231, the tunable form. The paper's state is complex, with
    phases in the rotations and after them. This is the real form of the authors' code.
    """

    layers: int = size(default=2)
    theta_A: jax.Array = array("(layers + 1) // 2", "hidden // 2", initializer=uniform(math.pi))
    theta_B: jax.Array | None = array(
        "layers // 2",
        "(hidden - 1) // 2",
        initializer=uniform(math.pi),
        when=lambda cell: cell.layers > 1,
    )
    V: jax.Array = matrix("hidden", "in", uniform(0.01))
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.hidden_size < 3:
            raise ValueError(
                f"{self._call}: hidden_size is {self.hidden_size}; expected at least 3."
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return modrelu(self.V @ x + self._matrix() @ h, self.b)

    def _matrix(self) -> jax.Array:
        """The matrix ``W``."""
        W = jnp.eye(self.hidden_size, dtype=self.V.dtype)
        for n in range(self.layers):
            theta = self.theta_A if self.theta_B is None or n % 2 == 0 else self.theta_B
            W = _rotated(W, theta[n // 2], n % 2)
        return W
