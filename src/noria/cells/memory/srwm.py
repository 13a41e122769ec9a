"""Self-referential weight matrix."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softmax

from noria._types import Key
from noria.cells.declare import array, state
from noria.cells.heads import HeadsCell, outer
from noria.cells.starts import normal_by_columns


def _around_minus_one(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Small learning rates: N(-1, 1 / n) for n columns."""
    return normal_by_columns()(key, shape, dtype) - 1


class SRWMCell(HeadsCell):
    """The self-referential weight matrix: it computes the output, and its own change.

    ::

        W  = [W_y; W_q; W_k; W_beta] + D                      for each head
        y, q, k, b = W softmax(x)                             y is the output
        v  = W softmax(q) - W softmax(k)
        D' = D + beta * v softmax(k)^T

    ``beta`` is ``sigmoid(b)``, four numbers: one for each of the blocks of rows of ``W``. The input
    and the output are split into heads. ``D`` is what the matrix has changed by.

    Args:
        heads: number of matrices; it divides ``in`` and ``hidden``.
        input_softmax: ``False`` for ``x`` in place of ``softmax(x)``.

    Raises:
        ValueError: if ``heads`` does not divide ``in``.

    Source: Irie, Schlag, Csordas and Schmidhuber 2022, arXiv 2202.05780, without norm and output
    matrix. The authors' code has ``input_softmax=False`` by default.
    """

    input_softmax: bool = True
    W_y: jax.Array = array(
        "heads", "hidden // heads", "in // heads", initializer=normal_by_columns()
    )
    W_q: jax.Array = array("heads", "in // heads", "in // heads", initializer=normal_by_columns())
    W_k: jax.Array = array("heads", "in // heads", "in // heads", initializer=normal_by_columns())
    W_beta: jax.Array = array("heads", 4, "in // heads", initializer=_around_minus_one)
    D: jax.Array = state("heads", "hidden // heads + 2 * (in // heads) + 4", "in // heads")

    def __check_init__(self) -> None:
        if self.in_size % self.heads:
            raise ValueError(
                f"SRWMCell(in_size={self.in_size}, heads={self.heads}): expected heads to divide "
                "in_size."
            )

    def __call__(self, D: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        W = jnp.concatenate([self.W_y, self.W_q, self.W_k, self.W_beta], axis=1) + D
        a = self.split(x)
        a = jnp.einsum("hij,hj->hi", W, softmax(a, axis=-1) if self.input_softmax else a)
        columns = W.shape[2]
        rows = W.shape[1] - 2 * columns - 4, columns, columns, 4
        y, q, k, b = jnp.split(a, [rows[0], rows[0] + columns, rows[0] + 2 * columns], axis=1)
        q, k = softmax(q, axis=-1), softmax(k, axis=-1)
        v = jnp.einsum("hij,hj->hi", W, q - k)
        beta = sigmoid(b)
        each = [jnp.repeat(beta[:, n : n + 1], size, axis=1) for n, size in enumerate(rows)]
        return D + outer(jnp.concatenate(each, axis=1) * v, k), y.reshape(-1)
