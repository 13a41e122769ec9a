"""Oracles of piecewise linear cells, of cells linear in their state, and of close relatives."""

import numpy as np
from scipy.linalg import expm  # type: ignore[import-untyped]

from cell_oracles.gated_simple import Softsign, activation


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0)


def softplus(a):
    return np.logaddexp(0, a)


def lecun_tanh(a):
    return 1.7159 * np.tanh(0.666 * a)


def off_diagonal(W):
    return W - np.diag(np.diag(W))


def plrnn(p, s, state, x):
    """Durstewitz 2017, eq. 1 without the noise: A is diagonal, W is off-diagonal."""
    (z,) = state
    z = p.A * z + off_diagonal(p.W) @ relu(z) + p.C @ x + p.h
    return (z,), z


def shallow_plrnn(p, s, state, x):
    """Hess et al. 2023: the shallow PLRNN and its clipped form."""
    (z,) = state
    hidden = relu(p.W_2 @ z + p.h_2)
    if s.clipped:
        hidden = hidden - relu(p.W_2 @ z)
    z = p.A * z + p.W_1 @ hidden + p.C @ x + p.h_1
    return (z,), z


def dend_plrnn(p, s, state, x):
    """Brenner et al. 2022: phi(z) = sum_b alpha_b max(0, z - h_b); W is off-diagonal."""
    (z,) = state
    phi = relu(z[:, None] - p.H) @ p.alpha
    z = p.A * z + off_diagonal(p.W) @ phi + p.C @ x + p.h
    return (z,), z


def cfc(p, s, state, x, dt):
    """Hasani et al. 2022, and the modes of the authors' code."""
    (h,) = state
    u = activation(s, lecun_tanh)(p.W @ x + p.U @ h + p.b)
    g = p.W_g @ u + p.b_g
    if s.mode == "pure":
        h = p.A - p.A * np.exp(-dt * (np.abs(p.w) + np.abs(g))) * g
        return (h,), h
    g, f = np.tanh(g), np.tanh(p.W_f @ u + p.b_f)
    gate = sigmoid((p.W_a @ u + p.b_a) * dt + p.W_t @ u + p.b_t)
    h = (g if s.mode == "no_gate" else (1 - gate) * g) + gate * f
    return (h,), h


def gilr(p, s, state, x):
    """Martin and Cundy 2018, section 3.1."""
    (h,) = state
    g = sigmoid(p.W_g @ x + p.b_g)
    i = activation(s, np.tanh)(p.W_z @ x + p.b_z)
    h = g * h + (1 - g) * i
    return (h,), h


def positive(a):
    """Feng et al. 2024, appendix B: the function g of the log-space form."""
    return np.where(a >= 0, a + 0.5, sigmoid(a))


def min_gru(p, s, state, x):
    """Feng et al. 2024, section 3.1."""
    (h,) = state
    z = sigmoid(p.W_z @ x + p.b_z)
    n = p.W_n @ x + p.b_n
    if s.log_space:
        n = positive(n)
    h = (1 - z) * h + z * n
    return (h,), h


def min_lstm(p, s, state, x):
    """Feng et al. 2024, section 3.2: both gates are divided by their sum."""
    (h,) = state
    f = sigmoid(p.W_f @ x + p.b_f)
    i = sigmoid(p.W_i @ x + p.b_i)
    n = p.W_n @ x + p.b_n
    if s.log_space:
        n = positive(n)
    h = f / (f + i) * h + i / (f + i) * n
    return (h,), h


def qrnn(p, s, state, x):
    """Bradbury et al. 2017, eqs. 1 to 5: the window has the oldest input first."""
    c, past = state
    window = np.concatenate([past, x])
    z = np.tanh(p.W_z @ window + p.b_z)
    f = sigmoid(p.W_f @ window + p.b_f)
    if s.pooling == "ifo":
        i = sigmoid(p.W_i @ window + p.b_i)
        c = f * c + i * z
    else:
        c = f * c + (1 - f) * z
    h = c if s.pooling == "f" else sigmoid(p.W_o @ window + p.b_o) * c
    return (c, window[x.size :]), h


def sru(p, s, state, x):
    """Lei et al. 2018, eqs. 1 to 4; P is for an input of another size than the state."""
    (c,) = state
    forget, reset = p.W_f @ x + p.b_f, p.W_r @ x + p.b_r
    if s.peephole:
        forget, reset = forget + p.v_f * c, reset + p.v_r * c
    f, r = sigmoid(forget), sigmoid(reset)
    c = f * c + (1 - f) * (p.W @ x)
    highway = x if p.P is None else p.P @ x
    h = r * c + (1 - r) * s.alpha * highway
    return (c,), h


def block_diagonal(W, x):
    """The product of a matrix with blocks W and x."""
    return np.concatenate(
        [block @ part for block, part in zip(W, np.split(x, len(W)), strict=True)]
    )


def rg_lru(p, s, state, x):
    """De et al. 2024, eqs. 1 to 4, with a = sigmoid(Lambda)."""
    (h,) = state
    if p.P is not None:
        x = p.P @ x
    r = sigmoid(block_diagonal(p.W_a, x) + p.b_a)
    i = sigmoid(block_diagonal(p.W_x, x) + p.b_x)
    a = sigmoid(p.Lambda) ** (s.c * r)
    h = a * h + np.sqrt(1 - a**2) * (i * x)
    return (h,), h


def legendre(order, theta):
    """Voelker et al. 2019, eqs. 2 and 3, and their zero-order hold with a step of 1."""
    A, B = np.zeros((order, order)), np.zeros(order)
    for i in range(order):
        B[i] = (2 * i + 1) * (-1.0) ** i / theta
        for j in range(order):
            A[i, j] = (2 * i + 1) / theta * (-1 if i < j else (-1.0) ** (i - j + 1))
    held = expm(A)
    return held, np.linalg.solve(A, (held - np.eye(order)) @ B)


def lmu(p, s, state, x):
    """Voelker et al. 2019, eqs. 4 to 7: the new h sees the new m."""
    h, m = state
    A, B = legendre(m.size, s.theta)
    u = p.e_x @ x + p.e_h @ h + p.e_m @ m
    m = A @ m + B * u
    h = np.tanh(p.W_x @ x + p.W_h @ h + p.W_m @ m)
    return (h, m), h


ORACLES = {
    "plrnn": plrnn,
    "shallow_plrnn": shallow_plrnn,
    "dend_plrnn": dend_plrnn,
    "cfc": cfc,
    "gilr": gilr,
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "qrnn": qrnn,
    "sru": sru,
    "rg_lru": rg_lru,
    "lmu": lmu,
}

SETTINGS = {
    "shallow_plrnn": [{"units": 6, "clipped": False}],
    "dend_plrnn": [{"bases": 5}],
    "cfc": [
        {"units": 5, "activation": Softsign()},
        {"units": 5, "mode": "no_gate"},
        {"units": 5, "mode": "pure"},
    ],
    "gilr": [{"activation": Softsign()}],
    "min_gru": [{"log_space": True}],
    "min_lstm": [{"log_space": True}],
    "qrnn": [{"pooling": "f"}, {"pooling": "ifo", "width": 3}, {"width": 1}],
    "sru": [{"alpha": 0.6}, {"peephole": False}],
    "rg_lru": [{"heads": 2, "c": 4.0}],
    "lmu": [{"order": 5, "theta": 7.0}],
}
