"""Cells whose state is a matrix for each head, from the equations of their papers.

Short convolutions, norms of the output and output gates are left out: they are no part of the
recurrence. Keys have the first axis of a memory, values the second, except where noted.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid, softplus
from models import to_jax

import noria as nr


def unit(a: jax.Array) -> jax.Array:
    """Vectors of length one; zero stays zero."""
    return a * jax.lax.rsqrt((a * a).sum(-1, keepdims=True) + 1e-6)


class Memory(nr.Cell):
    """Linear attention (Katharopoulos et al. 2020): S' = S + k v^T, y = q^T S'."""

    W: dict[str, jax.Array]
    heads: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    #: Projections of the input: the numbers of each head that they give; 0 for ``size``.
    GIVES: ClassVar[dict[str, int]] = {"q": 0, "k": 0, "v": 0}

    @classmethod
    def make(cls, heads: int, size: int, width: int, dtype: Any = jnp.float64) -> Any:
        rng = np.random.default_rng(len(cls.__name__))
        shapes = {name: (heads, n or size, width) for name, n in cls.GIVES.items()}
        weights = {
            name: to_jax(rng.normal(size=shape) / width**0.5, dtype)
            for name, shape in shapes.items()
        }
        return cls(weights, heads, size)

    def of(self, name: str, x: jax.Array) -> jax.Array:
        """A projection of the input, ``(heads, numbers)``."""
        return jnp.einsum("hnw,w->hn", self.W[name], x)

    def qkv(self, x: jax.Array) -> tuple[jax.Array, ...]:
        return self.of("q", x), self.of("k", x), self.of("v", x)

    def __call__(self, S: Any, x: jax.Array) -> Any:
        _, k, v = self.qkv(x)
        return S + k[:, :, None] * v[:, None, :]

    def output(self, S: Any, x: jax.Array) -> jax.Array:
        return jnp.einsum("hk,hkv->hv", self.of("q", x), S).reshape(-1)

    def initial_state(self) -> Any:
        return jnp.zeros((self.heads, self.size, self.size), self.W["k"].dtype)


class RetNet(Memory):
    """Sun et al. 2023, eq. 3: S' = gamma S + k v^T, with a gamma for each head."""

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        _, k, v = self.qkv(x)
        gamma = 1 - 2.0 ** (-1 - jnp.arange(self.heads, dtype=k.dtype))
        return gamma[:, None, None] * S + jnp.einsum("hk,hv->hkv", k, v)


class GLA(Memory):
    """Yang et al. 2023, eq. 3: S' = diag(a) S + k v^T, a = sigmoid(W x)^(1/16)."""

    GIVES: ClassVar[dict[str, int]] = {**Memory.GIVES, "a": 0}

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        _, k, v = self.qkv(x)
        a = sigmoid(self.of("a", x)) ** (1 / 16)
        return a[..., None] * S + k[..., None] * v[:, None]


class Mamba2(Memory):
    """Dao and Gu 2024: S' = exp(-dt A) S + (dt v) k^T; keys, last here, are shared by all heads."""

    GIVES: ClassVar[dict[str, int]] = {**Memory.GIVES, "d": 1}

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        _, k, v = self.qkv(x)
        dt = softplus(self.of("d", x))
        return jnp.exp(-dt)[:, :, None] * S + jnp.einsum("hv,k->hvk", dt * v, k[0])

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        q, _, v = self.qkv(x)
        return (S @ q[0] + 0.5 * v).reshape(-1)


class HGRN2(Memory):
    """Qin et al. 2024, eq. 7: S' = diag(f) S + (1 - f) v^T; the forget gate gives the keys."""

    GIVES: ClassVar[dict[str, int]] = {"q": 0, "f": 0, "v": 0}

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        f = sigmoid(self.of("f", x))[..., None]
        return S * jnp.broadcast_to(f, S.shape) + (1 - f) * self.of("v", x)[:, None]

    def initial_state(self) -> jax.Array:
        return jnp.zeros((self.heads, self.size, self.size), self.W["f"].dtype)


class Shifted(NamedTuple):
    S: jax.Array
    x: jax.Array


class RWKV6(Memory):
    """Peng et al. 2024, eq. 17: y = r^T (diag(u) k v^T + S), S' = diag(w) S + k v^T; token shift.

    The output needs the state before the step, so it is part of the state.
    """

    GIVES: ClassVar[dict[str, int]] = {**Memory.GIVES, "w": 0, "u": 0}

    def mixed(self, state: Shifted, x: jax.Array) -> jax.Array:
        return 0.7 * x + 0.3 * state.x

    def __call__(self, state: Shifted, x: jax.Array) -> Shifted:
        z = self.mixed(state, x)
        _, k, v = self.qkv(z)
        w = jnp.exp(-jnp.exp(self.of("w", z)))
        return Shifted(w[..., None] * state.S + k[..., None] * v[:, None], x)

    def output(self, state: Shifted, x: jax.Array) -> jax.Array:
        return jnp.einsum("hk,hkv->hv", self.of("q", x), state.S).reshape(-1)

    def initial_state(self) -> Shifted:
        return Shifted(super().initial_state(), jnp.zeros_like(self.W["k"][0, 0]))


class DeltaNet(Memory):
    """Schlag et al. 2021, eq. 24: S' = S + b k (v - k^T S)^T."""

    GIVES: ClassVar[dict[str, int]] = {**Memory.GIVES, "b": 1}

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        _, k, v = self.qkv(x)
        k, b = unit(k), sigmoid(self.of("b", x))
        return S + jnp.einsum("hk,hv->hkv", k, b * (v - jnp.einsum("hk,hkv->hv", k, S)))


