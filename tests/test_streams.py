"""`noria.stream`: a model that is stepped from Python, against `step` and `scan`."""

import gc
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import AUTO, assert_close, random

import noria as nr

KEY = jax.random.key(0)
BATCH, TIME, IN = 3, 6, 4


class Counting(nr.Cell):
    """Emits the number of each step, and keeps the last input."""

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return x

    def output(self, h: jax.Array, x: jax.Array, *, t: Any = None) -> jax.Array:
        return jnp.stack([h[0], t.astype(h.dtype)])

    def initial_state(self) -> jax.Array:
        return jnp.zeros(IN)


class Late(nr.Layer):
    """Emits the state that it gets, so that an output is an argument of the program."""

    def scan(self, state, xs, *, lengths=None, resets=None, key=None):
        before = self.initial_state() if state is None else state
        before = jnp.broadcast_to(before, (*xs.shape[:-2], IN))[..., None, :]
        return xs[..., -1, :], jnp.concatenate([before, xs[..., :-1, :]], -2)

    def step(self, state, x, *, resets=None, key=None):
        return x, jnp.broadcast_to(state, x.shape)

    def initial_state(self):  # type: ignore[override]
        return jnp.zeros(IN)


def key(n: int) -> jax.Array:
    return jax.random.split(KEY, 4)[n]


