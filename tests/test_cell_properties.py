"""What a cell of the catalogue must do whatever its numbers are.

Delta rules overwrite, linear cells superpose, a cell of mass conserves it, and an orthogonal matrix
keeps lengths. Parameters are chosen so that the public step shows it; no formula is repeated here.
"""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from cell_checks import CASES, HIDDEN, IN, TIME, cell_of, options_of
from models import assert_close, noise, random

import noria as nr
from noria.cells.catalogue import catalogue, class_of

#: A gate with this sum before its sigmoid is open, and with its negative it is shut.
OPEN = 80.0

#: Keys this long are of length 1 after ``unit`` to 14 digits, and ``silu`` leaves them as they are.
LONG = 1e4

HEADS, KEY, VALUE = 2, 3, 2

#: Two orthogonal keys of each head, and three values of both.
KEYS = np.array([[[0.6, 0.8, 0], [0, 0, 1]], [[0, 1, 0], [0.8, 0, 0.6]]])
VALUES = np.random.default_rng(0).normal(size=(3, HEADS * VALUE))

#: What an input, one of these with a one, asks for: (key, value) to write, or (key, None) to read.
TOKENS: list[tuple[int, int | None]] = [(0, 0), (0, 1), (1, 2), (0, None), (1, None)]


def with_parameters(cell: Any, **parameters: Any) -> Any:
    found = copy.copy(cell)
    for name, value in parameters.items():
        old = getattr(cell, name)
        object.__setattr__(found, name, jnp.broadcast_to(jnp.asarray(value, old.dtype), old.shape))
    return found


def projections(length: float = LONG) -> dict[str, Any]:
    """Weights with which the inputs of `TOKENS` have their keys, values and queries."""
    W_q, W_k, W_v = (np.zeros((size, len(TOKENS))) for size in (6, 6, 4))
    for token, (key, value) in enumerate(TOKENS):
        chosen = length * KEYS[:, key].ravel()
        if value is None:
            W_q[:, token] = chosen
        else:
            W_k[:, token], W_v[:, token] = chosen, VALUES[value]
    return {"W_q": W_q, "W_k": W_k, "W_v": W_v}


#: A row of weights of a gate that is open for a write and shut for a read.
WRITES = np.array([-OPEN if value is None else OPEN for _, value in TOKENS])
DELTA = {**projections(), "W_beta": WRITES}
KEEPS = {**DELTA, "A_log": -OPEN}

#: Cells with settings and parameters that make a write full and forget nothing.
WRITERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "deltanet": ({}, DELTA),
    "gated_deltanet": ({}, KEEPS),
    "deltaproduct": ({"householders": 1, "negative": False}, DELTA),
    "kda": ({"rank": 2}, KEEPS),
    "comba": ({}, {**KEEPS, "b": OPEN, "d": 0}),
    "titans": (
        {},
        {
            **projections(),
            **{"W_alpha": 0, "b_alpha": -OPEN, "W_eta": 0, "b_eta": -OPEN},
            **{"W_theta": np.minimum(WRITES, 0), "b_theta": 0},
        },
    ),
    "rwkv7": (
        {"rank": 2},
        {
            **projections(1),
            **{"mu": 0, "A_w": 0, "w_0": -OPEN, "A_a": 0, "a_0": OPEN, "xi": LONG, "alpha": 0},
        },
    ),
}

#: These pass a value through ``silu``.
SILU = {"gated_deltanet", "deltaproduct", "kda", "comba", "titans"}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("key", WRITERS)
def test_a_delta_rule_overwrites(key):
    """A second value at a key replaces the first, and the value at another key stays."""
    settings, parameters = WRITERS[key]
    cls = class_of(catalogue()[key])
    sizes = {"heads": HEADS, "key_size": KEY, **settings}
    cell = cls(len(TOKENS), HEADS * VALUE, key=jax.random.key(0), dtype=jnp.float64, **sizes)
    cell = with_parameters(noise(cell, 1), **parameters)
    layer, state = nr.Recurrence(cell), noise(cell.initial_state(), 3)
    outputs = []
    for token in ((0, 0), (0, None), (1, 2), (0, 1), (0, None), (1, None)):
        x = jnp.eye(len(TOKENS))[TOKENS.index(token)]
        state, y = layer.step(state, x)
        outputs.append(y)
    values = np.asarray(jax.nn.silu(VALUES)) if key in SILU else VALUES
    read = outputs[1], outputs[4], outputs[5]
    assert_close(list(map(np.asarray, read)), list(values), 1e-12)