class GatedDeltaNet(Memory):
    """Yang et al. 2024, eq. 10: S' = S (a (1 - b k k^T)) + b v k^T; keys are last."""

    GIVES: ClassVar[dict[str, int]] = {**Memory.GIVES, "b": 1, "a": 1}

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        _, k, v = self.qkv(x)
        k, b, a = unit(k), sigmoid(self.of("b", x)), jnp.exp(-softplus(self.of("a", x)))
        S = a[..., None] * S
        error = v - (S * k[:, None, :]).sum(-1)
        return S + (b * error)[:, :, None] * k[:, None, :]

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.einsum("hvk,hk->hv", S, self.of("q", x)).reshape(-1)


class KDA(DeltaNet):
    """Kimi delta attention (2025): S' = (1 - b k k^T) diag(a) S + b k v^T, a for each key."""

    GIVES: ClassVar[dict[str, int]] = {**DeltaNet.GIVES, "a": 0}

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        a = jnp.exp(-softplus(self.of("a", x)))
        return super().__call__(a[..., None] * S, x)


class RWKV7(Memory):
    """Peng et al. 2025, eq. 17: S' = S (diag(w) - k' (a * k')^T) + v k^T; keys are last."""

    GIVES: ClassVar[dict[str, int]] = {**Memory.GIVES, "w": 0, "a": 0}

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        _, k, v = self.qkv(x)
        w = jnp.exp(-jnp.exp(-0.5) * sigmoid(self.of("w", x)))
        a, removed = sigmoid(self.of("a", x)), unit(k)
        forgotten = (S @ removed[..., None]) * (a * removed)[:, None, :]
        return S * w[:, None, :] - forgotten + v[..., None] @ k[:, None, :]

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.einsum("hvk,hk->hv", S, self.of("q", x)).reshape(-1)


class DeltaProduct(Memory):
    """Siems et al. 2025, eq. 4: two steps of the delta rule for each input."""

    GIVES: ClassVar[dict[str, int]] = {**Memory.GIVES, "b": 1, "k2": 0, "v2": 0, "b2": 1}

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        for k, v, b in (("k", "v", "b"), ("k2", "v2", "b2")):
            key, rate = unit(self.of(k, x)), 2 * sigmoid(self.of(b, x))
            S = S + key[..., None] * (rate * (self.of(v, x) - (key[:, None] @ S)[:, 0]))[:, None]
        return S


class Normalised(NamedTuple):
    C: jax.Array
    n: jax.Array
    m: jax.Array


class MLSTM(Memory):
    """Beck et al. 2024, eqs. 19 to 27: gates with a max-plus stabiliser m, and a normaliser n."""

    GIVES: ClassVar[dict[str, int]] = {**Memory.GIVES, "i": 1, "f": 1}

    def __call__(self, state: Normalised, x: jax.Array) -> Normalised:
        _, k, v = self.qkv(x)
        k = k / self.size**0.5
        i, f = self.of("i", x)[:, 0], jax.nn.log_sigmoid(self.of("f", x)[:, 0])
        m = jnp.maximum(f + state.m, i)
        i, f = jnp.exp(i - m), jnp.exp(f + state.m - m)
        C = f[:, None, None] * state.C + i[:, None, None] * k[:, :, None] * v[:, None, :]
        return Normalised(C, f[:, None] * state.n + i[:, None] * k, m)

    def output(self, state: Normalised, x: jax.Array) -> jax.Array:
        q = self.of("q", x)
        over = jnp.maximum(jnp.abs((state.n * q).sum(-1)), jnp.exp(-state.m))
        return (jnp.einsum("hk,hkv->hv", q, state.C) / over[:, None]).reshape(-1)

    def initial_state(self) -> Normalised:
        S = super().initial_state()
        return Normalised(S, S[:, :, 0], S[:, 0, 0])


class TTT(Memory):
    """Sun et al. 2024: one step of gradient descent on a loss with a norm, which is not linear."""

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        _, k, v = self.qkv(x)
        z = jnp.einsum("hk,hkv->hv", k, S)
        error = z * jax.lax.rsqrt((z * z).mean(-1, keepdims=True) + 1e-6) - v
        return S - 0.1 * jnp.einsum("hk,hv->hkv", k, error)


class Momentum(NamedTuple):
    M: jax.Array
    S: jax.Array


class Titans(Memory):
    """Behrouz et al. 2025, eqs. 9 to 14: M' = (1 - a) M + S', S' = e S - k (k^T M - v)^T."""

    def __call__(self, state: Momentum, x: jax.Array) -> Momentum:
        _, k, v = self.qkv(x)
        error = jnp.einsum("hk,hkv->hv", unit(k), state.M) - v
        S = 0.9 * state.S - 0.1 * jnp.einsum("hk,hv->hkv", unit(k), error)
        return Momentum(0.99 * state.M + S, S)

    def output(self, state: Momentum, x: jax.Array) -> jax.Array:
        return super().output(state.M, x)

    def initial_state(self) -> Momentum:
        return Momentum(super().initial_state(), super().initial_state())


#: The cells with a chunkwise form, and those without.
CHUNKWISE: tuple[type[Memory], ...] = (
    Memory,
    RetNet,
    GLA,
    Mamba2,
    HGRN2,
    RWKV6,
    DeltaNet,
    GatedDeltaNet,
    KDA,
    RWKV7,
    DeltaProduct,
    MLSTM,
)
OTHERS: tuple[type[Memory], ...] = (TTT, Titans)
