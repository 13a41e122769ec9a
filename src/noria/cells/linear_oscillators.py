"""Linear state-space models that oscillate: forced oscillators, and rotations.

``state_size`` numbers are the state, and ``hidden_size`` features are the output.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria._errors import check_choice
from noria._types import Initializer, Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import wide
from noria.initializers import lecun_normal, normal


def _over_columns(draw: Callable[..., jax.Array]) -> Initializer:
    """What ``draw`` draws, over the root of the number of columns."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return draw(key, shape, dtype) * shape[-1] ** -0.5

    return init


def _positive(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """U(0, 1)."""
    return jax.random.uniform(key, shape, dtype)


def _signed(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """U(-1, 1)."""
    return jax.random.uniform(key, shape, dtype, -1, 1)


#: U(-b, b) with b = 1 / sqrt(columns).
_uniform = _over_columns(_signed)


class LinOSSCell(VectorCell):
    """Forced harmonic oscillators, the linear oscillatory state-space model LinOSS.

    ::

        A, Delta = relu(a), sigmoid(delta)
        z'  = S * (z + Delta * (B x - A * y))
        y'  = y + Delta * z'
        out = C y' + D x                                 the output

        im:    S = 1 / (1 + Delta^2 A)
        imex:  S = 1

    ``y`` are positions and ``z`` their velocities. Both schemes are discrete forms of
    ``d^2 y / dt^2 = -A y + B x``: implicit, which dissipates, or implicit and explicit by turns,
    which conserves the volume of the state.

    Args:
        state_size: oscillators.
        scheme: ``"im"`` or ``"imex"``.

    Source: Rusch and Rus 2025, arXiv 2410.03943. All numbers are real, as in the paper. The
    authors' code has complex ``B`` and ``C``: twice as many real oscillators, which share ``A`` and
    ``Delta`` in pairs. Its ``D`` is diagonal.
    """

    state_size: int = size(default=64)
    scheme: str = "im"
    a: jax.Array = vector("state", _positive)
    delta: jax.Array = vector("state", _positive)
    B: jax.Array = matrix("state", "in", _uniform)
    C: jax.Array = matrix("hidden", "state", _uniform)
    D: jax.Array = matrix("hidden", "in", lecun_normal())
    y: jax.Array = state("state")
    z: jax.Array = state("state")

    def __check_init__(self) -> None:
        check_choice("LinOSSCell", "scheme", self.scheme, ("im", "imex"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        y, z = state
        A, Delta = relu(self.a), sigmoid(self.delta)
        z = z + Delta * (self.B @ x - A * y)
        if self.scheme == "im":
            z = z / (1 + Delta * Delta * A)
        return self.State(y + Delta * z, z)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """A read-out of the positions, and a skip connection."""
        return self.C @ state.y + self.D @ x


class DLinOSSCell(VectorCell):
    """Forced harmonic oscillators with learned damping, D-LinOSS.

    ::

        G, Delta = relu(g), sigmoid(delta)
        low, high = (2 + Delta G -+ 2 sqrt(1 + Delta G)) / Delta^2
        A   = a, limited to the range from low to high
        z'  = (z + Delta * (B x - A * y)) / (1 + Delta * G)
        y'  = y + Delta * z'
        out = C y' + D x                                 the output

    ``y`` are positions and ``z`` their velocities. Within the limits the eigenvalues of a step are
    a complex pair, and their squared modulus is ``1 / (1 + Delta G)``.

    Args:
        state_size: oscillators.

    Source: Boyer, Rusch and Rus 2025, arXiv 2505.12171. All numbers are real, as in the paper. The
    authors' code has complex ``B`` and ``C`` and a diagonal ``D``, and draws ``A`` and ``G`` so
    that the eigenvalues start on a ring. Here they start from U(0, 1), as in `LinOSSCell`.
    """

    state_size: int = size(default=64)
    a: jax.Array = vector("state", _positive)
    g: jax.Array = vector("state", _positive)
    delta: jax.Array = vector("state", _positive)
    B: jax.Array = matrix("state", "in", _uniform)
    C: jax.Array = matrix("hidden", "state", _uniform)
    D: jax.Array = matrix("hidden", "in", lecun_normal())
    y: jax.Array = state("state")
    z: jax.Array = state("state")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        y, z = state
        G, Delta = relu(self.g), sigmoid(self.delta)
        S = 1 + Delta * G
        # 1 + S -+ 2 sqrt(S) are squares; the first one, so written, has no cancellation
        low = (G / (1 + jnp.sqrt(S))) ** 2
        high = ((1 + jnp.sqrt(S)) / Delta) ** 2
        A = jnp.minimum(jnp.maximum(self.a, low), high)
        z = (z + Delta * (self.B @ x - A * y)) / S
        return self.State(y + Delta * z, z)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """A read-out of the positions, and a skip connection."""
        return self.C @ state.y + self.D @ x


def _log_decays(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``log(-log gamma)``, uniform between those of 0.999 and 0.9."""
    low, high = (math.log(-math.log(gamma)) for gamma in (0.999, 0.9))
    return jax.random.uniform(key, shape, dtype, low, high)


def _phases(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """U(0, 2 pi)."""
    return jax.random.uniform(key, shape, dtype, 0, 2 * math.pi)


class RotRNNCell(VectorCell):
    """A linear recurrence whose matrices are rotations that decay, RotRNN.

    ::

        gamma = exp(-exp(gamma_log))
        P     = exp(M - M^T)
        xi    = sqrt((1 - gamma^2) / trace(B^T B))
        r'    = gamma R(theta) r + xi P^T B x            for each head
        y     = C [P r' of all heads] + D x              the output

    ``R(theta)`` turns each pair of neighbours in ``r`` by an angle. ``h = P r`` is the state of the
    paper: ``h' = gamma A h + xi B x``, where ``A = P R(theta) P^T`` is a rotation. In the basis of
    ``P`` a step costs no product of a matrix and the state.

    Args:
        state_size: numbers of the state, twice a multiple of ``heads``.
        heads: parts of the state with a ``gamma`` each.

    Source: Biegun, Dolga, Cunningham and Barber 2024, arXiv 2407.07239. The cell of this name in
    memax is another model: products of rotations that depend on x.
    """

    state_size: int = size(default=64)
    heads: int = size(default=4)
    theta: jax.Array = matrix("heads", "state // heads // 2", _phases)
    gamma_log: jax.Array = vector("heads", _log_decays)
    M: jax.Array = array("heads", "state // heads", "state // heads", initializer=normal(1))
    B: jax.Array = array(
        "heads", "state // heads", "in", initializer=_over_columns(jax.random.normal)
    )
    C: jax.Array = matrix("hidden", "state", _over_columns(jax.random.normal))
    D: jax.Array = matrix("hidden", "in", lecun_normal())
    r: jax.Array = state("heads", "state // heads")

    def __check_init__(self) -> None:
        if self.state_size % (2 * self.heads):
            raise ValueError(
                f"RotRNNCell(state_size={self.state_size}, heads={self.heads}): expected "
                "a state_size that 2 * heads divides."
            )

    def __call__(self, r: jax.Array, x: jax.Array) -> jax.Array:
        decay = jnp.exp(self.gamma_log)
        squares = (self.B * self.B).sum((1, 2))
        xi = jnp.sqrt(-jnp.expm1(-2 * decay) / squares)
        into = xi[:, None, None] * jnp.einsum("hji,hjk->hik", self._basis(), self.B)
        gamma, pairs = jnp.exp(-decay)[:, None], r.reshape(self.heads, -1, 2)
        cos, sin = gamma * jnp.cos(self.theta), gamma * jnp.sin(self.theta)
        first = cos * pairs[..., 0] - sin * pairs[..., 1]
        second = sin * pairs[..., 0] + cos * pairs[..., 1]
        return jnp.stack([first, second], -1).reshape(r.shape) + into @ x

    def output(self, r: jax.Array, x: jax.Array) -> jax.Array:
        """A read-out of the state in the paper's basis, and a skip connection."""
        h = jnp.einsum("hij,hj->hi", self._basis(), r).reshape(-1)
        return self.C @ h + self.D @ x

    def _basis(self) -> jax.Array:
        """The rotations ``P``, computed in at least 32 bits."""
        M = wide(self.M)
        P = jax.scipy.linalg.expm(M - M.swapaxes(1, 2))
        return P.astype(self.M.dtype)
