"""Element-wise long short-term memory."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.initializers import normal


class ELSTMCell(VectorCell):
    """The element-wise long short-term memory, whose recurrence has no matrix.

    ::

        f  = sigmoid(F x + w_f * c + b_f)
        z  = tanh(Z x + w_z * c + b_z)
        c' = f * c + (1 - f) * z
        y  = sigmoid(O x + W_o c' + b_o) * c'        the output

    Source: Irie, Gopalakrishnan and Schmidhuber 2023, arXiv 2305.19044. Exact real-time recurrent
    learning is cheap for it. The authors' code of the copy task has ``c'`` as the output.
    """

    F: jax.Array = matrix("hidden", "in", normal(0.1))
    Z: jax.Array = matrix("hidden", "in", normal(0.1))
    O: jax.Array = matrix("hidden", "in", normal(0.1))
    w_f: jax.Array = vector("hidden", normal(0.1))
    w_z: jax.Array = vector("hidden", normal(0.1))
    W_o: jax.Array = matrix("hidden", "hidden", normal(0.1))
    b_f: jax.Array = vector("hidden")
    b_z: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, c: jax.Array, x: jax.Array) -> jax.Array:
        f = sigmoid(self.F @ x + self.w_f * c + self.b_f)
        z = jnp.tanh(self.Z @ x + self.w_z * c + self.b_z)
        return f * c + (1 - f) * z

    def output(self, c: jax.Array, x: jax.Array) -> jax.Array:
        """The gated memory."""
        return sigmoid(self.O @ x + self.W_o @ c + self.b_o) * c
