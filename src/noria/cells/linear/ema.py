"""Exponential moving average."""

import math

import jax
from jax.nn import sigmoid

from noria._errors import check_choice
from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import has_other_size


class EMACell(VectorCell):
    """An exponential moving average of the input, or its running sum.

    ::

        average:  h' = beta * h + (1 - beta) * x,   beta = sigmoid(b)
        sum:      h' = h + x

    If ``in`` and ``hidden`` differ, ``P x`` stands for ``x``. ``beta`` starts at 0.9.

    Args:
        form: ``"average"`` or ``"sum"``.

    Source: Brown 1956, "Exponential smoothing for predicting demand".
    """

    form: str = "average"
    P: jax.Array | None = matrix("hidden", "in", when=has_other_size)
    b: jax.Array | None = vector("hidden", math.log(9), when=lambda cell: cell.form == "average")
    h: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("EMACell", "form", self.form, ("average", "sum"))

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        x = x if self.P is None else self.P @ x
        if self.b is None:
            return h + x
        beta = sigmoid(self.b)
        return beta * h + (1 - beta) * x
