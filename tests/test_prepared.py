"""Weights that are constants of a program are packed once; `noria.prepare` makes them constants."""

import gc
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import random

import noria as nr
from noria.backends.environment import Environment, environment
from noria.backends.native.machine import ISAS, Tuning, using
from noria.backends.native.runtime import kernels
from noria.backends.native.runtime.target import chosen

KEY = jax.random.key(0)


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """The shapes of the weights of each kernel whose panels are made outside of a call."""
    found: list[list[tuple[int, ...]]] = []
    packed = kernels.packed

    def spied(kernel: Any, plan: Any, weights: Any) -> Any:
        found.append([a.shape for a in weights.values()])
        return packed(kernel, plan, weights)

    monkeypatch.setattr(kernels, "packed", spied)
    return found


#: What makes each model. Nothing is made while tests are collected.
MODELS: dict[str, Callable[[], nr.Layer]] = {
    "LSTM": lambda: nr.LSTM(5, 7, key=KEY, learn_initial_state=True, recurrent_bias=True),
    "GRU": lambda: nr.GRU(5, 19, key=KEY),
    "GRUv3": lambda: nr.GRUv3(5, 7, key=KEY, backend="native"),
    "RNN": lambda: nr.RNN(5, 33, key=KEY, reverse=True),
    "chain": lambda: nr.Chain(nr.LSTM(5, 7, key=KEY), nr.Dropout(0.5), nr.GRU(7, 6, key=KEY)),
    "two directions": lambda: nr.Bidirectional(nr.GRU(5, 6, key=KEY), nr.GRU(5, 6, key=KEY)),
}


def assert_same(found: Any, expected: Any) -> None:
    for one, two in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float64") for name in MODELS), ("chain", "float32"), ("chain", "bfloat16")],
)
def test_sequences_are_equal_to_the_bit(name, dtype, packings):
    model = nr.inference(nr.cast(MODELS[name](), dtype))
    fast, xs = nr.prepare(model), random(1, 3, 8, 5).astype(dtype)
    lengths, resets = jnp.array([8, 0, 3]), random(2, 3, 8) > 0.5
    padded = xs.at[1].set(jnp.nan)
    options = {"lengths": lengths, "resets": resets}
    assert_same(fast.scan(None, padded, **options), model.scan(None, padded, **options))
    state, _ = model.scan(None, xs)
    assert_same(fast.scan(state, xs), model.scan(state, xs))
    assert packings
    one = random(4, 9, 5).astype(dtype)  # eight rows would be read in place
    assert_same(fast(one), model(one))


@pytest.mark.parametrize("rows", [None, 1, 16, 17, 200])
def test_steps(rows, packings):
    """Up to 16 rows, a step of other weights reads them in place, and rounds otherwise."""
    model = MODELS["LSTM"]()
    fast, shape = nr.prepare(model), () if rows is None else (rows,)
    state, plain = None, None
    for x in random(3, 4, *shape, 5):
        state, y = fast.step(state, x)
        plain, expected = model.step(plain, x)
        np.testing.assert_allclose(y, expected, rtol=0, atol=0 if rows == 17 else 1e-15)
    # The first step has no state, and the others have one: two programs.
    assert packings == ([] if rows == 200 else [[(28, 5), (28, 7)]] * 2)


def test_a_stream_is_equal_to_its_sequence_to_the_bit():
    fast, xs = nr.prepare(MODELS["LSTM"]()), random(4, 2, 9, 5)
    state, ys = None, []
    for x in xs.swapaxes(0, 1):
        state, y = fast.step(state, x)
        ys.append(y)
    assert_same((state, jnp.stack(ys, 1)), fast.scan(None, xs))


def tunings() -> Iterator[Tuning]:
    """Threads that share rows, and features; products in the step, and for a time block."""
    for options in (
        {"thread_flops": 1, "threads": 2},
        {"thread_flops": 1, "threads": 3, "stage_flops": 0},
        {"thread_flops": 1, "threads": 2, "small_weight_bytes": 0},
        {"small_weight_bytes": 2**30},
    ):
        yield replace(Tuning(), **options)  # type: ignore[arg-type]


