"""Oracles of cells whose state is an associative memory that sums outer products."""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def silu(a):
    return a * sigmoid(a)


def by_head(p, a):
    """Its first axis in equal parts, one for each head."""
    return a.reshape(p.heads, -1, *a.shape[1:])


class Square:
    """A positive function that no paper has, in NumPy as in JAX; its name never changes."""

    def __call__(self, a):
        return a * a + 0.5

    def __repr__(self):
        return "square"


def elu_plus_one(a):
    return np.where(a > 0, a + 1, np.exp(np.minimum(a, 0)))


def linear_attention(p, s, state, x):
    """Katharopoulos et al. 2020, eqs. 18 to 20, without the feed-forward layer."""
    S, z = state
    phi = Square() if "square" in str(s.feature_map) else elu_plus_one
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    new_S, new_z, y = np.zeros_like(S), np.zeros_like(z), []
    for h in range(p.heads):
        q, k, v = phi(W_q[h] @ x), phi(W_k[h] @ x), W_v[h] @ x
        new_S[h] = S[h] + np.outer(k, v)
        new_z[h] = z[h] + k
        y.append(q @ new_S[h] / (q @ new_z[h]))
    return (new_S, new_z), np.concatenate(y)


def dpfp(s, a):
    """Schlag et al. 2021, DPFP: products of the rectified vector and itself, shifted."""
    r = np.maximum(np.concatenate([a, -a]), 0)
    features = []
    for j in range(1, s.nu + 1):
        for i in range(len(r)):
            features.append(r[i] * r[(i + j) % len(r)])
    phi = np.array(features)
    return phi / (np.sum(phi) + 1e-6) if s.normalized else phi


def fast_weight(p, s, state, x):
    """Schlag et al. 2021, the rule of the sum, without a normalisation of the attention."""
    (S,) = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        q, k, v = dpfp(s, W_q[h] @ x), dpfp(s, W_k[h] @ x), W_v[h] @ x
        new_S[h] = S[h] + np.outer(k, v)
        y.append(q @ new_S[h])
    return (new_S,), np.concatenate(y)


def complex_numbers(a):
    """Of a vector: its first half has the real parts, its second half the imaginary ones."""
    real, imaginary = np.split(a, 2)
    return real + 1j * imaginary


