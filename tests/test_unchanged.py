"""Matrices in the state that no step changes, such as the memory of attention."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import pytest
from agreement import TOLERANCE, pulled_at_once
from attention_cells import DotAttention
from models import AUTO, assert_close, ensemble, noise, random
from tuning import tuned

import noria as nr

BATCH, TIME, SIZE, ENTRIES = 3, 6, 4, 5


class AdditiveAttention(DotAttention):
    """Attention with the scores ``v tanh(keys + U h)``; a parameter multiplies a matrix."""

    v: jax.Array

    def __call__(self, h, x, *, context):  # type: ignore[override]
        scores = jnp.tanh(context @ self.K + self.U @ h) @ self.v
        return jnp.tanh(jax.nn.softmax(scores) @ context + h + x)

    def output(self, h, x, *, context):  # type: ignore[override]
        return h, context[0] * h


class HeadsOfAttention(DotAttention):
    """The same with two heads, whose keys and values are two contexts."""

    def __call__(self, h, x, *, context):  # type: ignore[override]
        keys, values = context
        scores = jnp.einsum("ehd,hd->he", keys, h.reshape(2, -1))
        read = jnp.einsum("he,ehd->hd", jax.nn.softmax(scores), values)
        return jnp.tanh(self.U @ read.reshape(-1) + x)


class ComplexAttention(DotAttention):
    """The same with a complex memory."""

    def __call__(self, h, x, *, context):  # type: ignore[override]
        weights = jax.nn.softmax((context @ h.astype(context.dtype)).real)
        read = weights.astype(context.dtype) @ context
        return jnp.tanh(read.real + self.U @ h + read.imag * x)


def memory(*shape: int, seed: int = 3, dtype: Any = jnp.float64) -> jax.Array:
    return random(seed, BATCH, ENTRIES, *shape, dtype=dtype)


def complex_memory() -> jax.Array:
    return jax.lax.complex(memory(SIZE), memory(SIZE, seed=4))


K, U, V = random(1, SIZE, SIZE), random(2, SIZE, SIZE) / 2, random(5, SIZE)
XS = random(6, BATCH, TIME, SIZE)
CELLS: dict[str, tuple[Any, Any]] = {
    "dot": (DotAttention(K, U), memory(SIZE)),
    "additive": (AdditiveAttention(K, U, V), memory(SIZE)),
    "heads": (HeadsOfAttention(K, U), (memory(2, 2), memory(2, 2, seed=4))),
    "complex": (ComplexAttention(K, U), complex_memory()),
}


class Carrying(nr.Cell):
    """A cell that reads a context, as one with the context in its state."""

    cell: Any
    context: Any

    def __call__(self, state, x):
        h, context = state
        return self.cell(h, x, context=context), context

    def output(self, state, x):
        return self.cell.output(state[0], x, context=state[1])

    def initial_state(self):
        return self.cell.initial_state(), jtu.tree_map(lambda a: a[0], self.context)


def run(layer: Any, context: Any, xs: Any = XS, **options: Any) -> Any:
    return layer.scan(None, xs, context=context, **options)


def of_carrying(layer: Any, context: Any, xs: Any = XS) -> Any:
    """The same results, with the context in the state; its end is not a result."""
    options = {"backend": layer.backend, "save": layer.save, "checkpoint": layer.checkpoint}
    carrying = nr.Recurrence(Carrying(layer.cell, context), **options)
    (after, _), ys = carrying.scan((jnp.zeros_like(xs[:, 0]), context), xs)
    return after, ys


@pytest.mark.covered(1, group="unchanged")
@pytest.mark.parametrize("how", [run, of_carrying], ids=["context", "state"])
@pytest.mark.parametrize("save", ["gates", "states"])
@pytest.mark.parametrize("checkpoint", [None, 4])
@pytest.mark.parametrize("backend", ["auto", "scan"])
@pytest.mark.parametrize("name", CELLS)
def test_a_memory_gives_the_results_and_gradients_of_the_definition(
    name, backend, checkpoint, save, how
):
    cell, context = CELLS[name]
    layer = nr.Recurrence(cell, backend=backend, checkpoint=checkpoint, save=save)
    expected = pulled_at_once(run, nr.Recurrence(cell, backend="plain"), context)
    assert_close(pulled_at_once(how, layer, context), expected, 1e-10)


@pytest.mark.covered(1, group="unchanged")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(0, 6), (3, 0), (3, 1), (3, 2), (9, 12)])
@pytest.mark.parametrize("name", CELLS)
def test_a_memory_of_any_dtype_and_sizes(name, shape, dtype):
    if dtype == "bfloat16" and name == "complex":
        pytest.skip("there are no complex numbers of 32 bits")
    cell, context = CELLS[name]
    xs = random(6, *shape, SIZE)
    context = jtu.tree_map(lambda a: jnp.concatenate([a, 2 * a, -a])[: shape[0]], context)
    cell, context, xs = jtu.tree_map(
        lambda a: (a / 2).astype("complex64" if jnp.iscomplexobj(a) else dtype),
        (cell, context, xs),
    )
    found, expected = (
        pulled_at_once(run, nr.Recurrence(cell, backend=backend), context, xs)
        for backend in ("auto", "plain")
    )
    assert_close(found, expected, TOLERANCE.get(dtype, 0.1))


OPTIONS: dict[str, dict[str, Any]] = {
    "lengths": {"lengths": jnp.array([TIME, 0, 3])},
    "resets": {"resets": jnp.zeros((BATCH, TIME), bool).at[0, 2].set(True).at[:, 4].set(True)},
}


@pytest.mark.covered(1, group="unchanged")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_a_memory_with_lengths_and_resets(name, reverse, options):
    cell, context = CELLS[name]

    def call(layer: Any, context: Any) -> Any:
        return run(layer, context, **OPTIONS[options])

    layer = nr.Recurrence(cell, reverse=reverse)
    expected = pulled_at_once(call, nr.with_backend(layer, "plain"), context)
    assert_close(pulled_at_once(call, layer, context), expected, 1e-10)


MAPS: dict[str, tuple[Any, ...]] = {
    "layers": (0, None, None),
    "contexts": (None, 0, None),
    "layers and contexts": (0, 0, None),
    "sequences": (None, None, 0),
    "all": (0, 0, 0),
}


@pytest.mark.covered(1, group="unchanged")
@pytest.mark.parametrize("axes", MAPS)
@pytest.mark.parametrize("name", CELLS)
def test_a_memory_under_vmap(name, axes):
    cell, context = CELLS[name]
    layer = nr.Recurrence(cell)
    stacked = jtu.tree_map(lambda a: jnp.stack([a, a / 2]), (context, XS))
    some = ensemble(layer, 2), *stacked
    given = [
        pair[axis is None]
        for axis, *pair in zip(MAPS[axes], some, (layer, context, XS), strict=True)
    ]

    def call(layer: Any, context: Any, xs: Any) -> Any:
        return pulled_at_once(run, layer, context, xs)

    def mapped(backend: str) -> Any:
        layer, *others = given
        function = jax.vmap(call, MAPS[axes])
        return jax.jit(function)(nr.with_backend(layer, backend), *others)

    assert_close(mapped("auto"), mapped("plain"), 1e-10)


@pytest.mark.covered(1, group="unchanged")
@pytest.mark.parametrize("save", ["gates", "states"])
@pytest.mark.parametrize("name", CELLS)
def test_derivatives_of_a_memory_in_forward_mode_and_of_second_order(name, save):
    cell, context = CELLS[name]
    moved = noise((cell, context, XS), 1)

    def products(backend: str) -> Any:
        def loss(*given: Any) -> Any:
            cell, context, xs = given
            found = run(nr.Recurrence(cell, backend=backend, save=save), context, xs)
            return sum(jnp.sum(jnp.sin(a).real) for a in jtu.tree_leaves(found))

        grad = jax.grad(loss, argnums=(0, 1, 2))
        given = cell, context, XS
        return jax.jit(lambda: (jax.jvp(loss, given, moved), jax.jvp(grad, given, moved)))()

    assert_close(products("auto"), products("plain" if save == "gates" else "scan"), 1e-10)


def test_a_state_that_is_nothing_but_a_memory():
    cell = lambda memory, x: (memory, memory @ x)  # noqa: E731
    xs, state = random(1, 2, 300, SIZE), random(2, 2, 3, SIZE)

    def call(backend: str) -> Any:
        layer = nr.Recurrence(cell, jnp.zeros((3, SIZE)), backend=backend)
        return pulled_at_once(lambda state, xs: layer.scan(state, xs), state, xs)

    assert_close(call("auto"), call("plain"), 1e-10)


class Storing(nr.Cell):
    """A matrix memory, whose gradient runs in segments, that stores what attention reads."""

    zero: jax.Array

    def __call__(self, S, x, *, context):  # type: ignore[override]
        read = jax.nn.softmax(context @ (S @ x)) @ context
        return 0.9 * S + jnp.outer(jnp.tanh(read), x)

    def output(self, S, x, *, context):  # type: ignore[override]
        return S @ x

    def initial_state(self):
        return self.zero


def saved_matrices(layer: nr.Recurrence, context: Any, xs: jax.Array) -> set[str]:
    """The shapes of matrices that are stored for the gradient."""
    found = nr.explain(layer, xs, context=context)
    assert found.backend == AUTO
    assert not found.obstacles
    assert found.states == ("loop",)
    return {shape for shape in (*found.saved, *found.saved_segments) if "," in shape}


native = pytest.mark.skipif(AUTO != "native", reason="a scan has the memory as a parameter")


@native
@pytest.mark.parametrize("checkpoint", [None, 3])
@pytest.mark.parametrize("save", ["gates", "states"])
@pytest.mark.parametrize("name", CELLS)
def test_a_gradient_does_not_store_the_memory_for_each_step(name, save, checkpoint):
    cell, context = CELLS[name]
    layer = nr.Recurrence(cell, save=save, checkpoint=checkpoint)
    found = saved_matrices(layer, context, XS)
    if name == "additive":  # the tanh of keys and query has the shape of the memory
        found -= {"f64[5,4]"}
    assert not found.intersection({"f64[5,4]", "f64[5,2,2]"})


@native
def test_a_gradient_in_segments_stores_the_memory_once():
    xs, context = random(1, 2, 256, 64), random(2, 2, 16, 64)
    assert saved_matrices(nr.Recurrence(Storing(jnp.zeros((64, 64)))), context, xs) == {
        "f64[64,64]"
    }
    xs, context = random(3, 2, 40, SIZE), random(4, 2, 5, SIZE)
    layer = nr.Recurrence(Storing(jnp.zeros((SIZE, SIZE))))
    numbers: dict[str, Any] = {"matrix_state_bytes": 1, "recomputed_ratio": 0, "stored_bytes": 0}
    with tuned(**numbers, segment_bytes=1, segment_steps=3):
        assert nr.explain(layer, xs, context=context).segment == 3
        found = pulled_at_once(run, layer, context, xs)
    expected = pulled_at_once(run, nr.with_backend(layer, "plain"), context, xs)
    assert_close(found, expected, 1e-10)


@native
def test_a_state_of_the_cell_that_never_changes_is_not_stored():
    def attending(state: Any, x: Any) -> Any:
        h, memory = state
        return (jnp.tanh(jax.nn.softmax(memory @ h) @ memory + x), memory), h

    state = jnp.zeros(SIZE), random(1, ENTRIES, SIZE)
    found = nr.explain(nr.Recurrence(attending, state), XS)
    assert not any("," in shape for shape in found.saved)
    found = nr.explain(nr.Recurrence(attending, state, checkpoint=2), XS)
    assert found.saved_segments == ("f64[4]",)
    key = jax.random.key(0)
    counting = nr.Recurrence(lambda s, x: ((s[0] + x, s[1]), s[0]), (jnp.zeros(SIZE), key))
    assert not nr.explain(counting, XS).linear
    assert counting(XS).shape == XS.shape


@native
def test_a_program_holds_the_memory_a_few_times():
    time, entries, size = 64, 64, 32
    cell = DotAttention(random(1, size, size), random(2, size, size))
    xs, context = random(3, 2, time, size), random(4, 2, entries, size)
    loss = lambda layer, context, xs: jnp.sum(layer(xs, context=context) ** 2)  # noqa: E731
    layer = nr.Recurrence(cell)
    program: Any = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(layer, context, xs).compile()
    assert " while(" not in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes < time * context.nbytes / 4


@native
def test_products_of_the_input_and_a_memory_leave_the_loop():
    def cell(h: Any, x: Any, context: Any) -> Any:
        return jnp.tanh(jax.nn.softmax(context @ x) @ context + U @ h)

    layer, context = nr.Recurrence(cell, jnp.zeros(SIZE)), memory(SIZE)
    found = nr.explain(layer, XS, context=context)
    assert found.backend == "scan"
    assert "the input is multiplied with a matrix of the context" in "".join(found.obstacles)
    assert [line.name for line in found.before].count("dot_general") == 2
    expected = pulled_at_once(run, nr.with_backend(layer, "plain"), context)
    assert_close(pulled_at_once(run, layer, context), expected, 1e-10)
