"""Models on their own outputs: against a loop of single steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import assert_close

import noria as nr

KEY = jax.random.key(0)


@functools.cache
def series() -> nr.Layer:
    k1, k2, _ = jax.random.split(KEY, 3)
    return nr.Chain(nr.LSTM(2, 5, key=k1), nr.Dense(5, 2, key=k2))


@functools.cache
def text() -> nr.Layer:
    k1, k2, k3 = jax.random.split(KEY, 3)
    return nr.Chain(nr.Embedding(7, 3, key=k1), nr.GRU(3, 5, key=k2), nr.Dense(5, 7, key=k3))


def by_hand(model, state, x, steps, sample=lambda y, n: y, **inputs):
    made = []
    for n in range(steps):
        state, y = model.step(state, x, **{k: f(n) for k, f in inputs.items()})
        x = sample(y, n)
        made.append(np.asarray(x))
    return state, np.stack(made, axis=0)


def test_a_series_goes_on_single_and_in_a_batch():
    x = jnp.array([0.3, -0.1])
    state, ys = nr.generate(series(), None, x, 6)
    expected_state, expected = by_hand(series(), None, x, 6)
    assert_close(ys, expected, 1e-6)
    assert_close(state, expected_state, 1e-6)
    xs = jnp.stack([x, 2 * x, -x])
    states, ys = nr.generate(series(), None, xs, 6)
    assert ys.shape == (3, 6, 2)
    for n in range(3):
        assert_close(ys[n], by_hand(series(), None, xs[n], 6)[1], 1e-6)
    halfway, first = nr.generate(series(), None, xs, 2)
    again, second = nr.generate(series(), halfway, first[:, -1], 4)
    assert_close(jnp.concatenate([first, second], 1), ys, 1e-6)
    assert_close(again, states, 1e-6)


def test_the_state_of_one_example_is_that_of_each():
    state, _ = series().scan(None, jnp.ones((4, 2)))
    _, ys = nr.generate(series(), state, jnp.ones((3, 2)), 5)
    assert_close(ys[1], nr.generate(series(), state, jnp.ones(2), 5)[1], 1e-6)


def likeliest(logits):
    return jnp.argmax(logits, axis=-1)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8])
def test_a_text_goes_on_with_the_likeliest_class(dtype):
    first = jnp.array(3, dtype)
    _, ys = nr.generate(text(), None, first, 8, sample=likeliest)
    assert ys.dtype == dtype
    expected = by_hand(text(), None, first, 8, lambda y, n: likeliest(y).astype(dtype))[1]
    np.testing.assert_array_equal(ys, expected)
    _, many = nr.generate(text(), None, jnp.array([3, 1], dtype), 8, sample=likeliest)
    assert many.shape == (2, 8)
    np.testing.assert_array_equal(many[0], ys)


def test_samples_follow_the_key_and_the_distribution():
    """A model that always emits the same logits: frequencies are the probabilities."""
    logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    model = nr.Chain(nr.Embedding(4, 4, key=KEY, init=lambda *_: jnp.tile(logits, (4, 1))))
    first = jnp.zeros(500, jnp.int32)
    options: dict[str, Any] = {"sample": nr.Categorical(), "key": KEY}
    _, ys = nr.generate(model, None, first, 20, **options)
    assert ys.shape == (500, 20)
    counts = np.bincount(np.ravel(ys), minlength=4) / 10_000
    np.testing.assert_allclose(counts, np.exp(logits), atol=0.02)  # 4 standard deviations
    np.testing.assert_array_equal(ys, nr.generate(model, None, first, 20, **options)[1])
    other = nr.generate(
        model, None, first, 20, sample=nr.Categorical(), key=jax.random.split(KEY, 3)[0]
    )[1]
    assert (np.asarray(ys) != np.asarray(other)).mean() > 0.5
    cold = nr.Categorical(temperature=0.5, top_k=2)
    _, ys = nr.generate(model, None, first, 20, sample=cold, key=KEY)
    counts = np.bincount(np.ravel(ys), minlength=4) / 10_000
    np.testing.assert_allclose(counts, np.array([0, 0, 0.09, 0.16]) / 0.25, atol=0.02)


def test_equal_logits_are_cut_to_the_number_asked_for():
    drawn = nr.Categorical(top_k=2)(jnp.zeros((1000, 5)), key=KEY)
    assert len(set(drawn.tolist())) == 2
    assert nr.Categorical(top_k=9)(jnp.zeros(5), key=KEY).shape == ()


def test_numbers_that_are_none_show():
    """An index out of range gives NaN in the model, and -1 in the answer."""
    _, ys = nr.generate(text(), None, 99, 3, sample=nr.Categorical(top_k=3), key=KEY)
    assert ys.tolist() == [-1, -1, -1]


class Clock(nr.Cell):
    """Adds the number of the step, the time difference and the context."""

    def __call__(self, h, x, *, t, dt, context):  # type: ignore[override]
        return x + t.astype(x.dtype) * dt + context

    def initial_state(self):
        return jnp.zeros(1)


def test_the_step_is_counted_and_the_context_stays():
    layer = nr.Recurrence(Clock())
    x, context = jnp.array([[1.0], [2.0]]), jnp.array([[10.0], [20.0]])
    inputs = {"dt": jnp.array([0.5, 0.25]), "context": context}
    _, ys = nr.generate(layer, None, x, 4, t=3, **inputs)
    fixed = {name: lambda n, value=value: value for name, value in inputs.items()}
    expected = by_hand(layer, None, x, 4, t=lambda n: 3 + n, **fixed)[1]
    assert_close(ys, np.moveaxis(expected, 0, 1), 1e-6)


SCALE = 1.0


def scaled(y):
    return y * SCALE


def test_a_shape_is_compiled_once_and_changed_globals_are_seen(monkeypatch):
    traces = []

    def counted(y, key):
        traces.append(key)
        return y

    for n in range(3):
        nr.generate(series(), None, jnp.ones(2), 4, sample=counted, key=jax.random.key(n))
        if n == 0:
            first = len(traces)
    # Each call looks at one step; a compilation traces the loop.
    assert len(traces) - first == 2
    before = nr.generate(series(), None, jnp.ones(2), 3, sample=scaled)[1]
    monkeypatch.setattr(f"{__name__}.SCALE", 2.0)
    after = nr.generate(series(), None, jnp.ones(2), 3, sample=scaled)[1]
    assert_close(after, by_hand(series(), None, jnp.ones(2), 3, lambda y, n: 2 * y)[1], 1e-6)
    assert np.abs(after - before).max() > 1e-3


def test_it_works_under_jit_and_vmap_and_has_a_gradient():
    x = jnp.array([0.3, -0.1])

    def end(model, x):
        return nr.generate(model, None, x, 5)[1][-1].sum()

    value, gradient = jax.value_and_grad(lambda x: end(series(), x))(x)
    h = 1e-5
    slopes = [(end(series(), x + h * e) - end(series(), x - h * e)) / (2 * h) for e in jnp.eye(2)]
    assert_close(gradient, np.array(slopes), 1e-5)
    assert_close(jax.jit(end)(series(), x), value, 1e-6)
    ys = jax.vmap(lambda x: nr.generate(series(), None, x, 5)[1])(jnp.stack([x, -x]))
    assert_close(ys[0], nr.generate(series(), None, x, 5)[1], 1e-6)


def test_a_model_of_ones_own_and_a_layer_without_a_state():
    class Doubling:
        def initial_state(self):
            return jnp.zeros(())

        def step(self, state, x):
            return state + 1, {"value": 2 * x["value"]}

    state, ys = nr.generate(Doubling(), None, {"value": jnp.ones(2)}, 3)
    assert state == 3
    assert ys["value"].tolist() == [[2, 2], [4, 4], [8, 8]]
    _, ys = nr.generate(nr.Chain(jnp.tanh), None, jnp.ones((3, 2)), 4)
    assert ys.shape == (3, 4, 2)


WRONG = {
    "no layer": (
        lambda: nr.generate(jnp.tanh, None, jnp.ones(2), 3),
        TypeError,
        "generate: model is a .*; expected a layer, or a model with the methods step",
    ),
    "a cell": (
        lambda: nr.generate(nr.GRUCell(2, 2, key=KEY), None, jnp.ones(2), 3),
        TypeError,
        "generate: model is a GRUCell",
    ),
    "no step": (
        lambda: nr.generate(series(), None, jnp.ones(2), 0),
        ValueError,
        "generate: steps is 0; expected a whole number of at least 1",
    ),
    "logits as the next class": (
        lambda: nr.generate(text(), None, 3, 2),
        ValueError,
        r"the model reads int\d+\[\], and its output after sample is float\d+\[7\]; expected the "
        "next input. Pass sample=",
    ),
    "no key": (
        lambda: nr.generate(text(), None, 3, 2, sample=nr.Categorical()),
        TypeError,
        "generate, which draws random numbers: key is None; expected one JAX random key",
    ),
    "no function": (
        lambda: nr.generate(text(), None, 3, 2, sample=0.5),
        TypeError,
        "generate: sample is a float; expected a function of an output, such as noria.Categorical",
    ),
    "no numbers": (
        lambda: nr.generate(text(), None, "a", 2, sample=likeliest),
        TypeError,
        "generate: first is an array of <U1; expected numbers",
    ),
    "a temperature of zero": (
        lambda: nr.Categorical(temperature=0),
        ValueError,
        r"Categorical\(temperature=0\): expected a temperature above 0. For the likeliest class",
    ),
    "the likeliest none": (
        lambda: nr.Categorical(top_k=0),
        ValueError,
        "Categorical: top_k is 0; expected a whole number of at least 1",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_have_their_message(name):
    call, kind, text = WRONG[name]
    with pytest.raises(kind, match=text):
        call()
