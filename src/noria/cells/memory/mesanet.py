"""MesaNet."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus
from jax.scipy.linalg import solve

from noria.cells.declare import array, matrix, state, vector
from noria.cells.heads import MemoryCell, outer, unit_silu
from noria.cells.parts import wide

#: The least ridge.
_LEAST = 0.25


class MesaNetCell(MemoryCell):
    """The mesa layer: each output solves the least squares problem of all keys and values.

    ::

        q  = unit(silu(W_q x)),  k = unit(silu(W_k x)),  v = W_v x            for each head
        gamma = sigmoid(w_gamma . x + b_gamma),  beta = sigmoid(w_beta . x + b_beta)
        G' = gamma G + beta k k^T
        H' = gamma H + beta k v^T
        y  = H'^T (G' + diag(1/4 + softplus(lam)))^-1 q                       the output

        unit(a) = a / sqrt(a . a + 1e-6)

    ``lam`` starts such that the ridge is 1. ``G`` is symmetric and has no negative eigenvalue. So
    the system is solved by Cholesky's method.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.

    Source: von Oswald et al. 2025, arXiv 2506.05233, without convolution, norm and output gate. The
    authors solve the system by up to 30 iterations of the conjugate gradient method.
    """

    W_gamma: jax.Array = matrix("heads", "in")
    b_gamma: jax.Array = vector("heads")
    W_beta: jax.Array = matrix("heads", "in")
    b_beta: jax.Array = vector("heads")
    lam: jax.Array = array("heads", "key", initializer=math.log(math.expm1(1 - _LEAST)))
    G: jax.Array = state("heads", "key", "key")
    H: jax.Array = state("heads", "key", "hidden // heads")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        G, H = state
        k, v = unit_silu(self.key_of(x)), self.value(x)
        gamma = sigmoid(self.W_gamma @ x + self.b_gamma)[:, None, None]
        written = sigmoid(self.W_beta @ x + self.b_beta)[:, None] * k
        return self.State(gamma * G + outer(written, k), gamma * H + outer(written, v))

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """What the best linear map from keys to values gives for the query."""
        ridge = jax.vmap(jnp.diag)(_LEAST + softplus(self.lam))
        of_head = functools.partial(solve, assume_a="pos")
        found = jax.vmap(of_head)(wide(state.G + ridge), wide(unit_silu(self.query(x))))
        return jnp.einsum("hk,hkv->hv", found.astype(x.dtype), state.H).reshape(-1)
