"""More published cells; most of them have vectors as states and one matrix for all units.

An import of this module enters them in `PUBLISHED`. The number of a step is a state of the cells
that need it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # type: ignore[import-untyped]
from jax.nn import sigmoid, softplus
from published import PUBLISHED, DrawingPublished, _normal, _outer, _parts, published

#: The names of the cells of `published`.
FROM_PUBLISHED = tuple(PUBLISHED)

# --- gates --------------------------------------------------------------------------------------


@published(lambda h, d, n: ((h * d,), {"W": (2 * h * d, n)}))
def mingru(h, x, heads, W):
    """A minimal GRU (Feng et al. 2024): ``h' = (1 - z) h + z V x``."""
    z, new = jnp.split(W @ x, 2)
    z = sigmoid(z)
    return (1 - z) * h + z * new


@published(
    lambda h, d, n: (
        ((h * d,), (h * d,), (n,)),
        {"W": (3 * h * d, n), "V": (3 * h * d, n)},
    )
)
def qrnn(state, x, heads, W, V):
    """The quasi-recurrent network (Bradbury et al. 2017) with fo-pooling, a window of two steps."""
    _, c, previous = state
    z, f, o = jnp.split(W @ x + V @ previous, 3)
    f = sigmoid(f)
    c = f * c + (1 - f) * jnp.tanh(z)
    return sigmoid(o) * c, c, x


@published(
    lambda h, d, n: (
        ((h * d,), (h * d,)),
        {"W": (4 * h * d, n), "v": (2, h * d), "b": (2, h * d)},
    )
)
def sru(state, x, heads, W, v, b):
    """The simple recurrent unit (Lei et al. 2018); its skip connection is a projection."""
    _, c = state
    new, f, r, skip = jnp.split(W @ x, 4)
    f, r = sigmoid(f + v[0] * c + b[0]), sigmoid(r + v[1] * c + b[1])
    c = f * c + (1 - f) * new
    return r * c + (1 - r) * skip, c


@published(lambda h, d, n: ((h * d,), {"W": (h * d, n), "u": (h * d,), "b": (h * d,)}))
def indrnn(h, x, heads, W, u, b):
    """Units that are independent (Li et al. 2018): ``h' = relu(W x + u h + b)``."""
    return jax.nn.relu(W @ x + u * h + b)


@published(
    lambda h, d, n: (
        (h * d,),
        {"W": (2 * h * d, n), "R": (3, 2 * h * d, h * d), "b": (3, 2 * h * d)},
    )
)
def rhn(s, x, heads, W, R, b):
    """A recurrent highway (Zilly et al. 2017) of depth 3; only its first layer reads ``x``."""
    for depth in range(3):
        new, gate = jnp.split(R[depth] @ s + b[depth] + (W @ x if depth == 0 else 0), 2)
        gate = sigmoid(gate)
        s = gate * jnp.tanh(new) + (1 - gate) * s
    return s


@published(
    lambda h, d, n: (
        ((h * d,), (h * d,)),
        {"W": (8 * h * d, n), "U": (8 * h * d, h * d)},
    )
)
def nas(state, x, heads, W, U):
    """The cell that was found by search (Zoph and Le 2017), a tree of eight gates."""
    m, c = state
    x, m = (W @ x).reshape(8, -1), (U @ m).reshape(8, -1)
    relu = jax.nn.relu
    c = jnp.tanh(jnp.tanh(sigmoid(x[0] + m[0]) * relu(x[1] + m[1])) + c)
    c = c * jnp.tanh(sigmoid(x[2] + m[2]) + relu(x[3] * m[3]))
    right = jnp.tanh(jnp.tanh(x[4] + m[4]) * sigmoid(x[5] + m[5]))
    right = jnp.tanh(right + sigmoid(jnp.tanh(x[6] + m[6]) + sigmoid(x[7] + m[7])))
    return jnp.tanh(c * right), c


