"""Recurrent delta network."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softmax

from noria.cells.declare import array, matrix, state
from noria.cells.heads import MemoryCell, outer, read
from noria.cells.parts import block_product
from noria.cells.starts import normal_by_columns


class RDNCell(MemoryCell):
    """The recurrent delta network: a delta rule whose keys, values and queries see the last output.

    ::

        u  = tanh(y)
        q  = softmax(W_q x + R_q u),  k = softmax(W_k x + R_k u)              for each head
        v  = W_v x + R_v u
        beta = sigmoid(w_beta . x + r_beta . u)
        S' = S + beta k (v - S^T k)^T
        y' = S'^T q

    ``w_beta`` and ``r_beta`` are rows of ``W_beta`` and ``R_beta``. A head sees its own output
    only.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key; in the paper those of a value.

    Source: Irie, Schlag, Csordas and Schmidhuber 2021, arXiv 2106.06295, without norm and output
    matrix. `DeltaNetCell` is the cell without ``R``, with another feature map.
    """

    W_beta: jax.Array = matrix("heads", "in")
    R_q: jax.Array = array("heads", "key", "hidden // heads", initializer=normal_by_columns())
    R_k: jax.Array = array("heads", "key", "hidden // heads", initializer=normal_by_columns())
    R_v: jax.Array = array(
        "heads", "hidden // heads", "hidden // heads", initializer=normal_by_columns()
    )
    R_beta: jax.Array = array("heads", 1, "hidden // heads", initializer=normal_by_columns())
    y: jax.Array = state("hidden")
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        y, S = state
        u = jnp.tanh(y)
        q = softmax(self.query(x) + self.split(block_product(self.R_q, u)), axis=-1)
        k = softmax(self.key_of(x) + self.split(block_product(self.R_k, u)), axis=-1)
        v = self.value(x) + self.split(block_product(self.R_v, u))
        beta = sigmoid(self.W_beta @ x + block_product(self.R_beta, u))[:, None]
        S = S + outer(k, beta * (v - read(S, k)))
        return self.State(read(S, q).reshape(-1), S)
