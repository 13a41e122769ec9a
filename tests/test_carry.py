"""`fit(carry=True)`: truncated backpropagation through windows of long series."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import noria as nr

KEYS = jax.random.split(jax.random.key(0), 3)
RNG = np.random.default_rng(0)
SERIES = RNG.normal(size=(4 * 24 + 1, 2)).astype(np.float32)

pytestmark = pytest.mark.usefixtures("plain_jax")


def make(**options: Any) -> nr.Chain:
    return nr.Chain(nr.LSTM(2, 5, key=KEYS[0], **options), nr.Dense(5, 2, key=KEYS[1]))


def loss(model: Any, carry: Any, xs: Any, ys: Any, starts: Any) -> Any:
    carry, out = model.scan(carry, xs, resets=starts)
    return nr.mse(out, ys), carry


def simple(model: Any, carry: Any, xs: Any, ys: Any) -> Any:
    carry, out = model.scan(carry, xs)
    return nr.mse(out, ys), carry


def fit(model: Any, loss: Any, data: Any, **options: Any) -> Any:
    given = {"optimiser": optax.adam(0.01), "epochs": 2, "key": KEYS[2], "carry": True, **options}
    return nr.fit(model, loss, data, **given)


@pytest.mark.parametrize("learned", [False, True])
def test_windows_of_the_whole_length_are_plain_fit(learned: bool):
    """Bit for bit, a learned initial state included."""
    model = make(learn_initial_state=learned)
    ((xs, ys, _starts),) = nr.data.streams(SERIES, batch_size=4, size=24)
    whole, history = fit(model, lambda m, xs, ys: nr.mse(m(xs), ys), (xs, ys), carry=False)
    windows, again = fit(model, simple, (xs, ys))
    assert again.loss == history.loss
    for a, b in zip(jtu.tree_leaves(windows), jtu.tree_leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_learning_windows_are_one_long_scan():
    """In training and in validation."""
    model = make(learn_initial_state=True)
    windows = [(xs, ys) for xs, ys, _ in nr.data.streams(SERIES, batch_size=4, size=6)]
    _, history = fit(model, simple, windows, optimiser=optax.sgd(0.0), valid=windows)
    xs, ys = (np.concatenate(columns, axis=1) for columns in zip(*windows, strict=True))
    expected = float(nr.mse(model(xs), ys))
    np.testing.assert_allclose(history.loss + history.valid, expected, rtol=1e-6)


def test_rows_that_begin_anew_are_reset():
    """Two series in one row: each is as if it were alone."""
    model, pieces = make(), [SERIES[:13], SERIES[40:53]]
    windows = list(nr.data.streams(pieces, batch_size=1, size=6))
    assert sum(starts.sum() for _, _, starts in windows) == 2
    _, history = fit(model, loss, windows, optimiser=optax.sgd(0.0), epochs=1)
    expected = [float(nr.mse(model(piece[:-1]), piece[1:])) for piece in pieces]
    np.testing.assert_allclose(history.loss, np.mean(expected), rtol=1e-6)


def test_gradients_stop_at_window_borders():
    """The step of a window by hand, with the state as a constant."""
    model, optimiser = make(), optax.sgd(0.1)
    windows = [(xs, ys) for xs, ys, _ in nr.data.streams(SERIES, batch_size=4, size=6)]
    found, _ = fit(model, simple, windows, optimiser=optimiser, epochs=1)
    opt_state, carry = nr.setup(optimiser, model), None
    for xs, ys in windows:
        held = carry

        def part(model: Any, xs: Any = xs, ys: Any = ys, held: Any = held) -> Any:
            after, out = model.scan(held, xs)
            return nr.mse(out, ys), after

        (_, carry), gradient = nr.value_and_grad(part, has_aux=True)(model)
        model, opt_state = nr.update(opt_state, model, gradient)
    for a, b in zip(jtu.tree_leaves(found), jtu.tree_leaves(model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_it_traces_once_and_reports_metrics():
    traces = []

    def counted(model: Any, carry: Any, xs: Any, ys: Any, starts: Any, key: Any) -> Any:
        traces.append(xs.shape)
        value, carry = loss(model, carry, xs, ys, starts)
        return (value, {"size": jnp.float32(len(xs))}), carry

    _, history = fit(make(), counted, nr.data.streams(SERIES, batch_size=4, size=6))
    assert traces == [(4, 6, 2)]
    assert history.metrics == {"size": [4.0, 4.0]}


def test_a_state_that_is_not_finite_stops_the_run():
    def broken(model: Any, carry: Any, xs: Any, ys: Any) -> Any:
        value, carry = simple(model, carry, xs, ys)
        return value, jtu.tree_map(lambda leaf: leaf / 0, carry)

    with pytest.warns(RuntimeWarning, match="the carried state is not finite"):
        model, _ = fit(make(), broken, [(SERIES[None, :6], SERIES[None, 1:7])])
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(model))


def test_messages():
    batches = [(np.zeros((rows, 3, 2), np.float32),) * 2 for rows in (2, 3)]

    def alone(model: Any, carry: Any, xs: Any, ys: Any) -> Any:
        return nr.mse(model(xs), ys)

    def first_only(model: Any, carry: Any, xs: Any, ys: Any) -> Any:
        return nr.mse(model(xs), ys), carry[0]

    for function, data, message in (
        (
            simple,
            batches,
            r"a batch has 3 examples, and the carried state has 2; expected the same",
        ),
        (alone, batches, r"loss returned float32\[\]; expected \(value, carry\)"),
        (first_only, batches, r"loss returned the state .*; expected .*as model.initial_state\(\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=r"fit\(carry=True\): " + message):
            fit(make(), function, data)
    with pytest.raises(TypeError, match="the tuple has no method initial_state; expected a layer"):
        fit((make(),), simple, batches)