#: Cells whose outputs and states are linear in their inputs and first states.
LINEAR = ("lru", "s4", "s4d", "s5", "linoss", "dlinoss", "rotrnn", "mega_ema", "ema")


def cases(*keys: str) -> Any:
    found = [(key, settings) for key, settings in CASES if key in keys]
    ids = ["-".join([key, *map(str, settings.values())]) for key, settings in found]
    return pytest.mark.parametrize(("key", "settings"), found, ids=ids)


def combined(a: Any, b: Any, *weights: float) -> Any:
    return jtu.tree_map(lambda a, b: weights[0] * a + weights[1] * b, a, b)


@pytest.mark.sampled(8)
@cases(*LINEAR)
def test_a_linear_cell_superposes(key, settings):
    cell = cell_of(class_of(catalogue()[key]), **settings)
    layer, start = nr.Recurrence(cell, backend="reference"), cell.initial_state()
    a, b = ((noise(start, seed), random(seed, TIME, IN)) for seed in (2, 3))
    expected = combined(layer.scan(*a), layer.scan(*b), 2, -3)
    assert_close(layer.scan(*combined(a, b, 2, -3)), expected, 1e-11)


#: Cells of matrices whose next state is not an affine function of the old one.
NOT_AFFINE = {"mlstm", "ttt_linear", "associative_rum", "mamba3", "m2rnn", "lightnet"}
AFFINE = [
    key
    for key, entry in catalogue().items()
    if entry.kind in ("linear", "complex", "matrix") and key not in NOT_AFFINE
]


@pytest.mark.sampled(25)
@cases(*AFFINE)
def test_the_next_state_is_an_affine_function_of_the_state(key, settings):
    """This is what lets a recurrence run as an associative scan; a last input is no such state."""
    cell = cell_of(class_of(catalogue()[key]), **settings)
    layer, xs = nr.Recurrence(cell, backend="reference"), random(1, TIME, IN)
    options = options_of(cell, TIME)
    a, b = (noise(cell.initial_state(), seed) for seed in (2, 3))
    if hasattr(b, "x_before"):
        b = b._replace(x_before=a.x_before)
    final = lambda start: layer.scan(start, xs, **options)[0]  # noqa: E731
    assert_close(final(combined(a, b, 3, -2)), combined(final(a), final(b), 3, -2), 1e-10)


@pytest.mark.sampled(3)
@cases("mass_conserving_lstm")
def test_mass_is_conserved(key, settings):
    """What is stored in the end and has left is what was stored and came in."""
    cell = cell_of(class_of(catalogue()[key]), **settings)
    layer, xs = nr.Recurrence(cell), random(2, TIME, IN)
    masses = xs[:, : cell.mass_size]
    start = noise(cell.initial_state(), 3)
    state, before = start, sum(jnp.sum(c) for c in jtu.tree_leaves(start))
    for x, mass in zip(xs, masses, strict=True):
        state, y = layer.step(state, x)
        after = sum(jnp.sum(c) for c in jtu.tree_leaves(state))
        np.testing.assert_allclose(after + jnp.sum(y), before + jnp.sum(mass), rtol=1e-12)
        before = after


class Identity:
    def __call__(self, a):
        return a

    def __repr__(self):
        return "identity"


COS, SIN = np.cos([0.4, 1.1]), np.sin([0.4, 1.1])
ROTATIONS = np.array([[[c, -s], [s, c]] for c, s in zip(COS, SIN, strict=True)])

