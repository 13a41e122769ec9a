"""Published cells whose state or whose weights are matrices for each head, and linear ones.

`PUBLISHED` has a maker for each, from heads, their width, and features of the input to a cell. They
are written as their papers write them, with the read-out in ``output``.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from models import to_jax

import noria as nr

#: By name: from heads, width of a head, and features of the input to a cell.
PUBLISHED: dict[str, Callable[..., Any]] = {}


class Published(nr.Cell):
    """A step ``step(state, x, heads, **parameters)``, and perhaps ``read``, of the same form."""

    parameters: dict[str, jax.Array]
    zero: Any
    heads: int = eqx.field(static=True)
    step: Callable[..., Any] = eqx.field(static=True)
    read: Callable[..., Any] | None = eqx.field(static=True)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        return self.step(state, x, self.heads, **self.parameters)

    def output(self, state: Any, x: jax.Array) -> Any:
        if self.read is None:
            return super().output(state, x)
        return self.read(state, x, self.heads, **self.parameters)

    def initial_state(self) -> Any:
        return jtu.tree_map(jnp.zeros_like, self.zero)


class DrawingPublished(Published):
    """A step ``step(state, x, heads, key, **parameters)`` that draws random numbers."""

    def __call__(self, state: Any, x: jax.Array, *, key: Any) -> Any:  # type: ignore[override]
        return self.step(state, x, self.heads, key, **self.parameters)


def published(
    shapes: Callable[[int, int, int], tuple[Any, dict[str, tuple[int, ...]]]],
    read: Any = None,
    complex_state: bool = False,
    kind: type[Published] = Published,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a step: from heads, width and features to the shapes of its state and parameters."""

    def enter(step: Callable[..., Any]) -> Callable[..., Any]:
        def make(heads: int, width: int, features: int, dtype: Any = jnp.float32) -> Published:
            state, parameters = shapes(heads, width, features)
            rng = np.random.default_rng(len(step.__name__))
            arrays = {
                name: to_jax(rng.normal(size=shape) / np.sqrt(shape[-1]), dtype)
                for name, shape in parameters.items()
            }
            state = state if isinstance(state[0], tuple) else (state,)
            zero = tuple(jnp.zeros(shape, dtype) for shape in state)
            if complex_state:
                zero = tuple(jax.lax.complex(a, a) for a in zero)
            return kind(arrays, zero if len(zero) > 1 else zero[0], heads, step, read)

        PUBLISHED[step.__name__] = make
        return step

    return enter


def _memory(parts: int, *more: str) -> Any:
    """A matrix for each head, ``parts`` projections of the input, and gates for each head."""

    def shapes(heads: int, width: int, features: int) -> Any:
        gates = dict.fromkeys(more, (heads, features))
        return (heads, width, width), {"W": (parts * heads * width, features), **gates}

    return shapes


def _parts(W: jax.Array, x: jax.Array, heads: int, parts: int) -> jax.Array:
    return (W @ x).reshape(parts, heads, -1)


def _normal(k: jax.Array) -> jax.Array:
    return k * jax.lax.rsqrt((k * k).sum(-1, keepdims=True) + 1e-6)


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
    return a[:, :, None] * b[:, None, :]


# --- decays -------------------------------------------------------------------------------------


def _of_query(S: Any, x: jax.Array, heads: int, W: jax.Array, **_: Any) -> jax.Array:
    """``q S``; the query is the last projection of three."""
    return jnp.einsum("hk,hkv->hv", _parts(W, x, heads, 3)[2], S).reshape(-1)


@published(_memory(3), read=_of_query)
def retnet(S, x, heads, W):
    """Retention (Sun et al. 2023), without the rotation."""
    k, v, _ = _parts(W, x, heads, 3)
    gamma = 1 - 2.0 ** (-5 - jnp.arange(heads, dtype=S.dtype))
    return gamma[:, None, None] * S + _outer(k, v)


