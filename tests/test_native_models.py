"""`jax.vmap` over models: one call of machine code for all of them, in both directions.

Right is the definition in double precision, of one model after the other.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import pulled
from fuzzing.evaluate import evaluated
from models import AUTO, assert_close, ensemble, learned, make_cell, random

import noria as nr

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")

TOLERANCE = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 0.05}
MODELS = 3
LENGTHS = jnp.array([[5, 2], [0, 4], [3, 3]])
RESETS = random(8, MODELS, 2, 5) > 0.6

Scan = Callable[..., Any]


def layer_of(name: str, dtype: Any = jnp.float64, **options: Any) -> nr.Recurrence:
    return learned(make_cell(name, 3, 5, dtype=dtype), **options)


def pick(tree: Any, axis: Any, n: int) -> Any:
    """Entry ``n`` along an axis of each array."""
    if axis is None:
        return tree
    return jtu.tree_map(lambda a: jnp.take(a, n, axis) if eqx.is_array(a) else a, tree)


def mapped(function: Scan, axes: Any) -> Scan:
    return eqx.filter_vmap(function, in_axes=axes)


def one_by_one(function: Scan, axes: Any, count: int = MODELS) -> Scan:
    """The same, for ``count`` models, without `jax.vmap`."""

    def run(*args: Any) -> Any:
        each = [
            function(*(pick(a, axis, n) for a, axis in zip(args, axes, strict=True)))
            for n in range(count)
        ]
        return jtu.tree_map(lambda *leaves: jnp.stack(leaves), *each)

    return run


def axes_of(layer: Any, axis: Any) -> Any:
    """The axis for each array of a layer, as `equinox` wants them."""
    return jtu.tree_map(lambda a: axis if eqx.is_array(a) else None, layer)


def scan(layer: Any, xs: Any, lengths: Any, resets: Any) -> Any:
    return layer.scan(None, xs, lengths=lengths, resets=resets)


def doubled(tree: Any) -> Any:
    return jtu.tree_map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, tree)


def check(
    run: Callable[[Callable[..., Scan]], Scan], *args: Any, tolerance: float | None = None
) -> Any:
    """``run(mapping)`` with values and cotangents, against the definition of each model."""
    arrays, rest = eqx.partition(args, eqx.is_array)
    found = jax.jit(lambda arrays: pulled(run(mapped), *eqx.combine(arrays, rest)))(arrays)
    layer, *others = doubled(args)
    right = nr.with_backend(layer, "reference")
    arrays, rest = eqx.partition((right, *others), eqx.is_array)
    expected = evaluated(lambda arrays: pulled(run(one_by_one), *eqx.combine(arrays, rest)), arrays)
    dtype = jtu.tree_leaves(found)[0].dtype
    tolerance = tolerance or TOLERANCE[str(dtype)]
    assert_close(doubled(found), expected, tolerance)
    return found


MAPS: dict[str, tuple[Any, ...]] = {
    "weights": (0, None, None, None),
    "weights and inputs": (0, 0, None, None),
    "all": (0, 0, 0, 0),
    "weights, lengths": (0, None, 0, None),
    "inputs": (None, 0, None, 0),
}


def arguments(layer: Any, axes: Any, dtype: Any = jnp.float64) -> tuple[Any, ...]:
    layers = ensemble(layer, MODELS) if axes[0] == 0 else layer
    xs = random(0, *((MODELS,) if axes[1] == 0 else ()), 2, 5, 3, dtype=dtype)
    lengths, resets = (
        a if axis == 0 else a[0] for a, axis in zip((LENGTHS, RESETS), axes[2:], strict=True)
    )
    return layers, xs, lengths, resets


@pytest.mark.sampled(75)
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_the_gradient_of_a_map(name, reverse, cell, dtype):
    axes = MAPS[name]
    layers, *others = arguments(layer_of(cell, dtype, reverse=reverse), axes, dtype)
    places = axes_of(layers, axes[0]), *axes[1:]
    check(lambda mapping: mapping(scan, places if mapping is mapped else axes), layers, *others)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", MAPS)
def test_a_map_of_gradients(name):
    axes = MAPS[name]
    layers, *others = arguments(layer_of("lstm"), axes)

    def each(layer: Any, xs: Any, *masks: Any) -> Any:
        def loss(given: Any) -> Any:
            return sum(jnp.sum(a**2) for a in jtu.tree_leaves(scan(*given, *masks)))

        return jtu.tree_leaves(jax.grad(loss)((layer, xs)))

    places = axes_of(layers, axes[0]), *axes[1:]
    found = jax.jit(jax.vmap(each, in_axes=places))(layers, *others)
    right = nr.with_backend(layers, "reference")
    assert_close(found, evaluated(one_by_one(each, axes), right, *others), 1e-10)


NESTED: dict[str, tuple[Any, Any]] = {
    "inputs in weights": ((0, None, None, None), (None, 0, None, None)),
    "weights in inputs": ((None, 0, None, None), (0, None, None, None)),
    "weights in weights": ((0, None, None, None), (0, 0, None, None)),
    "weights in lengths and resets": ((None, None, 0, 0), (0, None, None, None)),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NESTED)
def test_maps_in_maps(name):
    """The outer map, and the inner one."""
    outer, inner = NESTED[name]
    layers, count = layer_of("gru"), sum(axes[0] == 0 for axes in (outer, inner))
    for _ in range(count):
        layers = ensemble(layers, MODELS)
    sides = [MODELS for axes in (outer, inner) if axes[1] == 0]
    xs = random(1, *sides, 2, 5, 3)
    masks = (LENGTHS, RESETS) if outer[2] == 0 else (LENGTHS[0], RESETS[0])

    def run(mapping: Callable[..., Scan]) -> Scan:
        if mapping is mapped:
            one, two = ((axes_of(layers, axes[0]), *axes[1:]) for axes in (outer, inner))
            return mapping(mapping(scan, two), one)
        return mapping(mapping(scan, inner), outer)

    check(run, layers, xs, *masks)


def test_weights_that_are_mapped_apart():
    """One map over some parameters, another over the rest: all combinations."""
    layer, xs = layer_of("lstm"), random(2, 2, 5, 3)
    U = jnp.stack([layer.cell.U * s for s in (1.0, 0.5)])
    b = jnp.stack([layer.cell.b + s for s in (0.0, 0.1, 0.2)])

    def run(layer: Any, U: Any, b: Any) -> Any:
        layer = eqx.tree_at(lambda a: (a.cell.U, a.cell.b), layer, (U, b))
        return layer(xs)

    found = jax.vmap(jax.vmap(run, (None, None, 0)), (None, 0, None))(layer, U, b)
    right = nr.with_backend(layer, "reference")
    assert_close(found, jnp.stack([jnp.stack([run(right, u, c) for c in b]) for u in U]), 1e-10)


@pytest.mark.parametrize("grad", [False, True])
def test_zero_models(grad):
    layer, xs = layer_of("lstm"), random(3, 0, 2, 5, 3)
    none = jtu.tree_map(lambda a: a[:0], ensemble(layer, 2))

    def each(layer: Any, xs: Any) -> Any:
        return layer.scan(None, xs)

    def loss(layer: Any, xs: Any) -> Any:
        return each(layer, xs)[1].sum()

    found = jax.jit(jax.vmap(jax.grad(loss) if grad else each))(none, xs)
    leaves = jtu.tree_leaves(found)
    assert leaves
    assert {leaf.shape[0] for leaf in leaves} == {0}


@pytest.mark.parametrize("cores", [1, 2, 5, 16])
@pytest.mark.parametrize("batch", [None, 1, 2, 9])
@pytest.mark.sampled(23)
def test_models_on_threads_give_the_bits_of_single_models(cores, batch, tune):
    """Shares are models, rows of each model, or features of each stage."""
    tune(cores=cores, thread_flops=1, stage_flops=1, block_rows=7)
    layer = learned(make_cell("lstm", 20, 33, dtype=jnp.float32))
    layers = ensemble(layer, 4)
    xs = random(4, *(() if batch is None else (batch,)), 6, 20, dtype=jnp.float32)

    def each(layer: Any, xs: Any) -> Any:
        return pulled(lambda layer, xs: layer.scan(None, xs), layer, xs)

    found = jax.jit(jax.vmap(each, (0, None)))(layers, xs)
    alone = jax.jit(each)
    for n in range(4):
        one = alone(jtu.tree_map(lambda a, n=n: a[n], layers), xs)
        for a, b in zip(jtu.tree_leaves(found), jtu.tree_leaves(one), strict=True):
            np.testing.assert_array_equal(a[n], b)


def test_one_call_for_all_models_without_a_loop():
    layers, xs = ensemble(layer_of("lstm"), 3), random(5, 3, 2, 5, 3)

    def each(layer: Any, xs: Any) -> Any:
        return jnp.sum(layer(xs) ** 2)

    for function, count in ((jax.vmap(each), 1), (jax.vmap(jax.grad(each)), 2)):
        text = str(jax.jit(function).lower(layers, xs).compile().as_text())
        assert text.count('custom_call_target="noria_native"') == count
        assert " while(" not in text


def test_a_single_model_and_an_ensemble_share_a_kernel(plans):
    """The number of models is an argument of the machine code."""
    from noria.backends.native.plan.fingerprint import fingerprint

    layer, xs = layer_of("gru"), random(6, 2, 5, 3)
    jax.jit(lambda layer: layer(xs)).lower(layer)
    jax.jit(jax.vmap(lambda layer: layer(xs))).lower(ensemble(layer, 3))
    one, many = (fingerprint(plan.plan) for plan in plans)
    assert one == many


@pytest.mark.sampled(7)
@pytest.mark.parametrize("transformation", ["jvp", "jvp of grad", "grad of jvp", "no jit"])
def test_forward_mode_of_models(transformation):
    layers, xs = ensemble(layer_of("gru"), 3), random(7, 3, 2, 5, 3)

    def values(layers: Any) -> Any:
        return jax.vmap(lambda layer, xs: layer(xs))(layers, xs)

    def loss(layers: Any) -> Any:
        return jnp.sum(jnp.sin(values(layers)))

    def run(layers: Any) -> Any:
        given = [layers], [jtu.tree_map(jnp.cos, layers)]
        if transformation == "jvp":
            return jax.jvp(values, *given)
        if transformation == "jvp of grad":
            return jtu.tree_leaves(jax.jvp(jax.grad(loss), *given))
        if transformation == "no jit":
            with jax.disable_jit():
                return values(layers), jtu.tree_leaves(jax.grad(loss)(layers))
        return jtu.tree_leaves(jax.grad(lambda a: jax.jvp(loss, [a], given[1])[1])(layers))

    found, right = run(layers), run(nr.with_backend(layers, "plain"))
    assert_close(found, right, 1e-10)
