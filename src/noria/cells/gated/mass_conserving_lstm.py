"""Mass-conserving long short-term memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softmax

from noria.cells.declare import matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import times, total
from noria.initializers import identity


def _has_auxiliary(cell: Any) -> bool:
    return bool(cell.in_size > cell.mass_size)


class MassConservingLSTMCell(VectorCell):
    """The mass-conserving long short-term memory: what comes in stays or goes out.

    ::

        x_m, x_a = x                                mass inputs first, then auxiliary ones
        e  = c / sum(abs(c))                        0 for an empty memory
        i  = softmax(W_i x_a + U_i e + b_i)         the shares of a mass input sum to 1
        R  = softmax(W_r x_a + U_r e + b_r)         the shares of a cell of c sum to 1
        o  = sigmoid(W_o x_a + U_o e + b_o)
        m  = R c + i x_m
        c' = (1 - o) * m
        h  = o * m                                  the output

    ``sum(c') + sum(h) = sum(c) + sum(x_m)``. Masses are not to be normalised.

    Args:
        mass_size: how many of the inputs, the first ones, are masses; the rest is auxiliary.
        time_dependent: ``False`` for a constant ``R``, without ``W_r`` and ``U_r``.

    Raises:
        ValueError: if there are more mass inputs than inputs.

    Source: Hoedt et al. 2021, arXiv 2101.05186. As in the authors' code, ``b_r`` starts at the
    identity and ``b_o`` at -3. neuralhydrology feeds the mass to the gates too, and normalises a
    sigmoid for ``i`` and a relu for ``R``.
    """

    mass_size: int = size(default=1)
    time_dependent: bool = True
    W_i: jax.Array | None = matrix("mass * hidden", "in - mass", when=_has_auxiliary)
    W_r: jax.Array | None = matrix(
        "hidden * hidden",
        "in - mass",
        when=lambda cell: cell.time_dependent and _has_auxiliary(cell),
    )
    W_o: jax.Array | None = matrix("hidden", "in - mass", when=_has_auxiliary)
    U_i: jax.Array = matrix("mass * hidden", "hidden")
    U_r: jax.Array | None = matrix(
        "hidden * hidden", "hidden", when=lambda cell: cell.time_dependent
    )
    U_o: jax.Array = matrix("hidden", "hidden")
    b_i: jax.Array = vector("mass * hidden")
    b_r: jax.Array = matrix("hidden", "hidden", identity())
    b_o: jax.Array = vector("hidden", -3.0)
    c: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        if self.in_size < self.mass_size:
            raise ValueError(f"{self._call}: expected in_size of at least mass_size.")

    def __call__(self, c: jax.Array, x: jax.Array) -> Any:
        x_m, x_a = x[: self.mass_size], x[self.mass_size :]
        mass, size = jnp.sum(jnp.abs(c)), self.hidden_size
        e = c / jnp.where(mass > 0, mass, 1)
        i = total(times(self.W_i, x_a), self.U_i @ e, self.b_i).reshape(-1, size)
        R = total(times(self.W_r, x_a), times(self.U_r, e), self.b_r.ravel()).reshape(size, size)
        o = sigmoid(total(times(self.W_o, x_a), self.U_o @ e, self.b_o))
        m = softmax(R, axis=0) @ c + x_m @ softmax(i)
        return (1 - o) * m, o * m