@published(
    lambda h, d, n: (
        (h * d,),
        {
            "W1": (h * d, d),
            "W2": (d, n),
            "U1": (h * d, d),
            "U2": (d, h * d),
            "b": (2, h * d),
            "scale": (2, 1),
        },
    )
)
def fastgrnn(h, x, heads, W1, W2, U1, U2, b, scale):
    """One product of low rank for gate and candidate (Kusupati et al. 2018)."""
    a = W1 @ (W2 @ x) + U1 @ (U2 @ h)
    z, new = sigmoid(a + b[0]), jnp.tanh(a + b[1])
    zeta, nu = sigmoid(scale)
    return (zeta * (1 - z) + nu) * new + z * h


@published(
    lambda h, d, n: (
        (h * d,),
        {"W": (h * d, n), "U": (h * d, h * d), "V": (h * d, h * d)},
    ),
    read=lambda h, x, heads, V, **_: V @ h,
)
def esn(h, x, heads, W, U, V):
    """A leaky echo state network (Jaeger et al. 2007); only its read-out ``V`` is trained."""
    W, U = jax.lax.stop_gradient((W, U))
    return 0.7 * h + 0.3 * jnp.tanh(W @ x + 0.9 * (U @ h))


@published(
    lambda h, d, n: (
        ((h * d,), (h * d,)),
        {"W": (4 * h * d, n), "U": (4 * h * d, h * d), "b": (4 * h * d,)},
    ),
    kind=DrawingPublished,
)
def zoneout(state, x, heads, key, W, U, b):
    """An LSTM that keeps numbers of its states at random (Krueger et al. 2017)."""
    h, c = state
    i, f, g, o = jnp.split(W @ x + U @ h + b, 4)
    new = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    key, other = jax.random.split(key)
    kept_h, kept_c = (
        jax.random.bernoulli(one, rate, h.shape) for one, rate in ((key, 0.05), (other, 0.5))
    )
    return jnp.where(kept_h, h, sigmoid(o) * jnp.tanh(new)), jnp.where(kept_c, c, new)


# --- oscillators and differential equations -----------------------------------------------------


@published(
    lambda h, d, n: (
        ((h * d,), (h * d,)),
        {"W": (4 * h * d, n), "U": (3 * h * d, h * d), "V": (h * d, h * d), "b": (4 * h * d,)},
    )
)
def lem(state, x, heads, W, U, V, b):
    """Long expressive memory (Rusch et al. 2022): two time steps that are gates."""
    y, z = state
    fast, slow, of_z, of_y = jnp.split(W @ x + b, 4)
    fast, slow, of_z = (
        a + recurrent for a, recurrent in zip((fast, slow, of_z), jnp.split(U @ y, 3), strict=True)
    )
    fast, slow = sigmoid(fast), sigmoid(slow)
    z = (1 - fast) * z + fast * jnp.tanh(of_z)
    return (1 - slow) * y + slow * jnp.tanh(of_y + V @ z), z


@published(
    lambda h, d, n: (
        ((h * d,), (h * d,)),
        {"W": (h * d, n), "U": (h * d, h * d), "V": (h * d, h * d), "b": (h * d,)},
    )
)
def cornn(state, x, heads, W, U, V, b):
    """Coupled oscillators (Rusch and Mishra 2021): ``y'' = tanh(.) - gamma y - epsilon y'``."""
    y, z = state
    z = z + 0.1 * (jnp.tanh(U @ y + V @ z + W @ x + b) - 1.5 * y - 0.5 * z)
    return y + 0.1 * z, z


@published(
    lambda h, d, n: (
        ((h * d,), (h * d,)),
        {"W": (h * d, n), "w": (h * d,), "c": (h * d,), "b": (h * d,)},
    )
)
def unicornn(state, x, heads, W, w, c, b):
    """Undamped oscillators, each alone (Rusch and Mishra 2021)."""
    y, z = state
    step = 0.2 * sigmoid(c)
    z = z - step * (jnp.tanh(w * y + W @ x + b) + 0.9 * y)
    return y + step * z, z


