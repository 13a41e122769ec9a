"""`Recurrence` on each backend: against NumPy oracles, and against `reference` in cotangents."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import oracles
import pytest
from models import (
    CELLS,
    arrays_of,
    assert_close,
    cotangents,
    learned,
    make_cell,
    random,
    random_like,
)

import noria as nr

BATCH, TIME, IN = 3, 5, 3
LENGTHS = jnp.array([5, 0, 3])
RESETS = jnp.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [1, 1, 0, 0, 1]], bool)

cells = pytest.mark.parametrize("name", CELLS)
backends = pytest.mark.parametrize("backend", ["scan", "native", "reference"])
compiled = pytest.mark.parametrize("backend", ["scan", "native"])
directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def options_of(lengths: bool, resets: bool, batched: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"lengths": LENGTHS} if lengths else {}
    options |= {"resets": RESETS} if resets else {}
    return options if batched else jtu.tree_map(lambda leaf: leaf[2], options)


def layer_of(name: str, reverse: bool, backend: str) -> nr.Recurrence:
    return learned(make_cell(name), reverse=reverse, backend=backend)


def garbage_past(xs: jax.Array, lengths: Any) -> jax.Array:
    return jnp.where(jnp.arange(TIME)[:, None] < jnp.asarray(lengths)[..., None, None], xs, jnp.nan)


@pytest.mark.covered(1, together="name backend")
@cells
@directions
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("resets", [False, True], ids=["one", "resets"])
@backends
def test_against_the_oracle(name, reverse, lengths, resets, backend):
    """Each example alone, cut to its length and its episodes, by the equations of the paper."""
    layer = layer_of(name, reverse, backend)
    xs = random(0, BATCH, TIME, IN)
    initial = jtu.tree_map(np.asarray, layer.initial_state())
    own = random_like(layer.initial_state(), 5)
    start = jtu.tree_map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), own)
    state, ys = layer.scan(start, xs, **options_of(lengths, resets, batched=True))
    arrays = arrays_of(layer.cell)
    for n in range(BATCH):
        expected_state, expected_ys = oracles.run(
            lambda h, x: CELLS[name][1](h, x, **arrays),
            jtu.tree_map(lambda leaf, n=n: np.asarray(leaf[n]), _plain(start)),
            np.asarray(xs[n]),
            initial=_plain(initial),
            length=int(LENGTHS[n]) if lengths else None,
            resets=np.asarray(RESETS[n]) if resets else None,
            reverse=reverse,
        )
        assert_close(np.asarray(ys[n]), expected_ys, 1e-12)
        assert_close(jtu.tree_map(lambda leaf, n=n: leaf[n], _plain(state)), expected_state, 1e-12)


def _plain(state: Any) -> Any:
    return tuple(state) if isinstance(state, tuple) else state


@pytest.mark.covered(1)
@cells
@directions
@pytest.mark.parametrize("batched", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("resets", [False, True], ids=["one", "resets"])
@compiled
def test_equals_reference(name, backend, reverse, batched, lengths, resets):
    """Outputs, final state, cotangents of parameters, initial state, passed state and input."""
    found, expected = (
        of_backend(b, name, reverse, batched, lengths, resets) for b in (backend, "reference")
    )
    assert_close(found, expected, 1e-12)
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves((found, expected)))


@functools.cache
def of_backend(
    backend: str, name: str, reverse: bool, batched: bool, lengths: bool, resets: bool
) -> Any:
    options = options_of(lengths, resets, batched)
    xs = random(0, *([BATCH] if batched else []), TIME, IN)
    if lengths:
        xs = garbage_past(xs, options["lengths"])
    layer = layer_of(name, reverse, backend)
    values, (of_layer, of_state, of_xs) = cotangents(
        layer, random_like(layer.initial_state(), 5), xs, **options
    )
    return values, jtu.tree_leaves(of_layer), of_state, of_xs


@pytest.mark.sampled(35)
@cells
@directions
@pytest.mark.parametrize("resets", [False, True], ids=["one", "resets"])
@compiled
def test_vmap_equals_the_batch(name, backend, reverse, resets):
    """`jax.vmap` over examples gives what the batch axis gives, with gradients."""
    layer = layer_of(name, reverse, backend)
    xs = garbage_past(random(0, BATCH, TIME, IN), LENGTHS)
    flags = RESETS if resets else jnp.zeros_like(RESETS)

    def batched(layer: Any, xs: Any) -> Any:
        return layer.scan(None, xs, lengths=LENGTHS, resets=flags)

    def mapped(layer: Any, xs: Any) -> Any:

        def one(xs: Any, length: Any, reset: Any) -> Any:
            return layer.scan(None, xs, lengths=length, resets=reset)

        return jax.vmap(one)(xs, LENGTHS, flags)

    values, pull = jax.vjp(batched, layer, xs)
    values_, pull_ = jax.vjp(mapped, layer, xs)
    assert_close(values, values_, 1e-12)
    weights = random_like(values, 7)
    assert_close(jtu.tree_leaves(pull(weights)), jtu.tree_leaves(pull_(weights)), 1e-12)


@pytest.mark.sampled(9)
@cells
@compiled
def test_float32_agrees_with_reference(name, backend):
    results = []
    for which in (backend, "reference"):
        layer = nr.Recurrence(make_cell(name, dtype=jnp.float32), backend=which)
        results.append(
            jtu.tree_leaves(cotangents(layer, None, random(0, BATCH, TIME, IN, dtype=jnp.float32)))
        )
    assert_close(results[0], results[1], 1e-5)


@pytest.mark.covered(1)
@cells
@backends
def test_steps_equal_the_whole(name, backend):
    layer = layer_of(name, False, backend)
    xs = random(0, BATCH, TIME, IN)
    state, ys = layer.scan(None, xs, resets=RESETS)
    carried, outputs = layer.initial_state(), []
    for t in range(TIME):
        carried, y = layer.step(carried, xs[:, t], resets=RESETS[:, t])
        outputs.append(y)
    assert_close(jnp.stack(outputs, 1), ys, 1e-12)
    assert_close(carried, state, 1e-12)


@pytest.mark.covered(1)
@directions
@backends
@pytest.mark.parametrize(
    ("batch", "time"), [((), 0), ((0,), 4), ((3,), 0), ((0,), 0), ((), 1), ((1,), 1)]
)
def test_empty_and_single(reverse, backend, batch, time):
    layer = layer_of("lstm", reverse, backend)
    state, ys = layer.scan(None, jnp.zeros((*batch, time, IN)), lengths=jnp.full(batch, time))
    assert ys.shape == (*batch, time, 4)
    assert state.h.shape == state.c.shape == (*batch, 4)
    if time == 0 and 0 not in batch:
        assert_close(
            state,
            jtu.tree_map(lambda s: jnp.broadcast_to(s, (*batch, 4)), layer.initial_state()),
            0,
        )


def test_a_plain_function_and_a_pytree_state():
    """A function that closes over arrays; three states of different ranks, one a counter."""
    weight = random(1, 2, 2)

    def cell(state: Any, x: jax.Array) -> Any:
        (h, m), n = state
        h = jnp.tanh(weight @ h + x)
        return (h, m + jnp.outer(h, x)), n + 1

    start = ((jnp.zeros(2), jnp.zeros((2, 2))), jnp.zeros((), jnp.int64))
    xs = random(2, 4, TIME, 2)
    results = [
        nr.Recurrence(cell, start, backend=b).scan(None, xs, lengths=jnp.array([5, 4, 0, 1]))
        for b in ("scan", "reference")
    ]
    assert_close(results[0], results[1], 1e-12)
    (_, count), ys = results[0]
    assert count.tolist() == [5, 4, 0, 1]
    assert ys.shape == (4, TIME, 2)


class NoisyCell(nr.Cell):
    """Draws a random number in each step."""

    U: jax.Array

    def __call__(self, h: Any, x: Any, *, key: Any) -> jax.Array:  # type: ignore[override]
        return jnp.tanh(self.U @ h + x + jax.random.normal(key, h.shape, h.dtype))

    def initial_state(self) -> jax.Array:
        return jnp.zeros(self.U.shape[0])


def test_random_cells_get_a_key_for_each_step_and_example():
    xs, key = jnp.zeros((2, TIME, 3)), jax.random.key(1)
    results = [
        nr.Recurrence(NoisyCell(jnp.eye(3)), backend=b).scan(None, xs, key=key)
        for b in ("scan", "reference")
    ]
    assert_close(results[0], results[1], 1e-12)
    ys = np.asarray(results[0][1])
    assert not np.allclose(ys[0], ys[1])
    assert not np.allclose(ys[:, 0], ys[:, 1])
    again = nr.Recurrence(NoisyCell(jnp.eye(3)), backend="scan")(xs, key=key)
    assert_close(again, results[0][1], 0)
    with pytest.raises(TypeError, match="key is None; expected one JAX random key"):
        nr.Recurrence(NoisyCell(jnp.eye(3)))(xs)


def test_a_cell_with_an_optional_key_runs_without_one():
    def cell(h: jax.Array, x: jax.Array, key: Any = None) -> jax.Array:
        return h + x + (0 if key is None else jax.random.normal(key, h.shape, h.dtype))

    layer = nr.Recurrence(cell, initial_state=jnp.zeros(3))
    xs = jnp.ones((2, TIME, 3))
    assert_close(layer(xs)[:, -1], jnp.full((2, 3), float(TIME)), 0)
    assert not np.allclose(layer(xs, key=jax.random.key(0)), layer(xs))


class ReadOutCell(nr.Cell):
    """Emits something else than its state, and two arrays of it."""

    C: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return 0.5 * h + x

    def output(self, h: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        return {"read": self.C @ h + x[:1], "sum": h.sum()}

    def initial_state(self) -> jax.Array:
        return jnp.zeros(self.C.shape[1])


@directions
def test_emission_may_be_a_pytree_that_uses_the_input(reverse):
    xs, lengths = random(0, 2, TIME, 3), jnp.array([2, 5])
    results = [
        nr.Recurrence(ReadOutCell(random(1, 1, 3)), reverse=reverse, backend=b).scan(
            None, xs, lengths=lengths
        )
        for b in ("scan", "reference")
    ]
    assert_close(results[0], results[1], 1e-12)
    assert results[0][1]["read"].shape == (2, TIME, 1)
    assert results[0][1]["sum"].shape == (2, TIME)
    assert not np.asarray(results[0][1]["sum"])[0, 2:].any()


def test_calls_outside_of_jit_are_taken_apart_once():
    """A further call traces one step, to see that the cell reads the same values as before."""
    traces = []

    class Counting(nr.Cell):
        U: jax.Array

        def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
            traces.append(1)
            return jnp.tanh(self.U @ h + x)

        def initial_state(self) -> jax.Array:
            return jnp.zeros(3)

    layer = nr.Recurrence(Counting(jnp.eye(3)))
    layer(jnp.ones((TIME, 3)))
    once = len(traces)
    layer(jnp.ones((TIME, 3)))
    nr.Recurrence(Counting(2 * jnp.eye(3)))(jnp.zeros((TIME, 3)))
    assert len(traces) == once + 2


@compiled
def test_program_size_does_not_depend_on_time_and_a_second_call_does_not_trace(backend):
    layer, traces = nr.GRU(3, 4, key=jax.random.key(0), backend=backend), []

    def size(time: int) -> int:
        return str(jax.make_jaxpr(lambda l, x: l(x))(layer, jnp.zeros((time, 3)))).count(" = ")

    assert size(8) == size(800)

    @jax.jit
    def run(layer: Any, xs: Any) -> Any:
        traces.append(1)
        return layer(xs)

    for _ in range(3):
        run(layer, jnp.zeros((2, 7, 3)))
    assert len(traces) == 1
