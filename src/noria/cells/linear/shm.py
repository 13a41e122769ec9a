"""Stable Hadamard memory."""

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid

from noria._types import Key
from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell


class SHMCell(VectorCell):
    """The stable Hadamard memory: a matrix that is calibrated element by element.

    ::

        k, q = relu(W_k x), relu(W_q x), each over its sum
        v    = W_v x
        C    = 1 + tanh(theta (W_c x)^T)
        M'   = C * M + sigmoid(w_eta x) v k^T
        y    = M' q                                     the output

    ``theta`` is a row of the matrix ``thetas``, drawn anew at each step. The step takes a ``key``
    for it. Without a key it takes the first row, as the authors' code for POPGym always does.

    Args:
        rows: rows of ``thetas``, the paper's L.

    Source: Le et al. 2025, arXiv 2410.10132. The authors' code has a layer norm before the cell and
    a linear layer behind it.
    """

    rows: int = size(default=128)
    W_k: jax.Array = matrix("hidden", "in")
    W_q: jax.Array = matrix("hidden", "in")
    W_v: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    w_eta: jax.Array = vector("in")
    thetas: jax.Array = matrix("rows", "hidden")
    M: jax.Array = state("hidden", "hidden")

    def __call__(self, M: jax.Array, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        row = 0 if key is None else jax.random.randint(key, (), 0, self.rows)
        theta = self.thetas[row]
        C = 1 + jnp.tanh(theta[:, None] * (self.W_c @ x))
        v = sigmoid(self.w_eta @ x) * (self.W_v @ x)
        return C * M + v[:, None] * _shares(self.W_k @ x)

    def output(self, M: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory holds for the query."""
        return M @ _shares(self.W_q @ x)


def _shares(a: jax.Array) -> jax.Array:
    """``relu(a)`` over its sum."""
    return relu(a) / (1e-5 + jnp.sum(relu(a)))
