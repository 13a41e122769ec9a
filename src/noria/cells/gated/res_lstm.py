"""Residual long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times
from noria.initializers import uniform


class ResLSTMCell(VectorCell):
    """The residual long short-term memory, with a path from the input to the output.

    ::

        i  = sigmoid(W_i x + U_i h + p_i * c + b_i)
        f  = sigmoid(W_f x + U_f h + p_f * c + b_f)
        c' = f * c + i * tanh(W_c x + U_c h + b_c)
        o  = sigmoid(W_o x + U_o h + P_o c' + b_o)
        h' = o * (W_p tanh(c') + W_h x)

    Args:
        project: ``False`` for ``x`` itself in place of ``W_h x``, in the upper layers of a stack.

    Raises:
        ValueError: if ``x`` and ``h`` differ in size without ``W_h``.

    Source: Kim, El-Khamy and Lee 2017, arXiv 1701.03360. Here ``c`` has the size of ``h``.
    """

    project: bool = True
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
    P_o: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = vector("hidden")
    b_c: jax.Array = vector("hidden")
    b_o: jax.Array = vector("hidden")
    W_p: jax.Array = matrix("hidden", "hidden")
    W_h: jax.Array | None = matrix("hidden", "in", when=lambda cell: cell.project)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if not self.project and self.in_size != self.hidden_size:
            raise ValueError(f"{self._call}: project=False; expected in_size equal to hidden_size.")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        i = sigmoid(self.W_i @ x + self.U_i @ h + self.p_i * c + self.b_i)
        f = sigmoid(self.W_f @ x + self.U_f @ h + self.p_f * c + self.b_f)
        c = f * c + i * jnp.tanh(self.W_c @ x + self.U_c @ h + self.b_c)
        o = sigmoid(self.W_o @ x + self.U_o @ h + self.P_o @ c + self.b_o)
        short = times(self.W_h, x)
        return self.State(o * (self.W_p @ jnp.tanh(c) + (x if short is None else short)), c)
