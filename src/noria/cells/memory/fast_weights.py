"""Fast weights that attend to the recent past."""

from typing import Any

import jax
from jax.nn import relu

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import normalized
from noria.initializers import identity, ones


class AttendingFastWeightsCell(VectorCell):
    """Fast weights: a matrix of past states, to which an inner loop settles.

    ::

        A'  = decay A + rate h h^T
        a   = W h + C x + b
        s_0 = relu(a)
        s_n = relu(gain * norm(a + A' s_(n-1)) + shift)      for n = 1 ... loops
        h'  = s_loops

    ``norm`` has mean 0 and variance 1. ``W`` starts at 0.05 times the identity.

    Args:
        decay: the paper's lambda.
        rate: the paper's eta.
        loops: steps of the inner loop, the paper's S.

    Source: Ba, Hinton, Mnih, Leibo and Ionescu 2016, arXiv 1610.06258, eqs. 1 and 2, with the layer
    norm of section 3.2. The cell `FastWeightCell` is the fast weight programmer of Schlag et al.
    """

    decay: float = 0.95
    rate: float = 0.5
    loops: int = 1
    W: jax.Array = matrix("hidden", "hidden", identity(0.05))
    C: jax.Array = matrix("hidden", "in")
    b: jax.Array = vector("hidden")
    gain: jax.Array = vector("hidden", ones)
    shift: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    A: jax.Array = state("hidden", "hidden")

    def __check_init__(self) -> None:
        if self.loops < 1:
            raise ValueError(f"{self._call}: loops is {self.loops}; expected at least 1.")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, A = state
        A = self.decay * A + self.rate * h[:, None] * h
        a = self.W @ h + self.C @ x + self.b
        s = relu(a)
        for _ in range(self.loops):
            s = relu(self.gain * normalized(a + A @ s, 1e-5) + self.shift)
        return self.State(s, A)
