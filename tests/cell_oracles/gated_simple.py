"""Oracles of plain recurrent networks, and of cells with one gate."""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0)


class Softsign:
    """An activation that no paper has, in NumPy as in JAX; its name is the same in each process."""

    def __call__(self, a):
        return a / (1 + abs(a))

    def __repr__(self):
        return "softsign"


def activation(s, default):
    """The activation of `SETTINGS`, or else the one of the paper."""
    return Softsign() if "softsign" in str(s.activation) else default


def leaky_rnn(p, s, state, x):
    """Jaeger et al. 2007: steps of Euler's method, so the leak is outside of the activation."""
    (h,) = state
    f = activation(s, np.tanh)
    h = (1 - s.rate) * h + s.rate * f(p.W @ x + p.U @ h + p.b)
    return (h,), h


def jordan_rnn(p, s, state, x):
    """Jordan 1986: the last output is fed back to a hidden layer; units are logistic."""
    (y,) = state
    g = activation(s, sigmoid)
    hidden = sigmoid(p.W @ x + p.U @ y + p.b)
    y = g(p.V @ hidden + p.c)
    return (y,), y


def irnn(p, s, state, x):
    """Le et al. 2015: a network of rectified linear units."""
    (h,) = state
    h = relu(p.W @ x + p.U @ h + p.b)
    return (h,), h


def scrn(p, s, state, x):
    """Mikolov et al. 2014; with `adaptive` each context unit has its own alpha."""
    h, context = state
    alpha = sigmoid(p.beta) if s.adaptive else s.alpha
    context = (1 - alpha) * (p.B @ x) + alpha * context
    h = sigmoid(p.P @ context + p.A @ x + p.R @ h)
    return (h, context), np.concatenate([h, context])


def fast_rnn(p, s, state, x):
    """Kusupati et al. 2018; both weights are sigmoids of their parameters."""
    (h,) = state
    f = activation(s, np.tanh)
    candidate = f(p.W @ x + p.U @ h + p.b)
    h = sigmoid(p.alpha) * candidate + sigmoid(p.beta) * h
    return (h,), h


def indrnn(p, s, state, x):
    """Li et al. 2018: a unit has one recurrent weight, its own."""
    (h,) = state
    f = activation(s, relu)
    h = f(p.W @ x + p.u * h + p.b)
    return (h,), h


def mrnn(p, s, state, x):
    """Sutskever et al. 2011: the input chooses the factors of the transition matrix."""
    (h,) = state
    f = np.diag(p.W_m @ x) @ p.U_m @ h
    h = np.tanh(p.U_h @ f + p.W_h @ x + p.b)
    return (h,), h


def antisymmetric_rnn(p, s, state, x):
    """Chang et al. 2019: a step of Euler's method, and the same with a gate."""
    (h,) = state
    recurrent = (p.W - p.W.T - s.gamma * np.eye(len(h))) @ h
    change = np.tanh(recurrent + p.V @ x + p.b)
    if s.gated:
        z = sigmoid(recurrent + p.V_z @ x + p.b_z)
        h = h + s.epsilon * z * change
    else:
        h = h + s.epsilon * change
    return (h,), h


def trnn(p, s, state, x):
    """Balduzzi and Ghifary 2016, the T-RNN."""
    (h,) = state
    z = p.W @ x
    f = sigmoid(p.V @ x + p.b)
    h = f * h + (1 - f) * z
    return (h,), h


def ugrnn(p, s, state, x):
    """Collins et al. 2016, the UGRNN."""
    (h,) = state
    c = np.tanh(p.U_c @ h + p.W_c @ x + p.b_c)
    g = sigmoid(p.U_g @ h + p.W_g @ x + p.b_g)
    h = g * h + (1 - g) * c
    return (h,), h


def minimal_rnn(p, s, state, x):
    """Chen 2017: z is a layer of the input with a tanh."""
    (h,) = state
    z = np.tanh(p.W @ x + p.b_z)
    u = sigmoid(p.U @ h + p.V @ z + p.b_u)
    h = u * h + (1 - u) * z
    return (h,), h