@published(
    lambda h, d, n: (
        (h * d,),
        {"W": (h * d, n), "U": (h * d, h * d), "b": (h * d,), "V": (3 * h * d, h * d)},
    )
)
def cfc(h, x, heads, W, U, b, V):
    """Closed-form continuous time (Hasani et al. 2022), with samples at a distance of one.

    ``h' = s(-f t) g + (1 - s(-f t)) h`` for three heads of a layer on ``x`` and the state.
    """
    shared = 1.7159 * jnp.tanh(0.666 * (W @ x + U @ h + b))
    f, g, h = jnp.split(V @ shared, 3)
    gate = sigmoid(-f)
    return gate * jnp.tanh(g) + (1 - gate) * jnp.tanh(h)


@published(
    lambda h, d, n: (
        (h * d,),
        {"S": (4, h * d, h * d), "I": (4, n, h * d), "leak": (3, h * d)},
    )
)
def ltc(v, x, heads, S, I, leak):
    """Liquid time constants (Hasani et al. 2021): a synapse for each pair, two implicit steps.

    ``C dv/dt = g (E - v) + sum of w s(a (v_j - m)) (E_j - v)``, and such synapses of the input.
    """
    capacity, conductance = softplus(leak[0]), softplus(leak[1])
    current, total = _synapses(x, *I)
    for _ in range(2):
        more_current, more_total = _synapses(v, *S)
        v = 2 * capacity * v + conductance * leak[2] + current + more_current
        v = v / (2 * capacity + conductance + total + more_total)
    return v


def _synapses(sender: Any, steepness: Any, middle: Any, weight: Any, potential: Any) -> Any:
    """The current into each unit, and its conductance."""
    opened = softplus(weight) * sigmoid(steepness * (sender[:, None] - middle))
    return (opened * potential).sum(0), opened.sum(0)


# --- clocks -------------------------------------------------------------------------------------


@published(
    lambda h, d, n: (
        ((h * d,), (h * d,), ()),
        {
            "W": (4 * h * d, n),
            "U": (4 * h * d, h * d),
            "b": (4 * h * d,),
            "peephole": (3, h * d),
            "period": (h * d, 1),
            "shift": (h * d, 1),
        },
    )
)
def phased_lstm(state, x, heads, W, U, b, peephole, period, shift):
    """An LSTM with peepholes and a gate that opens once in a period (Neil et al. 2016)."""
    h, c, t = state
    period = jnp.exp(1 + period[:, 0])
    phase = jnp.mod(t - shift[:, 0], period) / period
    opened, leak = 0.3, 0.001
    rising, falling = 2 * phase / opened, 2 - 2 * phase / opened
    k = jnp.where(phase < opened, jnp.minimum(rising, falling), leak * phase)
    i, f, g, o = jnp.split(W @ x + U @ h + b, 4)
    i, f = sigmoid(i + peephole[0] * c), sigmoid(f + peephole[1] * c)
    new = f * c + i * jnp.tanh(g)
    output = sigmoid(o + peephole[2] * new) * jnp.tanh(new)
    return k * output + (1 - k) * h, k * new + (1 - k) * c, t + 1


@published(
    lambda h, d, n: (
        ((h * d,), ()),
        {"W": (h * d, n), "U": (h * d, h * d), "b": (h * d,)},
    )
)
def clockwork(state, x, heads, W, U, b):
    """A module for each head (Koutnik et al. 2014), which runs in one of 1, 2, 4, ... steps.

    A module reads itself and slower ones. A counter may start anywhere, so ``t mod T < 1``.
    """
    h, t = state
    width = len(h) // heads
    slower = np.kron(np.triu(np.ones((heads, heads))), np.ones((width, width)))
    period = jnp.asarray(np.repeat(2.0 ** np.arange(heads), width), h.dtype)
    new = jnp.tanh(W @ x + (U * jnp.asarray(slower, U.dtype)) @ h + b)
    return jnp.where(jnp.mod(t, period) < 1, new, h), t + 1


