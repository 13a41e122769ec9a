"""Oracles of cells that are models of neural circuits."""

import numpy as np


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def relu(v):
    return np.maximum(v, 0)


def dale(p):
    """Weights of units that excite or inhibit, and have no connection to themselves."""
    return relu(p.M) * (1 - np.eye(len(p.M))) @ np.diag(p.D)


def softplus(v):
    return np.logaddexp(v, 0)


def eirnn(p, s, state, x):
    """Song et al. 2016, the discrete network and Dale's principle, without noise.

    The state is the current; rates are its positive part. Inputs are excitatory.
    """
    (h,) = state
    h = (1 - s.alpha) * h + s.alpha * (dale(p) @ relu(h) + relu(p.W) @ x + p.b)
    return (h,), relu(h)


def stp_rnn(p, s, state, x):
    """Masse et al. 2019, methods, and its code, which keeps a and u in 0 to 1; without noise.

    The state is the rate. Time constants are in ms, rates in spikes a second.
    """
    h, a, u = state
    seconds = s.dt / 1000
    new_a = a + s.dt / p.tau_a * (1 - a) - seconds * u * a * h
    new_u = u + s.dt / p.tau_u * (p.U - u) + seconds * p.U * (1 - u) * h
    new_a, new_u = np.clip(new_a, 0, 1), np.clip(new_u, 0, 1)
    rate = s.dt / s.tau
    h = relu((1 - rate) * h + rate * (relu(p.W) @ x + dale(p) @ (new_u * new_a * h) + p.b))
    return (h, new_a, new_u), h


def ltc(p, s, state, x):
    """Hasani et al. 2021, the fused solver (algorithm 1) for the synapses of section 2.

    ``c dv/dt = g (e - v) + sum over synapses of w sigmoid(gamma (v_j - mu)) (E - v)``.
    Weights, conductances and capacitances are positive, as ``implicit_param_constraints`` of the
    authors' ncps makes them.
    """
    (v,) = state
    w, w_x, g = softplus(p.w), softplus(p.w_x), softplus(p.g)
    c = softplus(p.c) * s.unfolds / s.dt
    sensory = w_x * sigmoid(p.gamma_x * (x - p.mu_x))
    for _ in range(s.unfolds):
        synapses = w * sigmoid(p.gamma * (v - p.mu))
        pulls = np.sum(synapses * p.E, axis=1) + np.sum(sensory * p.E_x, axis=1)
        weights = np.sum(synapses, axis=1) + np.sum(sensory, axis=1)
        v = (c * v + g * p.e + pulls) / (c + g + weights)
    return (v,), v


ORACLES = {"eirnn": eirnn, "stp_rnn": stp_rnn, "ltc": ltc}

SETTINGS = {
    "eirnn": [{"alpha": 0.7}],
    "stp_rnn": [{"dt": 20.0, "tau": 50.0}, {"dt": 0.3, "tau": 2.0}],
    "ltc": [{"unfolds": 3, "dt": 0.4}],
}
