"""The recurrence by itself, one array or a block of arrays: values, derivatives, robustness."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from models import assert_close, random

from noria.ops.linear_recurrence import CHUNK, block_recurrence, linear_recurrence
from noria.ops.semirings import AFFINE, MAX_PLUS

forms = pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def by_steps(a: Any, b: Any, start: Any, reverse: bool) -> np.ndarray:
    """The definition in NumPy."""
    state, states = np.asarray(start), np.zeros_like(b)
    for t in reversed(range(len(b))) if reverse else range(len(b)):
        state = states[t] = np.asarray(a[t]) * state + np.asarray(b[t])
    return states


@pytest.mark.covered(1)
@forms
@directions
@pytest.mark.parametrize(
    ("time", "dtype"),
    [
        *((time, jnp.float64) for time in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 600)),
        (600, jnp.complex128),
        (600, jnp.int32),
    ],
)
def test_chunk_borders(parallel, reverse, time, dtype):
    a, b, start = (jnp.asarray(random(i, time + 1, 2) * 3, dtype) for i in range(3))
    if dtype is not jnp.int32:
        a = a / 4
    found = linear_recurrence(a[:time], b[:time], start[0], reverse, parallel)
    with np.errstate(over="ignore"):
        expected = by_steps(a[:time], b[:time], start[0], reverse)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if dtype is jnp.int32 else 1e-11)


@pytest.mark.covered(1)
@forms
@directions
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128])
def test_derivatives_of_first_and_second_order(monkeypatch, parallel, reverse, dtype):
    """Against a loop written out, which JAX differentiates by itself."""
    monkeypatch.setattr("noria.ops.linear_recurrence.CHUNK", 2)
    jax.clear_caches()
    arrays = [random(i, 5, 2) for i in range(4)]
    if dtype is jnp.complex128:
        arrays = [jax.lax.complex(array, random(i + 9, 5, 2)) for i, array in enumerate(arrays)]
    arrays[2] = arrays[2][0]

    def written_out(a: Any, b: Any, start: Any, weights: Any) -> Any:
        states: list[Any] = [None] * 5
        for t in reversed(range(5)) if reverse else range(5):
            start = states[t] = a[t] * start + b[t]
        return value(jnp.stack(states), weights)

    def ours(a: Any, b: Any, start: Any, weights: Any) -> Any:
        return value(linear_recurrence(a, b, start, reverse, parallel), weights)

    def value(states: Any, weights: Any) -> Any:
        return jnp.sum(weights * states**2).real

    def first(f: Any) -> Any:
        return jax.grad(f, argnums=(0, 1, 2))

    def second(f: Any) -> Any:
        def inner(*arrays: Any) -> Any:
            return sum(jnp.sum(g * g).real * (i + 1) for i, g in enumerate(first(f)(*arrays)))

        return jax.grad(inner, argnums=(0, 1, 2, 3))

    assert_close(ours(*arrays), written_out(*arrays), 1e-12)
    for order in (first, second):
        assert_close(jax.jit(order(ours))(*arrays), jax.jit(order(written_out))(*arrays), 1e-10)


LONG = 100_000


def long_scales() -> dict[str, np.ndarray]:
    """Scales of 100,000 steps: near 1, with zeros, growing and then decaying, overflowing."""
    near = np.full(LONG, 0.99999)
    zeros = np.where(np.arange(LONG) % 1000 == 999, 0.0, near)
    growing = np.where(np.arange(LONG) < 2000, 1.01, 0.999)
    overflow = np.where(np.arange(LONG) % 250 == 249, 0.0, 1.6)
    return {"near": near, "zeros": zeros, "growing": growing, "overflow": overflow}


@pytest.mark.covered(1)
@pytest.mark.parametrize("name", long_scales())
@directions
def test_100_000_steps(name, reverse):
    """In float32 both forms are finite and equal, and so are their derivatives."""
    a = jnp.asarray(long_scales()[name], jnp.float32)[:, None]
    a = a[::-1] if reverse else a
    b = jnp.asarray(random(1, LONG, 1), jnp.float32)
    if name == "overflow":
        b = jnp.where(a == 0, 0, b * 1e-35).astype(jnp.float32)
    start = jnp.zeros(1, jnp.float32)

    def run(parallel: bool) -> Any:
        states, pull = jax.vjp(
            lambda a, b, start: linear_recurrence(a, b, start, reverse, parallel), a, b, start
        )
        scale = jnp.float32(1e-35 if name == "overflow" else 1)
        return states, pull(scale * jnp.asarray(random(2, LONG, 1), jnp.float32))

    found, expected = run(True), run(False)
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves((found, expected)))
    for x, y in zip(jtu.tree_leaves(found), jtu.tree_leaves(expected), strict=True):
        # Against float64 with scales near 1: 6e-6 step by step, 4e-5 in chunks, which round more.
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-3 * float(jnp.abs(y).max()))


def test_products_that_overflow_do_not_spoil_a_state_of_zero():
    a, b = jnp.full((CHUNK, 2), 3.0, jnp.float32), jnp.zeros((CHUNK, 2), jnp.float32)
    mapped = jax.vmap(
        lambda a, b: linear_recurrence(a, b, jnp.zeros(2, jnp.float32), parallel=True)
    )
    assert not np.asarray(linear_recurrence(a, b, jnp.zeros(2, jnp.float32), parallel=True)).any()
    assert not np.asarray(mapped(a[None], b[None])).any()


@pytest.mark.parametrize("parallel", [False, True])
def test_a_scale_of_zero_forgets_a_state_that_is_not_finite(parallel):
    """A reset is such a scale; the gradient stays finite as well."""
    a, b = jnp.array([0.5, 0.0, 0.5]), jnp.ones(3)

    def last(b, start):
        return linear_recurrence(a, b, start, parallel=parallel)[-1]

    for poison in (jnp.nan, jnp.inf):
        value, gradient = jax.value_and_grad(last)(b, jnp.asarray(poison))
        assert value == 1.5
        assert gradient.tolist() == [0.0, 0.5, 1.0]


# --- blocks ---------------------------------------------------------------------------------------


def block_of(ring: Any, width: int, time: int, dtype: Any = jnp.float64) -> Any:
    """Random scales, shifts and start; a part of the scales resets one array or all arrays."""

    def array(n: int, *shape: int) -> Any:
        found = random(n, *shape, 2)
        more = random(n + 50, *shape, 2) if dtype is jnp.complex128 else 0 * found
        return jax.lax.complex(found, more) if dtype is jnp.complex128 else found.astype(dtype)

    def scale(i: int, j: int) -> Any:
        found = 0.6 * array(3 * i + j, time)
        step = np.arange(time)[:, None]
        reset = (step % 5 == 3) | ((step % 7 == 2) & (i == 0))
        return jnp.where(reset, jnp.asarray(ring.zero, dtype), found)

    rows = tuple(tuple(scale(i, j) for j in range(width)) for i in range(width))
    return (
        rows,
        tuple(array(20 + i, time) for i in range(width)),
        tuple(array(30 + i) for i in range(width)),
    )


def block_by_steps(ring: Any, a: Any, b: Any, start: Any, reverse: bool = False) -> Any:
    """The definition, which JAX differentiates by itself."""
    time = b[0].shape[0]
    states: list[Any] = [None] * time
    for t in reversed(range(time)) if reverse else range(time):
        terms = [
            [
                scale[t] * h if ring is AFFINE else scale[t] + h
                for scale, h in zip(row, start, strict=True)
            ]
            for row in a
        ]
        plus = jnp.add if ring is AFFINE else jnp.maximum
        start = states[t] = [
            functools.reduce(plus, [*row, shift[t]]) for row, shift in zip(terms, b, strict=True)
        ]
    return tuple(jnp.stack(some) for some in zip(*states, strict=True))


@pytest.mark.sampled(35)
@forms
@directions
@pytest.mark.parametrize(
    ("ring", "width", "dtype"),
    [
        (AFFINE, 2, jnp.float64),
        (AFFINE, 2, jnp.complex128),
        (AFFINE, 3, jnp.float64),
        (MAX_PLUS, 1, jnp.float64),
        (MAX_PLUS, 2, jnp.float64),
    ],
)
def test_blocks_and_their_derivatives(monkeypatch, parallel, reverse, ring, width, dtype):
    """First and second order; forward mode, under `jax.vmap` too; with resets."""
    monkeypatch.setattr("noria.ops.linear_recurrence.CHUNK", 2)
    jax.clear_caches()
    arrays = block_of(ring, width, 5, dtype)

    def ours(arrays: Any) -> Any:
        a, b, start = arrays
        return block_recurrence(ring, a, b, start, reverse, parallel)

    def written_out(arrays: Any) -> Any:
        a, b, start = arrays
        return block_by_steps(ring, a, b, start, reverse)

    def first(f: Any) -> Any:
        def scalar(arrays: Any) -> Any:
            terms = [(n + 1) * (h * h + h).sum().real for n, h in enumerate(f(arrays))]
            return sum(terms) + 0.5 * f(arrays)[0].sum().imag

        return jax.grad(scalar)

    def second(f: Any) -> Any:
        def scalar(arrays: Any) -> Any:
            return sum((n + 1) * (g * g).sum().real for n, g in enumerate(leaves(first(f)(arrays))))

        return jax.grad(scalar)

    def forward(f: Any) -> Any:
        def mapped(scale: Any) -> Any:
            tangents = jtu.tree_map(
                lambda a: jnp.where(a == -jnp.inf, 0, a * scale.astype(a.dtype)), arrays
            )
            return jax.jvp(f, (arrays,), (tangents,))[1]

        return lambda _: jax.vmap(mapped)(jnp.arange(3.0))

    leaves = jtu.tree_leaves
    for order in (lambda f: f, first, second, forward):
        found, expected = (jax.jit(order(f))(arrays) for f in (ours, written_out))
        assert_close(found, expected, 1e-10)


@pytest.mark.parametrize("parallel", [False, True])
def test_one_of_two_states_has_a_cotangent(parallel):
    a, b, start = block_of(AFFINE, 2, 7)

    def gradient(run: Any, **options: Any) -> Any:
        return jax.grad(lambda *arrays: run(AFFINE, *arrays, **options)[1].sum(), (0, 1, 2))(
            a, b, start
        )

    found = gradient(block_recurrence, parallel=parallel)
    assert_close(found, gradient(block_by_steps), 1e-12)


@pytest.mark.sampled(2)
@directions
def test_rotations_of_20_000_steps(reverse):
    """In float32: a rotation keeps its length, and both forms agree."""
    phase = jnp.asarray(random(1, LONG // 5, 1), jnp.float32)
    c, s = jnp.cos(phase), jnp.sin(phase)
    shift = 1e-3 * jnp.asarray(random(2, LONG // 5, 1), jnp.float32)
    start = (jnp.ones(1, jnp.float32), jnp.zeros(1, jnp.float32))
    found, expected = (
        block_recurrence(AFFINE, ((c, -s), (s, c)), (shift, -shift), start, reverse, parallel)
        for parallel in (True, False)
    )
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-3 * float(jnp.abs(y).max()))


def test_blocks_whose_products_overflow():
    """A state of zero stays zero, also for some examples of a mapped axis."""
    zero = jnp.zeros((32, 2), jnp.float32)
    start = (zero[0], zero[0])

    def run(a: jax.Array) -> Any:
        return block_recurrence(AFFINE, ((a, a), (-a, a)), (zero, zero), start, parallel=True)

    a = jnp.full((32, 2), 30.0, jnp.float32)
    for found in (*run(a), *jax.vmap(run)(jnp.stack([a, 0.01 * a]))):
        assert not np.asarray(found).any()


@pytest.mark.parametrize("parallel", [False, True])
def test_a_reset_of_a_block_forgets_a_state_that_is_not_finite(parallel):
    keep = jnp.array([0.5, 0.0, 0.5])
    ones = jnp.ones(3)

    def last(b: Any, start: Any) -> Any:
        rows = ((keep, -keep), (keep, keep))
        return block_recurrence(AFFINE, rows, (b, ones), (start, start), parallel=parallel)[0][-1]

    for poison in (jnp.nan, jnp.inf):
        value, gradients = jax.value_and_grad(last, (0, 1))(ones, jnp.asarray(poison))
        assert value == 1.0
        assert gradients[0].tolist() == [0.0, 0.5, 1.0]
        assert gradients[1] == 0
