"""Entity-aware long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.initializers import identity, orthogonal


class EALSTMCell(VectorCell):
    """The entity-aware long short-term memory: static inputs choose what is written.

    ::

        x_d, x_s = x                                    dynamic inputs first, then static ones
        i  = sigmoid(W_i x_s + b_i)
        f  = sigmoid(W_f x_d + U_f h + b_f)
        g  = tanh(W_g x_d + U_g h + b_g)
        o  = sigmoid(W_o x_d + U_o h + b_o)
        c' = f * c + i * g
        h' = o * tanh(c')

    ``x_s`` has to be the same at all steps of an example for the paper's model.

    Args:
        static_size: how many of the inputs, the last ones, are static.

    Raises:
        ValueError: if there are no dynamic inputs.

    Source: Kratzert et al. 2019, arXiv 1907.08456. The initial values are those of the authors'
    code: orthogonal ``W``, the identity for ``U``, and 5 for ``b_f``. neuralhydrology computes the
    input gate once, from an argument of its own.
    """

    static_size: int = size(default=1)
    W_i: jax.Array = matrix("hidden", "static", orthogonal())
    b_i: jax.Array = vector("hidden")
    W_f: jax.Array = matrix("hidden", "in - static", orthogonal())
    W_g: jax.Array = matrix("hidden", "in - static", orthogonal())
    W_o: jax.Array = matrix("hidden", "in - static", orthogonal())
    U_f: jax.Array = matrix("hidden", "hidden", identity())
    U_g: jax.Array = matrix("hidden", "hidden", identity())
    U_o: jax.Array = matrix("hidden", "hidden", identity())
    b_f: jax.Array = vector("hidden", 5)
    b_g: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.in_size <= self.static_size:
            raise ValueError(
                f"{self._call}: static_size is {self.static_size}; expected less than in_size: "
                "x is the dynamic inputs, then the static ones."
            )

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        x_d, x_s = x[: -self.static_size], x[-self.static_size :]
        i = sigmoid(self.W_i @ x_s + self.b_i)
        f = sigmoid(self.W_f @ x_d + self.U_f @ h + self.b_f)
        g = jnp.tanh(self.W_g @ x_d + self.U_g @ h + self.b_g)
        o = sigmoid(self.W_o @ x_d + self.U_o @ h + self.b_o)
        c = f * c + i * g
        return self.State(o * jnp.tanh(c), c)
