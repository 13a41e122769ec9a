"""Cell of neural architecture search."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import total


class NASCell(VectorCell):
    """The cell that neural architecture search found for language.

    ::

        x1 .. x8 = eight parts of  W x
        h1 .. h8 = eight parts of  U h + b
        l1 = tanh(sigmoid(x1 + h1) * relu(x2 + h2))
        l2 = tanh(sigmoid(x3 + h3) + relu(x4 * h4))
        l3 = tanh(tanh(x5 + h5) * sigmoid(x6 + h6))
        l4 = sigmoid(tanh(x7 + h7) + sigmoid(x8 + h8))
        c' = tanh(l1 + c) * l2
        h' = tanh(c' * tanh(l3 + l4))

    Args:
        bias: whether there is a ``b``.

    Source: Zoph and Le 2016, arXiv 1611.01578; the details follow TensorFlow Addons, whose
    projection is left out.
    """

    bias: bool = False
    W: jax.Array = matrix("8 * hidden", "in")
    U: jax.Array = matrix("8 * hidden", "hidden")
    b: jax.Array | None = vector("8 * hidden", when=lambda cell: cell.bias)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        x1, x2, x3, x4, x5, x6, x7, x8 = jnp.split(self.W @ x, 8)
        h1, h2, h3, h4, h5, h6, h7, h8 = jnp.split(total(self.U @ h, self.b), 8)
        l1 = jnp.tanh(sigmoid(x1 + h1) * relu(x2 + h2))
        l2 = jnp.tanh(sigmoid(x3 + h3) + relu(x4 * h4))
        l3 = jnp.tanh(jnp.tanh(x5 + h5) * sigmoid(x6 + h6))
        l4 = sigmoid(jnp.tanh(x7 + h7) + sigmoid(x8 + h8))
        c = jnp.tanh(l1 + c) * l2
        return self.State(jnp.tanh(c * jnp.tanh(l3 + l4)), c)
