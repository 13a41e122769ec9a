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


ORACLES = {"conv_rnn": conv_rnn, "conv_lstm": conv_lstm, "conv_gru": conv_gru}

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
}
