"""Test-time training, linear model."""

from typing import Any

import jax
from jax.nn import sigmoid

from noria.cells.declare import array, matrix, state, vector
from noria.cells.heads import HeadsCell, outer, read
from noria.initializers import normal


class TTTLinearCell(HeadsCell):
    """A linear model that is trained at test time, by a step of gradient descent for each input.

    ::

        q  = W_q x,  k = W_k x,  v = W_v x                   for each head
        f(a; W, b) = a + LN(W^T a + b)
        l(W, b) = |f(k; W, b) - v|^2 / (2 d)
        eta = eta_base sigmoid(w_eta . x + b_eta)
        W' = W - eta dl/dW
        b' = b - eta dl/db
        y  = f(q; W', b')                                    the output

        LN(a) = gamma * (a - mean(a)) / sqrt(var(a) + 1e-6) + beta

    ``d`` is the number of features of a head. The state starts at the parameters ``W_0``, which are
    drawn from N(0, 0.02^2), and ``b_0``.

    Args:
        heads: number of linear models; it divides ``hidden``.
        eta_base: largest step size.

    Source: Sun et al. 2024, arXiv 2407.04620, with mini-batches of one step. The paper's loss has
    no factor ``1 / (2 d)``; the authors' code has it. Their mini-batches have 16 steps, and keys
    are rotated within them. memax has no LN.
    """

    eta_base: float = 1.0
    W_q: jax.Array = matrix("hidden", "in")
    W_k: jax.Array = matrix("hidden", "in")
    W_v: jax.Array = matrix("hidden", "in")
    W_eta: jax.Array = matrix("heads", "in", normal(0.02))
    b_eta: jax.Array = vector("heads")
    gamma: jax.Array = array("heads", "hidden // heads", initializer=1)
    beta: jax.Array = array("heads", "hidden // heads", initializer=0)
    W_0: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=normal(0.02))
    b_0: jax.Array = array("heads", "hidden // heads", initializer=0)
    W: jax.Array = state("heads", "hidden // heads", "hidden // heads")
    b: jax.Array = state("heads", "hidden // heads")

    def initial_state(self) -> Any:
        """The parameters ``W_0`` and ``b_0``."""
        return self.State(self.W_0, self.b_0)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        W, b = state
        k, v = self.split(self.W_k @ x), self.split(self.W_v @ x)
        eta = self.eta_base * sigmoid(self.W_eta @ x + self.b_eta)[:, None]

        def loss(z: jax.Array) -> jax.Array:
            return ((k + self._norm(z) - v) ** 2).sum() / (2 * k.shape[1])

        dz = eta * jax.grad(loss)(read(W, k) + b)
        return self.State(W - outer(k, dz), b - dz)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """The model's answer for the query."""
        W, b = state
        q = self.split(self.W_q @ x)
        return (q + self._norm(read(W, q) + b)).reshape(-1)

    def _norm(self, a: jax.Array) -> jax.Array:
        a = a - a.mean(-1, keepdims=True)
        return self.gamma * a * jax.lax.rsqrt((a * a).mean(-1, keepdims=True) + 1e-6) + self.beta
