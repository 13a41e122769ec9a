"""Matrix LSTM of xLSTM."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import matrix, state, vector
from noria.cells.heads import MemoryCell, dot, outer, read


def _linear_bias(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Numbers from 3 to 6 over the heads."""
    del key
    return jnp.linspace(3, 6, shape[0], dtype=dtype)


class MLSTMCell(MemoryCell):
    """The mLSTM of xLSTM: a matrix as memory, and exponential gates.

    ::

        q  = W_q x + b_q,  k = (W_k x + b_k) / sqrt(key),  v = W_v x + b_v    for each head
        m' = max(log f + m, W_i x + b_i)
        i  = exp(W_i x + b_i - m'),  g = exp(log f + m - m')
        C' = g C + i k v^T
        n' = g n + i k
        o  = sigmoid(W_o x + b_o)
        y  = o * C'^T q / max(|n' . q|, exp(-m'))                             the output

        log f = log(sigmoid(W_f x + b_f)), or W_f x + b_f for forget="exp"

    ``C`` and ``n`` are the paper's divided by ``exp(m)``. So the lower bound 1 of the paper is
    ``exp(-m')``. ``b_f`` goes from 3 to 6 over the heads, as in the authors' code.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        forget: ``"sigmoid"`` or ``"exp"``, the function of the forget gate.

    Source: Beck et al. 2024, arXiv 2405.04517, eqs. 19 to 27; its memory is the transpose of ``C``.
    The authors' code computes the gates from q, k and v, and adds 1e-6 to the denominator. Some
    copies keep the lower bound 1, which is wrong next to ``m``.
    """

    forget: str = "sigmoid"
    b_q: jax.Array = vector("heads * key")
    b_k: jax.Array = vector("heads * key")
    b_v: jax.Array = vector("hidden")
    W_i: jax.Array = matrix("heads", "in")
    b_i: jax.Array = vector("heads")
    W_f: jax.Array = matrix("heads", "in")
    b_f: jax.Array = vector("heads", _linear_bias)
    W_o: jax.Array = matrix("hidden", "in")
    b_o: jax.Array = vector("hidden")
    C: jax.Array = state("heads", "key", "hidden // heads")
    n: jax.Array = state("heads", "key")
    m: jax.Array = state("heads", initializer=-1e30)

    def __check_init__(self) -> None:
        check_choice("MLSTMCell", "forget", self.forget, ("sigmoid", "exp"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        C, n, m = state
        k = (self.key_of(x) + self.split(self.b_k)) * self.key_size**-0.5
        v = self.value(x) + self.split(self.b_v)
        i, f = self.W_i @ x + self.b_i, self.W_f @ x + self.b_f
        log_f = f if self.forget == "exp" else log_sigmoid(f)
        top = jnp.maximum(log_f + m, i)
        i, g = jnp.exp(i - top)[:, None], jnp.exp(log_f + m - top)[:, None]
        return self.State(g[:, :, None] * C + outer(i * k, v), g * n + i * k, top)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """What the memory has for the query, gated."""
        C, n, m = state
        q = self.query(x) + self.split(self.b_q)
        scale = jnp.maximum(jnp.abs(dot(n, q)), jnp.exp(-m))
        return sigmoid(self.W_o @ x + self.b_o) * (read(C, q) / scale[:, None]).reshape(-1)
