"""Gated orthogonal recurrent unit."""

import jax
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.matrices import exponential, modrelu, rotations, skew
from noria.initializers import uniform


class GORUCell(VectorCell):
    """The gated orthogonal recurrent unit: a GRU whose candidate has an orthogonal matrix.

    ::

        z  = sigmoid(W_z x + U_z h + b_z)
        r  = sigmoid(W_r x + U_r h + b_r)
        A  = skew-symmetric, with the entries a above the diagonal
        n  = modrelu(W_n x + r * (exp(A) h), b_n)
        h' = z * h + (1 - z) * n

    The paper builds its matrix from rotations of pairs of entries. Here it is ``exp(A)``: all
    rotations of the space, as matrix products are cheaper than many small rotations.

    Source: Jing et al. 2017, arXiv 1706.02761. The initial values are those of the authors' code.
    """

    W_z: jax.Array = matrix("hidden", "in", uniform(0.01))
    U_z: jax.Array = matrix("hidden", "hidden", uniform(0.01))
    b_z: jax.Array = vector("hidden")
    W_r: jax.Array = matrix("hidden", "in", uniform(0.01))
    U_r: jax.Array = matrix("hidden", "hidden", uniform(0.01))
    b_r: jax.Array = vector("hidden", 2.0)
    W_n: jax.Array = matrix("hidden", "in", uniform(0.01))
    a: jax.Array = vector("hidden * (hidden - 1) // 2", rotations)
    b_n: jax.Array = vector("hidden", 0.01)
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        U = exponential(skew(self.a, self.hidden_size))
        z = sigmoid(self.W_z @ x + self.U_z @ h + self.b_z)
        r = sigmoid(self.W_r @ x + self.U_r @ h + self.b_r)
        n = modrelu(self.W_n @ x + r * (U @ h), self.b_n)
        return z * h + (1 - z) * n
