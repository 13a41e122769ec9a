"""Simple recurrent unit."""

import jax
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.parts import has_other_size
from noria.cells.starts import lecun_uniform
from noria.initializers import uniform


class SRUCell(VectorCell):
    """The simple recurrent unit: gates that see the state element by element, and a highway.

    ::

        f  = sigmoid(W_f x + v_f * c + b_f)
        r  = sigmoid(W_r x + v_r * c + b_r)
        c' = f * c + (1 - f) * (W x)
        y  = r * c' + (1 - r) * alpha * x

    If ``in`` and ``hidden`` differ, ``P x`` stands for ``x`` in the last line.

    Args:
        alpha: factor of the highway, ``sqrt(1 + 2 exp(b))`` for the initial value b of ``b_r``.
        peephole: whether the gates see the state; ``False`` is version 1, linear in the state.

    Source: Lei et al. 2018, arXiv 1709.02755. The initial values and ``P`` are those of the
    authors' code.
    """

    alpha: float = 3.0**0.5
    peephole: bool = True
    W: jax.Array = matrix("hidden", "in", lecun_uniform())
    W_f: jax.Array = matrix("hidden", "in", lecun_uniform(0.5**0.5))
    v_f: jax.Array | None = vector("hidden", uniform(1.5**0.5), when=lambda cell: cell.peephole)
    b_f: jax.Array = vector("hidden")
    W_r: jax.Array = matrix("hidden", "in", lecun_uniform(0.5**0.5))
    v_r: jax.Array | None = vector("hidden", uniform(1.5**0.5), when=lambda cell: cell.peephole)
    b_r: jax.Array = vector("hidden")
    P: jax.Array | None = matrix("hidden", "in", lecun_uniform(), when=has_other_size)
    c: jax.Array = state("hidden")

    def __call__(self, c: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        f, r = self.W_f @ x + self.b_f, self.W_r @ x + self.b_r
        if self.v_f is not None and self.v_r is not None:
            f, r = f + self.v_f * c, r + self.v_r * c
        f, r = sigmoid(f), sigmoid(r)
        c = f * c + (1 - f) * (self.W @ x)
        straight = x if self.P is None else self.P @ x
        return c, r * c + (1 - r) * (self.alpha * straight)