@pytest.mark.covered(1)
@pytest.mark.parametrize("tuning", list(tunings()))
@pytest.mark.parametrize("batch", [1, 4])
def test_threads_and_time_blocks(tuning, batch, packings):
    model, xs = MODELS["LSTM"](), random(5, batch, 12, 5)
    with using(tuning):
        assert_same(nr.prepare(model).scan(None, xs), model.scan(None, xs))
    assert packings


def test_another_instruction_set_packs_anew(packings, monkeypatch):
    model, xs = MODELS["GRU"](), random(5, 2, 12, 5)
    fast, names, best = nr.prepare(model), [isa.name for isa in ISAS["x86"]], chosen().name
    if best not in names:
        pytest.skip("the machine has one instruction set")
    usable = names[names.index(best) :]
    for name in usable:
        monkeypatch.setenv("NORIA_NATIVE_ISA", name)
        for _ in range(2):
            assert_same(fast(xs), model(xs))
    assert len(packings) == len(usable)


def test_the_environment_is_read_in_each_call(monkeypatch):
    """Programs are kept by environment, so a variable that comes back finds its own."""
    for name in ("NORIA_BACKEND", "NORIA_NATIVE_ISA"):
        monkeypatch.delenv(name, raising=False)
    fast, x = nr.prepare(MODELS["GRU"]()), random(16, 5)

    def results():
        return fast.step(None, x)[1], fast.scan(None, x[None])[1]

    assert environment() == Environment("", "")
    first = results()
    monkeypatch.setenv("NORIA_BACKEND", "scan")
    assert environment() == Environment("scan", "")
    second = results()
    monkeypatch.delenv("NORIA_BACKEND")
    assert_same(results(), first)
    for verb in (fast.held.step, fast.held.scan):
        assert [*verb.programs] == [Environment("", ""), Environment("scan", "")]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-15)
    monkeypatch.setattr(os, "environ", {"NORIA_NATIVE_ISA": "sse"})  # a mapping of another kind
    assert environment() == Environment("", "sse")


def test_the_methods_of_a_prepared_layer_are_functions():
    fast, x = nr.prepare(MODELS["GRU"]()), random(17, 2, 5)
    expected = fast.step(None, x)
    assert_same(jax.jit(fast.step)(None, x), expected)
    assert_same(eqx.filter_jit(fast.step)(None, x), expected)
    assert_same(jax.vmap(fast.step, (None, 0))(None, x), expected)
    assert_same(pickle.loads(pickle.dumps(fast.step))(None, x), expected)


def test_weights_that_jit_closes_over_are_packed_once(packings):
    model, xs = MODELS["chain"](), random(6, 3, 8, 5)
    model = nr.inference(model)
    closed = jax.jit(lambda xs: model(xs))
    assert_same(closed(xs), model(xs))
    closed(xs)
    assert packings == [[(28, 5), (28, 7)], [(18, 7), (18, 6)]]
    jax.jit(lambda model, xs: model(xs))(model, xs)
    jax.jit(nr.grad(lambda model, xs: model(xs).sum()))(model, xs)
    assert len(packings) == 2


def test_invariant_values_are_constants_too(packings):
    """The weight is scaled once for all steps, and the result is packed once."""

    class Scaled(nr.Cell):
        U: jax.Array
        scale: jax.Array

        def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.tanh((self.scale * self.U) @ h + x)

        def initial_state(self) -> jax.Array:
            return jnp.zeros(6)

    layer = nr.Recurrence(Scaled(random(7, 6, 6), jnp.full((6, 1), 0.5)), backend="native")
    fast, xs = nr.prepare(layer), random(8, 3, 8, 6)
    assert_same(fast.scan(None, xs), layer.scan(None, xs))
    assert packings == [[(6, 6)]]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("backend", ["native", "scan", "plain"])