def light_ru(p, s, state, x):
    """Ye et al. 2024: the candidate has neither the state nor a bias."""
    (h,) = state
    candidate = np.tanh(p.W_n @ x)
    f = sigmoid(p.W_f @ x + p.U_f @ h + p.b_f)
    h = (1 - f) * h + f * candidate
    return (h,), h


def sgrn(p, s, state, x):
    """Zu and Wei 2020: the gate and the candidate share W."""
    (h,) = state
    f = sigmoid(p.W @ x + p.U @ h + p.b)
    i = 1 - f
    h = np.tanh(i * (p.W @ x) + f * h)
    return (h,), h


def janet(p, s, state, x):
    """Van der Westhuizen and Lasenby 2018: the input gate is not quite one minus the other."""
    (h,) = state
    a = p.U_f @ h + p.W_f @ x + p.b_f
    candidate = np.tanh(p.U_c @ h + p.W_c @ x + p.b_c)
    h = sigmoid(a) * h + (1 - sigmoid(a - s.beta)) * candidate
    return (h,), h


def layer_norm(a):
    """Without gain and bias; the epsilon is PyTorch's, as in the authors' code."""
    return (a - np.mean(a)) / np.sqrt(np.var(a) + 1e-5)


def ligru(p, s, state, x):
    """Ravanelli et al. 2018; SLi-GRU (Moumen and Parcollet 2023) norms U h."""
    (h,) = state
    z, candidate = p.U_z @ h, p.U_c @ h
    if s.norm == "layer":
        z, candidate = layer_norm(z), layer_norm(candidate)
    z = sigmoid(p.W_z @ x + p.b_z + z)
    candidate = relu(p.W_c @ x + p.b_c + candidate)
    h = z * h + (1 - z) * candidate
    return (h,), h


def mgu(p, s, state, x):
    """Zhou et al. 2016; Heck and Salem 2017 shorten the gate in three ways."""
    (h,) = state
    if s.variant == 0:
        f = sigmoid(p.W_f @ x + p.U_f @ h + p.b_f)
    elif s.variant == 1:
        f = sigmoid(p.U_f @ h + p.b_f)
    elif s.variant == 2:
        f = sigmoid(p.U_f @ h)
    else:
        f = sigmoid(p.b_f)
    candidate = np.tanh(p.W_n @ x + p.U_n @ (f * h) + p.b_n)
    h = (1 - f) * h + f * candidate
    return (h,), h


ORACLES = {
    "leaky_rnn": leaky_rnn,
    "jordan_rnn": jordan_rnn,
    "irnn": irnn,
    "scrn": scrn,
    "fast_rnn": fast_rnn,
    "indrnn": indrnn,
    "mrnn": mrnn,
    "antisymmetric_rnn": antisymmetric_rnn,
    "trnn": trnn,
    "ugrnn": ugrnn,
    "minimal_rnn": minimal_rnn,
    "light_ru": light_ru,
    "sgrn": sgrn,
    "janet": janet,
    "ligru": ligru,
    "mgu": mgu,
}

SETTINGS = {
    "leaky_rnn": [{"rate": 0.75}, {"rate": 1.0}, {"activation": Softsign()}],
    "jordan_rnn": [{"inner_size": 5}, {"activation": Softsign()}],
    "scrn": [{"context_size": 5, "alpha": 0.6}, {"adaptive": True}],
    "fast_rnn": [{"activation": Softsign()}],
    "indrnn": [{"activation": Softsign()}],
    "mrnn": [{"factors": 5}],
    "antisymmetric_rnn": [{"epsilon": 0.3, "gamma": 0.6}, {"epsilon": 0.3, "gated": True}],
    "janet": [{"beta": 0.0}, {"beta": 0.4}],
    "ligru": [{"norm": "layer"}],
    "mgu": [{"variant": 1}, {"variant": 2}, {"variant": 3}],
}
