"""Bilinear RNN."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from noria._errors import check_choice
from noria.cells.declare import array, matrix, size, state
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total
from noria.cells.starts import over_inputs


def _form(form: str) -> Callable[[Any], bool]:
    return lambda cell: bool(cell.form == form)


class BilinearRNNCell(VectorCell):
    """The bilinear RNN: the next state is a product of the state and the input, without a bias.

    ::

        dense:     h'_i = sum of W_ijk h_j x_k over j and k
        factored:  h'   = A ((B h) * (F x))
        rotation:  h'   = R(T x) h, a rotation of each pair of neighbours
        diagonal:  h'   = (d x) * h

    The state starts from ones, since zeros would stay zero.

    Args:
        form: ``"dense"``, ``"factored"``, ``"rotation"`` or ``"diagonal"``.
        normalise: whether each state is divided by its norm.
        rank: number of factors of the factored form.

    Source: Ebrahimi and Memisevic 2025, arXiv 2505.21749.
    """

    form: str = "dense"
    normalise: bool = False
    rank: int = size(default=16)
    W: jax.Array | None = array(
        "hidden", "hidden", "in", initializer=over_inputs, when=_form("dense")
    )
    A: jax.Array | None = matrix("hidden", "rank", over_inputs, when=_form("factored"))
    B: jax.Array | None = matrix("rank", "hidden", over_inputs, when=_form("factored"))
    F: jax.Array | None = matrix("rank", "in", over_inputs, when=_form("factored"))
    T: jax.Array | None = matrix("hidden // 2", "in", when=_form("rotation"))
    d: jax.Array | None = matrix("hidden", "in", when=_form("diagonal"))
    h: jax.Array = state("hidden", initializer=1)

    def __check_init__(self) -> None:
        forms = ("dense", "factored", "rotation", "diagonal")
        check_choice("BilinearRNNCell", "form", self.form, forms)
        if self.form == "rotation" and self.hidden_size % 2:
            raise ValueError(
                f"BilinearRNNCell(hidden_size={self.hidden_size}, form='rotation'): "
                "expected an even hidden_size."
            )

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        if self.W is not None:
            h = (self.W @ x) @ h
        elif self.A is not None:
            h = self.A @ (total(times(self.B, h)) * total(times(self.F, x)))
        elif self.T is not None:
            cos, sin, pairs = jnp.cos(self.T @ x), jnp.sin(self.T @ x), h.reshape(-1, 2)
            first, second = pairs[:, 0], pairs[:, 1]
            h = jnp.stack([cos * first - sin * second, sin * first + cos * second], 1).reshape(-1)
        else:
            h = total(times(self.d, x)) * h
        return h / jnp.sqrt(h @ h + 1e-12) if self.normalise else h
