"""Efficient unitary network."""

import math

import jax
import jax.numpy as jnp

from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.matrices import modrelu
from noria.initializers import uniform


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
