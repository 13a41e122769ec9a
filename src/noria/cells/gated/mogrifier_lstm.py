"""Mogrifier long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import each_glorot, forget_one


class MogrifierLSTMCell(VectorCell):
    """A long short-term memory whose input and state gate each other some times before the step.

    ::

        round 1, 3, 5 ...:  x = 2 sigmoid(Q h) * x
        round 2, 4, 6 ...:  h = 2 sigmoid(R x) * h
        i, f, g, o = four parts of  W x + U h + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Each round has its own ``Q`` or ``R``. The forget bias starts at 1.

    Args:
        rounds: number of rounds.
        rank: rank of ``Q`` and ``R``, each of which is then a product of two matrices; 0 for full
            matrices.

    Raises:
        ValueError: for a rank below 0.

    Source: Melis, Kocisky and Blunsom 2019, arXiv 1909.01792. The authors'
    code has biases in the rounds, and in its experiments ``i`` is at most ``1 - f``.
    """

    rounds: int = size(default=5)
    rank: int = 0
    Q: jax.Array | None = array(
        "(rounds + 1) // 2",
        "in",
        "hidden",
        initializer=each_glorot,
        when=lambda cell: cell.rank < 1,
    )
    R: jax.Array | None = array(
        "rounds // 2",
        "hidden",
        "in",
        initializer=each_glorot,
        when=lambda cell: cell.rank < 1 and cell.rounds > 1,
    )
    Q_1: jax.Array | None = array(
        "(rounds + 1) // 2",
        "in",
        "rank",
        initializer=each_glorot,
        when=lambda cell: cell.rank > 0,
    )
    Q_2: jax.Array | None = array(
        "(rounds + 1) // 2",
        "rank",
        "hidden",
        initializer=each_glorot,
        when=lambda cell: cell.rank > 0,
    )
    R_1: jax.Array | None = array(
        "rounds // 2",
        "hidden",
        "rank",
        initializer=each_glorot,
        when=lambda cell: cell.rank > 0 and cell.rounds > 1,
    )
    R_2: jax.Array | None = array(
        "rounds // 2",
        "rank",
        "in",
        initializer=each_glorot,
        when=lambda cell: cell.rank > 0 and cell.rounds > 1,
    )
    W: jax.Array = matrix("4 * hidden", "in")
    U: jax.Array = matrix("4 * hidden", "hidden")
    b: jax.Array = vector("4 * hidden", forget_one)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(
                f"MogrifierLSTMCell(rank={self.rank}): expected 0 or a rank of at least 1."
            )

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        for n in range(self.rounds):
            if n % 2:
                h = 2 * sigmoid(self._product(n // 2, x, self.R, self.R_1, self.R_2)) * h
            else:
                x = 2 * sigmoid(self._product(n // 2, h, self.Q, self.Q_1, self.Q_2)) * x
        i, f, g, o = jnp.split(self.W @ x + self.U @ h + self.b, 4)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return self.State(sigmoid(o) * jnp.tanh(c), c)

    def _product(self, n: int, a: jax.Array, full: Any, left: Any, right: Any) -> jax.Array:
        """A matrix times a vector, where the matrix may be a product."""
        return full[n] @ a if left is None else left[n] @ (right[n] @ a)
