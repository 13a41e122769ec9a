"""Oracles of long short-term memories: the first ones, their gates and their read-outs."""

from typing import Any

import jax.numpy as jnp
import numpy as np


class Named:
    """A function of `SETTINGS` in JAX and in NumPy; its name is the same in every process."""

    def __init__(self, name: str, in_jax: Any, in_numpy: Any):
        self.name, self.in_jax, self.in_numpy = name, in_jax, in_numpy

    def __call__(self, values: Any) -> Any:
        return self.in_jax(values)

    def __repr__(self) -> str:
        return self.name


def named(setting, default):
    """The function of `SETTINGS`, or else the one of the paper."""
    function = getattr(setting, "func", setting)
    return function.in_numpy if isinstance(function, Named) else default


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def lstm_1997(p, s, state, x):
    """Hochreiter & Schmidhuber 1997: g is logistic in [-2, 2], and h in [-1, 1]."""
    h, c = state
    squash_input = named(s.squash_input, lambda net: 4 * sigmoid(net) - 2)
    squash_output = named(s.squash_output, lambda net: 2 * sigmoid(net) - 1)
    i = sigmoid(p.W_i @ x + p.U_i @ h + p.b_i)
    o = sigmoid(p.W_o @ x + p.U_o @ h + p.b_o)
    c = c + i * squash_input(p.W_c @ x + p.U_c @ h + p.b_c)
    h = o * squash_output(c)
    return (h, c), h


def peephole_lstm(p, s, state, x):
    """Gers et al. 2002, with tanh as g and h, as is usual since."""
    h, c = state
    i = sigmoid(p.W_i @ x + p.U_i @ h + p.p_i * c + p.b_i)
    f = sigmoid(p.W_f @ x + p.U_f @ h + p.p_f * c + p.b_f)
    c = f * c + i * np.tanh(p.W_c @ x + p.U_c @ h + p.b_c)
    o = sigmoid(p.W_o @ x + p.U_o @ h + p.p_o * c + p.b_o)
    h = o * np.tanh(c)
    return (h, c), h


def lstmp(p, s, state, x):
    """Sak et al. 2014, the LSTMP without the projection that is not recurrent."""
    r, c = state
    net_i = p.W_i @ x + p.U_i @ r + p.b_i
    net_f = p.W_f @ x + p.U_f @ r + p.b_f
    net_o = p.W_o @ x + p.U_o @ r + p.b_o
    if s.peepholes:
        net_i = net_i + p.p_i * c
        net_f = net_f + p.p_f * c
    c = sigmoid(net_f) * c + sigmoid(net_i) * np.tanh(p.W_c @ x + p.U_c @ r + p.b_c)
    if s.peepholes:
        net_o = net_o + p.p_o * c
    m = sigmoid(net_o) * np.tanh(c)
    r = p.W_r @ m
    return (r, c), r


def lstm_variant(p, s, state, x):
    """Greff et al. 2015, vanilla and its eight variants; only "fgr" reads and writes the gates."""
    y, c, gates = state
    size, variant = len(c), str(s.variant)
    peepholes = variant != "np"
    net_z = p.W_z @ x + p.R_z @ y + p.b_z
    z = net_z if variant == "niaf" else np.tanh(net_z)
    seen = np.zeros(3 * size)
    if variant == "fgr":
        seen = p.R_g @ gates

    i = np.ones(size)
    if variant != "nig":
        net_i = p.W_i @ x + p.R_i @ y + p.b_i + seen[:size]
        i = sigmoid(net_i + p.p_i * c if peepholes else net_i)

    if variant == "cifg":
        f = 1 - i
    elif variant == "nfg":
        f = np.ones(size)
    else:
        net_f = p.W_f @ x + p.R_f @ y + p.b_f + seen[size : 2 * size]
        f = sigmoid(net_f + p.p_f * c if peepholes else net_f)

    c = z * i + c * f

    o = np.ones(size)
    if variant != "nog":
        net_o = p.W_o @ x + p.R_o @ y + p.b_o + seen[2 * size :]
        o = sigmoid(net_o + p.p_o * c if peepholes else net_o)

    y = (c if variant == "noaf" else np.tanh(c)) * o
    if variant == "fgr":
        gates = np.concatenate([i, f, o])
    return (y, c, gates), y


def layer_norm(z, alpha, beta, epsilon):
    """Ba et al. 2016: over all entries of ``z``; alpha scales."""
    return (z - np.mean(z)) / np.sqrt(np.var(z) + epsilon) * alpha + beta


