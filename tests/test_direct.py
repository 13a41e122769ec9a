"""A step of a stream that does not go through JAX, against the program of JAX."""

import gc
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import AUTO, random

import noria as nr
from noria.backends.native.machine import Tuning, using
from noria.backends.native.runtime import kernels

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")

KEY = jax.random.key(0)
IN, UNITS = 4, 5


def turned(h: Any, x: Any) -> tuple[Any, Any]:
    h = h * jnp.exp(jax.lax.complex(-x * x, x)) + jax.lax.complex(x, jnp.tanh(x))
    return h, {"y": -h, "size": jnp.abs(h)}


def attending(state: Any, x: Any) -> Any:
    """A step that reads memories and does not change them."""
    h, memory, turns = state
    h = jnp.tanh(jax.nn.softmax(memory @ h) @ memory + jnp.abs(turns[0]) * x)
    return (h, memory, turns), h


def models() -> dict[str, nr.Layer]:
    k = jax.random.split(KEY, 4)
    return {
        "GRU": nr.GRU(IN, UNITS, key=k[0]),
        "LSTM": nr.LSTM(IN, UNITS, key=k[0], learn_initial_state=True),
        "float32": nr.cast(nr.LSTM(IN, UNITS, key=k[0]), jnp.float32),
        "complex": nr.Recurrence(nr.cells.LRUCell(IN, UNITS, key=k[0])),
        "matrix": nr.Recurrence(nr.cells.DeltaNetCell(IN, 6, heads=2, key=k[0])),
        "chain": nr.Chain(
            nr.LSTM(IN, 6, key=k[0]),
            nr.Dropout(0.5),
            nr.Residual(nr.GRU(6, 6, key=k[1])),
            nr.Dense(6, 2, jax.nn.relu, key=k[2]),
        ),
        "convolution": nr.Chain(nr.Conv1d(IN, 5, 3, key=k[0]), nr.GRU(5, 5, key=k[1])),
        "convolutions": nr.Residual(
            nr.Chain(nr.Conv1d(IN, 5, 3, key=k[0]), nr.Dense(5, IN, key=k[1]))
        ),
        "input first": nr.Chain(
            nr.LayerNorm(IN), nr.Dense(IN, 3, jnp.tanh, key=k[0]), nr.GRU(3, 5, key=k[1])
        ),
        "product": nr.Dense(IN, 3, key=k[0]),
        "products": nr.Chain(nr.Dense(IN, 3, jnp.tanh, key=k[0]), nr.Dense(3, 5, key=k[1])),
        "tree": nr.Chain(
            nr.GRU(IN, 6, key=k[0]),
            nr.Parallel("tuple", nr.Dense(6, 2, key=k[1]), nr.Dense(6, 3, jnp.tanh, key=k[2])),
        ),
        "memory": nr.Recurrence(
            attending,
            (jnp.zeros(IN), random(1, 6, IN), jax.lax.complex(random(2, 3, IN), random(3, 3, IN))),
        ),
        "complex output": nr.Recurrence(turned, jnp.zeros(IN, complex)),
    }


def pair(model: nr.Layer, batch: int | None = None) -> tuple[nr.Stream, nr.Stream, np.ndarray]:
    """Two streams, and inputs for them."""
    dtype = jax.tree.leaves(model)[0].real.dtype
    xs = random(0, 9, *(() if batch is None else (batch,)), IN).astype(dtype)
    return nr.stream(model, batch), nr.stream(model, batch), np.asarray(xs)


def assert_same(found: Any, expected: Any) -> None:
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("name", models())
def test_a_step_without_jax_gives_the_same_bits(name, batch):
    """Also where both ways take turns, and after the state was read, set and put back."""
    direct, plain, xs = pair(models()[name], batch)
    for x in xs[:3]:
        y = direct(x)
        assert all(type(array) is np.ndarray for array in jax.tree.leaves(y))
        assert_same(y, plain(jnp.asarray(x)))
    assert direct._direct is not None
    assert_same(direct.state, plain.state)
    assert_same(direct(jnp.asarray(xs[3])), plain(jnp.asarray(xs[3])))
    assert_same(direct(xs[4]), plain(jnp.asarray(xs[4])))
    saved = direct.state
    if batch is not None:
        where = jnp.array([True, False, True])
        direct.reset(where)
        plain.reset(where)
    assert_same(direct(xs[5]), plain(jnp.asarray(xs[5])))
    many = np.stack(list(xs[6:]), -2)
    assert_same(direct.steps(many), plain.steps(many))
    direct.state = plain.state = saved
    assert_same(direct(xs[5][..., ::-1]), plain(jnp.asarray(xs[5][..., ::-1])))
    direct.reset()
    plain.reset()
    assert_same(direct(xs[0]), plain(jnp.asarray(xs[0])))


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_an_embedding_is_looked_up(dtype, batch):
    """A number of no row gives NaN, as in a program of JAX."""
    model = nr.Chain(nr.Embedding(7, IN, key=KEY), nr.GRU(IN, UNITS, key=KEY))
    direct, plain = nr.stream(model, batch), nr.stream(model, batch)
    for number in (3, 0, 6, 7, 255, *(() if dtype == "uint8" else (-1, -7))):
        x = np.array(number if batch is None else [2, number, 2], dtype)
        direct.reset()
        plain.reset()
        assert_same(direct(x if batch else x[()]), plain(jnp.asarray(x)))
        assert_same(direct.state, plain.state)
    assert direct._direct is not None
    with pytest.raises((TypeError, ValueError)):
        direct(x.astype(float))


