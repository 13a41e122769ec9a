"""Quasi-recurrent network."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import total


class QRNNCell(VectorCell):
    """The quasi-recurrent network: gates by a causal convolution of x, and pooling.

    ::

        w  = the last ``width`` inputs, the oldest first, zeros before the first step
        z  = tanh(W_z w + b_z)
        f, o, i = sigmoid(W_f w + b_f), sigmoid(W_o w + b_o), sigmoid(W_i w + b_i)
        c' = f * c + (1 - f) * z,  y = c'                (pooling f)
        c' = f * c + (1 - f) * z,  y = o * c'            (pooling fo)
        c' = f * c + i * z,        y = o * c'            (pooling ifo)

    Args:
        width: number of inputs in the convolution.
        pooling: ``"f"``, ``"fo"`` or ``"ifo"``.

    Source: Bradbury et al. 2017, arXiv 1611.01576, eqs. 1 to 5. The paper writes no biases; its
    authors' code has them.
    """

    width: int = size(default=2)
    pooling: str = "fo"
    W_z: jax.Array = matrix("hidden", "width * in")
    b_z: jax.Array = vector("hidden")
    W_f: jax.Array = matrix("hidden", "width * in")
    b_f: jax.Array = vector("hidden")
    W_o: jax.Array | None = matrix("hidden", "width * in", when=lambda cell: cell.pooling != "f")
    b_o: jax.Array | None = vector("hidden", when=lambda cell: cell.pooling != "f")
    W_i: jax.Array | None = matrix("hidden", "width * in", when=lambda cell: cell.pooling == "ifo")
    b_i: jax.Array | None = vector("hidden", when=lambda cell: cell.pooling == "ifo")
    c: jax.Array = state("hidden")
    past: jax.Array = state("width * in - in")

    def __check_init__(self) -> None:
        check_choice("QRNNCell", "pooling", self.pooling, ("f", "fo", "ifo"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        c, past = state
        w = jnp.concatenate([past, x])
        z = jnp.tanh(self.W_z @ w + self.b_z)
        f = sigmoid(self.W_f @ w + self.b_f)
        i = 1 - f if self.W_i is None else sigmoid(total(self.W_i @ w, self.b_i))
        c = f * c + i * z
        y = c if self.W_o is None else sigmoid(total(self.W_o @ w, self.b_o)) * c
        return self.State(c, w[self.in_size :]), y
