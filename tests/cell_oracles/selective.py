"""Oracles of cells of RWKV, and of state spaces whose matrices depend on the input."""

import numpy as np

from cell_oracles.delta_rules import softplus, unit
from cell_oracles.memories import SMALL, by_head, sigmoid


def rwkv4(p, s, state, x):
    """Peng et al. 2023, the recursive form of the appendix: a and b are times exp(-p).

    The decay w of the paper is positive; in the authors' code it is the exponential of a parameter.
    """
    a, b, o, x_before = state
    r = p.W_r @ (p.mu_r * x + (1 - p.mu_r) * x_before)
    k = p.W_k @ (p.mu_k * x + (1 - p.mu_k) * x_before)
    v = p.W_v @ (p.mu_v * x + (1 - p.mu_v) * x_before)
    w = np.exp(p.w)
    q = np.maximum(o, p.u + k)
    c = np.exp(o - q) * a + np.exp(p.u + k - q) * v
    d = np.exp(o - q) * b + np.exp(p.u + k - q)
    new_o = np.maximum(o - w, k)
    new_a = np.exp(o - w - new_o) * a + np.exp(k - new_o) * v
    new_b = np.exp(o - w - new_o) * b + np.exp(k - new_o)
    return (new_a, new_b, new_o, x), sigmoid(r) * c / d


def rwkv6(p, s, state, x):
    """Peng et al. 2024, time mixing of Finch, without its gate and its norm."""
    S, x_before = state
    mixed = x + (x_before - x) * p.mu

    def lerp(g):
        return x + (x_before - x) * (p.lam[g] + p.B[g] @ np.tanh(p.A[g] @ mixed))

    x_r, x_k, x_v, x_w = lerp(0), lerp(1), lerp(2), lerp(3)
    r, k, v = by_head(p, p.W_q @ x_r), by_head(p, p.W_k @ x_k), by_head(p, p.W_v @ x_v)
    d = p.lam_d + p.B_d @ np.tanh(p.A_d @ x_w)
    w = by_head(p, np.exp(-np.exp(d)))
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        kv = np.outer(k[h], v[h])
        y.append(r[h] @ (S[h] + np.diag(p.u[h]) @ kv))
        new_S[h] = np.diag(w[h]) @ S[h] + kv
    return (new_S, x), np.concatenate(y)


def rwkv7(p, s, state, x):
    """Peng et al. 2025, time mixing without value residual, bonus, norm and gate."""
    S, x_before = state

    def lerp(g):
        return x + (x_before - x) * p.mu[g]

    x_r, x_w, x_k, x_v, x_a = lerp(0), lerp(1), lerp(2), lerp(3), lerp(4)
    r, k, v = by_head(p, p.W_q @ x_r), by_head(p, p.W_k @ x_k), by_head(p, p.W_v @ x_v)
    d = p.w_0 + p.B_w @ np.tanh(p.A_w @ x_w)
    w = by_head(p, np.exp(-np.exp(-0.5) * sigmoid(d)))
    a = by_head(p, sigmoid(p.a_0 + p.B_a @ (p.A_a @ x_a)))
    xi, alpha = by_head(p, p.xi), by_head(p, p.alpha)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        removed = unit(k[h] * xi[h])
        replaced = k[h] * (1 + (a[h] - 1) * alpha[h])
        G = np.diag(w[h]) - np.outer(removed, a[h] * removed)
        new_S[h] = S[h] @ G + np.outer(v[h], replaced)
        y.append(new_S[h] @ r[h])
    return (new_S, x), np.concatenate(y)


def mamba(p, s, state, x):
    """Gu and Dao 2023, algorithm 2 and eqs. 2 and 4: B is discretised by Euler's method."""
    (h,) = state
    u = p.W_u @ x
    B, C = p.W_B @ u, p.W_C @ u
    delta = softplus(p.W_up @ (p.W_down @ u) + p.b_Delta)
    A = -np.exp(p.A_log)
    new_h = np.exp(delta[:, None] * A) * h + np.outer(delta * u, B)
    return (new_h,), new_h @ C + p.D * u


def mamba2(p, s, state, x):
    """Dao and Gu 2024: A is one number for each head."""
    (S,) = state
    u = by_head(p, p.W_u @ x)
    B, C = p.W_B @ x, p.W_C @ x
    delta = softplus(p.W_Delta @ x + p.b_Delta)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        A = -np.exp(p.A_log[h])
        new_S[h] = np.exp(delta[h] * A) * S[h] + np.outer(delta[h] * B, u[h])
        y.append(C @ new_S[h] + p.D[h] * u[h])
    return (new_S,), np.concatenate(y)


ORACLES = {
    "rwkv4": rwkv4,
    "rwkv6": rwkv6,
    "rwkv7": rwkv7,
    "mamba": mamba,
    "mamba2": mamba2,
}

SETTINGS = {
    "rwkv6": [{**SMALL, "rank": 2, "decay_rank": 5}],
    "rwkv7": [{**SMALL, "rank": 2}],
    "mamba": [{"state_size": 3, "rank": 2}],
    "mamba2": [{"heads": 2, "state_size": 3}],
}
