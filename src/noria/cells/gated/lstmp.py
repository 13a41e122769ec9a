"""Long short-term memory with a projection."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import scaled, total
from noria.initializers import uniform


class ProjectedLSTMCell(VectorCell):
    """The long short-term memory with a projection of its output (LSTMP).

    ::

        i  = sigmoid(W_i x + U_i r + p_i * c + b_i)
        f  = sigmoid(W_f x + U_f r + p_f * c + b_f)
        c' = f * c + i * tanh(W_c x + U_c r + b_c)
        o  = sigmoid(W_o x + U_o r + p_o * c' + b_o)
        r' = W_r (o * tanh(c'))

    Args:
        projection_size: features of the output ``r``. ``c`` has ``hidden_size`` features; the paper
            has 2048 of these and 512 outputs.
        peepholes: whether the gates see the memory; PyTorch's ``proj_size`` has none.

    Source: Sak, Senior and Beaufays 2014, arXiv 1402.1128. The second projection of the paper,
    which does not recur, is left out.
    """

    projection_size: int = size(default=32)
    peepholes: bool = True
    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "projection")
    U_f: jax.Array = matrix("hidden", "projection")
    U_c: jax.Array = matrix("hidden", "projection")
    U_o: jax.Array = matrix("hidden", "projection")
    p_i: jax.Array | None = vector("hidden", uniform(0.1), when=lambda cell: cell.peepholes)
    p_f: jax.Array | None = vector("hidden", uniform(0.1), when=lambda cell: cell.peepholes)
    p_o: jax.Array | None = vector("hidden", uniform(0.1), when=lambda cell: cell.peepholes)
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    W_r: jax.Array = matrix("projection", "hidden")
    r: jax.Array = state("projection")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        r, c = state
        i = sigmoid(total(self.W_i @ x, self.U_i @ r, scaled(self.p_i, c), self.b_i))
        f = sigmoid(total(self.W_f @ x, self.U_f @ r, scaled(self.p_f, c), self.b_f))
        c = f * c + i * jnp.tanh(self.W_c @ x + self.U_c @ r + self.b_c)
        o = sigmoid(total(self.W_o @ x, self.U_o @ r, scaled(self.p_o, c), self.b_o))
        return self.State(self.W_r @ (o * jnp.tanh(c)), c)
