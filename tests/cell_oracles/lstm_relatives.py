"""Oracles of relatives of long short-term memory: of time, of momentum, nested, deep or found."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from cell_oracles.lstms import Named, named, sigmoid


def softmax(a, axis):
    e = np.exp(a - np.max(a, axis, keepdims=True))
    return e / np.sum(e, axis, keepdims=True)


def time_aware_lstm(p, s, state, x, dt):
    """Baytas et al. 2017: only the short-term part of the memory is discounted."""
    h, c = state
    short = np.tanh(p.W_d @ c + p.b_d)
    decay = named(s.decay, lambda t: 1 / np.log(np.e + t))
    long = c - short
    c = long + short * decay(dt)
    f = sigmoid(p.W_f @ x + p.U_f @ h + p.b_f)
    i = sigmoid(p.W_i @ x + p.U_i @ h + p.b_i)
    o = sigmoid(p.W_o @ x + p.U_o @ h + p.b_o)
    candidate = np.tanh(p.W_c @ x + p.U_c @ h + p.b_c)
    c = f * c + i * candidate
    h = o * np.tanh(c)
    return (h, c), h


def cumax(a):
    """The cumulative softmax of Shen et al. 2018."""
    return np.cumsum(softmax(a, 0))


def on_lstm(p, s, state, x):
    """Shen et al. 2018: an LSTM under master gates, each for a chunk of units."""
    h, c = state
    f = sigmoid(p.W_f @ x + p.U_f @ h + p.b_f)
    i = sigmoid(p.W_i @ x + p.U_i @ h + p.b_i)
    o = sigmoid(p.W_o @ x + p.U_o @ h + p.b_o)
    candidate = np.tanh(p.W_c @ x + p.U_c @ h + p.b_c)
    master_f = cumax(p.W_F @ x + p.U_F @ h + p.b_F)
    master_i = 1 - cumax(p.W_I @ x + p.U_I @ h + p.b_I)
    chunk = int(s.chunk_size)
    master_f = np.repeat(master_f, chunk)
    master_i = np.repeat(master_i, chunk)
    overlap = master_f * master_i
    f = f * overlap + (master_f - overlap)
    i = i * overlap + (master_i - overlap)
    c = f * c + i * candidate
    h = o * np.tanh(c)
    return (h, c), h


def elstm(p, s, state, x):
    """Irie et al. 2023 and their code: f and z see c of their own unit, o sees all of the new c."""
    (c,) = state
    f = sigmoid(p.F @ x + p.w_f * c + p.b_f)
    z = np.tanh(p.Z @ x + p.w_z * c + p.b_z)
    c = f * c + (1 - f) * z
    o = sigmoid(p.O @ x + p.W_o @ c + p.b_o)
    return (c,), o * c


def tlstm(p, s, state, x):
    """Balduzzi & Ghifary 2016: z is linear, and tanh gates the output."""
    c, before = state
    z = p.V_z @ before + p.W_z @ x + p.b_z
    f = sigmoid(p.V_f @ before + p.W_f @ x + p.b_f)
    o = np.tanh(p.V_o @ before + p.W_o @ x + p.b_o)
    c = f * c + (1 - f) * z
    return (c, x), c * o


def momentum_rnn(p, s, state, x):
    """Nguyen et al. 2020: the bias is a column of W (a one is appended to x), so s scales it."""
    h, v = state
    v = s.mu * v + s.s * (p.W @ x + p.b)
    h = named(s.activation, np.tanh)(p.U @ h + v)
    return (h, v), h


def momentum_lstm(p, s, state, x):
    """Nguyen et al. 2020: gates i, f, g, o as in their code; the bias as in `momentum_rnn`."""
    h, c, v = state
    v = s.mu * v + s.s * (p.W @ x + p.b)
    i, f, g, o = np.split(p.U @ h + v, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (h, c, v), h


def nested_lstm(p, s, state, x):
    """Moniz & Krueger 2018: the memory of the outer LSTM is the output of the inner."""
    h, c, n = state
    i, f, g, o = np.split(p.W @ x + p.U @ h + p.b, 4)
    inner_x = sigmoid(i) * named(s.candidate, np.tanh)(g)
    inner_h = sigmoid(f) * c
    inner_i, inner_f, inner_g, inner_o = np.split(p.W_n @ inner_x + p.U_n @ inner_h + p.b_n, 4)
    n = sigmoid(inner_f) * n + sigmoid(inner_i) * np.tanh(inner_g)
    c = sigmoid(inner_o) * np.tanh(n)
    h = sigmoid(o) * np.tanh(c)
    return (h, c, n), h


def nas(p, s, state, x):
    """The cell that Zoph & Le 2016 found for the Penn treebank, as in their code in TensorFlow."""
    h, c = state
    from_h = p.U @ h if p.b is None else p.U @ h + p.b
    a, b = np.split(p.W @ x, 8), np.split(from_h, 8)
    first = [
        sigmoid(a[0] + b[0]),
        np.maximum(a[1] + b[1], 0),
        sigmoid(a[2] + b[2]),
        np.maximum(a[3] * b[3], 0),
        np.tanh(a[4] + b[4]),
        sigmoid(a[5] + b[5]),
        np.tanh(a[6] + b[6]),
        sigmoid(a[7] + b[7]),
    ]
    second = [
        np.tanh(first[0] * first[1]),
        np.tanh(first[2] + first[3]),
        np.tanh(first[4] * first[5]),
        sigmoid(first[6] + first[7]),
    ]
    c = np.tanh(second[0] + c) * second[1]
    h = np.tanh(c * np.tanh(second[2] + second[3]))
    return (h, c), h


def recurrent_highway(p, s, state, x):
    """Zilly et al. 2016: the input enters in the first layer only."""
    (y,) = state
    for layer in range(int(s.depth)):
        first = 1.0 if layer == 0 else 0.0
        h = np.tanh(first * (p.W_H @ x) + p.R_H[layer] @ y + p.b_H[layer])
        t = sigmoid(first * (p.W_T @ x) + p.R_T[layer] @ y + p.b_T[layer])
        if s.coupled:
            carry = 1 - t
        else:
            carry = sigmoid(first * (p.W_C @ x) + p.R_C[layer] @ y + p.b_C[layer])
        y = h * t + y * carry
    return (y,), y


def mass_conserving_lstm(p, s, state, x):
    """Hoedt et al. 2021, with the softmax of their code for R; the gates see shares of mass."""
    (c,) = state
    masses, cells = int(s.mass_size), len(c)
    mass, auxiliary = x[:masses], x[masses:]
    norm = np.sum(np.abs(c))
    shares = c / norm if norm > 0 else c

    def gate(W, U):
        return U @ shares if W is None else W @ auxiliary + U @ shares

    i = softmax((gate(p.W_i, p.U_i) + p.b_i).reshape(masses, cells), 1)
    o = sigmoid(gate(p.W_o, p.U_o) + p.b_o)
    net_r = p.b_r
    if s.time_dependent:
        net_r = net_r + gate(p.W_r, p.U_r).reshape(cells, cells)
    R = softmax(net_r, 0)
    total = R @ c + mass @ i
    return ((1 - o) * total,), o * total


ORACLES = {
    "time_aware_lstm": time_aware_lstm,
    "on_lstm": on_lstm,
    "elstm": elstm,
    "tlstm": tlstm,
    "momentum_rnn": momentum_rnn,
    "momentum_lstm": momentum_lstm,
    "nested_lstm": nested_lstm,
    "nas": nas,
    "recurrent_highway": recurrent_highway,
    "mass_conserving_lstm": mass_conserving_lstm,
}

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "time_aware_lstm": [{"decay": Named("reciprocal", jnp.reciprocal, np.reciprocal)}],
    "on_lstm": [{"chunk_size": 2}],
    "momentum_rnn": [{"mu": 0.9, "s": 0.3}, {"activation": Named("sin", jnp.sin, np.sin)}],
    "momentum_lstm": [{"mu": 0.9, "s": 0.3}],
    "nested_lstm": [{"candidate": Named("identity", lambda a: a, lambda a: a)}],
    "nas": [{"bias": True}],
    "recurrent_highway": [{"depth": 1}, {"coupled": False}],
    "mass_conserving_lstm": [
        {"mass_size": 2},
        {"mass_size": 3},
        {"time_dependent": False},
        {"mass_size": 3, "time_dependent": False},
    ],
}
