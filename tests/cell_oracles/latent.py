"""Oracles of cells with a latent variable: without a key it is its mean."""

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


ORACLES = {"rssm": rssm, "vrnn": vrnn}

SETTINGS = {"rssm": [{"latent_size": 2, "embed_size": 2}], "vrnn": [{"latent_size": 2}]}
