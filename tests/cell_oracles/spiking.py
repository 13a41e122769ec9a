"""Oracles of spiking cells.

A cell's output is its spikes, numbers 0 and 1; a unit spikes where its membrane is above the
threshold. The cells of Eshraghian et al. 2021 follow snnTorch, the code of the paper.
"""

import numpy as np


def heaviside(v):
    """The spikes of membranes minus thresholds."""
    return (v > 0).astype(float)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def decay(rate):
    """A decay rate, which snnTorch clamps to 0 and 1 in each step."""
    return np.clip(rate, 0, 1)


def fire(s, u, reset):
    """The membrane after a step, and the spikes: snnTorch's ``fire`` and ``reset_delay``."""
    spikes = heaviside(u - s.threshold)
    if not s.reset_delay:
        again = spikes - reset
        if s.reset == "subtract":
            u = u - again * s.threshold
        elif s.reset == "zero":
            u = u - again * u
    return u, spikes


def recurrent(p, spikes):
    return p.v * spikes if p.V is None else p.V @ spikes


def reset_membrane(s, u, reset):
    """The resets of snnTorch: "zero" is ``u - R u``, so that it clears the input too."""
    if s.reset == "subtract":
        return u - reset * s.threshold
    return u - reset * u if s.reset == "zero" else u


def lif(p, s, state, x):
    """`Leaky` of snnTorch, as documented; its code clears what ``u`` was, but not the input."""
    (u,) = state
    reset = heaviside(u - s.threshold)
    u = decay(p.beta) * u + p.W @ x + p.b
    u, spikes = fire(s, reset_membrane(s, u, reset), reset)
    return (u,), spikes


def lapicque(p, s, state, x):
    """`Lapicque` of snnTorch, an Euler step of ``C du/dt = -u / R + current``."""
    (u,) = state
    reset = heaviside(u - s.threshold)
    u = u + s.dt / s.C * (p.W @ x + p.b - u / s.R)
    u, spikes = fire(s, reset_membrane(s, u, reset), reset)
    return (u,), spikes


def glif(p, s, state, x):
    """Yao et al. 2022: gates between kinds of leak, integration and reset, all of them sigmoids."""
    spikes, u = state
    alpha, beta, gamma = sigmoid(p.a_alpha), sigmoid(p.a_beta), sigmoid(p.a_gamma)
    exponential = (1 - alpha * (1 - sigmoid(p.a_tau))) * u
    linear = (1 - alpha) * sigmoid(p.a_leak)
    integrated = (1 - beta * (1 - sigmoid(p.a_g))) * (p.W @ x + p.b)
    soft = (1 - gamma) * sigmoid(p.a_reset) * spikes
    u = exponential * (1 - gamma * spikes) - linear + integrated - soft
    new = heaviside(u - sigmoid(p.a_threshold))
    return (new, u), new


def rleaky(p, s, state, x):
    """`RLeaky` of snnTorch."""
    spikes, u = state
    reset = heaviside(u - s.threshold)
    u = decay(p.beta) * u + p.W @ x + p.b + recurrent(p, spikes)
    u, spikes = fire(s, reset_membrane(s, u, reset), reset)
    return (spikes, u), spikes


def synaptic(p, s, state, x):
    """`Synaptic` of snnTorch: a reset leaves the current as it is."""
    i, u = state
    reset = heaviside(u - s.threshold)
    i = decay(p.alpha) * i + p.W @ x + p.b
    u = decay(p.beta) * u + i
    u, spikes = fire(s, reset_membrane(s, u, reset), reset)
    return (i, u), spikes


def rsynaptic(p, s, state, x):
    """`RSynaptic` of snnTorch; its ``reset_delay=False`` is meant to be that of `Synaptic`."""
    spikes, i, u = state
    reset = heaviside(u - s.threshold)
    i = decay(p.alpha) * i + p.W @ x + p.b + recurrent(p, spikes)
    u = decay(p.beta) * u + i
    u, spikes = fire(s, reset_membrane(s, u, reset), reset)
    return (spikes, i, u), spikes


def alpha(p, s, state, x):
    """`Alpha` of snnTorch: a reset clears both currents and the membrane."""
    e, i, u = state
    a, b = decay(p.alpha), decay(p.beta)
    current = p.W @ x + p.b
    reset = heaviside(u - s.threshold)
    e = a * e + current
    i = b * i - current
    with np.errstate(divide="ignore", invalid="ignore"):
        tau = np.log(a) / (np.log(b) - np.log(a)) + 1
    u = tau * (e + i)
    if s.reset == "zero":
        e, i, u = e - reset * e, i - reset * i, u - reset * u
    return (e, i, u), heaviside(u - s.threshold)


def spiking_lstm(p, s, state, x):
    """`SLSTM` of snnTorch: the hidden state is the membrane; a reset leaves the cell as it is."""
    h, c = state
    reset = heaviside(h - s.threshold)
    i = sigmoid(p.W_i @ x + p.U_i @ h + p.b_i)
    f = sigmoid(p.W_f @ x + p.U_f @ h + p.b_f)
    g = np.tanh(p.W_g @ x + p.U_g @ h + p.b_g)
    o = sigmoid(p.W_o @ x + p.U_o @ h + p.b_o)
    c = f * c + i * g
    h = reset_membrane(s, o * np.tanh(c), reset)
    return (h, c), heaviside(h - s.threshold)