def test_derivatives_of_the_input(backend):
    model, xs = nr.with_backend(MODELS["LSTM"](), backend), random(9, 3, 8, 5)
    fast = nr.prepare(model)

    def loss(layer: nr.Layer, xs: jax.Array) -> jax.Array:
        return (layer(xs) ** 2).sum()

    found, expected = (jax.grad(loss, argnums=1)(layer, xs) for layer in (fast, model))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="a Prepared, holds nothing trainable"):
        nr.grad(loss)(fast, xs)
    twice = jax.grad(lambda xs: jax.grad(loss, argnums=1)(fast, xs).sum())(xs[:1, :3])
    want = jax.grad(lambda xs: jax.grad(loss, argnums=1)(model, xs).sum())(xs[:1, :3])
    np.testing.assert_allclose(twice, want, rtol=0, atol=1e-13)


def test_transformations(packings):
    model, xs = MODELS["GRU"](), random(10, 4, 3, 8, 5)
    fast = nr.prepare(model)
    expected = jnp.stack([model(x) for x in xs])
    for function in (jax.vmap(fast), jax.jit(jax.vmap(fast)), jax.vmap(jax.jit(fast))):
        assert_same(function(xs), expected)
    assert_same(jax.jit(lambda fast, x: fast(x))(fast, xs[0]), expected[0])
    with jax.disable_jit():
        np.testing.assert_allclose(fast(xs[0]), expected[0], rtol=0, atol=1e-15)
    assert packings
    assert nr.explain(fast, xs[0]).backend == "native"
    exported = jax.export.export(jax.jit(lambda xs: fast(xs)))(xs[0])
    assert f"@{kernels.TARGET}" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(xs[0]), expected[0], rtol=0, atol=1e-14)


def test_numpy_arrays_and_wrong_arguments():
    model = MODELS["LSTM"]()
    fast, xs = nr.prepare(model), np.asarray(random(11, 3, 8, 5))
    assert_same(fast(xs, lengths=np.array([8, 2, 1])), model(xs, lengths=np.array([8, 2, 1])))
    for wrong in (xs[..., :4], xs[..., 0], xs.astype(np.float32), [1.0]):
        with pytest.raises((TypeError, ValueError)) as expected:
            model(wrong)
        with pytest.raises(type(expected.value)) as found:
            fast(wrong)
        assert str(found.value) == str(expected.value)
    with pytest.raises(TypeError, match=r"prepare\(LSTM\(in_size=5\)\): dt was given"):
        fast(xs, dt=np.ones((3, 8)))


def test_arguments_of_the_cell_pass_through():
    def leaky(h: jax.Array, x: jax.Array, *, dt: jax.Array) -> jax.Array:
        return h + dt * (x - h)

    layer = nr.Recurrence(leaky, initial_state=jnp.zeros(5))
    fast, xs, dt = nr.prepare(layer), random(12, 3, 8, 5), random(13, 3, 8) ** 2
    assert fast.takes() == {"dt"}
    assert_same(fast.scan(None, xs, dt=dt), layer.scan(None, xs, dt=dt))
    assert_same(fast.step(None, xs[:, 0], dt=dt[:, 0]), layer.step(None, xs[:, 0], dt=dt[:, 0]))


def test_pickled_and_not_saved(tmp_path, packings):
    model, xs = nr.Chain(MODELS["GRU"](), nr.prepare(MODELS["two directions"]())), None
    with pytest.raises(TypeError, match=r"layers\[1\] is a prepared layer"):
        nr.save(tmp_path / "model", model)
    fast, xs = nr.prepare(MODELS["GRU"]()), random(14, 3, 8, 5)
    with pytest.raises(TypeError, match="the model is a prepared layer"):
        nr.save(tmp_path / "model", fast)
    with pytest.raises(TypeError, match="the model is a prepared layer"):
        nr.load(tmp_path / "model", fast)
    again = pickle.loads(pickle.dumps(fast))
    assert_same(again(xs), fast(xs))
    assert len(packings) == 2


