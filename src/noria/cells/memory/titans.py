"""Neural memory of Titans."""

from typing import Any

import jax
from jax.nn import sigmoid, silu

from noria.cells.declare import matrix, state, vector
from noria.cells.heads import MemoryCell, outer, read, unit_silu


class TitansCell(MemoryCell):
    """The neural memory of Titans, a linear one: trained at test time with momentum and decay.

    ::

        q  = unit(silu(W_q x)),  k = unit(silu(W_k x)),  v = silu(W_v x)      for each head
        alpha = sigmoid(w_alpha . x + b_alpha)               how much the memory forgets
        eta   = sigmoid(w_eta . x + b_eta)                   how much of the surprise stays
        theta = sigmoid(w_theta . x + b_theta)               the step size
        l(M) = |M^T k - v|^2
        S' = eta S - theta dl/dM
        M' = (1 - alpha) M + S'
        y  = M'^T q                                                           the output

        unit(a) = a / sqrt(a . a + 1e-6)

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.

    Source: Behrouz et al. 2024, arXiv 2501.00663, without convolutions. The paper
    says that the three gates depend on x, not how.
    """

    W_alpha: jax.Array = matrix("heads", "in")
    b_alpha: jax.Array = vector("heads")
    W_eta: jax.Array = matrix("heads", "in")
    b_eta: jax.Array = vector("heads")
    W_theta: jax.Array = matrix("heads", "in")
    b_theta: jax.Array = vector("heads")
    M: jax.Array = state("heads", "key", "hidden // heads")
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        M, S = state
        k, v = unit_silu(self.key_of(x)), silu(self.value(x))
        alpha = sigmoid(self.W_alpha @ x + self.b_alpha)[:, None, None]
        eta = sigmoid(self.W_eta @ x + self.b_eta)[:, None, None]
        theta = sigmoid(self.W_theta @ x + self.b_theta)[:, None]
        S = eta * S - outer(k, 2 * theta * (read(M, k) - v))
        return self.State((1 - alpha) * M + S, S)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(state.M, unit_silu(self.query(x))).reshape(-1)
