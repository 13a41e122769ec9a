"""Oracles of gated recurrent units with decays, blocks, delays and products, and of their kin."""

import numpy as np


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def relu(v):
    return np.maximum(v, 0)


def gru_d(p, s, state, x):
    """Che et al. 2016: decays of the inputs and of the state, and the mask in gates.

    The masks of the paper are 0 or 1; here a number above 0 is a value that was seen.
    """
    h, last = state
    v, m, d = np.split(x, 3)
    gamma_x = np.exp(-relu(p.w_gamma_x * d + p.b_gamma_x))
    gamma_h = np.exp(-relu(p.W_gamma_h @ d + p.b_gamma_h))
    seen = m > 0
    x_hat = np.where(seen, v, gamma_x * last + (1 - gamma_x) * p.x_mean)
    h_hat = gamma_h * h
    z = sigmoid(p.W_z @ x_hat + p.U_z @ h_hat + p.V_z @ m + p.b_z)
    r = sigmoid(p.W_r @ x_hat + p.U_r @ h_hat + p.V_r @ m + p.b_r)
    n = np.tanh(p.W @ x_hat + p.U @ (r * h_hat) + p.V @ m + p.b)
    new_h = (1 - z) * h_hat + z * n
    new_last = np.where(seen, v, last)
    return (new_h, new_last), new_h


def block_gru(p, s, state, x):
    """Hafner et al. 2023 with the official code: `BlockLinear`, `Norm` and the gates of `_core`.

    Each of reset, candidate and update has a block-diagonal matrix. Layer normalisation is over
    all three at once, and 1 is taken from the update gate.
    """
    (h,) = state
    parts = []
    for blocks in np.split(p.U, 3):
        pieces = np.split(h, len(blocks))
        parts += [block @ piece for block, piece in zip(blocks, pieces, strict=True)]
    a = p.W @ x + np.concatenate(parts)
    normed = (a - a.mean()) / np.sqrt(a.var() + s.epsilon)
    reset, candidate, update = np.split(p.alpha * normed + p.beta, 3)
    n = np.tanh(sigmoid(reset) * candidate)
    z = sigmoid(update - 1)
    new_h = z * n + (1 - z) * h
    return (new_h,), new_h


def tau_gru(p, s, state, x):
    """Erichson et al. 2022: the new state is (1 - g) h + g (u + a z).

    ``past`` has the states before h, the oldest first.
    """
    h, past = state
    delayed = past[0]
    u = np.tanh(p.U_1 @ h + p.W_1 @ x + p.b_1)
    z = np.tanh(p.U_2 @ delayed + p.W_2 @ x + p.b_2)
    g = sigmoid(p.U_3 @ h + p.W_3 @ x + p.b_3)
    a = sigmoid(p.U_4 @ h + p.W_4 @ x + p.b_4)
    new_h = (1 - g) * h + g * (u + a * z)
    return (new_h, np.stack([*past[1:], h])), new_h


def integrate(alpha, beta_1, beta_2, b, from_x, from_h):
    """Wu et al. 2016: the general form of multiplicative integration."""
    return alpha * from_x * from_h + beta_1 * from_h + beta_2 * from_x + b


def mi_rnn(p, s, state, x):
    """Wu et al. 2016: the general form inside of a tanh."""
    (h,) = state
    new_h = np.tanh(integrate(p.alpha, p.beta_1, p.beta_2, p.b, p.W @ x, p.U @ h))
    return (new_h,), new_h


def mi_gru(p, s, state, x):
    """Wu et al. 2016, the GRU: each of the three sums is integrated."""
    (h,) = state
    of_z, of_r, of_n = zip(p.alpha, p.beta_1, p.beta_2, p.b, strict=True)
    z = sigmoid(integrate(*of_z, p.W_z @ x, p.U_z @ h))
    r = sigmoid(integrate(*of_r, p.W_r @ x, p.U_r @ h))
    n = np.tanh(integrate(*of_n, p.W_n @ x, p.U_n @ (r * h)))
    new_h = (1 - z) * h + z * n
    return (new_h,), new_h


def mi_lstm(p, s, state, x):
    """Wu et al. 2016, the LSTM: the four sums are integrated."""
    h, c = state
    i, f, g, o = np.split(integrate(p.alpha, p.beta_1, p.beta_2, p.b, p.W @ x, p.U @ h), 4)
    new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    new_h = sigmoid(o) * np.tanh(new_c)
    return (new_h, new_c), new_h


def noisy_rnn(p, s, state, x):
    """Lim et al. 2021 with the official code, without noise: a step of Euler's method."""
    (h,) = state

    def stable(m):
        symmetric, skew = m + m.T, m - m.T
        return (1 - s.beta) * symmetric + s.beta * skew - s.gamma * np.eye(len(m))

    f = stable(p.M_A) @ h + np.tanh(stable(p.M_W) @ h + p.U @ x + p.b)
    new_h = h + s.delta * f
    return (new_h,), new_h


def ea_lstm(p, s, state, x):
    """Kratzert et al. 2019 with the official code: the input gate sees only the static inputs."""
    h, c = state
    dynamic, static = x[: -p.W_i.shape[1]], x[-p.W_i.shape[1] :]
    i = sigmoid(p.W_i @ static + p.b_i)
    f = sigmoid(p.W_f @ dynamic + p.U_f @ h + p.b_f)
    g = np.tanh(p.W_g @ dynamic + p.U_g @ h + p.b_g)
    o = sigmoid(p.W_o @ dynamic + p.U_o @ h + p.b_o)
    new_c = f * c + i * g
    new_h = o * np.tanh(new_c)
    return (new_h, new_c), new_h


ORACLES = {
    "gru_d": gru_d,
    "block_gru": block_gru,
    "tau_gru": tau_gru,
    "mi_rnn": mi_rnn,
    "mi_gru": mi_gru,
    "noisy_rnn": noisy_rnn,
    "mi_lstm": mi_lstm,
    "ea_lstm": ea_lstm,
}

SETTINGS = {
    "block_gru": [{"blocks": 2, "epsilon": 0.1}, {"blocks": 1}],
    "tau_gru": [{"delay": 2}, {"delay": 1}],
    "noisy_rnn": [{"beta": 0.6, "gamma": 0.3, "delta": 0.5}, {"sigma_1": 0.3, "sigma_2": 0.4}],
    "ea_lstm": [{"static_size": 2}],
}
