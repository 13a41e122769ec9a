"""Oracles of fast weights that see their own outputs, or that program themselves."""

import numpy as np

from cell_oracles.memories import SMALL, by_head, sigmoid


def softmax(a):
    e = np.exp(a - a.max())
    return e / e.sum()


def rdn(p, s, state, x):
    """Irie et al. 2021, the recurrent delta network; W_t is the transpose of a memory of S."""
    y_before, S = state
    u = np.tanh(by_head(p, y_before))
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        q = softmax(W_q[h] @ x + p.R_q[h] @ u[h])
        k = softmax(W_k[h] @ x + p.R_k[h] @ u[h])
        v = W_v[h] @ x + p.R_v[h] @ u[h]
        beta = sigmoid(p.W_beta[h] @ x + p.R_beta[h] @ u[h])
        W = S[h].T
        W = W + beta * np.outer(v - W @ k, k)
        new_S[h] = W.T
        y.append(W @ q)
    new_y = np.concatenate(y)
    return (new_y, new_S), new_y


def srwm(p, s, state, x):
    """Irie et al. 2022, with four self-invented learning rates, in heads."""
    (D,) = state
    d_in, d_out = p.in_size // p.heads, p.hidden_size // p.heads
    new_D, y = np.zeros_like(D), []
    for h in range(p.heads):
        W = np.concatenate([p.W_y[h], p.W_q[h], p.W_k[h], p.W_beta[h]]) + D[h]
        x_h = x[h * d_in : (h + 1) * d_in]
        parts = np.split(
            W @ (softmax(x_h) if s.input_softmax else x_h), np.cumsum([d_out, d_in, d_in])
        )
        q, k, beta = softmax(parts[1]), softmax(parts[2]), sigmoid(parts[3])
        rates = np.repeat(beta, [d_out, d_in, d_in, 4])
        change = np.outer(rates * (W @ q - W @ k), k)
        new_D[h] = D[h] + change
        y.append(parts[0])
    return (new_D,), np.concatenate(y)


ORACLES = {"rdn": rdn, "srwm": srwm}

SETTINGS = {
    "rdn": [SMALL],
    "srwm": [{"heads": 2, "in_shape": 4, "input_softmax": False}, {"heads": 2, "in_shape": 6}],
}
