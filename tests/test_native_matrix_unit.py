"""Products by the matrix unit: as exact as float32 by vectors, also for numbers without parts."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import check_native
from models import CELLS, make_cell, random

import noria as nr
from noria.backends.native.machine import ISAS
from noria.backends.native.plan import matrix_unit
from noria.backends.native.runtime import target

pytestmark = pytest.mark.skipif(
    not target.available() or not target.available()[0].has_unit, reason="there is no matrix unit"
)


@pytest.fixture
def forced(plans, tune, monkeypatch):
    """The plans of kernels; the unit makes every product of float32 that is packed."""
    tune(unit_rows=1, uncached_unit_rows=1, unit_block_rows=1, unpacked_rows=0)
    tune(unit_update_features=1, unit_features=(1, 1))
    monkeypatch.setattr(matrix_unit, "fills", lambda *_: True)
    return plans


def layer_of(name: str, features: int, hidden: int) -> nr.Recurrence:
    return nr.Recurrence(make_cell(name, features, hidden, dtype=jnp.float32))


def numbers(seed: int, *shape: int) -> jax.Array:
    return random(seed, *shape, dtype=jnp.float32)


def uses_unit(plans: Any) -> list[bool]:
    """Of each plan, whether the unit multiplies in its steps, and in its time blocks."""
    found = []
    for plan in (planned.plan for planned in plans):
        blocks = [tiling for _, tiling in (*plan.prologue, *plan.epilogue)]
        steps = [tiling for tiling in plan.tilings if tiling.panels]
        found += [any(t.by_unit for t in some) for some in (steps, blocks)]
    return found


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    "shape", [(1, 3, 1, 1), (3, 5, 33, 50), (17, 4, 64, 16), (40, 3, 5, 31), (31, 2, 96, 80)]
)
@pytest.mark.parametrize("blocks", [False, True])
def test_layers_agree_with_the_scan(name, shape, blocks, forced, tune):
    """Forward and all cotangents, for rows that fill tiles and rows that do not."""
    batch, time, features, hidden = shape
    if blocks:
        tune(small_weight_bytes=0, block_examples=2**31)
    check_native(layer_of(name, features, hidden), numbers(1, batch, time, features))
    assert any(uses_unit(forced))


@pytest.mark.parametrize("rows", [1, 20, 64])
def test_outer_products_of_some_rows_at_a_time_agree_with_the_scan(rows, forced, tune):
    """With few panels at a time, whose last is narrower; on two threads."""
    tune(unit_update_rows=rows, part_bytes=1, cores=2, thread_flops=1)
    check_native(layer_of("lstm", 39, 37), numbers(8, 9, 13, 39))
    backward = forced[1].plan
    assert all(map(backward.updates_by_unit, backward.schedule.updates[:2]))


def test_outer_products_of_infinite_numbers(forced):
    """As by vectors: in a gradient of a weight, only what they touch is not finite."""
    layer, xs = layer_of("rnn", 40, 32), numbers(9, 7, 5, 40).at[2, 3, 1].set(jnp.inf)

    def gradient(backend: str) -> Any:
        other = nr.with_backend(layer, backend)
        return jax.jit(jax.grad(lambda layer: jnp.sum(layer(xs))))(other)

    found, expected = (jax.tree.leaves(gradient(backend)) for backend in ("native", "scan"))
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(two))
    assert any(map(forced[1].plan.updates_by_unit, forced[1].plan.schedule.updates))


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("part_bytes", [1, 2**20])
def test_blocks_divided_among_threads_agree_with_the_scan(cores, part_bytes, forced, tune):
    """In chunks of 16 rows, or in one."""
    tune(cores=cores, thread_flops=1, part_bytes=part_bytes)
    tune(small_weight_bytes=0, block_examples=2**31)
    check_native(layer_of("lstm", 40, 48), numbers(2, 7, 19, 40))
    assert any(uses_unit(forced)[1::2])


def test_batch_major_arrays_are_read_and_filled_as_they_are(forced, tune):
    """The input, and its cotangent: the program exchanges no axes."""
    tune(small_weight_bytes=0, block_examples=2**31)
    layer, xs = layer_of("lstm", 40, 32), numbers(7, 18, 7, 40)

    def loss(xs: jax.Array, layer: Any) -> jax.Array:
        return jnp.sum(layer(xs))

    for function in (lambda xs: layer(xs), jax.grad(lambda xs: loss(xs, layer))):
        text = str(jax.jit(function).lower(xs).compile().as_text())
        assert "custom-call" in text
        assert not re.search(r"\S transpose\(", text)
    assert [len(planned.plan.by_example) for planned in forced] == [1, 1, 1]


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_threads_in_different_stages_do_not_disturb_each_other(cores, forced, tune):
    """Stages whose rows have different lengths; the parts of a thread are its own in each."""
    wide, narrow, again = (
        0.05 * numbers(n, *shape) for n, shape in enumerate([(96, 300), (33, 96), (300, 33)], 10)
    )

    def cell(h: Any, x: Any) -> Any:
        return jnp.tanh(again @ jnp.tanh(narrow @ jnp.tanh(wide @ h)) + x)

    tune(cores=cores, thread_flops=1)
    layer = nr.Recurrence(cell, jnp.zeros(300, jnp.float32))
    check_native(layer, numbers(13, 48, 60, 300))
    assert any(uses_unit(forced)[::2])


def test_lengths_with_nan_and_resets_agree_with_the_scan(forced, tune):
    tune(small_weight_bytes=0, block_examples=2**31)
    lengths, resets = jnp.asarray([3, 0, 7] * 6), random(3, 18, 7) > 0.5
    xs = numbers(4, 18, 7, 40)
    xs = jnp.where(jnp.arange(7)[:, None] < lengths[:, None, None], xs, jnp.nan)
    check_native(layer_of("gru", 40, 32), xs, lengths=lengths, resets=resets)
    assert any(uses_unit(forced))


def test_several_models_agree_with_the_scan(forced, tune):
    tune(cores=2, thread_flops=1)
    layers = [layer_of("lstm", 40, 32) for _ in range(3)]
    many = jax.tree.map(lambda *a: jnp.stack(a), *layers)
    xs = numbers(5, 3, 9, 6, 40)
    found = jax.jit(jax.vmap(lambda layer, xs: layer(xs)))(many, xs)
    for layer, x, ys in zip(layers, xs, found, strict=True):
        expected = nr.with_backend(layer, "scan")(x)
        np.testing.assert_allclose(ys, expected, rtol=2e-5, atol=2e-6)
    assert any(uses_unit(forced))


# --- one product ----------------------------------------------------------------------------------


def product_of(weight: Any, rows: Any, *, prepared: bool = False) -> np.ndarray:
    """``weight @ row`` of each row, by a layer that does nothing else."""
    layer = nr.Recurrence(Product(jnp.asarray(weight)), jnp.zeros(len(weight), jnp.float32))
    function = nr.prepare(layer) if prepared else layer
    run = jax.jit(lambda xs: function(xs))  # traced anew in each call
    return np.asarray(run(jnp.asarray(rows)[:, None]))[:, 0]


class Product(nr.Module):
    """A cell whose next state is a product of the input."""

    weight: jax.Array

    def __call__(self, state: jax.Array, x: jax.Array) -> jax.Array:
        return self.weight @ x + 0 * state


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(("rows", "depth", "width"), [(1, 32, 32), (16, 200, 64), (37, 1000, 48)])
def test_a_product_is_as_exact_as_by_vectors(rows, depth, width, prepared, forced, tune):
    """Its largest error is at most that of multiply-adds, and both are far below 2**-16."""
    rng = np.random.default_rng(0)
    weight, xs = (
        (rng.normal(size=shape) * np.exp2(rng.integers(-6, 6, size=shape))).astype(np.float32)
        for shape in ((width, depth), (rows, depth))
    )
    exact = xs.astype(np.float64) @ weight.astype(np.float64).T
    scale = np.abs(xs).astype(np.float64) @ np.abs(weight).astype(np.float64).T
    by_unit = np.abs(product_of(weight, xs, prepared=prepared) - exact) / scale
    assert any(uses_unit(forced))
    forced.clear()
    tune(isa="avx512")
    by_vectors = np.abs(product_of(weight, xs, prepared=prepared) - exact) / scale
    assert not any(uses_unit(forced))
    assert by_unit.max() <= 1.5 * by_vectors.max()
    assert by_unit.max() < 2**-20


SPECIAL: dict[str, Any] = {
    "infinity": np.inf,
    "minus infinity": -np.inf,
    "NaN": np.nan,
    "NaN with low bits": np.uint32(0x7F800001).view(np.float32),
    "NaN of all bits": np.uint32(0xFFFFFFFF).view(np.float32),
    "the largest": np.finfo(np.float32).max,
    "2**63": 2.0**63,
    "the least normal": np.finfo(np.float32).tiny,
    "zero": 0.0,
}


@pytest.mark.parametrize("where", ["rows", "weight", "both"])
@pytest.mark.parametrize("name", SPECIAL)
def test_numbers_without_parts(name, where, forced, tune):
    """Infinity, NaN and the largest numbers give what vectors give, in all rows and columns."""
    rng = np.random.default_rng(1)
    weight, xs = (rng.normal(size=shape).astype(np.float32) for shape in ((48, 70), (20, 70)))
    weight[:, 0] = np.exp2(rng.integers(-3, 3, 48))  # one part only
    if where in ("rows", "both"):
        xs[3, 0], xs[7, 69] = SPECIAL[name], SPECIAL[name]
    if where in ("weight", "both"):
        weight[5, 0], weight[47, 31] = SPECIAL[name], SPECIAL[name]
        xs[0] = np.exp2(rng.integers(-3, 3, 70))
    found = product_of(weight, xs)
    assert any(uses_unit(forced))
    tune(isa="avx512")
    expected = product_of(weight, xs)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    fine = np.isfinite(expected)
    np.testing.assert_allclose(found[fine], expected[fine], rtol=1e-4, atol=1e-5)


# --- choice ---------------------------------------------------------------------------------------


def test_large_products_use_the_unit_and_small_ones_do_not(plans, tune):
    """With the thresholds that were measured."""
    tune(cores=1)
    for shape, expected in [
        ((4, 3, 64, 64), [False, False]),
        ((16, 3, 64, 64), [True, False]),
        ((4, 64, 96, 128), [False, True]),
        ((16, 3, 10, 10), [False, False]),
    ]:
        batch, time, features, hidden = shape
        layer, seen = layer_of("lstm", features, hidden), len(plans)
        jax.jit(lambda xs, layer=layer: layer(xs))(numbers(6, batch, time, features))
        assert uses_unit(plans[seen:]) == expected, shape


def test_the_unit_is_an_instruction_set_of_its_own(monkeypatch):
    assert [isa.name for isa in ISAS["x86"] if isa.has_unit] == ["amx"]
    monkeypatch.setattr(target, "_may_use_unit", lambda: False)
    assert not any(isa.has_unit for isa in target.available.__wrapped__())
