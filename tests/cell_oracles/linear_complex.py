"""Oracles of diagonal and oscillating linear recurrences."""

import numpy as np
from scipy.linalg import expm  # type: ignore[import-untyped]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def silu(a):
    return a * sigmoid(a)


def relu(a):
    return np.maximum(a, 0)


def layer_norm(a):
    """A layer norm without gain and bias, with the epsilon of PyTorch."""
    return (a - a.mean()) / np.sqrt(a.var() + 1e-5)


def lru(p, s, state, x):
    """Orvieto et al. 2023, section 3: exponential parametrisation, and input factor gamma."""
    (h,) = state
    modulus = np.exp(-np.exp(p.nu_log))
    lam = modulus * np.exp(1j * np.exp(p.theta_log))
    gamma = np.exp(p.gamma_log) * np.sqrt(1 - modulus**2)
    h = lam * h + gamma * ((p.B_re + 1j * p.B_im) @ x)
    return (h,), ((p.C_re + 1j * p.C_im) @ h).real + p.D @ x


def discretised(method, A, Delta, B):
    """Zero-order hold or the bilinear method for a diagonal A: the factors of state and input."""
    if method == "zoh":
        A_bar = np.exp(Delta * A)
        return A_bar, (A_bar - 1) / A * B
    return (1 + Delta * A / 2) / (1 - Delta * A / 2), Delta * B / (1 - Delta * A / 2)


def s4d(p, s, state, x):
    """Gu et al. 2022, section 3, for each feature. Each complex number stands for a pair."""
    (h,) = state
    u = x if p.P is None else p.P @ x
    Delta = np.exp(p.log_Delta)[:, None]
    if s.kind == "real":
        A, B, C, pairs = -np.exp(p.log_A_real), p.B_re, p.C_re, 1
    else:
        A = -np.exp(p.log_A) + 1j * (p.A_lin if s.kind == "lin" else p.A_inv)
        B, C, pairs = p.B_re + 1j * p.B_im, p.C_re + 1j * p.C_im, 2
    A_bar, B_bar = discretised(s.method, A, Delta, B)
    h = A_bar * h + B_bar * u[:, None]
    return (h,), pairs * np.sum(C * h, axis=1).real + p.D * u


def s5(p, s, state, x):
    """Smith et al. 2023, section 3. Each complex number stands for a pair."""
    (h,) = state
    Lambda = p.Lambda_re + 1j * p.Lambda_im
    Delta = s.step_rescale * np.exp(p.log_Delta)
    B, C = p.B[0] + 1j * p.B[1], p.C[0] + 1j * p.C[1]
    Lambda_bar, B_bar = discretised(s.method, Lambda[:, None], Delta[:, None], B)
    h = Lambda_bar[:, 0] * h + B_bar @ x
    return (h,), 2 * (C @ h).real + p.D @ x


def hgrn(p, s, state, x):
    """Qin et al. 2023, section 3.1; norm and output gate as in the authors' Hgru1d."""
    (h,) = state
    hidden = h.shape[1]
    c = silu(p.W_c @ x + p.b_c)
    mu = sigmoid(p.W_mu @ x + p.b_mu)
    lam = p.gamma + (1 - p.gamma) * mu
    if s.is_complex:
        new = lam * np.exp(1j * p.theta) * (h[0] + 1j * h[1])
        new = new + (1 - lam) * (c[:hidden] + 1j * c[hidden:])
        h = np.stack([new.real, new.imag])
    else:
        h = (lam * h[0] + (1 - lam) * c)[None]
    g = silu(p.W_g @ x + p.b_g)
    return (h,), p.W_o @ (layer_norm(h.ravel()) * g) + p.b_o


def ffm(p, s, state, x):
    """Morad et al. 2023, section 4, with the norm before the gate as in the authors' FFM."""
    (S,) = state
    gated = (p.W_1 @ x + p.b_1) * sigmoid(p.W_2 @ x + p.b_2)
    decay = np.exp(-np.abs(p.alpha))[:, None] * np.exp(-1j * p.omega)[None, :]
    S = decay * S + gated[:, None]
    z = p.W_3 @ np.concatenate([S.real.ravel(), S.imag.ravel()]) + p.b_3
    gate = sigmoid(p.W_4 @ x + p.b_4)
    return (S,), layer_norm(z) * gate + (p.W_5 @ x + p.b_5) * (1 - gate)


def linoss(p, s, state, x):
    """Rusch and Rus 2025, section 2: the implicit and the implicit-explicit scheme."""
    y, z = state
    A, Delta, Bx = relu(p.a), sigmoid(p.delta), p.B @ x
    if s.scheme == "im":
        S = 1 / (1 + Delta**2 * A)
        y, z = S * (y + Delta * z + Delta**2 * Bx), S * (z - Delta * A * y + Delta * Bx)
    else:
        z = z + Delta * (-A * y + Bx)
        y = y + Delta * z
    return (y, z), p.C @ y + p.D @ x


def dlinoss(p, s, state, x):
    """Boyer et al. 2025: damping G implicit, the rest as IMEX; A is kept where that is stable."""
    y, z = state
    Delta, G = sigmoid(p.delta), relu(p.g)
    middle, half = 2 + Delta * G, 2 * np.sqrt(1 + Delta * G)
    A = np.clip(relu(p.a), (middle - half) / Delta**2, (middle + half) / Delta**2)
    z = (z + Delta * (-A * y + p.B @ x)) / (1 + Delta * G)
    y = y + Delta * z
    return (y, z), p.C @ y + p.D @ x


def rotrnn(p, s, state, x):
    """Biegun et al. 2024, section 3: h' = gamma P R P^T h + xi B x of each head, r = P^T h."""
    (r,) = state
    new, read = [], []
    for head in range(s.heads):
        gamma, B, M = np.exp(-np.exp(p.gamma_log[head])), p.B[head], p.M[head]
        P = expm(M - M.T)
        xi = np.sqrt((1 - gamma**2) / np.trace(B.T @ B))
        rotated = np.empty_like(r[head])
        for i, angle in enumerate(p.theta[head]):
            cos, sin = np.cos(angle), np.sin(angle)
            rotated[2 * i : 2 * i + 2] = [[cos, -sin], [sin, cos]] @ r[head, 2 * i : 2 * i + 2]
        new.append(gamma * rotated + P.T @ (xi * B @ x))
        read.append(P @ new[-1])
    return (np.stack(new),), p.C @ np.concatenate(read) + p.D @ x


ORACLES = {
    "lru": lru,
    "s4d": s4d,
    "s5": s5,
    "hgrn": hgrn,
    "ffm": ffm,
    "linoss": linoss,
    "dlinoss": dlinoss,
    "rotrnn": rotrnn,
}

SETTINGS = {
    "lru": [{"state_size": 3}],
    "s4d": [
        {"state_size": 3, "kind": "inv", "method": "bilinear"},
        {"state_size": 3, "kind": "real"},
        {"state_size": 3, "kind": "real", "method": "bilinear"},
    ],
    "s5": [{"state_size": 3, "method": "bilinear"}, {"state_size": 3, "step_rescale": 0.4}],
    "hgrn": [{"is_complex": False}],
    "ffm": [{"memory_size": 3, "context_size": 2}],
    "linoss": [{"state_size": 3}, {"state_size": 3, "scheme": "imex"}],
    "dlinoss": [{"state_size": 3}],
    "rotrnn": [{"state_size": 12, "heads": 2}],
}