@published(_memory(3), read=_of_query)
def hgrn2(S, x, heads, W):
    """Gated linear recurrence with an outer product (Qin et al. 2024)."""
    f, v, _ = _parts(W, x, heads, 3)
    f = jax.nn.sigmoid(f)
    return f[:, :, None] * S + _outer(1 - f, v)


@published(
    lambda h, d, n: (
        ((h, d, d), (h, d), (h,)),
        {"W": (3 * h * d, n), "Wi": (h, n), "Wf": (h, n), "b": (h,)},
    ),
    read=lambda state, x, heads, W, **_: _of_normalized(state, _parts(W, x, heads, 3)[2]),
)
def mlstm(state, x, heads, W, Wi, Wf, b):
    """The matrix memory of xLSTM (Beck et al. 2024), with its stabilizer."""
    C, n, m = state
    k, v, _ = _parts(W, x, heads, 3)
    i, f = Wi @ x, jax.nn.log_sigmoid(Wf @ x + b)
    top = jnp.maximum(f + m, i)
    i, f = jnp.exp(i - top)[:, None], jnp.exp(f + m - top)[:, None]
    return f[..., None] * C + _outer(v, i * k), f * n + i * k, top


def _of_normalized(state: Any, q: jax.Array) -> jax.Array:
    C, n, _ = state
    scale = jnp.maximum(jnp.abs((n * q).sum(-1)), 1)
    return (jnp.einsum("hij,hj->hi", C, q) / scale[:, None]).reshape(-1)


@published(
    lambda h, d, n: ((h * d, d), {"A": (h * d, d), "Wd": (h * d, n), "WB": (d, n), "WC": (d, n)}),
    read=lambda S, x, heads, WC, **_: S @ (WC @ x),
)
def mamba(S, x, heads, A, Wd, WB, WC):
    """A selective state space (Gu and Dao 2023), without its convolution."""
    d = jax.nn.softplus(Wd @ x)
    u = jnp.resize(x, d.shape)
    return jnp.exp(-d[:, None] * jnp.exp(A)) * S + (d * u)[:, None] * (WB @ x)


# --- delta rules --------------------------------------------------------------------------------


@published(_memory(3, "Wb"), read=_of_query)
def deltanet(S, x, heads, W, Wb):
    """The delta rule (Schlag et al. 2021)."""
    k, v, _ = _parts(W, x, heads, 3)
    k, beta = _normal(k), jax.nn.sigmoid(Wb @ x)[:, None]
    return S + _outer(k, beta * (v - jnp.einsum("hk,hkv->hv", k, S)))


@published(_memory(3, "Wb", "Wa"), read=_of_query)
def gated_deltanet(S, x, heads, W, Wb, Wa):
    """The delta rule with a decay (Yang et al. 2025)."""
    k, v, _ = _parts(W, x, heads, 3)
    k, beta = _normal(k), jax.nn.sigmoid(Wb @ x)[:, None]
    S = jax.nn.sigmoid(Wa @ x)[:, None, None] * S
    return S + _outer(k, beta * (v - (k[:, :, None] * S).sum(1)))


@published(
    _memory(5),
    read=lambda S, x, heads, W: (S @ _parts(W, x, heads, 5)[4][:, :, None]).reshape(-1),
)
def rwkv7(S, x, heads, W):
    """The state of RWKV-7 (Peng et al. 2025), without the token shift."""
    w, k, v, a, _ = _parts(W, x, heads, 5)
    kk, a = _normal(k), jax.nn.sigmoid(a)
    removed = jnp.einsum("hij,hj->hi", S, -kk)
    return jnp.exp(-jax.nn.sigmoid(w))[:, None, :] * S + _outer(removed, kk * a) + _outer(v, k)


# --- learning at test time ----------------------------------------------------------------------


