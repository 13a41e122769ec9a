"""Memories of outer products of keys and values, and the memories of xLSTM."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, sigmoid, silu

from noria._errors import check_choice
from noria._types import Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.heads import HeadsCell, MemoryCell, dot, dpfp, outer, positive, read


class LinearAttentionCell(MemoryCell):
    """Linear attention: a memory of all keys and values, and the sum of the keys.

    ::

        q  = phi(W_q x),  k = phi(W_k x),  v = W_v x         for each head
        S' = S + k v^T
        z' = z + k
        y  = S'^T q / (z' . q)                               the output

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        feature_map: the function phi, with positive values; by default ``elu(a) + 1``.

    Source: Katharopoulos et al. 2020, arXiv 2006.16236, eqs. 16 to 20. The authors' code adds 1e-6
    to ``z' . q``, flash-linear-attention leaves ``z`` out by default.
    """

    feature_map: Callable[[jax.Array], jax.Array] = positive
    S: jax.Array = state("heads", "key", "hidden // heads")
    z: jax.Array = state("heads", "key")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        S, z = state
        k, v = self.feature_map(self.key_of(x)), self.value(x)
        return self.State(S + outer(k, v), z + k)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        S, z = state
        q = self.feature_map(self.query(x))
        return (read(S, q) / dot(z, q)[:, None]).reshape(-1)


class FastWeightCell(MemoryCell):
    """A fast weight programmer with additive updates.

    ::

        q  = phi(W_q x),  k = phi(W_k x),  v = W_v x         for each head
        S' = S + k v^T
        y  = S'^T q                                          the output
        phi(a) = r_i r_(i + j)  for i = 1 .. 2 key, j = 1 .. nu,  r = relu([a, -a])

    Features are ordered by j, then by i; indices of ``r`` are modulo ``2 key``.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: numbers in a key; its features are ``2 * nu * key_size``.
        nu: number of products of each entry of ``r``.
        normalized: whether phi is divided by the sum of its features plus 1e-6.

    Source: Schmidhuber 1992; Schlag et al. 2021, arXiv 2102.11174, with its feature map DPFP.
    `DeltaNetCell` has the paper's delta rule. memax writes ``k v^T`` and reads ``S q``.
    """

    nu: int = 1
    normalized: bool = False
    S: jax.Array = state("heads", "2 * nu * key", "hidden // heads")

    def __check_init__(self) -> None:
        if self.nu < 1:
            raise ValueError(f"FastWeightCell(nu={self.nu}): expected at least 1.")

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        return S + outer(self._phi(self.key_of(x)), self.value(x))

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, self._phi(self.query(x))).reshape(-1)

    def _phi(self, a: jax.Array) -> jax.Array:
        features = dpfp(a, self.nu)
        if not self.normalized:
            return features
        return features / (features.sum(-1, keepdims=True) + 1e-6)


class RetNetCell(MemoryCell):
    """Retention: a memory that decays at a rate fixed for each head, with rotated keys.

    ::

        q  = W_q x,  k = W_k x,  v = W_v x                   for each head
        S' = gamma R S + k v^T
        y  = S'^T q / sqrt(key)                              the output

    ``gamma`` is ``1 - 2^(-5 - h)`` for head h = 0, 1, ... ``R`` turns the pair of rows j and
    ``j + key / 2`` by ``-theta_j``, with ``theta_j = 10000^(-2 j / key)`` for j = 0, 1, ... This is
    the paper's rotation of queries and keys by their positions, without a counter of steps.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key; even, if they are rotated.
        rotary: whether there is a rotation; without it ``R`` is the identity.

    Source: Sun et al. 2023, arXiv 2307.08621. The norm of each head and the output gate are no part
    of the cell. torchscale and flash-linear-attention rotate by positions.
    """

    rotary: bool = True
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __check_init__(self) -> None:
        if self.rotary and self.key_size % 2:
            raise ValueError(
                f"RetNetCell(key_size={self.key_size}): expected an even size, or rotary=False."
            )

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        gamma = jnp.asarray(1 - 2.0 ** (-5 - np.arange(self.heads)), self.dtype)
        return gamma[:, None, None] * self._turned(S) + outer(self.key_of(x), self.value(x))

    def _turned(self, S: jax.Array) -> jax.Array:
        if not self.rotary:
            return S
        half = self.key_size // 2
        theta = 10000.0 ** (-np.arange(half) / half)[:, None]
        cos, sin = jnp.asarray(np.cos(theta), self.dtype), jnp.asarray(np.sin(theta), self.dtype)
        a, b = S[:, :half], S[:, half:]
        return jnp.concatenate([cos * a + sin * b, cos * b - sin * a], axis=1)

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return (read(S, self.query(x)) * self.key_size**-0.5).reshape(-1)


class GLACell(MemoryCell):
    """Gated linear attention: a memory whose rows decay at rates that depend on x.

    ::

        q  = W_q x,  k = W_k x,  v = W_v x                   for each head
        a  = sigmoid(W_up W_down x + b_a)^(1 / tau)
        S' = diag(a) S + k v^T
        y  = S'^T q                                          the output

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        rank: rows of ``W_down``.
        tau: how slow the decay is.

    Source: Yang et al. 2023, arXiv 2312.06635. The norm of each head and the output gate are no
    part of the cell. flash-linear-attention divides the output by ``sqrt(key)``.
    """

    rank: int = size(default=16)
    tau: float = 16.0
    W_down: jax.Array = matrix("rank", "in")
    W_up: jax.Array = matrix("heads * key", "rank")
    b_a: jax.Array = vector("heads * key")
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        log_a = log_sigmoid(self.W_up @ (self.W_down @ x) + self.b_a) / self.tau
        a = self.split(jnp.exp(log_a))
        return a[:, :, None] * S + outer(self.key_of(x), self.value(x))

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, self.query(x)).reshape(-1)


class SimpleGLACell(MemoryCell):
    """Gated retention, or simple gated linear attention: one decay for each head, from x.

    ::

        q  = W_q x,  k = W_k x,  v = W_v x                   for each head
        a  = sigmoid(w_a . x + b_a)^(1 / tau)
        S' = a S + k v^T
        y  = S'^T q                                          the output

    ``w_a`` is a row of ``W_a``.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        tau: how slow the decay is.

    Source: Sun et al. 2024, arXiv 2405.05254, as gated retention, without its rotation; the bias
    is that of flash-linear-attention, which also divides the output by ``sqrt(key)``.
    """

    tau: float = 16.0
    W_a: jax.Array = matrix("heads", "in")
    b_a: jax.Array = vector("heads")
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        a = jnp.exp(log_sigmoid(self.W_a @ x + self.b_a) / self.tau)
        return a[:, None, None] * S + outer(self.key_of(x), self.value(x))

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, self.query(x)).reshape(-1)


class HGRN2Cell(HeadsCell):
    """The second hierarchically gated recurrent network: the key is what the forget gate lets in.

    ::

        q  = silu(W_q x),  v = W_v x                         for each head
        f  = lower_bound + (1 - lower_bound) * sigmoid(W_f x)
        S' = diag(f) S + (1 - f) v^T
        y  = S'^T q                                          the output

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a gate, which is a key; the paper's ratio of expansion.
        lower_bound: smallest forget gate, from 0 to below 1; the paper learns one for each layer.

    Source: Qin et al. 2024, arXiv 2404.07904. The norm of the output is no part of the cell.
    """

    key_size: int = size(default=16)
    lower_bound: float = 0.0
    W_q: jax.Array = matrix("heads * key", "in")
    W_f: jax.Array = matrix("heads * key", "in")
    W_v: jax.Array = matrix("hidden", "in")
    S: jax.Array = state("heads", "key", "hidden // heads")

    def __check_init__(self) -> None:
        if not 0 <= self.lower_bound < 1:
            raise ValueError(
                f"HGRN2Cell(lower_bound={self.lower_bound}): expected a number from 0 to below 1."
            )

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        f = self.lower_bound + (1 - self.lower_bound) * sigmoid(self.split(self.W_f @ x))
        return f[:, :, None] * S + outer(1 - f, self.split(self.W_v @ x))

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        """What the memory has for the query."""
        return read(S, silu(self.split(self.W_q @ x))).reshape(-1)


def _linear_bias(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Numbers from 3 to 6 over the heads."""
    del key
    return jnp.linspace(3, 6, shape[0], dtype=dtype)


