"""Oracles of cells whose states are images, (*space, features). A convolution is a loop."""

import itertools

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def per_axis(given, axes):
    given = np.ravel(given)
    return [int(n) for n in (np.repeat(given, axes) if len(given) == 1 else given)]


def convolution(a, kernel, strides=1, padding="same", dilation=1):
    """A sum over taps at each point. What is outside of ``a`` is zero; the pad is less in front."""
    *size, _ = a.shape
    axes = len(size)
    taps, strides = kernel.shape[:axes], per_axis(strides, axes)
    dilation = per_axis(dilation, axes)
    reach = [(k - 1) * d for k, d in zip(taps, dilation, strict=True)]
    if padding == "same":
        points = [int(np.ceil(n / s)) for n, s in zip(size, strides, strict=True)]
        pads = [
            max((m - 1) * s + r + 1 - n, 0) // 2
            for m, s, r, n in zip(points, strides, reach, size, strict=True)
        ]
    else:
        points = [(n - r - 1) // s + 1 for n, r, s in zip(size, reach, strides, strict=True)]
        pads = [0] * axes
    found = np.zeros((*points, kernel.shape[-1]))
    for point in itertools.product(*map(range, points)):
        for tap in itertools.product(*map(range, taps)):
            place = tuple(
                m * s + k * d - pad
                for m, s, k, d, pad in zip(point, strides, tap, dilation, pads, strict=True)
            )
            if all(0 <= at < n for at, n in zip(place, size, strict=True)):
                found[point] += a[place] @ kernel[tap]
    return found


def given(p, x, kernel):
    return convolution(x, kernel, p.strides, p.padding, p.dilation)


def conv_rnn(p, s, state, x):
    """Liang and Hu 2015, eqs. 1 and 2, with a tanh."""
    (h,) = state
    h = np.tanh(given(p, x, p.W) + convolution(h, p.U) + p.b)
    return (h,), h


def conv_lstm(p, s, state, x):
    """Shi et al. 2015, eq. 3: the output gate sees the new memory."""
    h, c = state
    hidden = h.shape[-1]

    def part(gate):
        rows = slice(gate * hidden, (gate + 1) * hidden)
        return given(p, x, p.W[..., rows]) + convolution(h, p.U[..., rows]) + p.b[rows]

    w_ci, w_cf, w_co = (0, 0, 0) if p.p_i is None else (p.p_i, p.p_f, p.p_o)
    i = sigmoid(part(0) + w_ci * c)
    f = sigmoid(part(1) + w_cf * c)
    new_c = f * c + i * np.tanh(part(2))
    o = sigmoid(part(3) + w_co * new_c)
    new_h = o * np.tanh(new_c)
    return (new_h, new_c), new_h


def conv_gru(p, s, state, x):
    """Ballas et al. 2016, section 3.1."""
    (h,) = state
    n = h.shape[-1]
    z = sigmoid(given(p, x, p.W[..., :n]) + convolution(h, p.U[..., :n]) + p.b[:n])
    r = sigmoid(given(p, x, p.W[..., n : 2 * n]) + convolution(h, p.U[..., n:]) + p.b[n : 2 * n])
    candidate = np.tanh(given(p, x, p.W[..., 2 * n :]) + convolution(r * h, p.U_n) + p.b[2 * n :])
    h = (1 - z) * h + z * candidate
    return (h,), h


def st_lstm(p, s, state, x):
    """Wang et al. 2023, eq. 2: the memory m climbs the layers, and falls to the first one."""
    h, c, m = state
    n = m.shape[-1]
    new_h, new_c, below = [], [], x
    for layer in range(len(h)):

        def seen(k, layer=layer, below=below):
            columns = slice(k * n, (k + 1) * n)
            if layer == 0:
                return given(p, below, p.W[..., columns]) + p.b[0, columns]
            return convolution(below, p.W_above[layer - 1][..., columns]) + p.b[layer, columns]

        def kept(k, layer=layer):
            return convolution(h[layer], p.U[layer][..., k * n : (k + 1) * n])

        def climbing(k, layer=layer, m=m):
            return convolution(m, p.V[layer][..., k * n : (k + 1) * n])

        g, i, f = (
            np.tanh(seen(0) + kept(0)),
            sigmoid(seen(1) + kept(1)),
            sigmoid(seen(2) + kept(2)),
        )
        C = f * c[layer] + i * g
        g2, i2, f2 = (
            np.tanh(seen(3) + climbing(0)),
            sigmoid(seen(4) + climbing(1)),
            sigmoid(seen(5) + climbing(2)),
        )
        m = f2 * m + i2 * g2
        W_co, W_mo = p.O[layer][..., :n, :], p.O[layer][..., n:, :]
        o = sigmoid(seen(6) + kept(3) + convolution(C, W_co) + convolution(m, W_mo))
        below = o * np.tanh(np.concatenate([C, m], axis=-1) @ p.P[layer])
        new_h.append(below)
        new_c.append(C)
    return (np.stack(new_h), np.stack(new_c), m), below


def causal_lstm(p, s, state, x):
    """Wang et al. 2018, eq. 1, in a stack of one layer."""
    h, c, m = state
    n = m.shape[-1]

    def part(k, *recurrent):
        columns = slice(k * n, (k + 1) * n)
        return given(p, x, p.W[..., columns]) + p.b[columns] + sum(recurrent)

    def out_of(a, kernel, k):
        return convolution(a, kernel[..., k * n : (k + 1) * n])

    g = np.tanh(part(0, out_of(h, p.U_h, 0), out_of(c, p.U_c, 0)))
    i = sigmoid(part(1, out_of(h, p.U_h, 1), out_of(c, p.U_c, 1)))
    f = sigmoid(part(2, out_of(h, p.U_h, 2), out_of(c, p.U_c, 2)))
    c = f * c + i * g
    g = np.tanh(part(3, out_of(c, p.V_c, 0), out_of(m, p.V_m, 0)))
    i = sigmoid(part(4, out_of(c, p.V_c, 1), out_of(m, p.V_m, 1)))
    f = sigmoid(part(5, out_of(c, p.V_c, 2), out_of(m, p.V_m, 2)))
    m = f * np.tanh(convolution(m, p.W_3)) + i * g
    o = np.tanh(part(6, convolution(c, p.O[..., :n, :]), convolution(m, p.O[..., n:, :])))
    h = o * np.tanh(np.concatenate([c, m], axis=-1) @ p.P)
    return (h, c, m), h


def phy_cell(p, s, state, x):
    """Le Guen and Thome 2020, eqs. 5 to 8: a physical prediction, and its correction."""
    (h,) = state
    u = given(p, x, p.E) + p.b_E
    predicted = h + convolution(h, p.F) @ p.c + p.b_F
    K = sigmoid(convolution(u, p.W_u) + convolution(h, p.W_h) + p.b_K)
    h = predicted + K * (u - predicted)
    return (h,), h


def leaky(a):
    return np.where(a > 0, a, 0.2 * a)


def warp(image, right, down):
    """Shi et al. 2017, eq. 4: a sum over all points."""
    rows, columns, _ = image.shape
    found = np.zeros_like(image)
    for i, j in np.ndindex(rows, columns):
        for m, n in np.ndindex(rows, columns):
            weight = max(0, 1 - abs(i + down[i, j] - m)) * max(0, 1 - abs(j + right[i, j] - n))
            found[i, j] += weight * image[m, n]
    return found


def traj_gru(p, s, state, x):
    """Shi et al. 2017, eqs. 2 and 3, with the flow generator of section 3.3."""
    (h,) = state
    n = h.shape[-1]
    hidden = leaky(given(p, x, p.F_x) + convolution(h, p.F_h) + p.b_F)
    flows = convolution(hidden, p.F_out) + p.b_out
    moved = [warp(h, flows[..., 2 * k], flows[..., 2 * k + 1]) for k in range(p.links)]

    def links(gate):
        columns = slice(gate * n, (gate + 1) * n)
        return sum(h_l @ p.U[k, :, columns] for k, h_l in enumerate(moved))

    def seen(gate):
        columns = slice(gate * n, (gate + 1) * n)
        return given(p, x, p.W[..., columns]) + p.b[columns]

    z = sigmoid(seen(0) + links(0))
    r = sigmoid(seen(1) + links(1))
    candidate = leaky(seen(2) + r * links(2))
    h = (1 - z) * candidate + z * h
    return (h,), h


ORACLES = {
    "conv_rnn": conv_rnn,
    "conv_lstm": conv_lstm,
    "conv_gru": conv_gru,
    "st_lstm": st_lstm,
    "causal_lstm": causal_lstm,
    "phy_cell": phy_cell,
    "traj_gru": traj_gru,
}

SETTINGS = {
    "conv_rnn": [
        {"in_shape": (5, 2), "kernel_size": 2},
        {"in_shape": (3, 2, 2, 1), "kernel_size": 2, "recurrent_kernel_size": 1},
        {"in_shape": (5, 6, 2), "strides": (2, 3), "recurrent_kernel_size": (3, 1)},
        {"in_shape": (5, 6, 2), "kernel_size": (2, 3), "strides": 2, "padding": "valid"},
        {"in_shape": (5, 4, 2), "dilation": (2, 1), "recurrent_kernel_size": 2},
        {"in_shape": (5, 4, 2), "dilation": 2, "kernel_size": 2, "padding": "valid"},
    ],
    "conv_lstm": [
        {"peepholes": False},
        {"in_shape": (5, 2)},
        {"in_shape": (3, 2, 2, 1), "kernel_size": 2, "peepholes": False},
        {"in_shape": (5, 4, 2), "strides": 2},
    ],
    "conv_gru": [{"in_shape": (5, 2)}, {"in_shape": (3, 2, 2, 1), "kernel_size": 2}],
    "st_lstm": [{"layers": 2}, {"in_shape": (4, 1), "kernel_size": 2}, {"layers": 3, "strides": 2}],
    "causal_lstm": [{"in_shape": (4, 3), "kernel_size": 2}],
    "phy_cell": [{"derivatives": 3}, {"in_shape": (4, 1), "strides": 2}],
    "traj_gru": [{"links": 2, "flow_features": 3}, {"in_shape": (5, 4, 1), "strides": (2, 1)}],
}
