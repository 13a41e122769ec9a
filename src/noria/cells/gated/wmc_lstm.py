"""Long short-term memory with working memory connections."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class WMCLSTMCell(VectorCell):
    """The long short-term memory with working memory connections from ``c`` to the gates.

    ::

        i  = sigmoid(W_i x + U_i h + tanh(V_i c) + b_i)
        f  = sigmoid(W_f x + U_f h + tanh(V_f c) + b_f)
        c' = f * c + i * tanh(W_g x + U_g h + b_g)
        o  = sigmoid(W_o x + U_o h + tanh(V_o c') + b_o)
        h' = o * tanh(c')

    Source: Landi et al. 2021, arXiv 2109.00020. RecurrentLayers.jl adds a bias inside the tanh of
    the connections; its old versions give the output gate the old memory.
    """

    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_g: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_g: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    V_i: jax.Array = matrix("hidden", "hidden")
    V_f: jax.Array = matrix("hidden", "hidden")
    V_o: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_g: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + jnp.tanh(self.V_i @ c) + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + jnp.tanh(self.V_f @ c) + self.b_f)
        c = f * c + i * jnp.tanh(self.W_g @ x + self.U_g @ h + self.b_g)
        o = sigmoid(self.W_o @ x + self.U_o @ h + jnp.tanh(self.V_o @ c) + self.b_o)
        return self.State(o * jnp.tanh(c), c)
