"""Delta rules: DeltaNet, gated DeltaNet and its second version, KDA and Comba."""

import jax
from jax.nn import sigmoid, silu

from noria.cells.declare import matrix, size, state, vector
from noria.cells.heads import MemoryCell, decay, outer, rates, read, step_bias, unit_silu


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


class GatedDeltaNet2Cell(MemoryCell):
    """Gated DeltaNet-2: gates for what a write erases and for what it writes.

    ::

        q  = unit(silu(W_q x)),  k = unit(silu(W_k x)),  v = silu(W_v x)      for each head
        alpha = exp(-exp(A_log) * softplus(W_up W_down x + b_alpha))
        b  = sigmoid(W_b x),  w = sigmoid(W_w x)
        S~ = diag(alpha) S
        S' = S~ + k (w * v - S~^T (b * k))^T
        y  = S'^T q                                                           the output

        unit(a) = a / sqrt(a . a + 1e-6)

    With ``b = w = beta`` for all features this is KDA.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        rank: rows of ``W_down``.
        negative: whether b is twice as large, so that a write may change the sign of a read.

    Source: Hatamizadeh, Choi and Kautz 2026, arXiv 2605.22791, without
    convolutions, norm and output gate. flash-linear-attention divides the output by
    ``sqrt(key)``.
    """

    rank: int = size(default=16)
    negative: bool = False
    W_down: jax.Array = matrix("rank", "in")
    W_up: jax.Array = matrix("heads * key", "rank")
    b_alpha: jax.Array = vector("heads * key", step_bias)
    A_log: jax.Array = vector("heads", rates)
    W_b: jax.Array = matrix("heads * key", "in")
    W_w: jax.Array = matrix("hidden", "in")
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        k, v = unit_silu(self.key_of(x)), silu(self.value(x))
        a = self.split(self.W_up @ (self.W_down @ x) + self.b_alpha)
        S = decay(a, self.A_log[:, None])[:, :, None] * S
        b = (1 + self.negative) * self.split(sigmoid(self.W_b @ x))
        w = self.split(sigmoid(self.W_w @ x))
        return S + outer(k, w * v - read(S, b * k))

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, unit_silu(self.query(x))).reshape(-1)


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