#: What makes each model. Nothing is made while tests are collected.
MODELS: dict[str, Callable[[], nr.Layer]] = {
    "LSTM": lambda: nr.LSTM(IN, 5, key=key(0), learn_initial_state=True),
    "chain": lambda: nr.Chain(
        nr.Conv1d(IN, 5, 3, key=key(0)),
        nr.Concat(nr.GRU(5, 3, key=key(1))),
        nr.Dropout(0.5),
        nr.Parallel("tuple", nr.Dense(8, 2, key=key(2)), jnp.tanh),
    ),
    "strided": lambda: nr.Chain(
        nr.Conv1d(IN, 5, 3, stride=2, key=key(0)), nr.RNN(5, 4, key=key(1))
    ),
    "no state": lambda: nr.Dense(IN, 2, key=key(0)),
    "own layer": Late,
    "scan": lambda: nr.GRU(IN, 5, key=key(0), backend="scan"),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("batch", [None, BATCH])
@pytest.mark.parametrize("name", MODELS)
def test_a_stream_gives_the_outputs_of_the_sequence(name, batch):
    model = MODELS[name]()
    xs = random(0, *(() if batch is None else (batch,)), TIME, IN)
    expected = nr.inference(model)(xs)
    stream, n = nr.stream(model, batch), model.stride
    one = [xs[..., t : t + n, :] if n > 1 else xs[..., t, :] for t in range(0, TIME, n)]
    ys = [stream(np.asarray(x)) for x in one]
    assert_close(jax.tree.map(lambda *a: jnp.stack(a, xs.ndim - 2), *ys), expected, 1e-12)
    stream.reset()
    first, rest = stream.steps(xs[..., : 2 * n, :]), stream.steps(xs[..., 2 * n :, :])
    joined = jax.tree.map(lambda *a: jnp.concatenate(a, xs.ndim - 2), first, rest)
    assert_close(joined, expected, 1e-12)
    stream.reset()
    assert_close(stream(one[0]), ys[0], 0)


def gru() -> nr.Layer:
    return nr.GRU(IN, 8, key=key(0))


def read_out() -> nr.Layer:
    return nr.Dense(8, IN, jax.nn.sigmoid, key=key(1))


#: What makes a model, and whether its step is one kernel.
STEPS: dict[str, tuple[Callable[[], nr.Layer], bool]] = {
    "chain": (lambda: nr.Chain(gru(), nr.LayerNorm(8), read_out()), True),
    "skip": (
        lambda: nr.Chain(nr.Residual(nr.Chain(gru(), read_out())), nr.LSTM(IN, 3, key=key(2))),
        True,
    ),
    "a matrix exponential": (
        lambda: nr.Chain(nr.Recurrence(nr.cells.ExpRNNCell(IN, 8, key=key(2))), read_out()),
        True,
    ),
    "a chosen backend": (lambda: nr.Chain(nr.with_backend(gru(), "scan"), read_out()), False),
    "strided": (lambda: nr.Chain(nr.Conv1d(IN, IN, 3, stride=2, key=key(3)), gru()), False),
}


@pytest.mark.covered(1)
@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("batch", [None, BATCH])
def test_a_step_of_a_model_is_one_kernel(name, batch):
    make, merged = STEPS[name]
    model = make()
    shape = *(() if batch is None else (batch,)), *((2,) if name == "strided" else ()), IN
    xs, stream = random(0, 5, *shape), nr.stream(model, batch)
    state: Any = stream.state
    text = cast(Any, stream)._short.lower(state, xs[0]).compile().as_text()
    kernels, dots = text.count('custom_call_target="noria_native"'), text.count(" dot(")
    assert (kernels == 1 and not dots and " while(" not in text) == merged
    for x in xs:
        state, expected = model.step(state, x)
        assert_close(stream(x), expected, 1e-12)
        assert_close(stream.state, state, 1e-12)


def test_a_wrong_input_is_named_as_in_a_step():
    k1, k2 = jax.random.split(KEY)
    stream = nr.stream(nr.Chain(nr.GRU(IN, 5, key=k1), nr.Dense(5, 2, key=k2)))
    with pytest.raises(ValueError, match=r"GRU\(in_size=4\): x has shape \(3,\)"):
        stream(np.ones(3))
    assert stream(np.ones(IN)).shape == (2,)


def test_numbers_without_features_stream():
    k = jax.random.split(KEY, 3)
    model = nr.Chain(nr.Embedding(9, 4, key=k[0]), nr.GRU(4, 5, key=k[1]), nr.Dense(5, 9, key=k[2]))
    tokens = jnp.array([[3, 1, 4, 1], [5, 8, 2, 6]])
    stream, several = nr.stream(model), nr.stream(model, 2)
    expected = model(tokens)
    assert_close(jnp.stack([stream(token) for token in tokens[0]]), expected[0], 1e-12)
    assert_close(jnp.stack([several(some) for some in tokens.T], 1), expected, 1e-12)


def test_the_state_is_copied_out_and_in():
    model, xs = MODELS["LSTM"](), random(0, BATCH, TIME, IN)
    stream = nr.stream(model, BATCH)
    stream(xs[:, 0])
    saved = stream.state
    assert_close(saved, model.step(None, xs[:, 0])[0], 1e-12)
    first = stream(xs[:, 1])
    assert_close(saved, model.step(None, xs[:, 0])[0], 1e-12)  # it was not given away
    stream.state = saved
    assert_close(stream(xs[:, 1]), first, 0)
    assert_close(stream.state, nr.stream(model, BATCH, state=stream.state).state, 0)
    stream.state = jax.tree.map(lambda a: a[0], saved)  # of one example, for all
    assert_close(stream(xs[:1, 1].repeat(BATCH, 0)), first[:1].repeat(BATCH, 0), 1e-12)
    with pytest.raises(ValueError, match=r"stream\(LSTM\(in_size=4\), batch=3\): the state has sh"):
        stream.state = jax.tree.map(lambda a: a[:2], saved)


def test_some_streams_begin_anew():
    model, xs = MODELS["chain"](), random(0, BATCH, TIME, IN)
    stream, which = nr.stream(model, BATCH), np.array([False, True, False])
    expected = stream.steps(xs)
    stream.reset(which)
    anew = stream(xs[:, 0])
    for found, first in zip(anew, expected, strict=True):
        assert_close(found[1], first[1, 0], 1e-12)
        assert np.abs(found[0] - first[0, 0]).max() > 1e-3
    stream.reset()
    stream.steps(xs)
    assert_close(stream(xs[:, 0], resets=which), anew, 1e-12)


def test_nan_and_length_of_one_stream_do_not_reach_another():
    model, xs = MODELS["chain"](), random(0, BATCH, TIME, IN)
    stream, other = nr.stream(model, BATCH), nr.stream(model, BATCH)
    bad = xs.at[1, 0].set(jnp.nan)
    for t in range(TIME):
        found, expected = stream(bad[:, t]), other(xs[:, t])
        for one, two in zip(found, expected, strict=True):
            assert np.isnan(one[1]).any()
            assert_close(one[::2], two[::2], 0)
    stream.reset()
    assert_close(stream(xs[:, 0]), nr.stream(model, BATCH)(xs[:, 0]), 0)
    stream.reset()
    stream.steps(xs, lengths=np.array([2, 0, TIME]))
    alone = nr.stream(model)
    alone.steps(xs[0, :2])
    again = jax.tree.map(lambda a: a[0], stream(xs[:, 2]))
    assert_close(again, alone(xs[0, 2]), 1e-12)


@pytest.mark.parametrize("batch", [None, BATCH])
def test_a_stream_counts_its_steps(batch):
    lead = () if batch is None else (batch,)
    xs = random(0, *lead, TIME, IN)
    stream = nr.stream(nr.Recurrence(Counting()), batch)
    assert stream(xs[..., 0, :])[..., 1].ravel().tolist() == [0] * (batch or 1)
    assert stream.steps(xs[..., 1:4, :])[..., 1].tolist() == np.tile([1, 2, 3], (*lead, 1)).tolist()
    assert stream(xs[..., 4, :])[..., 1].ravel().tolist() == [4] * (batch or 1)
    stream(xs[..., 0, :], resets=jnp.ones(lead, bool))
    assert np.ravel(np.asarray(stream.t)).tolist() == [1] * (batch or 1)
    resets = jnp.zeros((*lead, TIME), bool).at[..., 4].set(True)
    stream.steps(xs, resets=resets)
    assert np.ravel(np.asarray(stream.t)).tolist() == [2] * (batch or 1)
    stream.t = 7
    assert stream(xs[..., 0, :])[..., 1].ravel().tolist() == [7] * (batch or 1)
    stream.reset()
    assert np.ravel(np.asarray(stream.t)).tolist() == [0] * (batch or 1)
    with pytest.raises(TypeError, match=r"t was given; expected a call without it, or stream\.t="):
        stream(xs[..., 0, :], t=1)
    if batch:
        stream.steps(xs, lengths=jnp.array([5, 0, 2]), resets=resets)
        assert np.ravel(np.asarray(stream.t)).tolist() == [1, 0, 2]
        stream.reset(jnp.array([True, False, False]))
        assert np.ravel(np.asarray(stream.t)).tolist() == [0, 0, 2]


def test_a_cell_that_draws_gets_a_key_of_its_own_in_each_call():
    def noisy(h: jax.Array, x: jax.Array, *, key: Any) -> jax.Array:
        return jax.random.normal(key, x.shape, x.dtype)

    layer = nr.Recurrence(noisy, initial_state=jnp.zeros(IN))
    stream, other = nr.stream(layer, key=KEY), nr.stream(layer, key=KEY)
    first, second = stream(jnp.ones(IN)), stream(jnp.ones(IN))
    assert (np.asarray(first) != np.asarray(second)).all()
    assert_close(other(jnp.ones(IN)), first, 0)
    stream.reset()
    assert (np.asarray(stream(jnp.ones(IN))) != np.asarray(first)).all()
    with pytest.raises(TypeError, match="key is None; expected one JAX random key"):
        nr.stream(layer)(jnp.ones(IN))


def test_a_call_that_fails_before_it_runs_changes_nothing():
    model, xs = MODELS["LSTM"](), random(0, BATCH, TIME, IN)
    stream = nr.stream(model, BATCH)
    stream(xs[:, 0])
    saved = stream.state
    for wrong, error in (
        (lambda: stream(xs[0, 0]), ValueError),
        (lambda: stream(xs[:, 0].astype(jnp.float32)), TypeError),
        (lambda: stream(xs[:, 0], dt=1.0), TypeError),
        (lambda: stream.steps(xs[:, 0]), ValueError),
        (lambda: stream.steps(xs, t=jnp.zeros(())), TypeError),
        (lambda: stream.reset(jnp.ones(2, bool)), ValueError),
        (lambda: stream.reset(jnp.ones(BATCH)), TypeError),
        (lambda: setattr(stream, "state", jnp.ones(2)), ValueError),
        (lambda: setattr(stream, "t", 1), TypeError),
    ):
        with pytest.raises(error):
            wrong()
        assert_close(stream.state, saved, 0)
    assert stream.t is None


def test_a_stream_whose_state_is_lost_says_so():
    """The memory of the state was used again before the error came."""
    model, x = MODELS["LSTM"](), random(0, IN)
    stream = nr.stream(model)
    expected = stream(x)
    with jax.debug_nans(True), pytest.raises(RuntimeError) as found:
        stream(np.full(IN, np.nan))  # JAX then runs the step again, without its arguments
    assert "the state is lost; call reset(), or set state" in found.value.__notes__[-1]
    for use in (lambda: stream(x), lambda: stream.state, lambda: stream.steps(x[None])):
        with pytest.raises(RuntimeError, match=r"it has no state, because a call failed while"):
            use()
    stream.reset()
    assert_close(stream(x), expected, 0)


def test_threads_with_a_stream_each():
    model, xs = MODELS["chain"](), random(0, 4, 50, IN)
    expected, found = nr.inference(model)(xs), dict[int, Any]()

    def run(n: int) -> None:
        stream = nr.stream(model)
        found[n] = jax.tree.map(lambda *a: jnp.stack(a), *(stream(x) for x in xs[n]))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        assert_close(found[n], jax.tree.map(lambda a, n=n: a[n], expected), 1e-12)


def test_one_program_for_all_steps_and_none_when_a_stream_is_gone(monkeypatch, caplog):
    """Also if there are records of the log, which hold no array."""
    traced, step = [], nr.Recurrence.step

    def spied(*given: Any, **named: Any) -> Any:
        traced.append(1)
        return step(*given, **named)

    monkeypatch.setattr(nr.Recurrence, "step", spied)
    caplog.set_level(logging.DEBUG, "noria")
    model = nr.prepare(MODELS["LSTM"]())
    stream = nr.stream(model, BATCH)
    for t in range(3):
        stream(np.full((BATCH, IN), float(t)))
    assert traced == [1]
    assert caplog.records
    arrays = [weakref.ref(a) for a in jax.tree.leaves(model.held.layer)]
    assert all(array() is not None for array in arrays)
    del model, stream
    gc.collect()
    assert [array() for array in arrays] == [None] * len(arrays)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: nr.stream(cast(Any, nr.GRUCell(2, 3, key=KEY))),
            TypeError,
            "model is a GRUCell; expected a",
        ),
        (lambda: nr.stream(MODELS["LSTM"](), 0), ValueError, "batch is 0; expected a whole number"),
        (
            lambda: nr.stream(MODELS["LSTM"](), key=cast(Any, 1)),
            TypeError,
            r"stream\(LSTM\(in_size=4\)\): key",
        ),
        (
            lambda: nr.stream(nr.Bidirectional(nr.GRUCell(2, 3, key=KEY))),
            ValueError,
            r"Bidirectional\(GRU\(in_size=2\)\).step: its backward direction needs the end first",
        ),
        (
            lambda: nr.stream(nr.Chain(nr.Conv1d(2, 3, 3, padding="same", key=KEY))),
            ValueError,
            r'Conv1d\(in_size=2\).step: an output reads later steps.* use padding="causal"',
        ),
        (
            lambda: nr.stream(nr.MaxPool1d(3, stride=1)),
            ValueError,
            r"MaxPool1d\(..., size=features",
        ),
        (
            lambda: jax.jit(lambda model: nr.stream(model)(jnp.ones(IN)))(MODELS["LSTM"]()),
            TypeError,
            "its arrays are traced, so they have no values yet; stream it outside",
        ),
    ],
)
def test_what_cannot_be_streamed(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_stream_shows_its_model():
    assert repr(nr.stream(MODELS["LSTM"](), 2)) == "stream(LSTM(in_size=4), batch=2)"
