"""Long short-term memory of 1997."""

from collections.abc import Callable
from typing import Any

import jax
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


def _squash_input(a: jax.Array) -> jax.Array:
    """The logistic function between -2 and 2."""
    return 4 * sigmoid(a) - 2


def _squash_output(a: jax.Array) -> jax.Array:
    """The logistic function between -1 and 1."""
    return 2 * sigmoid(a) - 1


class LSTM1997Cell(VectorCell):
    """The first long short-term memory, which cannot forget.

    ::

        i  = sigmoid(W_i x + U_i h + b_i)
        o  = sigmoid(W_o x + U_o h + b_o)
        c' = c + i * g(W_c x + U_c h + b_c)        g(a) = 4 sigmoid(a) - 2
        h' = o * k(c')                             k(a) = 2 sigmoid(a) - 1

    Args:
        squash_input: the function ``g``; ``jnp.tanh`` in most libraries.
        squash_output: the function ``k``; ``jnp.tanh`` in most libraries.

    Source: Hochreiter and Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735. The paper writes ``y``
    for ``h``, ``s`` for ``c`` and ``h`` for ``k``. Its experiments start from negative biases of
    the gates, such as ``init={"b_o": -1.0}``. RecurrentLayers.jl and torchrecurrent take tanh for
    both functions; torchrecurrent added ``i`` and ``g`` until 2025.
    """

    squash_input: Callable[[jax.Array], jax.Array] = _squash_input
    squash_output: Callable[[jax.Array], jax.Array] = _squash_output
    W_i: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    W_c: jax.Array = matrix("hidden", "in")
    U_i: jax.Array = matrix("hidden", "hidden")
    U_o: jax.Array = matrix("hidden", "hidden")
    U_c: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.b_i)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.b_o)
        c = c + i * self.squash_input(self.W_c @ x + self.U_c @ h + self.b_c)
        return self.State(o * self.squash_output(c), c)
