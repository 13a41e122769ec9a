"""Relational memory core."""

import jax
import jax.numpy as jnp
from jax.nn import relu, sigmoid, softmax

from noria.cells.declare import matrix, size, state, vector
from noria.cells.heads import HeadsCell
from noria.cells.parts import normalized
from noria.initializers import identity


class RMCCell(HeadsCell):
    """The relational memory core: slots that attend to each other and to the input.

    ::

        u  = W_x x + b_x
        q, k, v = norm_qkv(W_qkv r + b_qkv)                   for each row r of [M; u]
        A  = softmax(q k^T / sqrt(hidden // heads)) v         for each head; rows of M only
        Y  = norm_1(M + A)
        Z  = norm_2(Y + W_2 relu(W_1 Y + b_1) + b_2)          for each row of Y
        i  = sigmoid(W_i u + U_i tanh(M) + b_i)               for each row of M
        f  = sigmoid(W_f u + U_f tanh(M) + b_f)
        M' = i * tanh(Z) + f * M

    A slot has ``hidden`` numbers, and the output is all slots, one behind the other: it has
    ``slots * hidden`` features. ``norm`` has mean 0 and variance 1 along a row, then a gain and a
    shift. ``M`` starts as the identity matrix, so that slots differ, and ``b_f`` at 1.

    Args:
        heads: heads of the attention; it divides ``hidden``.
        slots: rows of the memory.

    Source: Santoro et al. 2018, arXiv 1806.01822, as the authors have it in Sonnet, with
    ``num_blocks=1``, gates for single numbers, and keys as large as values. The equations of the
    paper have an output gate, too.
    """

    slots: int = size(default=4)
    W_x: jax.Array = matrix("hidden", "in")
    b_x: jax.Array = vector("hidden")
    W_qkv: jax.Array = matrix("3 * hidden", "hidden")
    b_qkv: jax.Array = vector("3 * hidden")
    gain_qkv: jax.Array = vector("3 * hidden", 1)
    shift_qkv: jax.Array = vector("3 * hidden")
    gain_1: jax.Array = vector("hidden", 1)
    shift_1: jax.Array = vector("hidden")
    W_1: jax.Array = matrix("hidden", "hidden")
    b_1: jax.Array = vector("hidden")
    W_2: jax.Array = matrix("hidden", "hidden")
    b_2: jax.Array = vector("hidden")
    gain_2: jax.Array = vector("hidden", 1)
    shift_2: jax.Array = vector("hidden")
    W_i: jax.Array = matrix("hidden", "hidden")
    U_i: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    W_f: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    b_f: jax.Array = vector("hidden", 1)
    M: jax.Array = state("slots", "hidden", initializer=identity())

    def __call__(self, M: jax.Array, x: jax.Array) -> jax.Array:
        u = self.W_x @ x + self.b_x
        Y = self.gain_1 * normalized(M + self._attended(M, u), 1e-5) + self.shift_1
        Z = relu(Y @ self.W_1.T + self.b_1) @ self.W_2.T + self.b_2
        Z = self.gain_2 * normalized(Y + Z, 1e-5) + self.shift_2
        i = sigmoid(self.W_i @ u + jnp.tanh(M) @ self.U_i.T + self.b_i)
        f = sigmoid(self.W_f @ u + jnp.tanh(M) @ self.U_f.T + self.b_f)
        return i * jnp.tanh(Z) + f * M

    def output(self, M: jax.Array, x: jax.Array) -> jax.Array:
        """All slots, one behind the other."""
        return M.reshape(-1)

    def _attended(self, M: jax.Array, u: jax.Array) -> jax.Array:
        """What each slot finds in all slots and in the input."""
        rows = jnp.concatenate([M, u[None]])
        a = normalized(rows @ self.W_qkv.T + self.b_qkv, 1e-5)
        a = (self.gain_qkv * a + self.shift_qkv).reshape(len(rows), 3, self.heads, -1)
        q, k, v = a[:-1, 0], a[:, 1], a[:, 2]
        scores = jnp.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
        return jnp.einsum("hij,jhd->ihd", softmax(scores, axis=-1), v).reshape(M.shape)
