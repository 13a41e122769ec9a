"""Oracles of further cells whose state is a matrix for each head."""

import numpy as np

from cell_oracles.delta_rules import softplus, unit
from cell_oracles.memories import SMALL, by_head, sigmoid, silu


def rwkv5(p, s, state, x):
    """Peng et al. 2024, section 4.1, Eagle: mixing and decay do not depend on x."""
    S, x_before = state

    def lerp(g):
        return x + (x_before - x) * p.mu[g]

    r, k, v = (by_head(p, W @ lerp(g)) for g, W in enumerate((p.W_q, p.W_k, p.W_v)))
    w = by_head(p, np.exp(-np.exp(p.omega)))
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        kv = np.outer(k[h], v[h])
        y.append(r[h] @ (S[h] + np.diag(p.u[h]) @ kv))
        new_S[h] = np.diag(w[h]) @ S[h] + kv
    return (new_S, x), np.concatenate(y)


def rms(a, gain):
    return gain * a / np.sqrt(np.mean(a**2) + 1e-5)


def rotation(angles, size):
    """The block-diagonal matrix of the angles, with ones in the rest of the diagonal."""
    R = np.eye(size)
    for n, angle in enumerate(angles):
        cos, sin = np.cos(angle), np.sin(angle)
        R[2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = [[cos, -sin], [sin, cos]]
    return R


def mamba3(p, s, state, x):
    """Lahoti et al. 2026: exponential-trapezoidal steps, rotations, several inputs and outputs."""
    S, phi, B_before, u_before = state
    N, R = p.state_size, p.rank
    u = by_head(p, p.W_u @ x)
    angles = np.pi * np.tanh(p.W_theta @ x)
    new_S, new_phi, new_B, y = np.zeros_like(S), np.zeros_like(phi), np.zeros_like(B_before), []
    for h in range(p.heads):
        delta = softplus(p.W_Delta[h] @ x + p.b_Delta[h])
        A = -softplus(p.W_A[h] @ x)
        lam = sigmoid(p.W_lam[h] @ x)
        alpha = np.exp(delta * A)
        beta, gamma = (1 - lam) * delta * alpha, lam * delta
        new_phi[h] = np.mod(phi[h] + delta * angles, 2 * np.pi)
        turn = rotation(new_phi[h], N)
        M_x = np.ones((1, len(u[h]))) if p.M_x is None else p.M_x[h]
        M_y = np.ones((1, len(u[h]))) if p.M_y is None else p.M_y[h]
        new_S[h] = alpha * S[h]
        out = 0
        for r in range(R):
            B = rms((p.W_B @ x)[r * N : (r + 1) * N], p.g_B) + p.b_B[h, r]
            new_B[h, r] = turn @ B
            new_S[h] += beta * np.outer(B_before[h, r], M_x[r] * u_before[h])
            new_S[h] += gamma * np.outer(new_B[h, r], M_x[r] * u[h])
        for r in range(R):
            C = turn @ (rms((p.W_C @ x)[r * N : (r + 1) * N], p.g_C) + p.b_C[h, r])
            out = out + M_y[r] * (C @ new_S[h] + p.D[h] * M_x[r] * u[h])
        y.append(out)
    return (new_S, new_phi, new_B, u), np.concatenate(y)


def gdn2(p, s, state, x):
    """Gated DeltaNet-2: the gates of erasing and of writing have a number for each feature."""
    (S,) = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    raw = by_head(p, p.W_up @ (p.W_down @ x) + p.b_alpha)
    b, w = by_head(p, sigmoid(p.W_b @ x)), by_head(p, sigmoid(p.W_w @ x))
    b = 2 * b if s.negative else b
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        q, k, v = unit(silu(W_q[h] @ x)), unit(silu(W_k[h] @ x)), silu(W_v[h] @ x)
        alpha = np.exp(-np.exp(p.A_log[h]) * softplus(raw[h]))
        A = (np.eye(len(k)) - np.outer(k, b[h] * k)) @ np.diag(alpha)
        new_S[h] = A @ S[h] + np.outer(k, w[h] * v)
        y.append(q @ new_S[h])
    return (new_S,), np.concatenate(y)


def mesanet(p, s, state, x):
    """Von Oswald et al. 2025: regularised least squares, solved at each step."""
    G, H = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    gamma = sigmoid(p.W_gamma @ x + p.b_gamma)
    beta = sigmoid(p.W_beta @ x + p.b_beta)
    new_G, new_H, y = np.zeros_like(G), np.zeros_like(H), []
    for h in range(p.heads):
        q, k, v = unit(silu(W_q[h] @ x)), unit(silu(W_k[h] @ x)), W_v[h] @ x
        new_G[h] = gamma[h] * G[h] + beta[h] * np.outer(k, k)
        new_H[h] = gamma[h] * H[h] + beta[h] * np.outer(k, v)
        ridge = np.diag(0.25 + softplus(p.lam[h]))
        y.append(new_H[h].T @ np.linalg.inv(new_G[h] + ridge) @ q)
    return (new_G, new_H), np.concatenate(y)


def m2rnn(p, s, state, x):
    """Mishra et al. 2026: a matrix state behind a tanh, with one forget gate for each head."""
    (H,) = state
    q, k, v = (by_head(p, W @ x) for W in (p.W_q, p.W_k, p.W_v))
    new_H, y = np.zeros_like(H), []
    for h in range(p.heads):
        f = np.exp(-np.exp(p.A_log[h]) * softplus(p.W_f[h] @ x + p.b_f[h]))
        Z = np.tanh(H[h] @ p.W[h] + np.outer(k[h], v[h]))
        new_H[h] = f * H[h] + (1 - f) * Z
        y.append(q[h] @ new_H[h])
    return (new_H,), np.concatenate(y)


def gsa(p, s, state, x):
    """Zhang et al. 2024, eq. 6: keys and values of m slots."""
    K, V = state
    q, k, v = (by_head(p, silu(W @ x)) for W in (p.W_q, p.W_k, p.W_v))
    alpha = by_head(p, sigmoid(p.W_a @ x) ** (1 / s.tau))
    new_K, new_V, y = np.zeros_like(K), np.zeros_like(V), []
    for h in range(p.heads):
        for slot in range(p.slots):
            a = alpha[h, slot]
            new_K[h, slot] = a * K[h, slot] + (1 - a) * k[h]
            new_V[h, slot] = a * V[h, slot] + (1 - a) * v[h]
        weights = np.exp(new_K[h] @ q[h])
        y.append(weights / weights.sum() @ new_V[h])
    return (new_K, new_V), np.concatenate(y)


def lightnet(p, s, state, x):
    """Qin et al. 2024: the additive recurrence, where s = exp(z) is the sum of all exp(k)."""
    S, z = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    new_S, new_z, y = np.zeros_like(S), np.zeros_like(z), []
    for h in range(p.heads):
        before, weight = np.exp(z[h]), np.exp(W_k[h] @ x)
        after = before + weight
        new_S[h] = np.diag(before / after) @ S[h] + np.outer(weight / after, W_v[h] @ x)
        new_z[h] = np.log(after)
        y.append(silu(W_q[h] @ x) @ new_S[h])
    return (new_S, new_z), np.concatenate(y)


ORACLES = {
    "gsa": gsa,
    "lightnet": lightnet,
    "rwkv5": rwkv5,
    "mamba3": mamba3,
    "gdn2": gdn2,
    "mesanet": mesanet,
    "m2rnn": m2rnn,
}

SETTINGS = {
    "gsa": [{**SMALL, "slots": 2, "tau": 2.0}],
    "lightnet": [SMALL],
    "rwkv5": [SMALL],
    "mamba3": [
        {"heads": 2, "state_size": 6, "rank": 2},
        {"heads": 2, "state_size": 4, "rotary": 1.0},
    ],
    "gdn2": [{**SMALL, "rank": 2, "negative": True}],
    "mesanet": [SMALL],
    "m2rnn": [SMALL],
}
