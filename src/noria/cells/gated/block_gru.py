"""Block gated recurrent unit of DreamerV3."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import block_product, normalized
from noria.cells.starts import each_glorot


class BlockGRUCell(VectorCell):
    """The GRU of DreamerV3: recurrent matrices in blocks, a layer norm, and a slow update.

    ::

        r, c, u = three parts of  LN(W x + U h; alpha, beta)
        n  = tanh(sigmoid(r) * c)
        h' = sigmoid(u - 1) * n + (1 - sigmoid(u - 1)) * h

        LN(a; alpha, beta) = alpha * (a - mean(a)) / sqrt(var(a) + epsilon) + beta

    Each part of ``U h`` has a block-diagonal matrix. The reset multiplies the whole candidate, not
    the state alone. One normalisation runs over all three parts.

    Args:
        blocks: number of blocks; the paper has 8.
        epsilon: added to the variance.

    Raises:
        ValueError: if ``blocks`` does not divide ``hidden``.

    Source: Hafner et al. 2023, arXiv 2301.04104. In the authors' code a hidden layer in blocks
    comes before the gates. It has the norm, and a dense layer of the state mixes the blocks.
    """

    blocks: int = size(default=4)
    epsilon: float = 1e-4
    W: jax.Array = matrix("3 * hidden", "in")
    U: jax.Array = array(
        "3 * blocks", "hidden // blocks", "hidden // blocks", initializer=each_glorot
    )
    alpha: jax.Array = vector("3 * hidden", 1)
    beta: jax.Array = vector("3 * hidden")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.hidden_size % self.blocks:
            raise ValueError(
                f"{self._call}: hidden_size is {self.hidden_size}; expected a multiple of blocks."
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        parts = [block_product(U, h) for U in jnp.split(self.U, 3)]
        a = self.W @ x + jnp.concatenate(parts)
        r, c, u = jnp.split(self.alpha * normalized(a, self.epsilon) + self.beta, 3)
        n = jnp.tanh(sigmoid(r) * c)
        u = sigmoid(u - 1)
        return u * n + (1 - u) * h