def plif(p, s, state, x):
    """Fang et al. 2020: charge with 1 / tau = k(a), fire, reset to 0."""
    (v,) = state
    charged = v + sigmoid(p.a) * (p.W @ x + p.b - v)
    spikes = heaviside(charged - s.threshold)
    return (charged * (1 - spikes),), spikes


def alif(p, s, state, x):
    """Bellec et al. 2018, section 2, with steps of 1, resistances of 1 and no delays.

    ``V(t+1) = alpha V(t) + (1 - alpha) I(t) - B(t) z(t)``, ``B(t) = b0 + beta b(t)``,
    ``b(t+1) = rho b(t) + (1 - rho) z(t)``, and a spike where ``(V - B) / B`` is above 0.
    """
    z, v, b = state
    kept, rho = np.exp(-1 / s.tau_u), np.exp(-1 / s.tau_a)
    v = kept * v + (1 - kept) * (p.W @ x + p.V @ z) - (s.threshold + p.beta * b) * z
    b = rho * b + (1 - rho) * z
    threshold = s.threshold + p.beta * b
    z = heaviside((v - threshold) / threshold)
    return (z, v, b), z


def adlif(p, s, state, x):
    """Baronig et al. 2024 and its code, where r is kept in 0 to 1, a in 0 to 1, b in 0 to 2."""
    spikes, u, w = state
    r_u, r_w = np.clip(p.r_u, 0, 1), np.clip(p.r_w, 0, 1)
    kept_u = np.exp(-1 / (s.tau_u_min + r_u * (s.tau_u_max - s.tau_u_min)))
    kept_w = np.exp(-1 / (s.tau_w_min + r_w * (s.tau_w_max - s.tau_w_min)))
    a, b = s.q * np.clip(p.a, 0, 1), s.q * np.clip(p.b, 0, 2)
    new_u = kept_u * u + (1 - kept_u) * (p.W @ x + p.V @ spikes + p.c - w)
    new_spikes = heaviside(new_u - s.threshold)
    new_u = new_u * (1 - new_spikes)
    if s.scheme == "symplectic":
        w = kept_w * w + (1 - kept_w) * (a * new_u + b * new_spikes)
    else:
        w = kept_w * w + (1 - kept_w) * (a * u + b * spikes)
    return (new_spikes, new_u, w), new_spikes


def resonator(p, s, state, x):
    """Higuchi et al. 2024 and its code: the BRF neuron, or the RF neuron without resets."""
    spikes, u, v, q = state
    omega, offset = np.abs(p.omega), np.abs(p.beta)
    if s.balanced:
        boundary = (-1 + np.sqrt(1 - (s.dt * omega) ** 2)) / s.dt
        b, threshold = boundary - offset - q, s.threshold + q
    else:
        b, threshold = -offset, s.threshold
    current = p.W @ x + p.V @ spikes
    new_u = u + s.dt * (b * u - omega * v + current)
    new_v = v + s.dt * (omega * u + b * v)
    spikes = heaviside(new_u - threshold)
    if s.balanced:
        q = s.gamma * q + spikes
    return (spikes, new_u, new_v, q), spikes


ORACLES = {
    "lif": lif,
    "lapicque": lapicque,
    "glif": glif,
    "rleaky": rleaky,
    "synaptic": synaptic,
    "rsynaptic": rsynaptic,
    "alpha": alpha,
    "spiking_lstm": spiking_lstm,
    "plif": plif,
    "alif": alif,
    "adlif": adlif,
    "resonator": resonator,
}

#: Cells whose gradient is that of a surrogate, which differences of values do not have.
SURROGATE = {*ORACLES}

SHAPE = {"surrogate": "triangle", "slope": 2.0, "scale": 0.7}

LOW = {"threshold": 0.05}

RESETS = [
    {**LOW, "reset": reset, "reset_delay": delay}
    for reset in ("subtract", "zero", "none")
    for delay in (True, False)
]

DIAGONAL = {**LOW, "recurrent": "diagonal"}

FAST = {**LOW, "q": 2.0, "tau_u_min": 1.0, "tau_u_max": 3.0, "tau_w_min": 2.0, "tau_w_max": 4.0}

SETTINGS = {
    "lif": [SHAPE, *RESETS],
    "lapicque": [SHAPE, *({**one, "R": 0.8, "C": 2.5, "dt": 0.5} for one in RESETS)],
    "glif": [SHAPE, {"in_shape": 12}],
    "rleaky": [SHAPE, *RESETS, DIAGONAL],
    "synaptic": [SHAPE, *RESETS],
    "rsynaptic": [SHAPE, *RESETS, DIAGONAL],
    "alpha": [SHAPE, LOW, {**LOW, "reset": "none"}],
    "spiking_lstm": [
        SHAPE,
        {"threshold": 0.005},
        {"threshold": 0.005, "reset": "subtract"},
        {"threshold": 0.005, "reset": "zero"},
    ],
    "plif": [SHAPE, LOW, {**LOW, "detach_reset": True}],
    "alif": [
        {"surrogate": "arctan", "slope": 2.0, "scale": 0.7},
        {**LOW, "tau_u": 2.0, "tau_a": 3.0},
    ],
    "adlif": [SHAPE, {"scheme": "euler"}, FAST, {**FAST, "scheme": "euler"}],
    "resonator": [
        SHAPE,
        {"balanced": False},
        {"threshold": 0.02, "dt": 0.3, "gamma": 0.6},
        {"threshold": 0.02, "dt": 0.3, "balanced": False},
    ],
}
