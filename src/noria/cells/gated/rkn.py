"""Recurrent Kalman network."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import softmax

from noria._types import Initializer, Key
from noria.cells.declare import OfCell, array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.heads import positive


def _rotation(cell: Any) -> Initializer:
    """B11 = B22 = I and B12 = -B21 = 0.2 I."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        del key
        eye = jnp.concatenate([jnp.full(n, 1.0 * (d == 0)) for d, n in cell._diagonals])
        scales = jnp.array([1, 0.2, -0.2, 1])
        return jnp.broadcast_to(scales[:, None] * eye, shape).astype(dtype)

    return init


class RKNCell(VectorCell):
    """The recurrent Kalman network: a Kalman filter with a variance for each feature.

    ::

        alpha = softmax(W_a z + b_a)
        A  = sum of alpha_k A_k over k,   A_k = [[B11, B12], [B21, B22]], band matrices
        z  = A z
        Sigma = A Sigma A^T + diag(elu(c) + 1),   Sigma = [[sigma_u, sigma_s], [sigma_s, sigma_l]]
        w  = W_w x + b_w,   r = elu(W_r x + b_r) + 1          observation and variance
        q_u = sigma_u / (sigma_u + r),   q_l = sigma_s / (sigma_u + r)
        z' = z + [q_u * (w - z_u), q_l * (w - z_u)]           z_u: the first half of z
        sigma_u' = (1 - q_u) * sigma_u
        sigma_l' = sigma_l - q_l * sigma_s
        sigma_s' = (1 - q_u) * sigma_s

    Of the four blocks of ``Sigma`` only the diagonals are kept, as vectors. ``W_w`` and ``W_r`` are
    the last layer of the paper's encoder; the paper divides ``w`` by its length.

    Args:
        basis: number of matrices ``A_k``.
        bandwidth: diagonals on each side of the main diagonal of the blocks.
        variances: whether the output is ``z, sigma_u, sigma_l, sigma_s`` in a row, instead of
            ``z``.

    Raises:
        ValueError: if ``hidden`` is odd.

    Source: Becker et al. 2019, arXiv 1905.07357, eqs. 2 to 7 and 10 to 12. The flags of valid
    observations are left out: a large ``r`` has the same effect. The authors' code for PyTorch
    updates before it predicts.
    """

    basis: int = size(default=15)
    bandwidth: int = size(default=3)
    variances: bool = False
    B: jax.Array = array("basis", 4, "entries", initializer=OfCell(_rotation))
    W_a: jax.Array = matrix("basis", "hidden")
    b_a: jax.Array = vector("basis")
    c: jax.Array = vector("hidden", math.log(0.1))
    W_w: jax.Array = matrix("hidden // 2", "in")
    b_w: jax.Array = vector("hidden // 2")
    W_r: jax.Array = matrix("hidden // 2", "in")
    b_r: jax.Array = vector("hidden // 2")
    z: jax.Array = state("hidden")
    sigma_u: jax.Array = state("hidden // 2", initializer=10)
    sigma_l: jax.Array = state("hidden // 2", initializer=10)
    sigma_s: jax.Array = state("hidden // 2")

    def __check_init__(self) -> None:
        if self.hidden_size % 2:
            raise ValueError(
                f"{self._call}: hidden_size is {self.hidden_size}; expected an even number: means "
                "of observed features and of a memory."
            )

    @property
    def _diagonals(self) -> list[tuple[int, int]]:
        """The offset and the length of each diagonal of a block."""
        half = self.hidden_size // 2
        return [(d, half - abs(d)) for d in range(-self._reach, self._reach + 1)]

    @property
    def _reach(self) -> int:
        return min(self.bandwidth, self.hidden_size // 2 - 1)

    @property
    def entries(self) -> int:
        """The number of entries of a block."""
        return sum(length for _, length in self._diagonals)

    def _blocks(self, z: jax.Array) -> jax.Array:
        """B11, B12, B21 and B22 at a state, by diagonals: ``(4, diagonals, hidden // 2)``."""
        flat = jnp.einsum("k,kbe->be", softmax(self.W_a @ z + self.b_a), self.B)
        rows, start = [], 0
        for d, length in self._diagonals:
            part = flat[:, start : start + length]
            rows.append(jnp.pad(part, ((0, 0), (max(-d, 0), max(d, 0)))))
            start += length
        return jnp.stack(rows, axis=1)

    def _shifted(self, a: jax.Array) -> jax.Array:
        """What the diagonals of a block are multiplied with in a product of block and vector."""
        padded = jnp.pad(a, self._reach)
        return jnp.stack([padded[i : i + a.size] for i in range(2 * self._reach + 1)])

    def __call__(self, state: Any, x: jax.Array) -> Any:
        z, *sigmas = state
        B11, B12, B21, B22 = self._blocks(z)
        P, M, U, L, S = map(self._shifted, (*jnp.split(z, 2), *sigmas))
        p, m = (B11 * P + B12 * M).sum(0), (B21 * P + B22 * M).sum(0)
        noise_u, noise_l = jnp.split(positive(self.c), 2)
        u = (B11 * B11 * U + 2 * B11 * B12 * S + B12 * B12 * L).sum(0) + noise_u
        low = (B21 * B21 * U + 2 * B21 * B22 * S + B22 * B22 * L).sum(0) + noise_l
        s = (B21 * B11 * U + (B22 * B11 + B21 * B12) * S + B22 * B12 * L).sum(0)
        w, r = self.W_w @ x + self.b_w, positive(self.W_r @ x + self.b_r)
        q_u, q_l = u / (u + r), s / (u + r)
        z = jnp.concatenate([p + q_u * (w - p), m + q_l * (w - p)])
        return self.State(z, (1 - q_u) * u, low - q_l * s, (1 - q_u) * s)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """The mean, or the mean and the variances."""
        return jnp.concatenate(state) if self.variances else state.z
