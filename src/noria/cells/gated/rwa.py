"""Recurrent weighted average."""

import jax
import jax.numpy as jnp

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


class RWACell(VectorCell):
    """The recurrent weighted average: attention over all past steps, as a running average.

    ::

        z  = (W_u x + b_u) * tanh(W_g x + U_g h + b_g)
        a  = W_a x + U_a h
        m' = max(m, a)
        n' = exp(m - m') n + exp(a - m') z
        d' = exp(m - m') d + exp(a - m')
        h' = tanh(n' / d')

    ``n`` and ``d`` are the numerator and the denominator, and ``m`` is the largest exponent so far,
    which keeps both finite.

    Source: Ostmeyer and Cowell 2017, arXiv 1703.01253, whose code scales by ``m`` too. The paper
    starts with ``h = tanh(s)`` for a trained ``s``: here ``h`` starts at 0, and is trained with
    ``learn_initial_state=True`` of the layer.
    """

    W_u: jax.Array = matrix("hidden", "in")
    b_u: jax.Array = vector("hidden")
    W_g: jax.Array = matrix("hidden", "in")
    U_g: jax.Array = matrix("hidden", "hidden")
    b_g: jax.Array = vector("hidden")
    W_a: jax.Array = matrix("hidden", "in")
    U_a: jax.Array = matrix("hidden", "hidden")
    h: jax.Array = state("hidden")
    n: jax.Array = state("hidden")
    d: jax.Array = state("hidden")
    m: jax.Array = state("hidden", initializer=-1e4)

    def __call__(self, state: tuple[jax.Array, ...], x: jax.Array) -> tuple[jax.Array, ...]:
        h, n, d, m = state
        z = (self.W_u @ x + self.b_u) * jnp.tanh(self.W_g @ x + self.U_g @ h + self.b_g)
        a = self.W_a @ x + self.U_a @ h
        most = jnp.maximum(m, a)
        old, new = jnp.exp(m - most), jnp.exp(a - most)
        n, d = old * n + new * z, old * d + new
        return self.State(jnp.tanh(n / d), n, d, most)