# --- linear recurrences -------------------------------------------------------------------------


def _of_pairs(a: jax.Array) -> jax.Array:
    return jax.lax.complex(a[0], a[1])


def _real_part(C: jax.Array, h: jax.Array) -> jax.Array:
    return (_of_pairs(C) @ h).real


@published(
    lambda h, d, n: (
        (h * d,),
        {
            **dict.fromkeys(("nu", "theta", "gamma"), (h * d,)),
            "B": (2, h * d, n),
            "C": (2, n, h * d),
            "D": (n,),
        },
    ),
    read=lambda h, x, heads, C, D, **_: _real_part(C, h) + D * x,
    complex_state=True,
)
def lru(h, x, heads, nu, theta, gamma, B, C, D):
    """The linear recurrent unit (Orvieto et al. 2023): ``h' = exp(-e^nu + i e^theta) h + ...``."""
    decay = jnp.exp(jax.lax.complex(-jnp.exp(nu), jnp.exp(theta)))
    return decay * h + jnp.exp(gamma).astype(h.dtype) * (_of_pairs(B) @ x.astype(h.dtype))


@published(
    lambda h, d, n: (
        ((h * d,), (h * d,)),
        {
            **dict.fromkeys(("nu", "theta", "gamma"), (h * d,)),
            "B": (2, h * d, n),
            "C": (2, n, h * d),
            "D": (n,),
        },
    ),
    read=lambda h, x, heads, C, D, **_: C[0] @ h[0] - C[1] @ h[1] + D * x,
)
def lru_real(state, x, heads, nu, theta, gamma, B, C, D):
    """The same in real numbers: each pair is turned and decays."""
    a, b = state
    size, angle = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
    cos, sin = size * jnp.cos(angle), size * jnp.sin(angle)
    scale = jnp.exp(gamma)
    return cos * a - sin * b + scale * (B[0] @ x), sin * a + cos * b + scale * (B[1] @ x)


