"""Oracles of cells with a memory of slots that a network reads and writes."""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def softplus(a):
    return np.log1p(np.exp(a))


def softmax(a):
    e = np.exp(a - a.max())
    return e / e.sum()


def length(a):
    """With what keeps a slot of zeros from having no direction."""
    return np.sqrt(a @ a + 1e-6)


def address(p, head, h, M, w):
    """Graves et al. 2014, eqs. 5 to 9: the weighting of a head from that of the step before."""
    N, m, S = p.slots, p.width, p.shift
    k = (p.W_k @ h + p.b_k)[head * m : (head + 1) * m]
    beta = softplus(p.W_beta[head] @ h + p.b_beta[head])
    g = sigmoid(p.W_g[head] @ h + p.b_g[head])
    s = softmax((p.W_s @ h + p.b_s)[head * (2 * S + 1) : (head + 1) * (2 * S + 1)])
    gamma = 1 + softplus(p.W_gamma[head] @ h + p.b_gamma[head])
    K = np.array([k @ M[i] / (length(k) * length(M[i])) for i in range(N)])
    w_c = np.exp(beta * K) / np.sum(np.exp(beta * K))
    w_g = g * w_c + (1 - g) * w
    w_s = np.zeros(N)
    for i in range(N):
        for j in range(N):
            for offset in range(-S, S + 1):
                if (i - j - offset) % N == 0:
                    w_s[i] += w_g[j] * s[offset + S]
    return w_s**gamma / np.sum(w_s**gamma)


def read_vectors(p, M, w):
    """Eq. 2, one after the other."""
    return np.concatenate([w[head] @ M for head in range(p.read_heads)])


def memory_step(p, h, M, w):
    """Eqs. 3 and 4: all heads have their weightings, then all erasures come, then all additions."""
    heads = p.read_heads + p.write_heads
    new_w = np.stack([address(p, head, h, M, w[head]) for head in range(heads)])
    e = sigmoid(p.W_e @ h + p.b_e).reshape(p.write_heads, p.width)
    a = (p.W_a @ h + p.b_a).reshape(p.write_heads, p.width)
    new_M = M.copy()
    for n in range(p.write_heads):
        new_M = new_M * (1 - np.outer(new_w[p.read_heads + n], e[n]))
    for n in range(p.write_heads):
        new_M = new_M + np.outer(new_w[p.read_heads + n], a[n])
    return new_M, new_w


def ntm(p, s, state, x):
    """Graves et al. 2014, with a feedforward controller."""
    M, w = state
    h = np.tanh(p.W @ x + p.R @ read_vectors(p, M, w) + p.b)
    return memory_step(p, h, M, w), h


def ntm_lstm(p, s, state, x):
    """Graves et al. 2014, with a controller that is an LSTM without peepholes."""
    h, c, M, w = state
    i, f, g, o = np.split(p.W @ x + p.R @ read_vectors(p, M, w) + p.U @ h + p.b, 4)
    new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    new_h = sigmoid(o) * np.tanh(new_c)
    return (new_h, new_c, *memory_step(p, new_h, M, w)), new_h


def layer_norm(a, gain, offset):
    """With the epsilon of Sonnet."""
    return gain * (a - a.mean()) / np.sqrt(a.var() + 1e-5) + offset


def rmc(p, s, state, x):
    """Santoro et al. 2018, as in Sonnet: one block of attention, gates for each number."""
    (M,) = state
    N, d = p.slots, p.hidden_size // p.heads
    x_row = p.W_x @ x + p.b_x
    normed = [layer_norm(p.W_qkv @ row + p.b_qkv, p.gain_qkv, p.shift_qkv) for row in [*M, x_row]]
    q, k, v = ([row.reshape(3, p.heads, d)[n] for row in normed] for n in range(3))
    new_M = np.zeros_like(M)
    for i in range(N):
        attended = []
        for h in range(p.heads):
            a = softmax(np.array([q[i][h] @ k[j][h] / np.sqrt(d) for j in range(N + 1)]))
            attended.append(sum(a[j] * v[j][h] for j in range(N + 1)))
        row = layer_norm(M[i] + np.concatenate(attended), p.gain_1, p.shift_1)
        inner = np.maximum(p.W_1 @ row + p.b_1, 0)
        row = layer_norm(p.W_2 @ inner + p.b_2 + row, p.gain_2, p.shift_2)
        gate = sigmoid(p.W_i @ x_row + p.U_i @ np.tanh(M[i]) + p.b_i)
        forget = sigmoid(p.W_f @ x_row + p.U_f @ np.tanh(M[i]) + p.b_f)
        new_M[i] = gate * np.tanh(row) + forget * M[i]
    return (new_M,), new_M.ravel()


ORACLES = {"ntm": ntm, "ntm_lstm": ntm_lstm, "rmc": rmc}

_SMALL = {"slots": 5, "width": 2}

SETTINGS = {
    "ntm": [{**_SMALL, "read_heads": 2, "write_heads": 3, "shift": 2}],
    "rmc": [{"heads": 2, "slots": 3}],
    "ntm_lstm": [{**_SMALL, "read_heads": 2, "write_heads": 2}],
}
