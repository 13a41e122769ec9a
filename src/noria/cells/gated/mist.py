"""Mixed history recurrent network."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softmax

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell


class MISTCell(VectorCell):
    """The mixed history RNN, MIST: a step sees a mixture of states 1, 2, 4, 8 ... steps ago.

    ::

        a  = softmax(W_a x + U_a h + b_a)               a weight for each delay
        r  = sigmoid(W_r x + U_r h + b_r)
        m  = sum of a[i] * (the state 2^i steps before h'),  i = 0 .. delays - 1
        h' = tanh(W x + U (r * m) + b)

    The second state, ``past``, has the last states, the oldest first; its last row is ``h``.

    Args:
        delays: number of delays.
        longest: number of states that ``past`` keeps, at least ``2 ** (delays - 1)``.

    Raises:
        ValueError: if ``longest`` is too small.

    Source: DiPietro, Rupprecht, Navab and Hager 2017, arXiv 1702.07805. As in the authors' code the
    delays are 1 to 128 by default.
    """

    delays: int = size(default=8)
    longest: int = size(default=128)
    W_a: jax.Array = matrix("delays", "in")
    U_a: jax.Array = matrix("delays", "hidden")
    b_a: jax.Array = vector("delays")
    W_r: jax.Array = matrix("hidden", "in")
    U_r: jax.Array = matrix("hidden", "hidden")
    b_r: jax.Array = vector("hidden")
    W: jax.Array = matrix("hidden", "in")
    U: jax.Array = matrix("hidden", "hidden")
    b: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    past: jax.Array = state("longest", "hidden")

    def __check_init__(self) -> None:
        if self.longest < 2 ** (self.delays - 1):
            raise ValueError(
                f"{self._call}: longest is {self.longest}; expected at least "
                f"2 ** (delays - 1) = {2 ** (self.delays - 1)}."
            )

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, past = state
        a = softmax(self.W_a @ x + self.U_a @ h + self.b_a)
        r = sigmoid(self.W_r @ x + self.U_r @ h + self.b_r)
        m = a @ jnp.stack([past[self.longest - 2**i] for i in range(self.delays)])
        h = jnp.tanh(self.W @ x + self.U @ (r * m) + self.b)
        return self.State(h, jnp.concatenate([past[1:], h[None]]))
