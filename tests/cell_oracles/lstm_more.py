"""Oracles of an LSTM with a hypernetwork, of gated inputs, of stacks, and of rotations."""

import numpy as np


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def softmax(v, axis=0):
    e = np.exp(v - v.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def relu(v):
    return np.maximum(v, 0)


def modrelu(z, b):
    return np.sign(z) * relu(np.abs(z) + b)


def layer_norm(a, alpha, beta):
    """With the epsilon of the official code."""
    return alpha * (a - a.mean()) / np.sqrt(a.var() + 1e-3) + beta


def hyper_lstm(p, s, state, x):
    """Ha et al. 2016, eqs. 10 to 13."""
    h, c, k, l_ = state
    x_hat = np.concatenate([x, h])
    i, f, g, o = (
        layer_norm(p.W_hat[y] @ x_hat + p.U_hat[y] @ k, p.alpha_hat[y], p.beta_hat[y])
        for y in range(4)
    )
    new_l = sigmoid(f) * l_ + sigmoid(i) * np.tanh(g)
    new_k = sigmoid(o) * np.tanh(layer_norm(new_l, p.alpha_l, p.beta_l))

    def gate(y):
        z_x = p.Z_x[y] @ k + p.e_x[y]
        z_h = p.Z_h[y] @ k + p.e_h[y]
        z_b = p.Z_b[y] @ k
        d_x, d_h = p.D_x[y] @ z_x, p.D_h[y] @ z_h
        bias = p.D_b[y] @ z_b + p.b[y]
        total = d_h * (p.U[y] @ h) + d_x * (p.W[y] @ x) + bias
        return layer_norm(total, p.alpha[y], p.beta[y])

    i, f, g, o = (gate(y) for y in range(4))
    new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    new_h = sigmoid(o) * np.tanh(layer_norm(new_c, p.alpha_c, p.beta_c))
    return (new_h, new_c, new_k, new_l), new_h


def mogrifier_lstm(p, s, state, x):
    """Melis et al. 2019: rounds of mutual gating, then an LSTM."""
    h, c = state
    if p.Q is None:
        q = [a @ b for a, b in zip(p.Q_1, p.Q_2, strict=True)]
        r = [a @ b for a, b in zip(p.R_1, p.R_2, strict=True)]
    else:
        q, r = p.Q, p.R
    for k in range(1, s.rounds + 1):
        if k % 2 == 1:
            x = 2 * sigmoid(q[k // 2] @ h) * x
        else:
            h = 2 * sigmoid(r[k // 2 - 1] @ x) * h
    i, f, g, o = np.split(p.W @ x + p.U @ h + p.b, 4)
    new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    new_h = sigmoid(o) * np.tanh(new_c)
    return (new_h, new_c), new_h


def stack_rnn(p, s, state, x):
    """Joulin and Mikolov 2015 with the official code: the top of a stack is its entry 0."""
    h, stacks = state
    tops = stacks[:, : s.top_size].reshape(-1)
    total = p.U @ x + p.P @ tops
    if s.recurrent:
        total = total + p.R @ h
    new_h = sigmoid(total)
    new_stacks = np.zeros_like(stacks)
    for j, old in enumerate(stacks):
        actions = [p.A_push[j] @ new_h, p.A_pop[j] @ new_h]
        if s.no_op:
            actions.append(p.A_stay[j] @ new_h)
        a = softmax(np.array(actions))
        pushed = np.array([sigmoid(p.D[j] @ new_h), *old[:-1]])
        popped = np.array([*old[1:], -1.0])
        new_stacks[j] = a[0] * pushed + a[1] * popped
        if s.no_op:
            new_stacks[j] += a[2] * old
    return (new_h, new_stacks), new_h


def mist(p, s, state, x):
    """DiPietro et al. 2017 with the official code: ``past`` has the last states, h at its end."""
    h, past = state
    a = softmax(p.W_a @ x + p.U_a @ h + p.b_a)
    r = sigmoid(p.W_r @ x + p.U_r @ h + p.b_r)
    mixed = np.sum([a[i] * past[-(2**i)] for i in range(len(a))], axis=0)
    new_h = np.tanh(p.W @ x + p.U @ (r * mixed) + p.b)
    return (new_h, np.stack([*past[1:], new_h])), new_h


def rotation(a, b):
    """Dangovski et al. 2017 with the official code: the rotation from a to b in their plane."""
    u = a / np.linalg.norm(a)
    v = b - (u @ b) * u
    v = v / np.linalg.norm(v)
    cos = u @ b / np.linalg.norm(b)
    sin = np.sqrt(1 - cos**2)
    plane = np.stack([u, v], 1)
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.eye(len(a)) - np.outer(u, u) - np.outer(v, v) + plane @ turn @ plane.T


def rum_parts(p, h, x):
    e = p.W_e @ x + p.b_e
    t = p.W_t @ x + p.U_t @ h + p.b_t
    u = sigmoid(p.W_u @ x + p.U_u @ h + p.b_u)
    return e, t, u


def normalised(s, h):
    """The time normalisation."""
    return s.eta * h / np.linalg.norm(h) if s.eta else h


def rum(p, s, state, x):
    """Dangovski et al. 2017 with lambda = 0."""
    (h,) = state
    e, t, u = rum_parts(p, h, x)
    n = relu(e + rotation(e, t) @ h)
    new_h = normalised(s, u * h + (1 - u) * n)
    return (new_h,), new_h


def associative_rum(p, s, state, x):
    """Dangovski et al. 2017 with lambda = 1: each rotation is multiplied from the right."""
    h, old = state
    e, t, u = rum_parts(p, h, x)
    new = old @ rotation(e, t)
    n = relu(e + new @ h)
    new_h = normalised(s, u * h + (1 - u) * n)
    return (new_h, new), new_h


def kru(p, s, state, x):
    """Jose et al. 2017: the recurrent matrix is a Kronecker product."""
    (h,) = state
    product = np.eye(1)
    for factor in p.K:
        product = np.kron(product, factor)
    new_h = modrelu(product @ h + p.W @ x, p.b)
    return (new_h,), new_h


def nnrnn(p, s, state, x):
    """Kerg et al. 2019 with the official code: P (L + T) P^T, L with rotations as blocks."""
    (h,) = state
    size = len(h)
    skew = np.zeros((size, size))
    skew[np.triu_indices(size, 1)] = p.a
    skew = skew - skew.T
    values, vectors = np.linalg.eigh(1j * skew)
    orthogonal = (vectors * np.exp(-1j * values) @ vectors.conj().T).real
    schur = np.zeros((size, size))
    entries = iter([] if p.t is None else p.t)
    for i in range(size):
        for j in range(i - i % 2):
            schur[i, j] = next(entries)
    for k, (gamma, theta) in enumerate(zip(p.gamma, p.theta, strict=True)):
        cos, sin = np.cos(theta), np.sin(theta)
        schur[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = gamma * np.array([[cos, -sin], [sin, cos]])
    new_h = modrelu(orthogonal @ schur @ orthogonal.T @ h + p.U @ x, p.b)
    return (new_h,), new_h


def rotated(h, angles, first):
    """The pairs (first, first + 1), (first + 2, first + 3), ... turned by the angles."""
    h = h.copy()
    for k, angle in enumerate(angles):
        i = first + 2 * k
        cos, sin = np.cos(angle), np.sin(angle)
        h[i], h[i + 1] = cos * h[i] - sin * h[i + 1], sin * h[i] + cos * h[i + 1]
    return h


def eunn(p, s, state, x):
    """Jing et al. 2016 with the official code: the tunable style with real rotations."""
    (h,) = state
    turned = h
    for layer in range(s.layers):
        if layer % 2 == 0:
            turned = rotated(turned, p.theta_A[layer // 2], 0)
        else:
            turned = rotated(turned, p.theta_B[layer // 2], 1)
    new_h = modrelu(turned + p.V @ x, p.b)
    return (new_h,), new_h


def rwa(p, s, state, x):
    """Ostmeyer and Cowell 2017: the running sums, scaled by the largest exponent so far."""
    h, n, d, m = state
    u = p.W_u @ x + p.b_u
    g = p.W_g @ x + p.U_g @ h + p.b_g
    a = p.W_a @ x + p.U_a @ h
    z = u * np.tanh(g)
    most = np.where(a > m, a, m)
    old, new = np.exp(m - most), np.exp(a - most)
    n, d = n * old + z * new, d * old + new
    h = np.tanh(n / d)
    return (h, n, d, most), h


ORACLES = {
    "rwa": rwa,
    "hyper_lstm": hyper_lstm,
    "mogrifier_lstm": mogrifier_lstm,
    "stack_rnn": stack_rnn,
    "mist": mist,
    "rum": rum,
    "associative_rum": associative_rum,
    "kru": kru,
    "nnrnn": nnrnn,
    "eunn": eunn,
}

SETTINGS = {
    "hyper_lstm": [{"hyper_size": 6, "embedding_size": 2}],
    "mogrifier_lstm": [{"rank": 2, "rounds": 2}, {"rounds": 1}],
    "stack_rnn": [
        {"stacks": 2, "depth": 3, "no_op": True},
        {"stacks": 2, "depth": 3, "top_size": 1, "recurrent": False},
    ],
    "mist": [{"delays": 2, "longest": 3}],
    "rum": [{"eta": 1.5}],
    "associative_rum": [{"eta": 1.5}],
    "kru": [{"factors": 1, "factor_size": 4}],
    "eunn": [{"layers": 1}, {"layers": 5}],
}
