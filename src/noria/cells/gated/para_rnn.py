"""ParaGRU and ParaLSTM."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._types import Key
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import normal_by_columns

#: N(0, 4 / (5 hidden)).
_spread = normal_by_columns(0.8**0.5)


def _falling(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """From 0 to -1."""
    del key
    return -jnp.linspace(0, 1, shape[0], dtype=dtype)


class ParaGRUCell(VectorCell):
    """The gated recurrent unit of ParaRNN: its recurrent weights are vectors.

    ::

        z  = sigmoid(a_z * h + W_z x + b_z)
        r  = sigmoid(a_r * h + W_r x + b_r)
        n  = tanh(a_n * h * r + W_n x + b_n)
        h' = (1 - z) * h + z * n

    The Jacobian of a step is diagonal, which Newton's method over time needs. An open ``z`` takes
    the candidate. ``b_z`` falls from 0 to -1 over the features at the start.

    Source: Danieli et al. 2025, arXiv 2510.21450, with the starts of the authors' code, where the
    input weights may be block-diagonal. pararnn-torch bounds the recurrent weights.
    """

    a_z: jax.Array = vector("hidden", _spread)
    a_r: jax.Array = vector("hidden", _spread)
    a_n: jax.Array = vector("hidden", _spread)
    W_z: jax.Array = matrix("hidden", "in")
    W_r: jax.Array = matrix("hidden", "in")
    W_n: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden", _falling)
    b_r: jax.Array = vector("hidden")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = sigmoid(self.a_z * h + self.W_z @ x + self.b_z)
        r = sigmoid(self.a_r * h + self.W_r @ x + self.b_r)
        n = jnp.tanh(self.a_n * h * r + self.W_n @ x + self.b_n)
        return (1 - z) * h + z * n


class ParaLSTMCell(VectorCell):
    """The long short-term memory of ParaRNN: coupled gates, and recurrent weights as vectors.

    ::

        f  = sigmoid(a_f * h + W_f x + p_f * c + b_f)
        c' = f * c + (1 - f) * tanh(a_n * h + W_n x + b_n)
        o  = sigmoid(a_o * h + W_o x + p_o * c' + b_o)
        h' = o * tanh(c')

    The Jacobian of a step has blocks of 2 x 2, which Newton's method over time needs. ``b_f`` falls
    from 0 to -1 over the features at the start.

    Source: Danieli et al. 2025, arXiv 2510.21450, with the starts of the authors' code, where the
    input weights may be block-diagonal. pararnn-torch bounds the recurrent weights.
    """

    a_f: jax.Array = vector("hidden", _spread)
    a_n: jax.Array = vector("hidden", _spread)
    a_o: jax.Array = vector("hidden", _spread)
    W_f: jax.Array = matrix("hidden", "in")
    W_n: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    p_f: jax.Array = vector("hidden", _spread)
    p_o: jax.Array = vector("hidden", _spread)
    b_f: jax.Array = vector("hidden", _falling)
    b_n: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        f = sigmoid(self.a_f * h + self.W_f @ x + self.p_f * c + self.b_f)
        c = f * c + (1 - f) * jnp.tanh(self.a_n * h + self.W_n @ x + self.b_n)
        o = sigmoid(self.a_o * h + self.W_o @ x + self.p_o * c + self.b_o)
        return self.State(o * jnp.tanh(c), c)