@published(
    lambda h, d, n: (
        (h * d // 2,),
        {
            "poles": (2, h * d // 2),
            "step": (h * d // 2,),
            "B": (2, h * d // 2, n),
            "C": (2, n, h * d // 2),
            "D": (n,),
        },
    ),
    read=lambda h, x, heads, C, D, **_: 2 * _real_part(C, h) + D * x,
    complex_state=True,
)
def s5(h, x, heads, poles, step, B, C, D):
    """A diagonal state space (Smith et al. 2023) with a zero-order hold; half of each pair."""
    poles = jax.lax.complex(-jnp.exp(poles[0]), jnp.pi * (1 + poles[1]))
    decay = jnp.exp(poles * jnp.exp(step - 1).astype(h.dtype))
    return decay * h + (decay - 1) / poles * (_of_pairs(B) @ x.astype(h.dtype))


@functools.cache
def _legendre(order: int, window: float) -> tuple[np.ndarray, np.ndarray]:
    """The delay of a window by Legendre polynomials, and a zero-order hold of one step."""
    i, j = np.mgrid[:order, :order]
    system = np.zeros((order + 1, order + 1))
    system[:-1, :-1] = (2 * i + 1) * np.where(i < j, -1, (-1.0) ** (i - j + 1))
    system[:-1, -1] = (2 * i[:, 0] + 1) * (-1.0) ** i[:, 0]
    held = scipy.linalg.expm(system / window)
    return held[:-1, :-1], held[:-1, -1]


@published(
    lambda h, d, n: (
        ((h * d,), (d,)),
        {
            "W": (h * d, n),
            "U": (h * d, h * d),
            "M": (h * d, d),
            "ex": (n,),
            "eh": (h * d,),
            "em": (d,),
        },
    )
)
def lmu(state, x, heads, W, U, M, ex, eh, em):
    """The Legendre memory unit (Voelker et al. 2019): ``m' = A m + B u`` and an RNN on ``m'``."""
    h, m = state
    A, B = (jnp.asarray(a, m.dtype) for a in _legendre(len(m), 64.0))
    m = A @ m + B * (ex @ x + eh @ h + em @ m)
    return jnp.tanh(W @ x + U @ h + M @ m), m


# --- matrices -----------------------------------------------------------------------------------


def _turned(a: jax.Array, t: jax.Array) -> jax.Array:
    """Pairs of features turned by ``t`` times their angles; an odd last feature stays."""
    half = a.shape[1] // 2
    angles = t * 10000.0 ** (-jnp.arange(half, dtype=a.dtype) / half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = a[:, :half], a[:, half : 2 * half]
    turned = [first * cos - second * sin, first * sin + second * cos]
    return jnp.concatenate([*turned, a[:, -1:]] if a.shape[1] % 2 else turned, 1)


def _of_turned_query(state: Any, x: jax.Array, heads: int, W: jax.Array) -> jax.Array:
    S, t = state
    return jnp.einsum("hk,hkv->hv", _turned(_parts(W, x, heads, 3)[2], t), S).reshape(-1)


@published(
    lambda h, d, n: (((h, d, d), ()), {"W": (3 * h * d, n)}),
    read=_of_turned_query,
)
def retnet_xpos(state, x, heads, W):
    """Retention (Sun et al. 2023) with the rotation of keys and queries by their positions."""
    S, t = state
    t = t + 1
    k, v, _ = _parts(W, x, heads, 3)
    gamma = 1 - 2.0 ** (-5 - jnp.arange(heads, dtype=S.dtype))
    return gamma[:, None, None] * S + _outer(_turned(k, t), v), t


def _mlp(memory: Any, k: jax.Array) -> jax.Array:
    hidden = jax.nn.silu(jnp.einsum("hk,hkd->hd", k, memory[0]))
    return jnp.einsum("hd,hdv->hv", hidden, memory[1])


def _of_mlp(state: Any, x: jax.Array, heads: int, W: jax.Array, start: Any, **_: Any) -> jax.Array:
    memory = state[0] + start[0], state[1] + start[1]
    return _mlp(memory, _parts(W, x, heads, 3)[2]).reshape(-1)


@published(
    lambda h, d, n: (
        ((h, d, d),) * 4,
        {"W": (3 * h * d, n), "Wg": (3 * h, n), "start": (2, h, d, d)},
    ),
    read=_of_mlp,
)
def titans_mlp(state, x, heads, W, Wg, start):
    """A network of two layers trained at test time with momentum (Behrouz et al. 2025).

    The states are the difference of its weights from learned ones, and their momentum.
    """
    memory = state[0] + start[0], state[1] + start[1]
    k, v, _ = _parts(W, x, heads, 3)
    k = _normal(k)
    keep, inertia, rate = sigmoid(Wg @ x).reshape(3, heads, 1, 1)
    slopes = jax.grad(lambda memory: ((_mlp(memory, k) - v) ** 2).sum())(memory)
    momentum = [inertia * m - 0.1 * rate * s for m, s in zip(state[2:], slopes, strict=True)]
    moved = [keep * memory[n] + momentum[n] - start[n] for n in range(2)]
    return *moved, *momentum


# --- images -------------------------------------------------------------------------------------


def _grid(points: int) -> tuple[int, int]:
    """Rows and columns, as many of both as the number of points allows."""
    rows = max(rows for rows in range(1, math.isqrt(points) + 1) if points % rows == 0)
    return rows, points // rows


@published(
    lambda h, d, n: (
        ((h, *_grid(n)), (h, *_grid(n))),
        {"K": (4 * h, 1 + h, 3, 3), "b": (4 * h, 1, 1)},
    )
)
def convlstm(state, x, heads, K, b):
    """A convolutional LSTM (Shi et al. 2015); the input is one image, the states are ``heads``."""
    h, c = state
    both = jnp.concatenate([x.reshape(1, *h.shape[1:]), h])[None]
    gates = jax.lax.conv_general_dilated(both, K, (1, 1), "SAME")[0] + b
    i, f, g, o = jnp.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c
