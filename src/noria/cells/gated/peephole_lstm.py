"""Peephole long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.initializers import uniform


class PeepholeLSTMCell(VectorCell):
    """The long short-term memory whose gates see the memory.

    ::

        i  = sigmoid(W_i x + U_i h + p_i * c + b_i)
        f  = sigmoid(W_f x + U_f h + p_f * c + b_f)
        c' = f * c + i * tanh(W_c x + U_c h + b_c)
        o  = sigmoid(W_o x + U_o h + p_o * c' + b_o)
        h' = o * tanh(c')

    Source: Gers, Schraudolph and Schmidhuber 2002, JMLR 3:115; with both tanh as in Graves 2013,
    arXiv 1308.0850, eqs. 7 to 11. The output gate sees the new memory. LuxRecurrentLayers.jl and
    old versions of RecurrentLayers.jl give it the old one.
    """

    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_f: jax.Array = matrix("hidden", "hidden")
    U_c: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    p_i: jax.Array = vector("hidden", uniform(0.1))
    p_f: jax.Array = vector("hidden", uniform(0.1))
    p_o: jax.Array = vector("hidden", uniform(0.1))
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.p_i * c + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.p_f * c + self.b_f)
        c = f * c + i * jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.p_o * c + self.b_o)
        return self.State(o * jnp.tanh(c), c)
