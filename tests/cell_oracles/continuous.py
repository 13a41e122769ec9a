"""Oracles of cells between whose inputs time passes, of wired neurons and of fast weights."""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def softplus(a):
    return np.log1p(np.exp(a))


def solve(s, f, h, dt):
    """The method of Euler or of the midpoint."""
    step = dt / s.steps
    for _ in range(s.steps):
        h = h + step * f(h + step / 2 * f(h) if s.solver == "midpoint" else h)
    return h


def field(p):
    return lambda h: p.F_2 @ np.tanh(p.F_1 @ h + p.c_1) + p.c_2


def ode_rnn(p, s, state, x, dt):
    """Rubanova et al. 2019, algorithm 1, with the gated unit of Cho et al. 2014."""
    (h,) = state
    h = solve(s, field(p), h, dt)
    r = sigmoid(p.W_r @ x + p.U_r @ h + p.b_r)
    z = sigmoid(p.W_z @ x + p.U_z @ h + p.b_z)
    n = np.tanh(p.W_n @ x + p.U_n @ (r * h) + p.b_n)
    h = z * h + (1 - z) * n
    return (h,), h


def gru_ode(p, s, state, x, dt):
    """De Brouwer et al. 2019, eq. 3."""
    (h,) = state

    def slope(h):
        r = sigmoid(p.W_r @ x + p.U_r @ h + p.b_r)
        z = sigmoid(p.W_z @ x + p.U_z @ h + p.b_z)
        g = np.tanh(p.W_n @ x + p.U_n @ (r * h) + p.b_n)
        return (1 - z) * (g - h)

    h = solve(s, slope, h, dt)
    return (h,), h


def ode_lstm(p, s, state, x, dt):
    """Lechner and Hasani 2020, algorithm 1: the memory is not touched by the equation."""
    h, c = state
    i = sigmoid(p.W_i @ x + p.U_i @ h + p.b_i)
    f = sigmoid(p.W_f @ x + p.U_f @ h + p.b_f)
    g = np.tanh(p.W_g @ x + p.U_g @ h + p.b_g)
    o = sigmoid(p.W_o @ x + p.U_o @ h + p.b_o)
    c = f * c + i * g
    h = solve(s, field(p), o * np.tanh(c), dt)
    return (h, c), h


def ncde(p, s, state, x):
    """Kidger et al. 2020, eq. 3, one step of Euler along a path of straight lines."""
    z, x_before = state
    units = np.maximum(p.F_1 @ z + p.c_1, 0)
    matrix = np.tanh(p.F_2 @ units + p.c_2).reshape(len(z), len(x))
    z = z + matrix @ (x - x_before)
    return (z, x), z


def ncp(p, s, state, x):
    """Lechner et al. 2020: the fused method of Hasani et al. 2021 with the synapses of a wiring."""
    (v,) = state
    w, w_x = p.M * softplus(p.w), p.M_x * softplus(p.w_x)
    g, c = softplus(p.g), softplus(p.c) * s.unfolds / s.dt
    for _ in range(s.unfolds):
        new = np.zeros_like(v)
        for i in range(len(v)):
            above, below = c[i] * v[i] + g[i] * p.e[i], c[i] + g[i]
            for j in range(len(x)):
                S = w_x[i, j] * sigmoid(p.gamma_x[i, j] * (x[j] - p.mu_x[i, j]))
                above, below = above + S * p.E_x[i, j], below + S
            for j in range(len(v)):
                S = w[i, j] * sigmoid(p.gamma[i, j] * (v[j] - p.mu[i, j]))
                above, below = above + S * p.E[i, j], below + S
            new[i] = above / below
        v = new
    return (v,), v[: s.motor_size]


def fast_weights(p, s, state, x):
    """Ba et al. 2016, eqs. 1 and 2, with the layer norm of section 3.2."""
    h, A = state
    A = s.decay * A + s.rate * np.outer(h, h)
    boundary = p.W @ h + p.C @ x + p.b
    new = np.maximum(boundary, 0)
    for _ in range(s.loops):
        a = boundary + A @ new
        a = (a - a.mean()) / np.sqrt(a.var() + 1e-5)
        new = np.maximum(p.gain * a + p.shift, 0)
    return (new, A), new


def para_gru(p, s, state, x):
    """Danieli et al. 2025: the recurrent weights are vectors."""
    (h,) = state
    z = sigmoid(p.a_z * h + p.W_z @ x + p.b_z)
    r = sigmoid(p.a_r * h + p.W_r @ x + p.b_r)
    n = np.tanh(p.a_n * (h * r) + p.W_n @ x + p.b_n)
    h = (1 - z) * h + z * n
    return (h,), h


def para_lstm(p, s, state, x):
    """Danieli et al. 2025: coupled gates, and peepholes."""
    h, c = state
    f = sigmoid(p.a_f * h + p.W_f @ x + p.p_f * c + p.b_f)
    c = f * c + (1 - f) * np.tanh(p.a_n * h + p.W_n @ x + p.b_n)
    o = sigmoid(p.a_o * h + p.W_o @ x + p.p_o * c + p.b_o)
    h = o * np.tanh(c)
    return (h, c), h


def urnn(p, s, state, x):
    """Arjovsky et al. 2016, eqs. 6 and 7, with whole matrices."""
    (h,) = state
    n = len(h)
    k = np.arange(n)
    F = np.exp(-2j * np.pi * np.outer(k, k) / n)
    R_1, R_2 = (
        np.eye(n) - 2 * np.outer(v, v.conj()) / (v.conj() @ v)
        for v in (p.v_1[0] + 1j * p.v_1[1], p.v_2[0] + 1j * p.v_2[1])
    )
    D_1, D_2, D_3 = (np.diag(np.exp(1j * theta)) for theta in p.theta)
    Pi = np.eye(n)[np.argsort(p.order)]
    W = D_3 @ R_2 @ np.linalg.inv(F) @ D_2 @ Pi @ R_1 @ F @ D_1
    z = W @ h + (p.V[0] + 1j * p.V[1]) @ x
    size = np.abs(z)
    h = np.maximum(size + p.b, 0) * z / size
    return (h,), np.concatenate([h.real, h.imag])


def centaurus(p, s, state, x):
    """Pei 2025, the bottleneck block: parts of a state share its input, and are mixed."""
    (h,) = state
    Delta = np.exp(p.log_Delta)
    A = -np.exp(p.log_A) + 1j * p.A_im
    h = np.exp(Delta[:, None] * A) * h + (Delta * (p.B @ x))[:, None]
    return (h,), p.C @ np.sum(p.E * h.real, axis=1)


ORACLES = {
    "ode_rnn": ode_rnn,
    "gru_ode": gru_ode,
    "ode_lstm": ode_lstm,
    "ncde": ncde,
    "ncp": ncp,
    "attending_fast_weights": fast_weights,
    "para_gru": para_gru,
    "para_lstm": para_lstm,
    "urnn": urnn,
    "centaurus": centaurus,
}

SETTINGS = {
    "ode_rnn": [{"units": 3, "solver": "midpoint"}],
    "gru_ode": [{"steps": 2, "solver": "midpoint"}],
    "ode_lstm": [{"units": 3, "steps": 2}],
    "ncde": [{"units": 3}],
    "ncp": [{"motor_size": 2, "unfolds": 2, "dt": 0.5}],
    "attending_fast_weights": [{"loops": 3, "decay": 0.8, "rate": 0.3}],
    "centaurus": [{"state_size": 3, "parts": 2}],
}
