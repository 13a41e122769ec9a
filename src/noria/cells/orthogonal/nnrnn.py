"""Non-normal recurrent network."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._types import Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.matrices import exponential, modrelu, rotations, skew
from noria.initializers import uniform


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
