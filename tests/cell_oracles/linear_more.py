"""Oracles of other linear recurrences: averages, HiPPO, the parallel LMU, S7, SHM and bilinear."""

import numpy as np
from scipy.linalg import expm  # type: ignore[import-untyped]


class Softsign:
    """An activation that no paper has; its name is the same in each process."""

    def __call__(self, a):
        return a / (1 + abs(a))

    def __repr__(self):
        return "softsign"


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0)


def projected(p, x):
    return x if p.P is None else p.P @ x


def zero_order_hold(A, B):
    """The matrices of a unit step with a constant input, from one exponential."""
    n = len(A)
    both = np.zeros((n + 1, n + 1))
    both[:n, :n], both[:n, n] = A, B
    both = expm(both)
    return both[:n, :n], both[:n, n]


def mega_ema(p, s, state, x):
    """Ma et al. 2023, section 3: the damped moving average in several dimensions."""
    (h,) = state
    u = p.beta * projected(p, x)[:, None]
    alpha, delta = sigmoid(p.a), sigmoid(p.d)
    h = alpha * u + (1 - alpha * delta) * h
    return (h,), np.sum(p.eta * h, axis=1)


def hippo(p, s, state, x, t):
    """Gu et al. 2020, section 3 and appendix D; steps, gate and candidate as in the authors' code.

    The basis is orthonormal (lambda_n = 1), as in that code. Theorem 1 scales LegT as the LMU does.
    """
    h, c = state
    f = p.W_f @ x + p.U_f @ h + p.b_f
    order = c.shape[1]
    n, k = np.arange(order)[:, None], np.arange(order)[None, :]
    root = np.sqrt(2 * np.arange(order) + 1)
    roots = np.outer(root, root)
    if s.measure == "legt":
        A = -roots * np.where(n >= k, 1, (-1.0) ** (n - k))
        A_bar, B_bar = zero_order_hold(A / s.theta, root / s.theta)
        c = c @ A_bar.T + np.outer(f, B_bar)
    elif t == 0:
        c = np.zeros_like(c)
        c[:, 0] = f
    else:
        A = -np.where(n > k, roots, np.where(n == k, n + 1, 0))
        right = (np.eye(order) + A / t / 2) @ c.T + np.outer(root / t, f)
        c = np.linalg.solve(np.eye(order) - A / t / 2, right).T
    g = sigmoid(p.W_g @ x + p.V_g @ c.ravel() + p.b_g)
    new = np.tanh(p.W_n @ x + p.V_n @ c.ravel() + p.b_n)
    h = (1 - g) * h + g * new
    return (h, c), h


def s7(p, s, state, x):
    """Soydan et al. 2024, section 3: every matrix is a function of the input."""
    (h,) = state
    u = projected(p, x)
    Lambda = p.W_Lambda @ u + p.b_Lambda
    a = 1 - 1 / (Lambda**2 + 0.5)
    B, C, D = p.W_B @ u + p.b_B, p.W_C @ u + p.b_C, p.W_D @ u + p.b_D
    h = a * h + B @ u
    return (h,), C @ h + D * u


def shm(p, s, state, x):
    """Le et al. 2024, section 3; keys and queries as in the authors' shm.py, which uses row 0."""
    (M,) = state
    k, q, v = relu(p.W_k @ x), relu(p.W_q @ x), p.W_v @ x
    k, q = k / (1e-5 + k.sum()), q / (1e-5 + q.sum())
    eta = sigmoid(p.w_eta @ x)
    C = 1 + np.tanh(np.outer(p.thetas[0], p.W_c @ x))
    M = M * C + np.outer(eta * v, k)
    return (M,), M @ q


def parallel_lmu(p, s, state, x):
    """Chilkuri and Eliasmith 2021, section 3, with A and B of Voelker et al. 2019."""
    (m,) = state
    u = np.asarray(s.f1(p.U_x @ x + p.b_u))
    i, j = np.arange(m.shape[1])[:, None], np.arange(m.shape[1])[None, :]
    A = (2 * i + 1) * np.where(i < j, -1, (-1.0) ** (i - j + 1)) / s.theta
    B = ((2 * i + 1) * (-1.0) ** i)[:, 0] / s.theta
    A_bar, B_bar = zero_order_hold(A, B)
    m = m @ A_bar.T + u[:, None] * B_bar
    return (m,), np.asarray(s.f2(p.W_m @ m.ravel() + p.W_x @ x + p.b_o))


def ema(p, s, state, x):
    """Brown 1956, or a running sum."""
    (h,) = state
    u = projected(p, x)
    if s.form == "average":
        beta = sigmoid(p.b)
        h = beta * h + (1 - beta) * u
    else:
        h = h + u
    return (h,), h


def bilinear_rnn(p, s, state, x):
    """Ebrahimi and Memisevic 2025: h' = A_x h with an A_x linear in x, or of rotations."""
    (h,) = state
    if s.form == "dense":
        h = np.einsum("ijk,j,k->i", p.W, h, x)
    elif s.form == "factored":
        h = p.A @ ((p.F @ x) * (p.B @ h))
    elif s.form == "rotation":
        cos, sin = np.cos(p.T @ x), np.sin(p.T @ x)
        h = np.stack([cos * h[0::2] - sin * h[1::2], sin * h[0::2] + cos * h[1::2]], 1).ravel()
    else:
        h = (p.d @ x) * h
    if s.normalise:
        h = h / np.linalg.norm(h)
    return (h,), h


ORACLES = {
    "mega_ema": mega_ema,
    "hippo": hippo,
    "s7": s7,
    "shm": shm,
    "parallel_lmu": parallel_lmu,
    "ema": ema,
    "bilinear_rnn": bilinear_rnn,
}

SETTINGS = {
    "mega_ema": [{"ndim": 3}],
    "hippo": [
        {"memory_size": 2, "order": 3},
        {"memory_size": 2, "order": 3, "measure": "legt", "theta": 5.0},
    ],
    "s7": [{"state_size": 3}],
    "shm": [{"rows": 3}],
    "parallel_lmu": [
        {"order": 3, "channels": 2, "theta": 5.0},
        {"order": 3, "channels": 2, "f1": Softsign(), "f2": Softsign()},
    ],
    "ema": [{"form": "sum"}],
    "bilinear_rnn": [
        {"form": "factored", "rank": 3},
        {"form": "rotation"},
        {"form": "diagonal"},
        {"form": "dense", "normalise": True},
    ],
}