@pytest.mark.parametrize(
    "change",
    [
        nr.training,
        lambda model: nr.cast(model, jnp.bfloat16),
        lambda model: nr.with_backend(model, "scan"),
    ],
    ids=["training", "cast", "with_backend"],
)
def test_a_prepared_layer_cannot_change(change):
    model = nr.Chain(MODELS["GRU"](), nr.prepare(MODELS["two directions"]()))
    with pytest.raises(TypeError, match=r"layers\[1\] is a prepared layer"):
        change(model)


def test_what_is_not_prepared():
    with pytest.raises(TypeError, match="model is a GRUCell; expected a layer"):
        nr.prepare(nr.GRUCell(2, 3, key=KEY))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="its arrays are traced"):
        jax.jit(lambda model: nr.prepare(model)(jnp.zeros((2, 5))))(MODELS["GRU"]())


def test_a_prepared_layer_is_freed_with_its_programs():
    fast = nr.prepare(MODELS["GRU"]())
    fast(random(15, 3, 8, 5))
    held = jax.live_arrays()
    arrays = {id(a) for a in jax.tree.leaves(fast.held.layer)}
    assert arrays <= {id(a) for a in held}
    del fast, held
    gc.collect()
    assert not arrays & {id(a) for a in jax.live_arrays()}


# --- Dense --------------------------------------------------------------------------------------


@pytest.mark.covered(2)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("leading", [(), (1,), (3, 8), (2, 0), (129,)])
@pytest.mark.parametrize("activation", [jax.nn.tanh, jax.nn.softmax, lambda y: y[..., 0]])
def test_a_product_of_constant_weights(leading, dtype, bias, activation):
    """Another order of sums: the same numbers up to rounding, and derivatives of the input."""
    model = nr.Dense(19, 7, activation, bias=bias, key=KEY, dtype=jnp.dtype(dtype))
    fast, xs = nr.prepare(model), random(20, *leading, 19).astype(dtype)
    close = {"bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-13}[dtype]

    def pulled(layer: nr.Layer) -> Any:
        ys, pull = jax.vjp(layer, xs)
        return ys, *pull(jnp.cos(ys))

    for one, two in zip(pulled(fast), pulled(model), strict=True):
        assert (one.shape, one.dtype) == (two.shape, two.dtype)
        found, expected = (np.asarray(a, np.float64) for a in (one, two))
        np.testing.assert_allclose(found, expected, rtol=close, atol=close)


def test_a_product_of_constant_weights_is_one_kernel(packings):
    model, xs = nr.Dense(5, 7, jax.nn.relu, key=KEY), random(21, 4, 5)
    fast = nr.prepare(model)
    np.testing.assert_allclose(jax.vmap(fast)(xs[:, None])[:, 0], model(xs), rtol=1e-12)
    assert packings == [[(7, 5)]]
    several = random(22, 3, 129, 5)
    assert_same(fast(several), model(several))
    assert len(packings) == 1
    broken = xs.at[1].set(jnp.nan)
    assert_same(fast(broken)[::2], fast(xs)[::2])


def test_without_machine_code_a_product_is_the_same(packings, monkeypatch):
    monkeypatch.setenv("NORIA_BACKEND", "scan")
    model, xs = nr.Dense(5, 7, jax.nn.relu, key=KEY), random(21, 4, 5)
    assert_same(nr.prepare(model)(xs), model(xs))
    assert not packings


def test_a_cell_that_holds_a_product_is_one_kernel(packings):
    class Holding(nr.Cell):
        dense: nr.Dense

        def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.tanh(self.dense(h) + x)

        def initial_state(self) -> jax.Array:
            return jnp.zeros(5)

    layer, xs = nr.Recurrence(Holding(nr.Dense(5, 5, key=KEY))), random(23, 3, 8, 5)
    assert_same(nr.prepare(layer)(xs), layer(xs))
    assert packings == [[(5, 5)]]
