"""Memories that are corrected: the delta rule, and learning at test time.

A write at a key k changes what the memory reads there, ``S^T k``, towards a value v.
"""

from typing import Any

import jax
from jax.nn import sigmoid, silu

from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.heads import HeadsCell, MemoryCell, decay, outer, rates, read, step_bias, unit_silu
from noria.initializers import normal


class _DeltaCell(MemoryCell):
    """A delta rule with one step size ``beta`` for each head."""

    W_beta: jax.Array = matrix("heads", "in")
    S: jax.Array = state("heads", "key", "hidden // heads")

    def beta(self, x: jax.Array) -> jax.Array:
        """``sigmoid(W_beta x)`` as a column."""
        return sigmoid(self.W_beta @ x)[:, None]

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, unit_silu(self.query(x))).reshape(-1)


class DeltaNetCell(_DeltaCell):
    """The delta rule: a write replaces what the memory has for its key.

    ::

        q  = unit(silu(W_q x)),  k = unit(silu(W_k x)),  v = W_v x            for each head
        beta = sigmoid(w_beta . x)
        S' = S + beta k (v - S^T k)^T
        y  = S'^T q                                                           the output

        unit(a) = a / sqrt(a . a + 1e-6)

    ``w_beta`` is a row of ``W_beta``. With ``beta = 1`` a read at k gives v.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        negative: whether beta is twice as large, so that a write may change the sign of a read.

    Source: Schlag et al. 2021, arXiv 2102.11174; feature map and norm of Yang et al. 2024, arXiv
    2406.06484, without its convolutions. flash-linear-attention divides the output by
    ``sqrt(key)``. memax erases on the side of the values: a second write adds to the first.
    """

    negative: bool = False

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        k, v = unit_silu(self.key_of(x)), self.value(x)
        beta = (1 + self.negative) * self.beta(x)
        return S + outer(k, beta * (v - read(S, k)))


class GatedDeltaNetCell(_DeltaCell):
    """The delta rule on a memory that decays.

    ::

        q  = unit(silu(W_q x)),  k = unit(silu(W_k x)),  v = silu(W_v x)      for each head
        alpha = exp(-exp(A_log) * softplus(w_alpha . x + b_alpha))
        beta  = sigmoid(w_beta . x)
        S~ = alpha S
        S' = S~ + beta k (v - S~^T k)^T
        y  = S'^T q                                                           the output

        unit(a) = a / sqrt(a . a + 1e-6)

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        negative: whether beta is twice as large, so that a write may change the sign of a read.

    Source: Yang et al. 2024, arXiv 2412.06464, without convolutions, norm and output gate.
    flash-linear-attention divides the output by ``sqrt(key)``. memax erases on the side of the
    values, and has ``alpha = sigmoid(a + 4)``.
    """

    negative: bool = False
    W_alpha: jax.Array = matrix("heads", "in")
    b_alpha: jax.Array = vector("heads", step_bias)
    A_log: jax.Array = vector("heads", rates)

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        k, v = unit_silu(self.key_of(x)), silu(self.value(x))
        alpha = decay(self.W_alpha @ x + self.b_alpha, self.A_log)
        beta = (1 + self.negative) * self.beta(x)
        S = alpha[:, None, None] * S
        return S + outer(k, beta * (v - read(S, k)))


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


class KDACell(_DeltaCell):
    """Kimi delta attention: the delta rule on a memory whose rows decay at rates of their own.

    ::

        q  = unit(silu(W_q x)),  k = unit(silu(W_k x)),  v = silu(W_v x)      for each head
        alpha = exp(-exp(A_log) * softplus(W_up W_down x + b_alpha))
        beta  = sigmoid(w_beta . x)
        S~ = diag(alpha) S
        S' = S~ + beta k (v - S~^T k)^T
        y  = S'^T q                                                           the output

        unit(a) = a / sqrt(a . a + 1e-6)

    ``A_log`` has a number for each head, ``b_alpha`` one for each feature of a key.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        rank: rows of ``W_down``; in the paper the features of a value.

    Source: Kimi Team 2025, arXiv 2510.26692, without convolutions, norm and output gate.
    flash-linear-attention divides the output by ``sqrt(key)``.
    """

    rank: int = size(default=16)
    W_down: jax.Array = matrix("rank", "in")
    W_up: jax.Array = matrix("heads * key", "rank")
    b_alpha: jax.Array = vector("heads * key", step_bias)
    A_log: jax.Array = vector("heads", rates)

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        k, v = unit_silu(self.key_of(x)), silu(self.value(x))
        a = self.split(self.W_up @ (self.W_down @ x) + self.b_alpha)
        alpha = decay(a, self.A_log[:, None])
        S = alpha[:, :, None] * S
        return S + outer(k, self.beta(x) * (v - read(S, k)))


