"""Oracles of cells with a latent variable: without a key it is its mean, or a Gaussian."""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def elu(a):
    return np.where(a > 0, a, np.exp(np.minimum(a, 0)) - 1)


def gru(p, h, e):
    n = len(h)
    r = sigmoid(p.W[:n] @ e + p.U[:n] @ h + p.b[:n])
    u = sigmoid(p.W[n : 2 * n] @ e + p.U[n:] @ h + p.b[n : 2 * n])
    return u * h + (1 - u) * np.tanh(p.W[2 * n :] @ e + p.U_n @ (r * h) + p.b[2 * n :])


def rssm(p, s, state, x):
    """Hafner et al. 2019, section 2.3: a deterministic path, then the posterior of its latent."""
    h, z = state
    action, seen = x[: len(x) - s.embed_size], x[len(x) - s.embed_size :]
    e = elu(p.W_z @ z + p.W_a @ action + p.b_e)
    h = gru(p, h, e)
    units = elu(p.Q_h @ h + p.Q_o @ seen + p.c_q)
    z = (p.Q @ units + p.d_q)[: len(z)]
    return (h, z), np.concatenate([h, z])


def vrnn(p, s, state, x):
    """Chung et al. 2015, eqs. 5 to 9: the decoder reads the latent and the state before."""
    (h,) = state
    seen = np.maximum(p.X @ x + p.c_x, 0)
    units = np.maximum(p.Q_x @ seen + p.Q_h @ h + p.c_q, 0)
    z = (p.Q @ units + p.d_q)[: s.latent_size]
    latent = np.maximum(p.Z @ z + p.c_z, 0)
    return (gru(p, h, np.concatenate([seen, latent])),), np.concatenate([latent, h])


def softmax(a):
    e = np.exp(a - a.max())
    return e / e.sum()


def rkn(p, s, state, x):
    """Becker et al. 2019: the Kalman filter with dense matrices, reduced to diagonals."""
    z, u, low, side = state
    m = len(z) // 2
    A, alpha = np.zeros((2 * m, 2 * m)), softmax(p.W_a @ z + p.b_a)
    for block, (row, column) in enumerate(((0, 0), (0, m), (m, 0), (m, m))):
        start = 0
        for offset in range(-min(s.bandwidth, m - 1), min(s.bandwidth, m - 1) + 1):
            end = start + m - abs(offset)
            diagonal = alpha @ p.B[:, block, start:end]
            A[row : row + m, column : column + m] += np.diag(diagonal, offset)
            start = end
    Sigma = np.block([[np.diag(u), np.diag(side)], [np.diag(side), np.diag(low)]])
    z, Sigma = A @ z, A @ Sigma @ A.T + np.diag(elu(p.c) + 1)
    u, low, side = (np.diag(np.diag(a)) for a in (Sigma[:m, :m], Sigma[m:, m:], Sigma[:m, m:]))
    Sigma = np.block([[u, side], [side, low]])
    w, r = p.W_w @ x + p.b_w, elu(p.W_r @ x + p.b_r) + 1
    H = np.eye(m, 2 * m)
    Q = Sigma @ H.T @ np.linalg.inv(H @ Sigma @ H.T + np.diag(r))
    z, Sigma = z + Q @ (w - H @ z), (np.eye(2 * m) - Q @ H) @ Sigma
    state = z, Sigma.diagonal()[:m], Sigma.diagonal()[m:], Sigma[:m, m:].diagonal()
    return state, np.concatenate(state) if s.variances else z


ORACLES = {"rssm": rssm, "vrnn": vrnn, "rkn": rkn}

SETTINGS = {
    "rssm": [{"latent_size": 2, "embed_size": 2}],
    "vrnn": [{"latent_size": 2}],
    "rkn": [{"basis": 2, "bandwidth": 1, "variances": True, "hidden_size": 6}],
}