def retnet(p, s, state, x):
    """Sun et al. 2023, the equations before eq. 5, with complex keys and queries.

    A key of n - m steps ago counts gamma^(n - m) e^{i(n - m) theta}; the paper has the angles of
    xPos, which are those of RoPE. The decays are those of eq. 8, and section 2.1 divides a score
    by the root of the size of a key. The paper does not say which two features are one number.
    """
    (S,) = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        gamma = 1 - 2.0 ** (-5 - h)
        q, k, v = W_q[h] @ x, W_k[h] @ x, W_v[h] @ x
        if s.rotary:
            theta = 10000.0 ** (-2 * np.arange(p.key_size // 2) / p.key_size)
            real, imaginary = np.split(S[h], 2)
            before = real - 1j * imaginary
            k, q = complex_numbers(k), complex_numbers(q)
            memory = gamma * np.diag(np.exp(1j * theta)) @ before + np.outer(np.conj(k), v)
            new_S[h] = np.concatenate([memory.real, -memory.imag])
            read = (q @ memory).real
        else:
            new_S[h] = gamma * S[h] + np.outer(k, v)
            read = q @ new_S[h]
        y.append(read / np.sqrt(p.key_size))
    return (new_S,), np.concatenate(y)


def gla(p, s, state, x):
    """Yang et al. 2023, eq. 3 and section 4.4: a decay for each feature of the key."""
    (S,) = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    alpha = by_head(p, sigmoid(p.W_up @ (p.W_down @ x) + p.b_a) ** (1 / s.tau))
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        q, k, v = W_q[h] @ x, W_k[h] @ x, W_v[h] @ x
        new_S[h] = np.diag(alpha[h]) @ S[h] + np.outer(k, v)
        y.append(q @ new_S[h])
    return (new_S,), np.concatenate(y)


def simple_gla(p, s, state, x):
    """Sun et al. 2024, section 3.1: gated retention, one decay for each head."""
    (S,) = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    gamma = sigmoid(p.W_a @ x + p.b_a) ** (1 / s.tau)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        q, k, v = W_q[h] @ x, W_k[h] @ x, W_v[h] @ x
        new_S[h] = gamma[h] * S[h] + np.outer(k, v)
        y.append(q @ new_S[h])
    return (new_S,), np.concatenate(y)


def hgrn2(p, s, state, x):
    """Qin et al. 2024, section 3: the key is what the forget gate forgets."""
    (S,) = state
    W_q, W_f, W_v = by_head(p, p.W_q), by_head(p, p.W_f), by_head(p, p.W_v)
    new_S, y = np.zeros_like(S), []
    for h in range(p.heads):
        q, v = silu(W_q[h] @ x), W_v[h] @ x
        f = s.lower_bound + (1 - s.lower_bound) * sigmoid(W_f[h] @ x)
        new_S[h] = np.diag(f) @ S[h] + np.outer(1 - f, v)
        y.append(q @ new_S[h])
    return (new_S,), np.concatenate(y)


def log_forget(s, a):
    return a if s.forget == "exp" else np.log(sigmoid(a))


def mlstm(p, s, state, x):
    """Beck et al. 2024, eqs. 19 to 27, with the stabiliser of eqs. 15 to 17.

    C and n are those of the paper times exp(-m), so the bound 1 of eq. 21 is exp(-m).
    """
    C, n, m = state
    W_q, W_k, W_v = by_head(p, p.W_q), by_head(p, p.W_k), by_head(p, p.W_v)
    b_q, b_k, b_v = by_head(p, p.b_q), by_head(p, p.b_k), by_head(p, p.b_v)
    log_i = p.W_i @ x + p.b_i
    log_f = log_forget(s, p.W_f @ x + p.b_f)
    o = sigmoid(p.W_o @ x + p.b_o)
    new_C, new_n, new_m, y = np.zeros_like(C), np.zeros_like(n), np.zeros_like(m), []
    for h in range(p.heads):
        q = W_q[h] @ x + b_q[h]
        k = (W_k[h] @ x + b_k[h]) / np.sqrt(p.key_size)
        v = W_v[h] @ x + b_v[h]
        new_m[h] = max(log_f[h] + m[h], log_i[h])
        i = np.exp(log_i[h] - new_m[h])
        f = np.exp(log_f[h] + m[h] - new_m[h])
        new_C[h] = f * C[h] + i * np.outer(k, v)
        new_n[h] = f * n[h] + i * k
        y.append(q @ new_C[h] / max(abs(q @ new_n[h]), np.exp(-new_m[h])))
    return (new_C, new_n, new_m), o * np.concatenate(y)


def slstm(p, s, state, x):
    """Beck et al. 2024, eqs. 8 to 17; recurrent matrices are block diagonal."""
    h, c, n, m = state
    blocks = by_head(p, h)

    def mixed(R):
        return np.concatenate([R[i] @ blocks[i] for i in range(p.heads)])

    z = np.tanh(p.W_z @ x + mixed(p.R_z) + p.b_z)
    o = sigmoid(p.W_o @ x + mixed(p.R_o) + p.b_o)
    log_i = p.W_i @ x + mixed(p.R_i) + p.b_i
    log_f = log_forget(s, p.W_f @ x + mixed(p.R_f) + p.b_f.reshape(-1))
    new_m = np.maximum(log_f + m, log_i)
    i, f = np.exp(log_i - new_m), np.exp(log_f + m - new_m)
    new_c = f * c + i * z
    new_n = f * n + i
    new_h = o * new_c / new_n
    return (new_h, new_c, new_n, new_m), new_h


ORACLES = {
    "linear_attention": linear_attention,
    "fast_weight": fast_weight,
    "retnet": retnet,
    "gla": gla,
    "simple_gla": simple_gla,
    "hgrn2": hgrn2,
    "mlstm": mlstm,
    "slstm": slstm,
}

SMALL = {"heads": 2, "key_size": 3}

SETTINGS = {
    "linear_attention": [SMALL, {**SMALL, "feature_map": Square()}],
    "fast_weight": [
        {**SMALL, "nu": 2},
        {**SMALL, "nu": 1, "normalized": True},
        {**SMALL, "nu": 3, "normalized": True},
    ],
    "retnet": [
        {"heads": 2, "key_size": 4},
        {"heads": 1, "key_size": 6},
        {**SMALL, "rotary": False},
    ],
    "gla": [{**SMALL, "rank": 2, "tau": 4.0}],
    "simple_gla": [{**SMALL, "tau": 4.0}],
    "hgrn2": [SMALL, {**SMALL, "lower_bound": 0.4}],
    "mlstm": [SMALL, {**SMALL, "forget": "exp"}],
    "slstm": [{"heads": 2}, {"heads": 2, "forget": "exp"}],
}
