"""Oracles of cells that correct an associative memory by the error of its reading."""

import numpy as np

from cell_oracles.memories import SMALL, by_head, sigmoid, silu


def softplus(a):
    return np.log1p(np.exp(a))


def unit(a):
    return a / np.sqrt(a @ a + 1e-6)


def decay(p, x):
    """One number for each head, parametrised as in Mamba-2."""
    return np.exp(-np.exp(p.A_log) * softplus(p.W_alpha @ x + p.b_alpha))


def deltanet(p, s, state, x):
    """Schlag et al. 2021, the delta rule: the value at the key moves to the new one by beta."""
    (S,) = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    beta = sigmoid(p.W_beta @ x) * (2 if s.negative else 1)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        q, k, v = unit(silu(W_q[h] @ x)), unit(silu(W_k[h] @ x)), W_v[h] @ x
        old_v = k @ S[h]
        new_v = beta[h] * v + (1 - beta[h]) * old_v
        new_S[h] = S[h] + np.outer(k, new_v) - np.outer(k, old_v)
        y.append(q @ new_S[h])
    return (new_S,), np.concatenate(y)


def gated_deltanet(p, s, state, x):
    """Yang et al. 2024, eq. 10, transposed: rows of the memory are keys."""
    (S,) = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    alpha = decay(p, x)
    beta = sigmoid(p.W_beta @ x) * (2 if s.negative else 1)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        q, k, v = unit(silu(W_q[h] @ x)), unit(silu(W_k[h] @ x)), silu(W_v[h] @ x)
        A = alpha[h] * (np.eye(p.key_size) - beta[h] * np.outer(k, k))
        new_S[h] = A @ S[h] + beta[h] * np.outer(k, v)
        y.append(q @ new_S[h])
    return (new_S,), np.concatenate(y)


def deltaproduct(p, s, state, x):
    """Siems et al. 2025, section 3: a product of generalised Householder matrices in a step."""
    (S,) = state
    size, hidden = p.heads * p.key_size, p.hidden_size
    W_q = by_head(p, p.W_q)
    alpha = decay(p, x) if s.gated else np.ones(p.heads)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        H = alpha[h] * S[h]
        for j in range(p.householders):
            W_k = by_head(p, p.W_k[j * size : (j + 1) * size])[h]
            W_v = by_head(p, p.W_v[j * hidden : (j + 1) * hidden])[h]
            W_beta = p.W_beta[j * p.heads : (j + 1) * p.heads][h]
            k, v = unit(silu(W_k @ x)), silu(W_v @ x)
            beta = sigmoid(W_beta @ x) * (2 if s.negative else 1)
            H = (np.eye(p.key_size) - beta * np.outer(k, k)) @ H + beta * np.outer(k, v)
        new_S[h] = H
        y.append(unit(silu(W_q[h] @ x)) @ H)
    return (new_S,), np.concatenate(y)


def kda(p, s, state, x):
    """Kimi Team 2025, eq. 1: the decay is of each feature of the key, and comes first."""
    (S,) = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    raw = by_head(p, p.W_up @ (p.W_down @ x) + p.b_alpha)
    beta = sigmoid(p.W_beta @ x)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        q, k, v = unit(silu(W_q[h] @ x)), unit(silu(W_k[h] @ x)), silu(W_v[h] @ x)
        alpha = np.exp(-np.exp(p.A_log[h]) * softplus(raw[h]))
        A = (np.eye(p.key_size) - beta[h] * np.outer(k, k)) @ np.diag(alpha)
        new_S[h] = A @ S[h] + beta[h] * np.outer(k, v)
        y.append(q @ new_S[h])
    return (new_S,), np.concatenate(y)


def comba(p, s, state, x):
    """Hu et al. 2025, eq. 5: the correction reads the memory before its decay.

    The strength of the correction is beta times a number from 0 to 1 of the head, which is the
    sigmoid of a parameter in the authors' code.
    """
    (S,) = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    alpha = decay(p, x)
    beta = sigmoid(p.W_beta @ x)
    corrected = sigmoid(p.b) * beta
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        q, k, v = unit(silu(W_q[h] @ x)), unit(silu(W_k[h] @ x)), silu(W_v[h] @ x)
        A = alpha[h] * np.eye(p.key_size) - corrected[h] * np.outer(k, k)
        new_S[h] = A @ S[h] + beta[h] * np.outer(k, v)
        y.append((q - p.d[h] * k) @ new_S[h])
    return (new_S,), np.concatenate(y)


