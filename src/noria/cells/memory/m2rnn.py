"""Matrix-to-matrix recurrent network."""

import jax
import jax.numpy as jnp

from noria.cells.declare import array, matrix, state, vector
from noria.cells.heads import MemoryCell, decay, outer, rates, read, step_bias
from noria.cells.starts import each
from noria.initializers import identity


class M2RNNCell(MemoryCell):
    """The matrix-to-matrix recurrent network: a matrix state behind a nonlinear function.

    ::

        q, k, v = W_q x, W_k x, W_v x                                         for each head
        f  = exp(-exp(A_log) * softplus(w_f . x + b_f))
        Z  = tanh(H W + k v^T)
        H' = f H + (1 - f) Z
        y  = H'^T q                                                           the output

    Rows of ``H`` belong to ``k``. ``W`` has a matrix for each head, which starts as the identity.

    Args:
        heads: number of matrices; it divides ``hidden``.
        key_size: features of a key.

    Source: Mishra et al. 2026, arXiv 2603.14360, with the forget gate and the start of the authors'
    code. Its convolution, skip connection, norm and output gate are no part of the cell, nor is
    the clipping of the cotangents of the state.
    """

    W: jax.Array = array(
        "heads", "hidden // heads", "hidden // heads", initializer=each(identity())
    )
    W_f: jax.Array = matrix("heads", "in")
    b_f: jax.Array = vector("heads", step_bias)
    A_log: jax.Array = vector("heads", rates)
    H: jax.Array = state("heads", "key", "hidden // heads")

    def __call__(self, H: jax.Array, x: jax.Array) -> jax.Array:
        f = decay(self.W_f @ x + self.b_f, self.A_log)[:, None, None]
        Z = jnp.tanh(jnp.einsum("hkv,hvw->hkw", H, self.W) + outer(self.key_of(x), self.value(x)))
        return f * H + (1 - f) * Z

    def output(self, H: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(H, self.query(x)).reshape(-1)
