"""Product of delta rules."""

import jax
from jax.nn import sigmoid, silu

from noria.cells.declare import matrix, size, state, vector
from noria.cells.heads import HeadsCell, decay, outer, rates, read, step_bias, unit_silu


class DeltaProductCell(HeadsCell):
    """Several writes of the delta rule in one step: a product of Householder matrices.

    ::

        q  = unit(silu(W_q x))                                                for each head
        S_0 = S, or alpha S with alpha = exp(-exp(A_log) * softplus(w_alpha . x + b_alpha))
        for j = 1 .. householders:
            k  = unit(silu(W_k[j] x)),  v = silu(W_v[j] x)
            beta = 2 sigmoid(W_beta[j] x)
            S_j = S_(j-1) + beta k (v - S_(j-1)^T k)^T
        S' = S_householders
        y  = S'^T q                                                           the output

        unit(a) = a / sqrt(a . a + 1e-6)

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        householders: writes in a step.
        negative: whether beta has the factor 2.
        gated: whether the memory decays before the writes, by ``alpha``.

    Source: Siems et al. 2025, arXiv 2502.10297, without convolutions, norm and output gate.
    flash-linear-attention has ``gated=True, negative=False`` by default, and divides the output by
    ``sqrt(key)``. memax multiplies the matrices ``k k^T`` element by element.
    """

    key_size: int = size(default=16)
    householders: int = size(default=2)
    negative: bool = True
    gated: bool = False
    W_q: jax.Array = matrix("heads * key", "in")
    W_k: jax.Array = matrix("householders * heads * key", "in")
    W_v: jax.Array = matrix("householders * hidden", "in")
    W_beta: jax.Array = matrix("householders * heads", "in")
    W_alpha: jax.Array | None = matrix("heads", "in", when=lambda cell: cell.gated)
    b_alpha: jax.Array | None = vector("heads", step_bias, when=lambda cell: cell.gated)
    A_log: jax.Array | None = vector("heads", rates, when=lambda cell: cell.gated)
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        if self.W_alpha is not None and self.b_alpha is not None and self.A_log is not None:
            S = decay(self.W_alpha @ x + self.b_alpha, self.A_log)[:, None, None] * S
        shape = (self.householders, self.heads, -1)
        ks = unit_silu((self.W_k @ x).reshape(shape))
        vs = silu((self.W_v @ x).reshape(shape))
        betas = (1 + self.negative) * sigmoid((self.W_beta @ x).reshape(shape))
        for k, v, beta in zip(ks, vs, betas, strict=True):
            S = S + outer(k, beta * (v - read(S, k)))
        return S

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, unit_silu(self.split(self.W_q @ x))).reshape(-1)
