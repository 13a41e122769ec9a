"""The minimal GRU and the minimal LSTM of Feng et al."""

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from noria.cells.declare import matrix, state, vector
from noria.cells.declared import VectorCell


def _positive(z: jax.Array) -> jax.Array:
    """``z + 0.5`` for ``z >= 0``, else ``sigmoid(z)``."""
    return jnp.where(z >= 0, z + 0.5, sigmoid(z))


class MinGRUCell(VectorCell):
    """The minimal GRU: a gate and a candidate that depend on x alone.

    ::

        z  = sigmoid(W_z x + b_z)
        n  = W_n x + b_n
        h' = (1 - z) * h + z * n                         (linear form)
        h' = (1 - z) * h + z * g(n)                      (log-space form)
        g(n) = n + 0.5 if n >= 0, else sigmoid(n)

    Args:
        log_space: whether the candidate is ``g(n) > 0``, as in the paper's log-space form.

    Source: Feng et al. 2024, arXiv 2410.01201. The paper's log-space code starts from ``g(0) =
    0.5``, this cell from zeros.
    """

    log_space: bool = False
    W_z: jax.Array = matrix("hidden", "in")
    b_z: jax.Array = vector("hidden")
    W_n: jax.Array = matrix("hidden", "in")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = sigmoid(self.W_z @ x + self.b_z)
        n = self.W_n @ x + self.b_n
        return (1 - z) * h + z * (_positive(n) if self.log_space else n)


class MinLSTMCell(VectorCell):
    """The minimal LSTM: two gates, scaled to the sum 1, and a candidate of x alone.

    ::

        f  = sigmoid(W_f x + b_f)
        i  = sigmoid(W_i x + b_i)
        n  = W_n x + b_n
        h' = f / (f + i) * h + i / (f + i) * n           (linear form)
        h' = f / (f + i) * h + i / (f + i) * g(n)        (log-space form)
        g(n) = n + 0.5 if n >= 0, else sigmoid(n)

    Args:
        log_space: whether the candidate is ``g(n) > 0``, as in the paper's log-space form.

    Source: Feng et al. 2024, arXiv 2410.01201. The paper's log-space code starts from g(0) = 0.5,
    this cell from 0. lucidrains/minGRU-pytorch applies g to a state that is passed in, so a
    sequence in pieces gives other results there.
    """

    log_space: bool = False
    W_f: jax.Array = matrix("hidden", "in")
    b_f: jax.Array = vector("hidden")
    W_i: jax.Array = matrix("hidden", "in")
    b_i: jax.Array = vector("hidden")
    W_n: jax.Array = matrix("hidden", "in")
    b_n: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        f, i = self.W_f @ x + self.b_f, self.W_i @ x + self.b_i
        log_ratio = softplus(-i) - softplus(-f)  # of the gates; their sum may be 0
        n = self.W_n @ x + self.b_n
        n = _positive(n) if self.log_space else n
        return sigmoid(log_ratio) * h + sigmoid(-log_ratio) * n
