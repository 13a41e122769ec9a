"""Oracles of S4, and of state spaces whose steps last as long as the time between events."""

import numpy as np


def softplus(a):
    return np.log1p(np.exp(a))


def s4(p, s, state, x):
    """Gu et al. 2022, with whole matrices: the bilinear method of A = Lambda - P P^*."""
    (h,) = state
    u = x if p.W is None else p.W @ x
    new, y = np.zeros_like(h), []
    for n, half in enumerate(h):

        def both(re, im):
            a = re + 1j * im
            return np.concatenate([a, a.conj()])

        Lambda = both(-np.exp(p.log_A[n]), p.A_im[n])
        P, B, C = (both(a[0, n], a[1, n]) for a in (p.P, p.B, p.C))
        Delta, eye = np.exp(p.log_Delta[n]), np.eye(len(Lambda))
        A = np.diag(Lambda) - np.outer(P, P.conj())
        left = np.linalg.inv(eye - Delta / 2 * A)
        full = left @ (eye + Delta / 2 * A) @ np.concatenate([half, half.conj()])
        full = full + Delta * left @ B * u[n]
        new[n] = full[: len(half)]
        y.append((C @ full).real + p.D[n] * u[n])
    return (new,), np.array(y)


def event_ssm(p, s, state, x, dt):
    """Schoene et al. 2024: the state decays between events, the input has a step of its own."""
    (h,) = state
    Lambda = p.Lambda_re + 1j * p.Lambda_im
    Delta = np.exp(p.log_Delta)
    B, C = p.B[0] + 1j * p.B[1], p.C[0] + 1j * p.C[1]
    h = np.exp(Lambda * Delta * dt) * h + (np.exp(Lambda * Delta) - 1) / Lambda * (B @ x)
    return (h,), 2 * (C @ h).real + p.D @ x


def stream(p, s, state, x, dt):
    """Schoene et al. 2024, STREAM: the selective state space of Mamba between events."""
    (h,) = state
    u = p.W_u @ x
    B, C = p.W_B @ u, p.W_C @ u
    delta = softplus(p.W_up @ (p.W_down @ u) + p.b_Delta)
    A = -np.exp(p.A_log)
    h = np.exp((dt * softplus(p.b_dt))[:, None] * A) * h + np.outer(delta * u, B)
    return (h,), h @ C + p.D * u


ORACLES = {"s4": s4, "event_ssm": event_ssm, "stream": stream}

SETTINGS = {
    "s4": [{"state_size": 3}],
    "event_ssm": [{"state_size": 3}],
    "stream": [{"state_size": 3, "rank": 2}],
}
