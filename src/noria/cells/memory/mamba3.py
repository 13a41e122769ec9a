"""State space of Mamba-3."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.heads import HeadsCell, step_bias


def _one_over_rank(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    del key
    return jnp.full(shape, 1 / shape[1], dtype)


def _norm(a: jax.Array, gain: jax.Array) -> jax.Array:
    """The root mean square norm along the last axis."""
    return gain * a * jax.lax.rsqrt((a * a).mean(-1, keepdims=True) + 1e-5)


class Mamba3Cell(HeadsCell):
    """The state space model of Mamba-3: a trapezoidal step, rotations, several inputs.

    ::

        u  = W_u x                                                        for each head
        B_r = norm(W_B x) * g_B + b_B,  C_r = norm(W_C x) * g_C + b_C     for r = 1 ... R
        Delta = softplus(W_Delta x + b_Delta),  A = -softplus(W_A x),  lam = sigmoid(W_lam x)
        phi' = phi + Delta pi tanh(W_theta x), modulo 2 pi
        B_r, C_r = rotate(B_r, phi'), rotate(C_r, phi')
        alpha, beta, gamma = exp(Delta A), (1 - lam) Delta alpha, lam Delta
        S' = alpha S + sum over r of beta B_before_r (M_x_r * u_before)^T + gamma B_r (M_x_r * u)^T
        y  = sum over r of M_y_r * (S'^T C_r + D M_x_r * u)               the output
        B_before', u_before' = B, u

    ``norm`` divides by the root mean square. ``rotate`` turns pairs of neighbours; numbers without
    an angle stay. The state is that of a complex system, in real numbers. ``b_B``, ``b_C`` and
    ``D`` start at 1, ``M_x`` and ``M_y`` at 1 / R. For R = 1 there are none.

    Args:
        heads: number of matrices; it divides ``hidden``.
        state_size: numbers for each feature, the paper's N.
        rank: the paper's R, inputs and outputs of each head (MIMO); 1 for SISO.
        rotary: the part of ``state_size`` that rotates.

    Source: Lahoti et al. 2026, arXiv 2603.15569; the bound of the angles is that of the authors'
    code, which besides has other functions for ``A`` and a lower bound of it. The block gates and
    normalises the output; that is no part of the cell.
    """

    state_size: int = size(default=128)
    rank: int = size(default=1)
    rotary: float = 0.5
    W_u: jax.Array = matrix("hidden", "in")
    W_B: jax.Array = matrix("rank * state", "in")
    W_C: jax.Array = matrix("rank * state", "in")
    g_B: jax.Array = vector("state", 1)
    g_C: jax.Array = vector("state", 1)
    b_B: jax.Array = array("heads", "rank", "state", initializer=1)
    b_C: jax.Array = array("heads", "rank", "state", initializer=1)
    W_Delta: jax.Array = matrix("heads", "in")
    b_Delta: jax.Array = vector("heads", step_bias)
    W_A: jax.Array = matrix("heads", "in")
    W_lam: jax.Array = matrix("heads", "in")
    W_theta: jax.Array = matrix("angles", "in")
    M_x: jax.Array | None = array(
        "heads",
        "rank",
        "hidden // heads",
        initializer=_one_over_rank,
        when=lambda cell: cell.rank > 1,
    )
    M_y: jax.Array | None = array(
        "heads",
        "rank",
        "hidden // heads",
        initializer=_one_over_rank,
        when=lambda cell: cell.rank > 1,
    )
    D: jax.Array = vector("heads", 1)
    S: jax.Array = state("heads", "state", "hidden // heads")
    phi: jax.Array = state("heads", "angles")
    B_before: jax.Array = state("heads", "rank", "state")
    u_before: jax.Array = state("heads", "hidden // heads")

    def __check_init__(self) -> None:
        if not 0 <= self.rotary <= 1 or self.angles < 1:
            raise ValueError(
                f"Mamba3Cell(state_size={self.state_size}, rotary={self.rotary}): expected a part "
                "from 0 to 1 that has at least two numbers."
            )

    @property
    def angles(self) -> int:
        """Number of angles."""
        return int(self.state_size * self.rotary) // 2

    def _each(self, M: jax.Array | None, u: jax.Array) -> jax.Array:
        """``u`` for each of the inputs of a head."""
        return u[:, None, :] if M is None else M * u[:, None, :]

    def _rotated(self, B: jax.Array, phi: jax.Array) -> jax.Array:
        pairs = B[..., : 2 * self.angles].reshape(*B.shape[:-1], -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        cos, sin = jnp.cos(phi)[:, None, :], jnp.sin(phi)[:, None, :]
        turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
        turned = turned.reshape(*B.shape[:-1], -1)
        return jnp.concatenate([turned, B[..., 2 * self.angles :]], axis=-1)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        S, phi, B_before, u_before = state
        u = self.split(self.W_u @ x)
        B, C = (
            _norm((W @ x).reshape(self.rank, -1), gain) + bias
            for W, gain, bias in ((self.W_B, self.g_B, self.b_B), (self.W_C, self.g_C, self.b_C))
        )
        Delta = softplus(self.W_Delta @ x + self.b_Delta)
        lam = sigmoid(self.W_lam @ x)
        phi = phi + Delta[:, None] * (math.pi * jnp.tanh(self.W_theta @ x))
        phi = phi - 2 * math.pi * jnp.floor(phi / (2 * math.pi))
        B, C = self._rotated(B, phi), self._rotated(C, phi)
        alpha = jnp.exp(-Delta * softplus(self.W_A @ x))
        beta, gamma = (1 - lam) * Delta * alpha, lam * Delta
        old = jnp.einsum("hrn,hrp->hnp", B_before, self._each(self.M_x, u_before))
        new = jnp.einsum("hrn,hrp->hnp", B, self._each(self.M_x, u))
        S = alpha[:, None, None] * S
        S = S + beta[:, None, None] * old + gamma[:, None, None] * new
        y = jnp.einsum("hrn,hnp->hrp", C, S) + self.D[:, None, None] * self._each(self.M_x, u)
        y = y if self.M_y is None else self.M_y * y
        return self.State(S, phi, B, u), y.sum(1).reshape(-1)