def longhorn(p, s, state, x):
    """Liu et al. 2024, the diagonal approximation of the closed form; D skips the memory."""
    (S,) = state
    u = p.W_u @ x
    k, q = p.W_k @ u, p.W_q @ u
    beta = sigmoid(p.W_up @ (p.W_down @ u) + p.b)
    delta = beta / (1 + beta * (k @ k))
    new_S = (1 - np.outer(delta, k**2)) * S + np.outer(delta * u, k)
    return (new_S,), new_S @ q + p.D * u


def layer_norm(a, gamma, beta):
    centred = a - np.mean(a)
    return gamma * centred / np.sqrt(np.mean(centred**2) + 1e-6) + beta


def layer_norm_transposed(a, gamma, g):
    """The gradient for its input, if ``g`` is the gradient for its output."""
    centred = a - np.mean(a)
    deviation = np.sqrt(np.mean(centred**2) + 1e-6)
    normal, g = centred / deviation, gamma * g
    return (g - np.mean(g) - normal * np.mean(g * normal)) / deviation


def ttt_linear(p, s, state, x):
    """Sun et al. 2024, eqs. 1 and 4: one step of gradient descent, then the new model is read."""
    W, b = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    eta = s.eta_base * sigmoid(p.W_eta @ x + p.b_eta)
    new_W, new_b, y = np.zeros_like(W), np.zeros_like(b), []
    for h in range(p.heads):
        q, k, v = W_q[h] @ x, W_k[h] @ x, W_v[h] @ x
        a = k @ W[h] + b[h]
        error = k + layer_norm(a, p.gamma[h], p.beta[h]) - v
        g = layer_norm_transposed(a, p.gamma[h], error / len(v))
        new_W[h] = W[h] - eta[h] * np.outer(k, g)
        new_b[h] = b[h] - eta[h] * g
        y.append(q + layer_norm(q @ new_W[h] + new_b[h], p.gamma[h], p.beta[h]))
    return (new_W, new_b), np.concatenate(y)


def titans(p, s, state, x):
    """Behrouz et al. 2024, surprise with momentum and forgetting, of a linear memory."""
    M, S = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    alpha = sigmoid(p.W_alpha @ x + p.b_alpha)
    eta = sigmoid(p.W_eta @ x + p.b_eta)
    theta = sigmoid(p.W_theta @ x + p.b_theta)
    new_M, new_S, y = np.zeros_like(M), np.zeros_like(S), []
    for h in range(p.heads):
        q, k, v = unit(silu(W_q[h] @ x)), unit(silu(W_k[h] @ x)), silu(W_v[h] @ x)
        gradient = 2 * np.outer(k, k @ M[h] - v)
        new_S[h] = eta[h] * S[h] - theta[h] * gradient
        new_M[h] = (1 - alpha[h]) * M[h] + new_S[h]
        y.append(q @ new_M[h])
    return (new_M, new_S), np.concatenate(y)


ORACLES = {
    "deltanet": deltanet,
    "gated_deltanet": gated_deltanet,
    "deltaproduct": deltaproduct,
    "kda": kda,
    "comba": comba,
    "longhorn": longhorn,
    "ttt_linear": ttt_linear,
    "titans": titans,
}

SETTINGS = {
    "deltanet": [SMALL, {**SMALL, "negative": True}],
    "gated_deltanet": [SMALL, {**SMALL, "negative": True}],
    "deltaproduct": [
        {**SMALL, "householders": 3},
        {**SMALL, "householders": 1, "negative": False},
        {**SMALL, "householders": 2, "gated": True},
    ],
    "kda": [{**SMALL, "rank": 2}],
    "comba": [SMALL],
    "longhorn": [{"key_size": 3, "rank": 2}],
    "ttt_linear": [{"heads": 2}, {"heads": 1, "eta_base": 0.3}],
    "titans": [SMALL],
}
