"""Scalar LSTM of xLSTM."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import array, matrix, state, vector
from noria.cells.heads import HeadsCell
from noria.cells.parts import block_product


def _power_law(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``5 - 12 r^0.3`` with ``r`` from 0 to 1 over the features of each head."""
    del key
    r = jnp.arange(shape[1], dtype=dtype) / max(1, shape[1] - 1)
    return jnp.broadcast_to(5 - 12 * r**0.3, shape)


class SLSTMCell(HeadsCell):
    """The sLSTM of xLSTM: exponential gates, a normaliser, and recurrent weights by heads.

    ::

        z  = tanh(W_z x + R_z h + b_z)
        o  = sigmoid(W_o x + R_o h + b_o)
        a  = W_i x + R_i h + b_i
        log f = log(sigmoid(W_f x + R_f h + b_f)), or W_f x + R_f h + b_f for forget="exp"
        m' = max(log f + m, a)
        i  = exp(a - m'),  g = exp(log f + m - m')
        c' = g * c + i * z
        n' = g * n + i
        h' = o * c' / n'

    ``m`` starts at -1e30, below every gate, so that ``n'`` is 1 after the first step. A matrix
    ``R`` has a block for each head. ``b_f`` starts at ``5 - 12 r^0.3``, with r from 0 to 1 over the
    features of a head, and ``R`` at 0, as in the first layer of the authors' code.

    Args:
        heads: number of blocks; it divides ``hidden``.
        forget: ``"sigmoid"`` or ``"exp"``, the function of the forget gate.

    Source: Beck et al. 2024, arXiv 2405.04517, eqs. 8 to 17. The cell named SLSTM in snnTorch is
    another one, with spikes.
    """

    forget: str = "sigmoid"
    W_z: jax.Array = matrix("hidden", "in")
    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    R_z: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=0)
    R_i: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=0)
    R_f: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=0)
    R_o: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=0)
    b_z: jax.Array = vector("hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = array("heads", "hidden // heads", initializer=_power_law)
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    n: jax.Array = state("hidden")
    m: jax.Array = state("hidden", initializer=-1e30)

    def __check_init__(self) -> None:
        check_choice("SLSTMCell", "forget", self.forget, ("sigmoid", "exp"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, n, m = state
        z = jnp.tanh(self.W_z @ x + block_product(self.R_z, h) + self.b_z)
        o = sigmoid(self.W_o @ x + block_product(self.R_o, h) + self.b_o)
        i = self.W_i @ x + block_product(self.R_i, h) + self.b_i
        f = self.W_f @ x + block_product(self.R_f, h) + self.b_f.reshape(-1)
        log_f = f if self.forget == "exp" else log_sigmoid(f)
        top = jnp.maximum(log_f + m, i)
        i, g = jnp.exp(i - top), jnp.exp(log_f + m - top)
        c, n = g * c + i * z, g * n + i
        return self.State(o * c / n, c, n, top)