def layer_norm_lstm(p, s, state, x):
    """Ba et al. 2016, eqs. 20 to 22: one normalisation over the four gates f, i, o, g."""
    h, c = state
    from_h = layer_norm(p.U @ h, p.alpha_h, p.beta_h, s.epsilon)
    from_x = layer_norm(p.W @ x, p.alpha_x, p.beta_x, s.epsilon)
    f, i, o, g = np.split(from_h + from_x + p.b, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(layer_norm(c, p.alpha_c, p.beta_c, s.epsilon))
    return (h, c), h


def ur_lstm(p, s, state, x):
    """Gu et al. 2019: r goes between the bounds of f, and its bias is that of f, negated."""
    h, c = state
    f = sigmoid(p.W_f @ x + p.U_f @ h + p.b_f)
    r = sigmoid(p.W_r @ x + p.U_r @ h - p.b_f)
    u = np.tanh(p.W_u @ x + p.U_u @ h + p.b_u)
    o = sigmoid(p.W_o @ x + p.U_o @ h + p.b_o)
    g = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
    c = g * c + (1 - g) * u
    h = o * np.tanh(c)
    return (h, c), h


def multiplicative_lstm(p, s, state, x):
    """Krause et al. 2016: m for h in the LSTM."""
    h, c = state
    m = (p.W_m @ x) * (p.U_m @ h)
    hat = p.W_h @ x + p.U_h @ m + p.b_h
    i = sigmoid(p.W_i @ x + p.U_i @ m + p.b_i)
    o = sigmoid(p.W_o @ x + p.U_o @ m + p.b_o)
    f = sigmoid(p.W_f @ x + p.U_f @ m + p.b_f)
    c = f * c + i * np.tanh(hat)
    h = np.tanh(c) * o
    return (h, c), h


def wmc_lstm(p, s, state, x):
    """Landi et al. 2021: the gates see tanh of a projection of the memory, o of the new one."""
    h, c = state
    i = sigmoid(p.W_i @ x + p.U_i @ h + np.tanh(p.V_i @ c) + p.b_i)
    f = sigmoid(p.W_f @ x + p.U_f @ h + np.tanh(p.V_f @ c) + p.b_f)
    g = np.tanh(p.W_g @ x + p.U_g @ h + p.b_g)
    c = f * c + i * g
    o = sigmoid(p.W_o @ x + p.U_o @ h + np.tanh(p.V_o @ c) + p.b_o)
    h = o * np.tanh(c)
    return (h, c), h


def memory_controller_lstm(p, s, state, x):
    """Ben-Ari & Shwartz-Ziv 2017: the control vector v, not h, is what the gates see."""
    v, c = state
    f = sigmoid(p.W_f @ x + p.U_f @ v + p.b_f)
    i = sigmoid(p.W_i @ x + p.U_i @ v + p.b_i)
    o = sigmoid(p.W_o @ x + p.U_o @ v + p.b_o)
    m = sigmoid(p.W_m @ x + p.U_m @ v + p.b_m)
    n = np.tanh(p.W_n @ x + p.U_n @ v + p.b_n)
    c = f * c + i * n
    h = o * np.tanh(c)
    v = m * np.tanh(c)
    return (v, c), h


def res_lstm(p, s, state, x):
    """Kim et al. 2017: x is added to the projected memory, before the output gate."""
    h, c = state
    i = sigmoid(p.W_i @ x + p.U_i @ h + p.p_i * c + p.b_i)
    f = sigmoid(p.W_f @ x + p.U_f @ h + p.p_f * c + p.b_f)
    c = f * c + i * np.tanh(p.W_c @ x + p.U_c @ h + p.b_c)
    o = sigmoid(p.W_o @ x + p.U_o @ h + p.P_o @ c + p.b_o)
    m = p.W_p @ np.tanh(c)
    h = o * (m + (p.W_h @ x if s.project else x))
    return (h, c), h


ORACLES = {
    "lstm_1997": lstm_1997,
    "peephole_lstm": peephole_lstm,
    "lstmp": lstmp,
    "lstm_variant": lstm_variant,
    "layer_norm_lstm": layer_norm_lstm,
    "ur_lstm": ur_lstm,
    "multiplicative_lstm": multiplicative_lstm,
    "wmc_lstm": wmc_lstm,
    "memory_controller_lstm": memory_controller_lstm,
    "res_lstm": res_lstm,
}

TANH = Named("tanh", jnp.tanh, np.tanh)

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "lstm_1997": [{"squash_input": TANH}, {"squash_output": TANH}],
    "lstmp": [{"projection_size": 3}, {"projection_size": 3, "peepholes": False}],
    "lstm_variant": [
        {"variant": variant}
        for variant in ("nig", "nfg", "nog", "niaf", "noaf", "cifg", "np", "fgr")
    ],
    "layer_norm_lstm": [{"epsilon": 0.1}],
}