def _power_law(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """``5 - 12 r^0.3`` with ``r`` from 0 to 1 over the features of each head."""
    del key
    r = jnp.arange(shape[1], dtype=dtype) / max(1, shape[1] - 1)
    return jnp.broadcast_to(5 - 12 * r**0.3, shape)


class MLSTMCell(MemoryCell):
    """The mLSTM of xLSTM: a matrix as memory, and exponential gates.

    ::

        q  = W_q x + b_q,  k = (W_k x + b_k) / sqrt(key),  v = W_v x + b_v    for each head
        m' = max(log f + m, W_i x + b_i)
        i  = exp(W_i x + b_i - m'),  g = exp(log f + m - m')
        C' = g C + i k v^T
        n' = g n + i k
        o  = sigmoid(W_o x + b_o)
        y  = o * C'^T q / max(|n' . q|, exp(-m'))                             the output

        log f = log(sigmoid(W_f x + b_f)), or W_f x + b_f for forget="exp"

    ``C`` and ``n`` are the paper's divided by ``exp(m)``. So the lower bound 1 of the paper is
    ``exp(-m')``. ``b_f`` goes from 3 to 6 over the heads, as in the authors' code.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        forget: ``"sigmoid"`` or ``"exp"``, the function of the forget gate.

    Source: Beck et al. 2024, arXiv 2405.04517, eqs. 19 to 27; its memory is the transpose of ``C``.
    The authors' code computes the gates from q, k and v, and adds 1e-6 to the denominator. Some
    copies keep the lower bound 1, which is wrong next to ``m``.
    """

    forget: str = "sigmoid"
    b_q: jax.Array = vector("heads * key")
    b_k: jax.Array = vector("heads * key")
    b_v: jax.Array = vector("hidden")
    W_i: jax.Array = matrix("heads", "in")
    b_i: jax.Array = vector("heads")
    W_f: jax.Array = matrix("heads", "in")
    b_f: jax.Array = vector("heads", _linear_bias)
    W_o: jax.Array = matrix("hidden", "in")
    b_o: jax.Array = vector("hidden")
    C: jax.Array = state("heads", "key", "hidden // heads")
    n: jax.Array = state("heads", "key")
    m: jax.Array = state("heads")

    def __check_init__(self) -> None:
        check_choice("MLSTMCell", "forget", self.forget, ("sigmoid", "exp"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        C, n, m = state
        k = (self.key_of(x) + self.split(self.b_k)) * self.key_size**-0.5
        v = self.value(x) + self.split(self.b_v)
        i, f = self.W_i @ x + self.b_i, self.W_f @ x + self.b_f
        log_f = f if self.forget == "exp" else log_sigmoid(f)
        top = jnp.maximum(log_f + m, i)
        i, g = jnp.exp(i - top)[:, None], jnp.exp(log_f + m - top)[:, None]
        return self.State(g[:, :, None] * C + outer(i * k, v), g * n + i * k, top)

    def output(self, state: Any, x: jax.Array) -> jax.Array:
        """What the memory has for the query, gated."""
        C, n, m = state
        q = self.query(x) + self.split(self.b_q)
        scale = jnp.maximum(jnp.abs(dot(n, q)), jnp.exp(-m))
        return sigmoid(self.W_o @ x + self.b_o) * (read(C, q) / scale[:, None]).reshape(-1)


class SLSTMCell(HeadsCell):
    """The sLSTM of xLSTM: exponential gates, a normaliser, and recurrent weights by heads.

    ::

        z  = tanh(W_z x + R_z h + b_z)
        o  = sigmoid(W_o x + R_o h + b_o)
        a  = W_i x + R_i h + b_i
        m' = max(log f + m, a)
        i  = exp(a - m'),  g = exp(log f + m - m')
        c' = g * c + i * z
        n' = g * n + i
        h' = o * c' / n'

        log f = log(sigmoid(W_f x + R_f h + b_f)), or W_f x + R_f h + b_f for forget="exp"

    A matrix ``R`` has a block for each head. ``b_f`` starts at ``5 - 12 r^0.3``, with r from 0 to 1
    over the features of a head, and ``R`` at 0, as in the first layer of the authors' code.

    Args:
        heads: number of blocks; it divides ``hidden``.
        forget: ``"sigmoid"`` or ``"exp"``, the function of the forget gate.

    Source: Beck et al. 2024, arXiv 2405.04517, eqs. 8 to 17. The cell named SLSTM in snnTorch is
    another one, with spikes.
    """

    forget: str = "sigmoid"
    W_z: jax.Array = matrix("hidden", "in")
    W_i: jax.Array = matrix("hidden", "in")
    W_f: jax.Array = matrix("hidden", "in")
    W_o: jax.Array = matrix("hidden", "in")
    R_z: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=0)
    R_i: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=0)
    R_f: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=0)
    R_o: jax.Array = array("heads", "hidden // heads", "hidden // heads", initializer=0)
    b_z: jax.Array = vector("hidden")
    b_i: jax.Array = vector("hidden")
    b_f: jax.Array = array("heads", "hidden // heads", initializer=_power_law)
    b_o: jax.Array = vector("hidden")
    h: jax.Array = state("hidden")
    c: jax.Array = state("hidden")
    n: jax.Array = state("hidden")
    m: jax.Array = state("hidden")

    def __check_init__(self) -> None:
        check_choice("SLSTMCell", "forget", self.forget, ("sigmoid", "exp"))

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c, n, m = state
        z = jnp.tanh(self.W_z @ x + self._blocks(self.R_z, h) + self.b_z)
        o = sigmoid(self.W_o @ x + self._blocks(self.R_o, h) + self.b_o)
        i = self.W_i @ x + self._blocks(self.R_i, h) + self.b_i
        f = self.W_f @ x + self._blocks(self.R_f, h) + self.b_f.reshape(-1)
        log_f = f if self.forget == "exp" else log_sigmoid(f)
        top = jnp.maximum(log_f + m, i)
        i, g = jnp.exp(i - top), jnp.exp(log_f + m - top)
        c, n = g * c + i * z, g * n + i
        return self.State(o * c / n, c, n, top)

    def _blocks(self, R: jax.Array, h: jax.Array) -> jax.Array:
        return jnp.einsum("hij,hj->hi", R, self.split(h)).reshape(-1)