def _loss(M: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return ((jnp.einsum("hk,hkv->hv", k, M) - v) ** 2).sum()


@published(_memory(3), read=_of_query)
def ttt_linear(M, x, heads, W):
    """A linear model trained at test time (Sun et al. 2024), without its norm."""
    k, v, _ = _parts(W, x, heads, 3)
    return M - 0.1 * jax.grad(_loss)(M, _normal(k), v)


@published(
    lambda h, d, n: (((h, d, d), (h, d, d)), {"W": (3 * h * d, n), "Wg": (2 * h, n)}),
    read=lambda state, x, heads, W, **_: _of_query(state[0], x, heads, W),
)
def titans(state, x, heads, W, Wg):
    """A memory trained at test time with momentum (Behrouz et al. 2025)."""
    M, momentum = state
    k, v, _ = _parts(W, x, heads, 3)
    keep, step = jax.nn.sigmoid(Wg @ x).reshape(2, heads, 1, 1)
    momentum = 0.9 * momentum - 0.1 * step * jax.grad(_loss)(M, _normal(k), v)
    return keep * M + momentum, momentum


# --- vectors as states, weights by head ---------------------------------------------------------


@published(
    lambda h, d, n: (
        ((h * d,), (h * d,), (h * d,), (h * d,)),
        {"W": (4 * h * d, n), "R": (4, h, d, d), "b": (4 * h * d,)},
    )
)
def slstm(state, x, heads, W, R, b):
    """The scalar memory of xLSTM (Beck et al. 2024): gates and heads in one contraction."""
    h, c, n, m = state
    recurrent = jnp.einsum("ghij,hj->ghi", R, h.reshape(heads, -1))
    z, i, f, o = jnp.split(W @ x + recurrent.reshape(-1) + b, 4)
    top = jnp.maximum(f + m, i)
    i, f = jnp.exp(i - top), jnp.exp(f + m - top)
    c, n = f * c + i * jnp.tanh(z), f * n + i
    return jax.nn.sigmoid(o) * c / n, c, n, top


@published(
    lambda h, d, n: (
        (h * d,),
        {"W": (h * d, n), "Wa": (h, d, d), "Wi": (h, d, d), "rate": (h * d,)},
    )
)
def rglru(state, x, heads, W, Wa, Wi, rate):
    """The real-gated linear recurrent unit of Griffin (De et al. 2024)."""
    u = (W @ x).reshape(heads, -1)
    gates = (jax.nn.sigmoid(jnp.einsum("hij,hj->hi", V, u).reshape(-1)) for V in (Wa, Wi))
    keep, accept = gates
    decay = jnp.exp(-8 * jax.nn.softplus(rate) * keep)
    return decay * state + jnp.sqrt(1 - decay * decay) * accept * u.reshape(-1)


@published(lambda h, d, n: ((h * d,), {"W": (3 * h * d, n)}))
def minlstm(state, x, heads, W):
    """A minimal LSTM with normalized gates (Feng et al. 2024)."""
    f, i, a = _parts(W, x, 1, 3)
    f, i = jax.nn.sigmoid(f[0]), jax.nn.sigmoid(i[0])
    return (f * state + i * a[0]) / (f + i)


# --- attention ----------------------------------------------------------------------------------


def _of_window(state: Any, x: jax.Array, heads: int, W: jax.Array) -> jax.Array:
    K, V = state
    q = _parts(W, x, heads, 3)[2]
    weights = jax.nn.softmax(jnp.einsum("hd,thd->ht", q, K) * q.shape[1] ** -0.5, axis=-1)
    return jnp.einsum("ht,thd->hd", weights, V).reshape(-1)


@published(
    lambda h, d, n: (((8, h, d), (8, h, d)), {"W": (3 * h * d, n)}),
    read=_of_window,
)
def window_attention(state, x, heads, W):
    """Attention over the keys and values of the last steps."""
    return tuple(
        jnp.concatenate([old[1:], new[None]])
        for old, new in zip(state, _parts(W, x, heads, 3)[:2], strict=True)
    )
