"""The time mixing of RWKV-4, RWKV-5, RWKV-6 and RWKV-7."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from noria._types import Initializer, Key
from noria.cells.declare import array, matrix, size, state, vector
from noria.cells.declared import VectorCell
from noria.cells.heads import MemoryCell, dot, outer, read, unit
from noria.initializers import uniform


def _ramp(low: float, high: float, power: float = 1.0) -> Initializer:
    """``low + (high - low) r^power`` with ``r`` from 0 to 1."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        del key
        r = jnp.arange(shape[-1], dtype=dtype) / max(1, shape[-1] - 1)
        return jnp.broadcast_to(low + (high - low) * r**power, shape)

    return init


def _zigzag(centre: float, step: float) -> Initializer:
    """``centre`` and, in turn, nothing, a step more, or a step less."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        del key
        turn = (jnp.arange(shape[-1]) + 1) % 3 - 1
        return jnp.broadcast_to(centre + step * turn.astype(dtype), shape)

    return init


class RWKV4Cell(VectorCell):
    """The time mixing of RWKV-4: a mean of values with weights that decay.

    ::

        r  = W_r (mu_r * x + (1 - mu_r) * x_before)
        k  = W_k (mu_k * x + (1 - mu_k) * x_before)
        v  = W_v (mu_v * x + (1 - mu_v) * x_before)
        y  = sigmoid(r) * (a + e^(u + k - p) * v) / (b + e^(u + k - p))       the output
        p' = max(p - e^w, k)
        a' = e^(p - e^w - p') * a + e^(k - p') * v
        b' = e^(p - e^w - p') * b + e^(k - p')
        x_before' = x

    The paper's sums are ``a e^p`` and ``b e^p``. ``p`` starts at -1e30, and the fraction is
    computed without overflow. The rate of decay is ``e^w``, as in the authors' code. ``w``, ``u``
    and ``mu`` start as in its first layer.

    Source: Peng et al. 2023, arXiv 2305.13048. The matrix after the output is no
    part of the cell.
    """

    mu_r: jax.Array = vector("in", _ramp(0, 1, 0.5))
    mu_k: jax.Array = vector("in", _ramp(0, 1))
    mu_v: jax.Array = vector("in", _ramp(0, 1))
    W_r: jax.Array = matrix("hidden", "in")
    W_k: jax.Array = matrix("hidden", "in")
    W_v: jax.Array = matrix("hidden", "in")
    w: jax.Array = vector("hidden", _ramp(-5, 3, 0.7))
    u: jax.Array = vector("hidden", _zigzag(-1.2, 0.5))
    a: jax.Array = state("hidden")
    b: jax.Array = state("hidden")
    p: jax.Array = state("hidden", initializer=-1e30)
    x_before: jax.Array = state("in")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        a, b, p, x_before = state
        r, k, v = (
            W @ (mu * x + (1 - mu) * x_before)
            for W, mu in ((self.W_r, self.mu_r), (self.W_k, self.mu_k), (self.W_v, self.mu_v))
        )
        top = jnp.maximum(p, self.u + k)
        old, new = jnp.exp(p - top), jnp.exp(self.u + k - top)
        y = sigmoid(r) * (old * a + new * v) / (old * b + new)
        p = p - jnp.exp(self.w)
        top = jnp.maximum(p, k)
        old, new = jnp.exp(p - top), jnp.exp(k - top)
        return self.State(old * a + new * v, old * b + new, top, x), y


class RWKV5Cell(MemoryCell):
    """The time mixing of RWKV-5, Eagle: a memory whose rows decay at rates of their own.

    ::

        x_g = x + (x_before - x) * mu_g                      for g = r, k, v
        q  = W_q x_r,  k = W_k x_k,  v = W_v x_v             for each head
        w  = exp(-exp(omega))
        y  = (S + diag(u) k v^T)^T q                         the output
        S' = diag(w) S + k v^T
        x_before' = x

    ``q`` is the paper's receptance r. Rows of ``mu`` are for r, k and v.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.

    Source: Peng et al. 2024, arXiv 2404.05892, section 4.1. The norm and the gate of the output
    are no part of the cell.
    """

    mu: jax.Array = array(3, "in", initializer=_ramp(1, 0))
    omega: jax.Array = vector("heads * key", _ramp(-6, -1, 0.7))
    u: jax.Array = array("heads", "key", initializer=_zigzag(0, 0.1))
    S: jax.Array = state("heads", "key", "hidden // heads")
    x_before: jax.Array = state("in")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        S, x_before = state
        x_r, x_k, x_v = x + (x_before - x) * self.mu
        q, k, v = self.query(x_r), self.key_of(x_k), self.value(x_v)
        w = self.split(jnp.exp(-jnp.exp(self.omega)))
        y = read(S, q) + dot(q * self.u, k)[:, None] * v
        return self.State(w[:, :, None] * S + outer(k, v), x), y.reshape(-1)


class RWKV6Cell(MemoryCell):
    """The time mixing of RWKV-6: a memory whose rows decay at rates that depend on x.

    ::

        m  = x + (x_before - x) * mu
        x_g = x + (x_before - x) * (lam_g + B_g tanh(A_g m))   for g = r, k, v, w
        q  = W_q x_r,  k = W_k x_k,  v = W_v x_v             for each head
        w  = exp(-exp(lam_d + B_d tanh(A_d x_w)))
        y  = (S + diag(u) k v^T)^T q                         the output
        S' = diag(w) S + k v^T
        x_before' = x

    ``q`` is the paper's receptance r. Rows of ``lam``, ``A`` and ``B`` are for r, k, v and w.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        rank: rows of ``A_g``.
        decay_rank: rows of ``A_d``.

    Source: Peng et al. 2024, arXiv 2404.05892. The norm and the gate of the output
    are no part of the cell. In RWKV-5 w and the mixing do not depend on x.
    """

    rank: int = size(default=32)
    decay_rank: int = size(default=64)
    mu: jax.Array = vector("in", _ramp(1, 0))
    lam: jax.Array = array(4, "in", initializer=_ramp(1, 0))
    A: jax.Array = array(4, "rank", "in", initializer=0)
    B: jax.Array = array(4, "in", "rank", initializer=uniform(0.01))
    lam_d: jax.Array = vector("heads * key", _ramp(-6, -1, 0.7))
    A_d: jax.Array = matrix("decay_rank", "in", 0)
    B_d: jax.Array = matrix("heads * key", "decay_rank", uniform(0.01))
    u: jax.Array = array("heads", "key", initializer=_zigzag(0, 0.1))
    S: jax.Array = state("heads", "key", "hidden // heads")
    x_before: jax.Array = state("in")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        S, x_before = state
        change = x_before - x
        hidden = jnp.tanh(jnp.einsum("gri,i->gr", self.A, x + change * self.mu))
        mixed = x + change * (self.lam + jnp.einsum("gir,gr->gi", self.B, hidden))
        q, k, v = self.query(mixed[0]), self.key_of(mixed[1]), self.value(mixed[2])
        d = self.lam_d + self.B_d @ jnp.tanh(self.A_d @ mixed[3])
        w = self.split(jnp.exp(-jnp.exp(d)))
        y = read(S, q) + dot(q * self.u, k)[:, None] * v
        return self.State(w[:, :, None] * S + outer(k, v), x), y.reshape(-1)


class RWKV7Cell(MemoryCell):
    """The time mixing of RWKV-7: a delta rule with rates for each feature of a key.

    ::

        x_g = x + (x_before - x) * mu_g                      for g = r, w, k, v, a
        q  = W_q x_r,  k = W_k x_k,  v = W_v x_v             for each head
        w  = exp(-e^(-0.5) sigmoid(w_0 + B_w tanh(A_w x_w)))
        a  = sigmoid(a_0 + B_a A_a x_a)
        c  = unit(k * xi)
        k~ = k * (1 + (a - 1) * alpha)
        S' = S (diag(w) - c (a * c)^T) + v k~^T
        y  = S' q                                            the output
        x_before' = x

        unit(a) = a / sqrt(a . a + 1e-6)

    Rows of ``S`` are values here, columns are keys, as in the paper. ``q`` is the paper's
    receptance r, ``c`` its normalised removal key. Rows of ``mu`` are for r, w, k, v and a.

    Args:
        heads: number of memories; it divides ``hidden``.
        key_size: features of a key.
        rank: rows of ``A_w`` and ``A_a``.

    Source: Peng et al. 2025, arXiv 2503.14456. The norm of each head, the bonus after it and the
    output gate are no part of the cell, nor is the mix with the values of the first layer. The
    authors' code bounds the norm of a key by 1e-12.
    """

    rank: int = size(default=32)
    mu: jax.Array = array(5, "in", initializer=_ramp(1, 0))
    w_0: jax.Array = vector("heads * key", _ramp(-5.5, 0.5))
    A_w: jax.Array = matrix("rank", "in", 0)
    B_w: jax.Array = matrix("heads * key", "rank", uniform(0.01))
    a_0: jax.Array = vector("heads * key")
    A_a: jax.Array = matrix("rank", "in", 0)
    B_a: jax.Array = matrix("heads * key", "rank", uniform(0.01))
    xi: jax.Array = vector("heads * key", 0.7)
    alpha: jax.Array = vector("heads * key", 1)
    S: jax.Array = state("heads", "hidden // heads", "key")
    x_before: jax.Array = state("in")

    def __call__(self, state: Any, x: jax.Array) -> Any:
        S, x_before = state
        x_r, x_w, x_k, x_v, x_a = x + (x_before - x) * self.mu
        q, k, v = self.query(x_r), self.key_of(x_k), self.value(x_v)
        d = self.w_0 + self.B_w @ jnp.tanh(self.A_w @ x_w)
        w = self.split(jnp.exp(-math.exp(-0.5) * sigmoid(d)))
        a = self.split(sigmoid(self.a_0 + self.B_a @ (self.A_a @ x_a)))
        c = unit(k * self.split(self.xi))
        k = k * (1 + (a - 1) * self.split(self.alpha))
        removed = jnp.einsum("hvk,hk->hv", S, c)
        S = w[:, None, :] * S - outer(removed, a * c) + outer(v, k)
        return self.State(S, x), jnp.einsum("hvk,hk->hv", S, q).reshape(-1)