def test_a_prepared_model_streams_as_the_model_itself():
    model = models()["chain"]
    of_prepared, plain, xs = nr.stream(nr.prepare(model)), *pair(model)[1:]
    for x in xs[:3]:
        assert_same(of_prepared(x), plain(jnp.asarray(x)))
    assert of_prepared._direct is not None


def test_an_output_is_the_callers():
    stream, _, xs = pair(models()["GRU"])
    first = stream(xs[0])
    kept = first.copy()
    second = stream(xs[1])
    assert_same(first, kept)
    second[...] = 0
    first[...] = np.nan
    assert np.isfinite(stream(xs[2])).all()


def test_wrong_inputs_are_refused_and_change_nothing():
    stream, plain, xs = pair(models()["GRU"])
    for wrong in (xs[0][:3], xs, xs[0].astype(np.float32)):
        for _ in range(2):
            with pytest.raises((TypeError, ValueError)):
                stream(wrong)
        assert_same(stream(xs[0]), plain(jnp.asarray(xs[0])))
    assert stream._direct is not None


def test_a_number_of_64_bits_is_converted_as_by_jax(plain_jax):
    stream, plain = (nr.stream(nr.GRU(IN, UNITS, key=KEY)) for _ in range(2))
    for x in np.random.default_rng(0).normal(size=(3, IN)):  # first one, then the other
        assert_same(stream(x), plain(jnp.asarray(x)))
        assert_same(stream(x.astype(np.float32)), plain(jnp.asarray(x)))
    assert stream._direct is not None


def test_what_is_not_one_kernel_goes_through_jax():
    class Timed(nr.Cell):
        def __call__(self, h: Any, x: Any, *, t: Any = None) -> Any:
            return h + t.astype(x.dtype) * x

        def initial_state(self) -> jax.Array:
            return jnp.zeros(IN)

    x = np.ones(IN)
    sampled = nr.Chain(nr.GRU(IN, UNITS, key=KEY), jnp.sort)
    late = nr.Recurrence(nr.cells.DelayCell(nr.GRUCell(IN, UNITS, key=KEY), 2))
    for model, given in (
        (nr.Recurrence(Timed()), x),
        (nr.GRU(IN, UNITS, key=KEY, backend="scan"), x),
        (sampled, x),
        (late, x),
    ):
        stream, plain = nr.stream(model), nr.stream(model)
        for _ in range(3):
            y = stream(given)
            assert type(y) is np.ndarray
            assert_same(y, plain(jnp.asarray(given)))


@pytest.mark.parametrize("batch", [None, 3, 8])
@pytest.mark.parametrize("name", ["GRU", "LSTM", "chain", "convolutions", "complex"])
def test_threads_share_a_step(name, batch):
    """Call by call at once, and after pauses, in which the helpers sleep."""
    model = models()[name]
    direct, plain, xs = pair(model, batch)
    with using(Tuning(threads=3, direct_flops=1, stage_flops=1)):
        for x in [*xs, *xs]:
            assert_same(direct(x), plain(jnp.asarray(x)))
        assert direct._direct is not None
        assert direct._direct._shares > 1
        for x in xs[:4]:
            time.sleep(0.002)
            found = direct(x), direct(x), direct(x)
            assert_same(found, tuple(plain(jnp.asarray(x)) for _ in range(3)))
    assert_same(direct.state, plain.state)


def test_threads_with_a_stream_each_share_the_helpers():
    """A caller for whom there is no helper does all the work."""
    layer, xs = nr.LSTM(IN, 40, key=KEY), np.asarray(random(0, 60, IN))
    expected, found = nr.stream(layer).steps(xs), dict[int, Any]()

    def call(number: int) -> None:
        with using(Tuning(threads=2, direct_flops=1, stage_flops=1)):
            stream = nr.stream(layer)
            found[number] = [np.stack([stream(x) for x in xs]) for _ in range(20)]
            assert stream._direct is not None
            assert stream._direct._shares == 2

    threads = [threading.Thread(target=call, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for many in found.values():
        np.testing.assert_allclose(many[0], expected, atol=1e-12)
        assert len(many) == 20
    np.testing.assert_array_equal(np.stack(found[0]), np.stack(found[3]))


def test_nan_is_looked_for_if_jax_is_asked_to():
    stream, _, xs = pair(models()["GRU"])
    stream(xs[0])
    with jax.debug_nans(True), pytest.raises((FloatingPointError, RuntimeError)):
        stream(np.full(IN, np.nan))


def test_a_second_thread_in_a_call_is_an_error():
    stream, _, xs = pair(nr.LSTM(IN, 700, key=KEY))
    with using(Tuning(threads=1)):
        stream(xs[0])
    assert stream._direct is not None
    refused, done = [], threading.Event()

    def call() -> None:
        while not done.is_set():
            try:
                stream(xs[1])
            except RuntimeError as error:
                refused.append(str(error))
                done.set()

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    done.wait(60)
    done.set()
    for thread in threads:
        thread.join()
    assert "another thread is in a call; expected one thread a stream" in refused[0]
    stream.reset()
    stream(xs[0])


def test_the_kernel_lives_as_long_as_the_stream():
    stream, plain, xs = pair(nr.GRU(IN, 23, key=KEY))
    before = set(kernels.alive())
    stream(xs[0])
    (own,) = set(kernels.alive()) - before
    gc.collect()
    kernels.release_unused()
    assert own in kernels.alive()
    assert_same(stream(xs[1]), [plain(jnp.asarray(x)) for x in xs[:2]][1])
    jax.clear_caches()
    del stream, plain
    gc.collect()
    kernels.release_unused()
    assert own not in kernels.alive()
