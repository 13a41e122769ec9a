"""Exponential RNN."""

import jax

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.matrices import exponential, modrelu, rotations, skew
from noria.initializers import he_normal, uniform


class ExpRNNCell(VectorCell):
    """A recurrent matrix that is the exponential of a skew-symmetric matrix: a rotation.

    ::

        A  = skew-symmetric, with the entries a above the diagonal
        h' = modrelu(W x + exp(A) h, b)
        modrelu(z, b) = sign(z) * relu(|z| + b)

    Source: Lezcano-Casado and Martinez-Rubio 2019, arXiv 1901.08428. Dynamic trivialisations
    (arXiv 1909.09501) change the basis of ``A`` during training; this cell keeps it.
    """

    W: jax.Array = matrix("hidden", "in", he_normal())
    a: jax.Array = vector("hidden * (hidden - 1) // 2", rotations)
    b: jax.Array = vector("hidden", uniform(0.01))
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        U = exponential(skew(self.a, self.hidden_size))
        return modrelu(self.W @ x + U @ h, self.b)
