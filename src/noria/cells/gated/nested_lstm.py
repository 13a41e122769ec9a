"""Nested long short-term memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell
from noria.cells.starts import forget_one


class NestedLSTMCell(VectorCell):
    """A long short-term memory whose memory is another one.

    ::

        i, f, g, o = four parts of  W x + U h + b
        u  = sigmoid(i) * candidate(g)                  the input of the inner cell
        r  = sigmoid(f) * c                             its output of the step before
        j, k, q, p = four parts of  W_n u + U_n r + b_n
        n' = sigmoid(k) * n + sigmoid(j) * tanh(q)      its memory
        c' = sigmoid(p) * tanh(n')
        h' = sigmoid(o) * tanh(c')

    Args:
        candidate: activation of ``g``.

    Source: Moniz and Krueger 2018, arXiv 1801.10308, with one level of nesting. The forget biases
    start at 1. Ports differ in ``candidate``: tanh or the identity.
    """

    candidate: Callable[[jax.Array], jax.Array] = jnp.tanh
    W: jax.Array = matrix("4 * hidden", "in")
    U: jax.Array = matrix("4 * hidden", "hidden")
    b: jax.Array = vector("4 * hidden", forget_one)
    W_n: jax.Array = matrix("4 * hidden", "hidden")
    U_n: jax.Array = matrix("4 * hidden", "hidden")
    b_n: jax.Array = vector("4 * hidden", forget_one)
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    n: jax.Array = state("hidden")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, n = state
        i, f, g, o = jnp.split(self.W @ x + self.U @ h + self.b, 4)
        u = sigmoid(i) * self.candidate(g)
        r = sigmoid(f) * c
        j, k, q, p = jnp.split(self.W_n @ u + self.U_n @ r + self.b_n, 4)
        n = sigmoid(k) * n + sigmoid(j) * jnp.tanh(q)
        c = sigmoid(p) * jnp.tanh(n)
        return self.State(sigmoid(o) * jnp.tanh(c), c, n)
