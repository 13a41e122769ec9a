"""Oracles of cells with several gates or several forms."""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0)


def softplus(a):
    return np.log(1 + np.exp(a))


def hard_sigmoid(a):
    """The one of Theano and Keras, with which SGU was tested."""
    return np.clip(0.2 * a + 0.5, 0, 1)


class Identity:
    """An activation whose name is the same in each process."""

    def __call__(self, a):
        return a

    def __repr__(self):
        return "identity"


def fast_grnn(p, s, state, x):
    """Kusupati et al. 2018; W = W_1 W_2 and U = U_1 U_2 where they have a low rank."""
    (h,) = state
    W = p.W_1 @ p.W_2 if s.w_rank else p.W
    U = p.U_1 @ p.U_2 if s.u_rank else p.U
    z = sigmoid(W @ x + U @ h + p.b_z)
    candidate = np.tanh(W @ x + U @ h + p.b_n)
    h = (sigmoid(p.zeta) * (1 - z) + sigmoid(p.nu)) * candidate + z * h
    return (h,), h


def ran(p, s, state, x):
    """Lee et al. 2017: the content is linear in the input; the output is tanh or the identity."""
    h, c = state
    candidate = p.W_c @ x
    i = sigmoid(p.U_i @ h + p.W_i @ x + p.b_i)
    f = sigmoid(p.U_f @ h + p.W_f @ x + p.b_f)
    c = i * candidate + f * c
    h = c if "identity" in str(s.activation) else np.tanh(c)
    return (h, c), h


def atr(p, s, state, x):
    """Zhang et al. 2018: the sum and the difference of p and q are the gates."""
    (h,) = state
    content, history = p.W @ x, p.U @ h
    i = sigmoid(content + history)
    f = sigmoid(content - history)
    h = i * content + f * h
    return (h,), h


def cfn(p, s, state, x):
    """Laurent and von Brecht 2016; t is for theta and e for eta."""
    (h,) = state
    theta = sigmoid(p.U_t @ h + p.V_t @ x + p.b_t)
    eta = sigmoid(p.U_e @ h + p.V_e @ x + p.b_e)
    h = theta * np.tanh(h) + eta * np.tanh(p.W @ x)
    return (h,), h


def star(p, s, state, x):
    """Turkoglu et al. 2019, the STAR cell."""
    (h,) = state
    k = sigmoid(p.W_x @ x + p.W_h @ h + p.b_k)
    z = np.tanh(p.W_z @ x + p.b_z)
    h = np.tanh((1 - k) * h + k * z)
    return (h,), h


def brc(p, s, state, x):
    """Vecoven et al. 2020, the BRC; a and c see a neuron's own state."""
    (h,) = state
    b_a, b_c = (p.b_a, p.b_c) if s.bias else (0, 0)
    a = 1 + np.tanh(p.U_a @ x + p.w_a * h + b_a)
    c = sigmoid(p.U_c @ x + p.w_c * h + b_c)
    h = c * h + (1 - c) * np.tanh(p.U @ x + a * h)
    return (h,), h


def nbrc(p, s, state, x):
    """Vecoven et al. 2020, the nBRC; a and c see the states of all neurons."""
    (h,) = state
    b_a, b_c = (p.b_a, p.b_c) if s.bias else (0, 0)
    a = 1 + np.tanh(p.U_a @ x + p.W_a @ h + b_a)
    c = sigmoid(p.U_c @ x + p.W_c @ h + b_c)
    h = c * h + (1 - c) * np.tanh(p.U @ x + a * h)
    return (h,), h


def mut(p, s, state, x):
    """Jozefowicz et al. 2015; a projection stands for an x that meets the state."""
    (h,) = state
    if s.variant == 1:
        z = sigmoid(p.W_z @ x + p.b_z)
        r = sigmoid(p.W_r @ x + p.U_r @ h + p.b_r)
        candidate = np.tanh(p.U_n @ (r * h) + np.tanh(p.W_n @ x) + p.b_n)
    elif s.variant == 2:
        z = sigmoid(p.W_z @ x + p.U_z @ h + p.b_z)
        r = sigmoid(p.W_r @ x + p.U_r @ h + p.b_r)
        candidate = np.tanh(p.U_n @ (r * h) + p.W_n @ x + p.b_n)
    else:
        z = sigmoid(p.W_z @ x + p.U_z @ np.tanh(h) + p.b_z)
        r = sigmoid(p.W_r @ x + p.U_r @ h + p.b_r)
        candidate = np.tanh(p.U_n @ (r * h) + p.W_n @ x + p.b_n)
    h = candidate * z + h * (1 - z)
    return (h,), h


def intersection_rnn(p, s, state, x):
    """Collins et al. 2016, the +RNN: n, g are h_in, g_h there and m, d are y_in, g_y."""
    (h,) = state
    x = p.P @ x
    y_in = relu(p.W_m @ x + p.U_m @ h + p.b_m)
    h_in = np.tanh(p.W_n @ x + p.U_n @ h + p.b_n)
    g_y = sigmoid(p.W_d @ x + p.U_d @ h + p.b_d)
    g_h = sigmoid(p.W_g @ x + p.U_g @ h + p.b_g)
    y = g_y * x + (1 - g_y) * y_in
    h = g_h * h + (1 - g_h) * h_in
    return (h,), y


def tgru(p, s, state, x):
    """Balduzzi and Ghifary 2016, the T-GRU: gates see the last input, not the state."""
    h, last = state
    z = p.V_z @ last + p.W_z @ x + p.b_z
    f = sigmoid(p.V_f @ last + p.W_f @ x + p.b_f)
    o = np.tanh(p.V_o @ last + p.W_o @ x + p.b_o)
    h = f * h + z * o
    return (h, x), h


def sgu(p, s, state, x):
    """Gao and Glowacka 2016: the SGU, and the DSGU with one more matrix."""
    (h,) = state
    x_g = p.W_x @ x + p.b_x
    z_g = np.tanh(p.W_g @ (x_g * h))
    z_out = sigmoid(p.W_o @ (z_g * h)) if s.deep else softplus(z_g * h)
    z = hard_sigmoid(p.W_z @ x + p.U_z @ h + p.b_z)
    h = (1 - z) * h + z * z_out
    return (h,), h


def miru(p, s, state, x):
    """Zyarah and Kudithipudi 2025: MiRU-1 keeps the reset gate, MiRU-2 has numbers alone."""
    (h,) = state
    r = sigmoid(p.W_r @ x + p.U_r @ h + p.b_r) if s.variant == 1 else s.reset
    candidate = np.tanh(p.W_n @ x + p.U_n @ (r * h) + p.b_n)
    h = s.update * h + (1 - s.update) * candidate
    return (h,), h


ORACLES = {
    "fast_grnn": fast_grnn,
    "ran": ran,
    "atr": atr,
    "cfn": cfn,
    "star": star,
    "brc": brc,
    "nbrc": nbrc,
    "mut": mut,
    "intersection_rnn": intersection_rnn,
    "tgru": tgru,
    "sgu": sgu,
    "miru": miru,
}

SETTINGS = {
    "fast_grnn": [{"w_rank": 2}, {"u_rank": 2}, {"w_rank": 1, "u_rank": 3}],
    "ran": [{"activation": Identity()}],
    "brc": [{"bias": True}],
    "nbrc": [{"bias": True}],
    "mut": [{"variant": 2}, {"variant": 3}, {"variant": 3, "project": False}],
    "sgu": [{"deep": True}],
    "miru": [{"update": 0.2}, {"reset": 0.8}, {"variant": 1}, {"variant": 1, "update": 0.7}],
}