class CombaCell(_DeltaCell):
    """A memory under closed-loop control: the state is corrected, and so is the output.

    ::

        q  = unit(silu(W_q x)),  k = unit(silu(W_k x)),  v = silu(W_v x)      for each head
        alpha = exp(-exp(A_log) * softplus(w_alpha . x + b_alpha))
        beta  = sigmoid(w_beta . x)
        S' = alpha S + beta k (v - sigmoid(b) S^T k)^T
        y  = S'^T (q - d k)                                                   the output

        unit(a) = a / sqrt(a . a + 1e-6)

    The correction reads ``S`` before its decay. ``b`` starts at 1. ``d`` starts at 0.02, which is
    the authors' for small models; for large ones it is 1.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.

    Source: Hu et al. 2025, arXiv 2506.02475, eq. 5, without convolutions, norm and output gate.
    flash-linear-attention divides the output by ``sqrt(key)`` and normalises ``q - d sigmoid(b) k``
    and ``sigmoid(b) k``, so that ``b`` has no effect on the state. Its plain version reads the
    decayed memory.
    """

    W_alpha: jax.Array = matrix("heads", "in")
    b_alpha: jax.Array = vector("heads", step_bias)
    A_log: jax.Array = vector("heads", rates)
    b: jax.Array = vector("heads", 1)
    d: jax.Array = vector("heads", 0.02)

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        k, v = unit_silu(self.key_of(x)), silu(self.value(x))
        alpha = decay(self.W_alpha @ x + self.b_alpha, self.A_log)
        correction = sigmoid(self.b)[:, None] * read(S, k)
        return alpha[:, None, None] * S + outer(k, self.beta(x) * (v - correction))

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the corrected query."""
        q, k = unit_silu(self.query(x)), unit_silu(self.key_of(x))
        return read(S, q - self.d[:, None] * k).reshape(-1)


class LonghornCell(VectorCell):
    """Longhorn: the closed form of one step of online regression, for each feature of the state.

    ::

        u  = W_u x,  k = W_k u,  q = W_q u
        beta  = sigmoid(W_up W_down u + b)
        delta = beta / (1 + beta (k . k))
        S'_ij = (1 - delta_i k_j^2) S_ij + delta_i u_i k_j
        y  = S' q + D * u                                    the output

    Rows of ``S`` are values here, as in the paper. ``D`` starts at 1.

    Args:
        key_size: features of a key.
        rank: rows of ``W_down``.

    Source: Liu et al. 2024, arXiv 2407.14207. The paper's block computes ``u`` by a convolution and
    SiLU, and gates the output; they are no part of the cell.
    """

    key_size: int = size(default=16)
    rank: int = size(default=1)
    W_u: jax.Array = matrix("hidden", "in")
    W_k: jax.Array = matrix("key", "hidden")
    W_q: jax.Array = matrix("key", "hidden")
    W_down: jax.Array = matrix("rank", "hidden")
    W_up: jax.Array = matrix("hidden", "rank")
    b: jax.Array = vector("hidden")
    D: jax.Array = vector("hidden", 1)
    S: jax.Array = state("hidden", "key")

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        u = self.W_u @ x
        k = self.W_k @ u
        beta = sigmoid(self.W_up @ (self.W_down @ u) + self.b)
        delta = beta / (1 + beta * (k * k).sum())
        return (1 - delta[:, None] * (k * k)) * S + (delta * u)[:, None] * k

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query, and the skip."""
        u = self.W_u @ x
        return S @ (self.W_q @ u) + self.D * u


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
