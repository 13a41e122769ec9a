"""Cells with a latent variable, and the wiring of neurons."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_checks import cell_of
from fuzzing.evaluate import evaluated
from models import assert_close, noise, random

import noria as nr
from noria.cells.catalogue import catalogue, class_of

KEY = jax.random.key(3)


def made(key, **settings):
    return cell_of(class_of(catalogue()[key]), **settings)


def test_a_latent_is_normal_around_the_posterior():
    """A step with a key minus the step without is the deviation times a normal number."""
    cell = made("rssm", latent_size=3, embed_size=2)
    start, x = cell.initial_state(), random(1, 3)
    loud, calm = cell(start, x, key=KEY), cell(start, x)
    mean, deviation = cell.posterior(calm.h, x)
    assert_close(loud.h, calm.h, 0)
    assert_close(calm.z, mean, 0)
    assert_close(loud.z - mean, deviation * jax.random.normal(KEY, (3,), jnp.float64), 1e-12)
    assert (deviation > 0.1).all()
    assert_close(nr.inference(cell)(start, x, key=KEY).z, mean, 0)


def test_prior_and_posterior_are_those_of_the_papers():
    """Networks with one hidden layer, in NumPy; Hafner et al. have deviations of at least 0.1."""
    h, x = np.asarray(random(1, 4)), np.asarray(random(2, 3))
    softplus = lambda a: np.log1p(np.exp(a))  # noqa: E731
    relu = lambda a: np.maximum(a, 0)  # noqa: E731
    elu = lambda a: np.where(a > 0, a, np.exp(np.minimum(a, 0)) - 1)  # noqa: E731
    for key, function, least in (("vrnn", relu, 0), ("rssm", elu, 0.1)):
        cell = made(key, latent_size=2)
        p = {name: np.asarray(getattr(cell, name)) for name in cell._parameters}
        prior = p["P"] @ function(p["P_h"] @ h + p["c_p"]) + p["d_p"]
        seen = p["Q_o"] @ x[2:] if key == "rssm" else p["Q_x"] @ relu(p["X"] @ x + p["c_x"])
        posterior = p["Q"] @ function(p["Q_h"] @ h + seen + p["c_q"]) + p["d_q"]
        found = (*cell.prior(jnp.asarray(h)), *cell.posterior(jnp.asarray(h), jnp.asarray(x)))
        for a, b in zip(found, (*np.split(prior, 2), *np.split(posterior, 2)), strict=True):
            is_deviation = a is found[1] or a is found[3]
            assert_close(np.asarray(a), softplus(b) + least if is_deviation else b, 1e-12)


def test_the_divergence_is_that_of_normal_numbers():
    """It is compared with a mean over samples, and is zero for equal ones."""
    cell, h, x = made("vrnn", latent_size=2), random(1, 4), random(2, 3)
    (m, s), (n, t) = cell.posterior(h, x), cell.prior(h)
    z = m + s * np.random.default_rng(0).normal(size=(200_000, 2))
    log = lambda z, m, s: -((z - m) ** 2) / (2 * s**2) - np.log(s)  # noqa: E731
    expected = np.mean(np.sum(log(z, m, s) - log(z, n, t), axis=1))
    np.testing.assert_allclose(cell.divergence(h, x), expected, rtol=2e-2)
    cell = made("rssm", latent_size=2)
    for name in ("Q_h", "Q_o"):
        object.__setattr__(cell, name, jnp.zeros_like(getattr(cell, name)))
    for theirs, ours in (("P_h", "Q_h"), ("P", "Q"), ("d_p", "d_q"), ("c_p", "c_q")):
        object.__setattr__(cell, theirs, getattr(cell, ours))
    assert_close(cell.divergence(cell(cell.initial_state(), x), x), jnp.zeros(()), 1e-14)


def test_imagined_steps_have_the_latent_of_the_prior():
    cell = made("rssm", latent_size=2, embed_size=1)
    state = cell(cell.initial_state(), random(1, 3))
    after = cell.imagined(state, random(2, 2))
    seen = cell(state, jnp.concatenate([random(2, 2), random(3, 1)]))
    assert_close(after.h, seen.h, 1e-14)
    assert_close(after.z, cell.prior(after.h)[0], 0)


def test_an_observation_leaves_an_action():
    with pytest.raises(ValueError, match=r"RSSMCell\(.*expected embed_size to be less than in_si"):
        class_of(catalogue()["rssm"])(3, 4, embed_size=3, key=KEY)


def test_wires_lead_from_inputs_to_motor_neurons():
    """Inputs reach inter neurons only, these command neurons, and these motor neurons."""
    wiring = jax.jit(nr.cells.ncp_wiring, static_argnums=(1, 2, 3, 4))
    M, M_x = map(np.asarray, wiring(KEY, 3, 20, 4, 0.6))
    motor, command, inter = np.split(np.arange(20), [4, 10])
    assert not M_x[motor].any()
    assert not M_x[command].any()
    assert M_x.any(0).all()
    assert M_x[inter].any(1).all()
    allowed = np.zeros((20, 20), bool)
    for targets, sources in ((command, inter), (motor, command), (command, command)):
        allowed[np.ix_(targets, sources)] = True
    assert not M[~allowed].any()
    assert (M[np.ix_(motor, command)].sum(1) >= 2).all()  # 40 % of 6
    assert M[np.ix_(motor, command)].any(0).all()
    assert M[np.ix_(command, inter)].any(1).all()
    assert M[np.ix_(command, command)].any()
    assert (M[np.ix_(command, inter)].sum(0) >= 2).all()


@pytest.mark.parametrize(
    ("hidden", "motor", "sparsity"), [(4, 3, 0.5), (4, 0, 0.5), (4, 1, 1.0), (4, 1, -0.1)]
)
def test_a_wiring_that_cannot_be_is_named(hidden, motor, sparsity):
    with pytest.raises(ValueError, match=r"ncp_wiring\(hidden_size=4, .*expected a motor neuron"):
        nr.cells.ncp_wiring(KEY, 3, hidden, motor, sparsity)


@pytest.mark.full
def test_absent_synapses_have_no_effect():
    """The motor neurons do not see an input at once, and their weights have no gradient."""
    cls = class_of(catalogue()["ncp"])
    cell = cls(3, 8, motor_size=2, unfolds=1, key=KEY, dtype=jnp.float64)
    loss = lambda cell: jnp.sum(cell(random(1, 8), random(2, 3)) ** 2)  # noqa: E731
    found = nr.grad(loss)(cell)
    for weights, mask in ((found.w, cell.M), (found.w_x, cell.M_x)):
        assert (np.asarray(weights)[np.asarray(mask) == 0] == 0).all()
        assert np.abs(weights).max() > 0
    assert nr.count_parameters(cell) == 5 * 8 * 11 + 3 * 8


def test_solvers_and_loops_are_checked():
    for key, settings, message in (
        ("ode_rnn", {"solver": "rk4"}, "solver is 'rk4'; expected one of 'euler', 'midpoint'"),
        ("gru_ode", {"steps": 0}, "steps is 0; expected at least 1"),
        ("attending_fast_weights", {"loops": 0}, "loops is 0; expected at least 1"),
        ("mamba3", {"state_size": 2}, r"Mamba3Cell\(state_size=2, rotary=0.5\): expected a part"),
        ("srwm", {"heads": 2}, r"SRWMCell\(in_size=3, heads=2\): expected heads to divide"),
        ("lapicque", {"dt": 11}, r"LapicqueCell\(R=1.0, C=10.0, dt=11\): expected numbers above 0"),
        ("glif", {"threshold": 1}, r"GLIFCell\(threshold=1\): expected a number between 0 and 1"),
        ("event_ssm", {"method": "bilinear"}, "method is 'bilinear'; expected 'zoh'"),
    ):
        with pytest.raises(ValueError, match=message):
            class_of(catalogue()[key])(3, 4, key=KEY, **settings)


def test_half_of_the_state_of_mamba_3_rotates():
    """In pairs: a quarter as many angles as numbers of a state."""
    cls = class_of(catalogue()["mamba3"])
    assert cls(3, 4, key=KEY).angles == 32
    assert cls(3, 4, state_size=6, rotary=1.0, key=KEY).angles == 3


def test_a_unitary_state_keeps_its_length():
    cell = made("urnn")
    object.__setattr__(cell, "b", jnp.zeros_like(cell.b))
    start = noise(cell.initial_state(), 1)
    state, _ = nr.Recurrence(cell).scan(start, jnp.zeros((6, 3)))
    assert_close(jnp.linalg.norm(state), jnp.linalg.norm(start), 1e-12)
    assert np.abs(state - start).max() > 0.1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("key", ["stream", "event_ssm"])
def test_events_far_apart_are_forgotten(key):
    """The state decays with the time between events, and not with their number."""
    cell = class_of(catalogue()[key])(3, 4, key=KEY, dtype=jnp.float64)
    layer, xs, dt = nr.Recurrence(cell, backend="reference"), random(1, 4, 3), np.full(4, 0.5)

    def run(xs, dt):
        return evaluated(lambda xs, dt: layer(xs, dt=dt), jnp.asarray(xs), jnp.asarray(dt))

    far = np.array([0.5, 0.5, 1e9, 0.5])
    assert_close(run(xs, far)[2:], run(xs[2:], dt[2:]), 1e-12)
    whole = run(np.insert(xs, 1, 0, axis=0), np.full(5, 0.5))
    assert_close(whole[2:], run(xs, np.array([0.5, 1.0, 0.5, 0.5]))[1:], 1e-12)


def test_a_mesa_layer_recalls_what_least_squares_gives():
    """With no forgetting and a small ridge, keys that are orthogonal give their values."""
    cell = class_of(catalogue()["mesanet"])(4, 4, heads=1, key_size=4, key=KEY, dtype=jnp.float64)
    values = {"W_q": 1e4 * jnp.eye(4), "W_k": 1e4 * jnp.eye(4), "W_v": random(1, 4, 4)}
    values |= {"b_gamma": jnp.full(1, 40.0), "b_beta": jnp.full(1, 40.0)}
    for name, value in values.items():
        object.__setattr__(cell, name, value)
    for name in ("W_gamma", "W_beta"):
        object.__setattr__(cell, name, jnp.zeros((1, 4)))
    ys = nr.Recurrence(cell)(jnp.eye(4)[jnp.array([0, 1, 2, 0])])
    ridge = 0.25 + float(jax.nn.softplus(cell.lam[0, 0]))
    expected = cell.W_v[:, 0] * 2 / (2 + ridge)  # two writes of the same pair
    assert_close(ys[3], expected, 1e-9)
