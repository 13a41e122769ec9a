"""Oracles of cells with an orthogonal or Lipschitz matrix, of oscillators and of rate models."""

import numpy as np
from scipy.linalg import expm  # type: ignore[import-untyped]

from cell_oracles.gated_simple import Softsign, activation


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def leaky_relu(a):
    return np.where(a < 0, 0.1 * a, a)


def modrelu(a, b):
    return np.sign(a) * np.maximum(np.abs(a) + b, 0)


def skew_symmetric(a, size):
    """The entries above the diagonal, row by row; those below are their negatives."""
    A = np.zeros((size, size))
    A[np.triu_indices(size, 1)] = a
    return A - A.T


def exprnn(p, s, state, x):
    """Lezcano-Casado and Martinez-Rubio 2019, section 4: the recurrent matrix is exp(A)."""
    (h,) = state
    B = expm(skew_symmetric(p.a, h.size))
    h = modrelu(B @ h + p.W @ x, p.b)
    return (h,), h


def scornn(p, s, state, x):
    """Helfrich et al. 2018: W = (I + A)^-1 (I - A) D."""
    (h,) = state
    identity, A = np.eye(h.size), skew_symmetric(p.a, h.size)
    W = np.linalg.inv(identity + A) @ (identity - A) @ np.diag(p.D)
    h = modrelu(p.V @ x + W @ h, p.b)
    return (h,), h


def ornn(p, s, state, x):
    """Mhammedi et al. 2017: W = H_n(u_n) H_{n-1}(u_{n-1}) ...; u_k has k entries, zeros before."""
    (h,) = state
    n, W = h.size, np.eye(h.size)
    for i, row in enumerate(p.u):
        u = np.concatenate([np.zeros(i), row[i:]])
        W = W @ (np.eye(n) - 2 * np.outer(u, u) / (u @ u))
    h = activation(s, leaky_relu)(p.V @ x + W @ h + p.b)
    return (h,), h


def goru(p, s, state, x):
    """Jing et al. 2017, with an orthogonal matrix exp(A)."""
    (h,) = state
    U = expm(skew_symmetric(p.a, h.size))
    z = sigmoid(p.W_z @ x + p.U_z @ h + p.b_z)
    r = sigmoid(p.W_r @ x + p.U_r @ h + p.b_r)
    h = z * h + (1 - z) * modrelu(p.W_n @ x + r * (U @ h), p.b_n)
    return (h,), h


def lipschitz_rnn(p, s, state, x):
    """Erichson et al. 2021: the symmetric-skew decomposition, and Euler or the midpoint method."""
    (h,) = state

    def decomposed(M):
        return (1 - s.beta) * (M + M.T) + s.beta * (M - M.T) - s.gamma * np.eye(h.size)

    A, W = decomposed(p.M_A), decomposed(p.M_W)

    def change(h):
        return A @ h + np.tanh(W @ h + p.U @ x + p.b)

    if s.solver == "euler":
        h = h + s.epsilon * change(h)
    else:
        h = h + s.epsilon * change(h + s.epsilon / 2 * change(h))
    return (h,), h


def unicornn(p, s, state, x):
    """Rusch and Mishra 2021, UnICORNN: z first, then y by the new z."""
    y, z = state
    step = s.dt * sigmoid(p.c)
    z = z - step * (np.tanh(p.w * y + p.V @ x + p.b) + s.alpha * y)
    y = y + step * z
    return (y, z), y


def cornn(p, s, state, x):
    """Rusch and Mishra 2021, coRNN: the damping acts on the old z, or implicitly on the new one."""
    y, z = state
    force = np.tanh(p.W @ y + p.W_z @ z + p.V @ x + p.b) - s.gamma * y
    if s.implicit:
        z = (z + s.dt * force) / (1 + s.dt * s.epsilon)
    else:
        z = z + s.dt * (force - s.epsilon * z)
    y = y + s.dt * z
    return (y, z), y


def lem(p, s, state, x):
    """Rusch et al. 2022: y sees the new z."""
    y, z = state
    step_1 = s.dt * sigmoid(p.W_1 @ y + p.V_1 @ x + p.b_1)
    step_2 = s.dt * sigmoid(p.W_2 @ y + p.V_2 @ x + p.b_2)
    z = (1 - step_1) * z + step_1 * np.tanh(p.W_z @ y + p.V_z @ x + p.b_z)
    y = (1 - step_2) * y + step_2 * np.tanh(p.W_y @ z + p.V_y @ x + p.b_y)
    return (y, z), y


def esn(p, s, state, x):
    """Jaeger 2001, with the leak of later papers; the spectral radius of U is 1 when it is made."""
    (h,) = state
    new = activation(s, np.tanh)(s.input_scale * p.W @ x + s.radius * p.U @ h + p.b)
    h = (1 - s.leak) * h + s.leak * new
    return (h,), h


def ctrnn(p, s, state, x):
    """Funahashi and Nakamura 1993: tau h' = -h + U phi(h) + W x + b, or phi of the whole sum."""
    (h,) = state
    phi, tau = activation(s, np.tanh), np.exp(p.log_tau)
    for _ in range(s.unfolds):
        if s.form == "current":
            target = p.U @ phi(h) + p.W @ x + p.b
        else:
            target = phi(p.U @ h + p.W @ x + p.b)
        h = h + s.dt / s.unfolds * (target - h) / tau
    return (h,), phi(h) if s.form == "current" else h


def low_rank_rnn(p, s, state, x):
    """Mastrogiuseppe and Ostojic 2018: J = g chi + m n^T / N, and x' = -x + J phi(x) + I."""
    (h,) = state
    phi = activation(s, np.tanh)
    J = p.m @ p.n.T / h.size
    if p.chi is not None:
        J = J + s.g * p.chi
    h = h + s.dt * (-h + J @ phi(h) + p.W @ x)
    return (h,), phi(h)


ORACLES = {
    "exprnn": exprnn,
    "scornn": scornn,
    "ornn": ornn,
    "goru": goru,
    "lipschitz_rnn": lipschitz_rnn,
    "unicornn": unicornn,
    "cornn": cornn,
    "lem": lem,
    "esn": esn,
    "ctrnn": ctrnn,
    "low_rank_rnn": low_rank_rnn,
}

SETTINGS = {
    "ornn": [{"reflections": 1}, {"reflections": 3, "activation": Softsign()}, {"reflections": 4}],
    "lipschitz_rnn": [
        {"beta": 0.6, "gamma": 0.2, "epsilon": 0.4},
        {"epsilon": 0.4, "solver": "midpoint"},
    ],
    "unicornn": [{"dt": 0.4, "alpha": 1.3}],
    "cornn": [{"dt": 0.2, "gamma": 0.7, "epsilon": 1.4}, {"dt": 0.2, "implicit": True}],
    "lem": [{"dt": 0.3}],
    "esn": [{"radius": 0.5, "leak": 0.3, "input_scale": 2.0}, {"activation": Softsign()}],
    "ctrnn": [
        {"form": "current"},
        {"dt": 0.4, "unfolds": 3, "activation": Softsign()},
        {"form": "current", "dt": 0.4, "unfolds": 3, "activation": Softsign()},
    ],
    "low_rank_rnn": [
        {"rank": 2, "g": 0.0},
        {"rank": 2, "g": 1.5, "dt": 0.4, "activation": Softsign()},
    ],
}