#: Cells with settings and parameters that leave only the orthogonal matrix for an input of zeros.
ORTHOGONAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "exprnn": ({}, {"b": 0}),
    "scornn": ({}, {"b": 0, "D": [1, -1, -1, 1]}),
    "ornn": ({"reflections": 3, "activation": Identity()}, {"b": 0}),
    "goru": ({}, {"b_n": 0, "U_r": 0, "b_r": OPEN, "U_z": 0, "b_z": -OPEN}),
    "kru": ({}, {"b": 0, "K": ROTATIONS}),
    "nnrnn": ({}, {"b": 0, "gamma": 1, "t": 0}),
    "eunn": ({}, {"b": 0}),
}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("key", ORTHOGONAL)
def test_an_orthogonal_matrix_keeps_lengths_and_angles(key):
    """The products of states of two runs stay, while the states move."""
    settings, parameters = ORTHOGONAL[key]
    cell = with_parameters(cell_of(class_of(catalogue()[key]), **settings), **parameters)
    layer, starts = nr.Recurrence(cell), random(2, 2, HIDDEN)
    structure: Any = jtu.tree_structure(cell.initial_state())
    runs = [layer.scan(jtu.tree_unflatten(structure, [h]), jnp.zeros((TIME, IN))) for h in starts]
    ys = jnp.stack([ys for _, ys in runs])
    assert np.abs(ys[:, 0] - starts).max() > 0.1
    for t in range(TIME):
        assert_close(ys[:, t] @ ys[:, t].T, starts @ starts.T, 1e-12)


def test_an_associative_rum_carries_a_rotation():
    cell = cell_of(class_of(catalogue()["associative_rum"]))
    state, _ = nr.Recurrence(cell).scan(None, random(2, TIME, IN))
    R = jtu.tree_leaves(state)[1]
    assert np.abs(R - jnp.eye(HIDDEN)).max() > 0.1
    assert_close(R @ R.T, jnp.eye(HIDDEN), 1e-12)


def test_penalties_are_zero_at_orthogonal_matrices_only():
    kru, nnrnn = (
        class_of(catalogue()[k])(IN, HIDDEN, key=jax.random.key(0)) for k in ("kru", "nnrnn")
    )
    np.testing.assert_allclose(kru.penalty(), 0, atol=1e-10)
    np.testing.assert_allclose(nnrnn.penalty(), 0, atol=1e-10)
    K = np.asarray(noise(kru.K, 1))
    expected = sum(np.sum((one.T @ one - np.eye(len(one))) ** 2) for one in K)
    np.testing.assert_allclose(with_parameters(kru, K=K).penalty(), expected, rtol=1e-6)
    gamma = np.asarray(noise(nnrnn.gamma, 2))
    expected = np.mean((gamma - 1) ** 2)
    np.testing.assert_allclose(with_parameters(nnrnn, gamma=gamma).penalty(), expected, rtol=1e-6)


@pytest.mark.parametrize("key", ["eirnn", "stp_rnn", "noisy_rnn"])
def test_noise_has_the_deviation_of_the_paper(key):
    """A step with noise minus the step without is a normal number times its deviation."""
    cls, settings = class_of(catalogue()[key]), {} if key == "noisy_rnn" else {"noise": 0.3}
    loud, calm = cell_of(cls, **settings), cell_of(cls)
    start, x, drawn = noise(calm.initial_state(), 3), random(2, IN), jax.random.key(5)
    before, *pair = (
        np.asarray(jtu.tree_leaves(state)[0])
        for state in (start, loud(start, x, key=drawn), calm(start, x))
    )
    if key == "noisy_rnn":
        f = (pair[1] - before) / loud.delta
        deviation = loud.delta**0.5 * (loud.sigma_1 + loud.sigma_2 * f)
    else:
        alpha = loud.alpha if key == "eirnn" else loud.dt / loud.tau
        deviation = (2 * alpha) ** 0.5 * 0.3
    xi = np.asarray(jax.random.normal(drawn, (HIDDEN,), jnp.float64))
    seen = (pair[0] * pair[1] > 0) | (key != "stp_rnn")  # its rates are rectified
    assert seen.sum() > 1
    np.testing.assert_allclose((pair[0] - pair[1])[seen], (deviation * xi)[seen], rtol=1e-10)
