"""Linear oscillatory state spaces: LinOSS and D-LinOSS."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import between, uniform_by_columns
from noria.initializers import lecun_normal

#: U(-b, b) with b = 1 / sqrt(columns).


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
    ``d^2 y / dt^2 = -A y + B x``: implicit, which dissipates, or explicit in z and implicit in y,
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
    a: jax.Array = vector("state", between(0, 1))
    delta: jax.Array = vector("state", between(0, 1))
    B: jax.Array = matrix("state", "in", uniform_by_columns)
    C: jax.Array = matrix("hidden", "state", uniform_by_columns)
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
    a: jax.Array = vector("state", between(0, 1))
    g: jax.Array = vector("state", between(0, 1))
    delta: jax.Array = vector("state", between(0, 1))
    B: jax.Array = matrix("state", "in", uniform_by_columns)
    C: jax.Array = matrix("hidden", "state", uniform_by_columns)
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
