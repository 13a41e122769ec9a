"""Oracles of linear attention whose features stand for a kernel of queries and keys."""

import numpy as np

from cell_oracles.memories import SMALL, by_head, sigmoid


def attention(p, state, x, features):
    """Katharopoulos et al. 2020, eqs. 18 to 20, with features of queries and keys by head."""
    S, z = state
    phi_q, phi_k = features(p, x)
    v = by_head(p, p.W_v @ x)
    new_S, new_z, y = np.zeros_like(S), np.zeros_like(z), []
    for h in range(p.heads):
        new_S[h] = S[h] + np.outer(phi_k[h], v[h])
        new_z[h] = z[h] + phi_k[h]
        y.append(phi_q[h] @ new_S[h] / (phi_q[h] @ new_z[h] + 1e-12))
    return (new_S, new_z), np.concatenate(y)


def taylor(a):
    """Arora et al. 2024: features of 1 + s + s^2 / 2, where s is a . b / sqrt(d)."""
    a = a / len(a) ** 0.25
    return np.array(
        [1, *a, *(a[i] * a[j] / np.sqrt(2) for i in range(len(a)) for j in range(len(a)))]
    )


def based_features(p, x):
    q, k = by_head(p, p.W_q @ x), by_head(p, p.W_k @ x)
    return [taylor(a) for a in q], [taylor(a) for a in k]


def based(p, s, state, x):
    """Arora et al. 2024, without the sliding window and the output matrix."""
    return attention(p, state, x, based_features)


def layer_norm(a, gamma, beta):
    return gamma * (a - a.mean()) / np.sqrt(a.var() + 1e-5) + beta


def squares(a):
    """Features of (a . b)^2 / d."""
    d = len(a)
    return np.array([a[i] * a[j] for i in range(d) for j in range(d)]) / np.sqrt(d)


def rebased_features(p, x):
    q = by_head(p, layer_norm(p.W_q @ x, p.gamma_q, p.beta_q))
    k = by_head(p, layer_norm(p.W_k @ x, p.gamma_k, p.beta_k))
    return [squares(a) for a in q], [squares(a) for a in k]


def rebased(p, s, state, x):
    """Aksenov et al. 2024, with the norm over all heads of the authors' code."""
    return attention(p, state, x, rebased_features)


def rfa(p, s, state, x):
    """Peng et al. 2021, sections 3.1 and 3.2: random Fourier features, and a gate."""
    S, z = state
    q, k, v = (by_head(p, W @ x) for W in (p.W_q, p.W_k, p.W_v))

    def phi(h, a):
        a = a / np.sqrt(a @ a + 1e-6)
        angles = [(p.sigma[h] * p.W[h, i]) @ a for i in range(p.features)]
        return np.concatenate([np.sin(angles), np.cos(angles)]) / np.sqrt(p.features)

    new_S, new_z, y = np.zeros_like(S), np.zeros_like(z), []
    for h in range(p.heads):
        keep, add = 1, 1
        if s.gate:
            keep = sigmoid(p.W_g[h] @ x + p.b_g[h])
            add = 1 - keep
        new_S[h] = keep * S[h] + add * np.outer(phi(h, k[h]), v[h])
        new_z[h] = keep * z[h] + add * phi(h, k[h])
        phi_q = phi(h, q[h])
        y.append(phi_q @ new_S[h] / max(phi_q @ new_z[h], s.floor))
    return (new_S, new_z), np.concatenate(y)


ORACLES = {"based": based, "rebased": rebased, "rfa": rfa}

SETTINGS = {
    "based": [SMALL],
    "rebased": [SMALL],
    "rfa": [
        {**SMALL, "features": 5, "gate": False, "floor": 0.1},
        {**SMALL, "features": 4},
    ],
}
