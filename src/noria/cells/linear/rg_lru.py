"""Real-gated linear recurrent unit."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from noria._types import Key
from noria.cells.declare import array, matrix, state, vector
from noria.cells.heads import HeadsCell
from noria.cells.parts import block_product, has_other_size
from noria.cells.starts import normal_by_columns


def _decays(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``Lambda`` such that ``sigmoid(Lambda)^8`` is drawn from U(0.9, 0.999)."""
    a = jax.random.uniform(key, shape, dtype, 0.9, 0.999) ** (1 / 8)
    return jnp.log(a / (1 - a))


class RGLRUCell(HeadsCell):
    """The real-gated linear recurrent unit of Griffin.

    ::

        r  = sigmoid(W_a x + b_a)
        i  = sigmoid(W_x x + b_x)
        a  = sigmoid(Lambda)^(c * r)
        h' = a * h + sqrt(1 - a^2) * (i * x)

    ``W_a`` and ``W_x`` are block-diagonal. If ``in`` and ``hidden`` differ, ``P x`` stands for
    ``x`` in all lines.

    Args:
        heads: number of blocks of the matrices of the gates; it divides ``hidden``.
        c: factor of the exponent; the initial ``Lambda`` is made for 8.

    Source: De et al. 2024, arXiv 2402.19427. ``sigmoid(Lambda)^c`` starts in U(0.9, 0.999) as in
    the paper. In recurrentgemma ``sigmoid(Lambda)^2`` starts uniform from 0.81 to 0.998, the first
    input is not scaled by the square root, and the gradient of the root is clipped. Here the root
    has no gradient where it is 0.
    """

    c: float = 8.0
    P: jax.Array | None = matrix("hidden", "in", when=has_other_size)
    W_a: jax.Array = array(
        "heads", "hidden // heads", "hidden // heads", initializer=normal_by_columns()
    )
    b_a: jax.Array = vector("hidden")
    W_x: jax.Array = array(
        "heads", "hidden // heads", "hidden // heads", initializer=normal_by_columns()
    )
    b_x: jax.Array = vector("hidden")
    Lambda: jax.Array = vector("hidden", _decays)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        x = x if self.P is None else self.P @ x
        r = sigmoid(block_product(self.W_a, x) + self.b_a)
        i = sigmoid(block_product(self.W_x, x) + self.b_x)
        log_a = -self.c * r * softplus(-self.Lambda)
        square = -jnp.expm1(2 * log_a)
        root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        return jnp.exp(log_a) * h + root * (i * x)
