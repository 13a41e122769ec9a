"""Arrays of the state that need no loop: which leave it, as text, and what becomes of them.

`graphs` explains the notation. `test_zoo` runs the cells of `NEEDS_NO_LOOP` in every way.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import assert_agree, assert_pieces_agree
from graphs import aligned, split_text, traced_step
from jax import export
from models import AUTO, assert_close, random
from test_zoo import LENGTHS, NEEDS_NO_LOOP, RESETS, layer_of, start_of

import noria as nr
from noria.compiler.peel import MOST_ELEMENTS
from noria.compiler.split import split
from noria.compiler.windows import MOST_ENTRIES

Step = Callable[..., Any]

# --- what leaves the loop -----------------------------------------------------------------------


def after_peeling(step: Step, **shapes: Any) -> str:
    """What peeled arrays are computed from, then the parts of the rest."""
    traced, names = traced_step(step, **shapes)
    lines = []
    if traced.peeled is not None:
        peeled = traced.peeled
        lines += [f"counter {names.of(c.state)} by {names.graph(c.by)}" for c in peeled.counters]
        for stage in peeled.stages:
            windows = [
                f" {d.window.entries} entries, newest {'last' if d.window.newest_last else 'first'}"
                if d.window
                else ""
                for d in stage.delays
            ]
            lines += [
                f"delay {names.of(d.state)}{w}:" for d, w in zip(stage.delays, windows, strict=True)
            ]
            lines.append(names.graph(stage.graph))
        lines += [f"output {names.of(v)}" for v in peeled.outputs]
    return "\n".join([*lines, split_text(names, split(traced))])


#: By name: a step, shapes, and what is left of it.
PEELED: dict[str, tuple[Step, dict[str, Any], str]] = {
    "a token shift: the product of the input before is hoisted": (
        lambda s, x, V: (0.5 * s[0] + V @ s[1], x),
        {"c": (3,), "V": (4, 3)},
        """
        delay c:
        a[3] = copy(x)
        return a
        prologue:
        b[4] = dot_general(c, V) over 0.1
        return b
        loop:
        d[4] = mul(0.5, h)
        e[4] = add(d, b)
        return e, e
        epilogue:
        f[4] = copy(e)
        return f
        """,
    ),
    "a product that is kept and read is computed once": (
        lambda s, x, W: (s[0] * s[1] + (a := W @ x), a),
        {"c": (4,), "W": (4, 3)},
        """
        delay c:
        a[4] = dot_general(x, W) over 0.1
        return a
        loop:
        b[4] = mul(h, c)
        d[4] = add(b, a)
        return d, d
        epilogue:
        e[4] = copy(d)
        return e
        """,
    ),
    "a window: new entries come in at the end": (
        lambda s, x: (0.5 * s[0] + jnp.sum(s[1], 0), jnp.concatenate([s[1][1:], x[None]])),
        {"h": (3,), "c": (4, 3)},
        """
        delay c 4 entries, newest last:
        a[1,3] = broadcast_in_dim(x)
        return a
        prologue:
        b[3] = reduce_sum(c) axes 0
        return b
        loop:
        d[3] = mul(0.5, h)
        e[3] = add(d, b)
        return e, e
        epilogue:
        f[3] = copy(e)
        return f
        """,
    ),
    "a counter": (
        lambda s, x: (s[0] * jnp.cos(s[1]) + x, s[1] - 2),
        {"h": (3,), "c": ()},
        """
        counter c by a = sub(0, 2)
        return a
        prologue:
        b = cos(c)
        return b
        loop:
        d[3] = mul(h, b)
        e[3] = add(d, x)
        return e, e
        epilogue:
        f[3] = copy(e)
        return f
        """,
    ),
    "an output: the loop emits it": (
        lambda s, x: (jnp.tanh(c := 0.5 * s[1] + x), c),
        {"h": (3,), "c": (3,)},
        """
        output h
        loop:
        a[3] = mul(0.5, c)
        b[3] = add(a, x)
        d[3] = tanh(b)
        return b, d
        epilogue:
        return d
        """,
    ),
    "no loop is left": (
        lambda s, x: (s[1] + x, x * x),
        {"h": (3,), "c": (3,)},
        """
        delay c:
        a[3] = mul(x, x)
        return a
        delay h:
        b[3] = add(c, x)
        d[3] = copy(b)
        return d
        epilogue:
        b[3] = add(c, x)
        return b
        """,
    ),
}


@pytest.mark.parametrize("name", PEELED)
def test_these_arrays_leave_the_loop(name):
    step, shapes, expected = PEELED[name]
    assert after_peeling(step, **shapes) == aligned(expected)


#: Ways to move a window of four entries, and the places of its new ones.
WINDOWS: dict[str, tuple[Step, tuple[int, ...]]] = {
    "concatenated": (lambda w, x: jnp.concatenate([w[1:], x[None]]), (4, 3)),
    "concatenated, newest first": (lambda w, x: jnp.concatenate([x[None], w[:-1]]), (4, 3)),
    "rolled": (lambda w, x: jnp.roll(w, -1, axis=0).at[-1].set(x), (4, 3)),
    "rolled, newest first": (lambda w, x: jnp.roll(w, 1, axis=0).at[0].set(x), (4, 3)),
    "rolled along the last axis": (lambda w, x: jnp.roll(w, 1, 1).at[:, 0].set(x), (3, 4)),
    "a range is set": (lambda w, x: jnp.roll(w, -3).at[-3:].set(x), (12,)),
    "updated": (
        lambda w, x: jax.lax.dynamic_update_slice(jnp.roll(w, -1, 0), x[None], (3, 0)),
        (4, 3),
    ),
    "stacked": (lambda w, x: jnp.stack([w[1], w[2], w[3], x]), (4, 3)),
    "flat": (lambda w, x: jnp.concatenate([w[3:], x]), (12,)),
    "two new pieces": (lambda w, x: jnp.concatenate([w[3:], x[:1], x[1:]]), (12,)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_found_however_they_are_moved(name):
    moved, shape = WINDOWS[name]
    traced, _ = traced_step(lambda s, x: (0.5 * s[0] + x, moved(s[1], x)), h=(3,), c=shape)
    assert traced.peeled is not None
    assert traced.peeled.kinds == ("loop", "delay")
    ((delay,),) = (stage.delays for stage in traced.peeled.stages)
    assert delay.window is not None
    assert delay.window.entries == 4
    assert delay.window.newest_last == ("newest first" not in name and "last axis" not in name)


#: Steps of which every array stays.
KEPT: dict[str, tuple[Step, dict[str, Any]]] = {
    "a leaky sum": (lambda h, x: 0.9 * h + x, {"h": (3,)}),
    "a gated sum": (lambda h, x: h * x + (1 - x) * jnp.tanh(h), {"h": (3,)}),
    "it counts the input": (lambda h, x: h + x, {"h": (3,)}),
    "it counts fractions, which round": (lambda h, x: h + 0.1, {"h": ()}),
    "it counts by a parameter": (lambda h, x, by: h + by, {"h": (), "by": ()}),
    "it is kept as it is": (lambda h, x: h, {"h": (3,)}),
    "it is turned around": (lambda h, x: h[::-1] + 0 * x, {"h": (3,)}),
    "two arrays take turns": (lambda s, x: (s[1], s[0]), {"h": (3,), "c": (3,)}),
    "nobody sees it": (lambda s, x: (0.5 * s[0], jnp.tanh(s[0])), {"h": (3,), "c": (3,)}),
    "a long window": (
        lambda h, x: jnp.concatenate([h[1:], x[:1]]),
        {"h": (MOST_ENTRIES + 1,)},
    ),
    "a window of unequal entries": (lambda h, x: jnp.concatenate([h[3:], x]), {"h": (7,)}),
    "a window that skips entries": (
        lambda h, x: jnp.concatenate([h[2:], x[:1], h[:1]]),
        {"h": (4,)},
    ),
    "a large array": (
        lambda h, x: jnp.outer(jnp.ones(MOST_ELEMENTS), x),
        {"h": (MOST_ELEMENTS, 3), "read": lambda h, x: h[0]},
    ),
    "a large array of which a part is emitted": (
        lambda s, x: (jnp.outer(s[1], x), jnp.tanh(s[1])),
        {"c": (4,), "h": (4, 3), "read": lambda s, x: x @ s[0].T},
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_these_arrays_stay(name):
    step, shapes = KEPT[name]
    traced, _ = traced_step(step, **shapes)
    assert traced.peeled is None


def test_an_input_may_be_emitted_as_it_is():
    traced, _ = traced_step(
        lambda s, x: (jnp.tanh(s[1]), 0.5 * s[1]), c=(4,), read=lambda s, x: (s[0], x)
    )
    assert traced.peeled is not None
    assert traced.peeled.kinds == ("output", "loop")


@pytest.mark.parametrize("cell", [nr.LSTM, nr.GRU, nr.RNN])
def test_the_layers_of_the_library_keep_their_state(cell):
    found = nr.explain(cell(3, 4, key=jax.random.key(0)), jnp.zeros((2, 3)))
    assert set(found.states) == {"loop"}


# --- runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEEDS_NO_LOOP)
def test_explain_names_them(name):
    kinds, linear = NEEDS_NO_LOOP[name]
    found = nr.explain(layer_of(name, backend="scan"), random(0, 2, 5, 3))
    assert found.states == kinds
    assert found.linear == linear
    for kind in {*kinds} - {"loop"}:
        places = ", ".join(str(n) for n, k in enumerate(kinds) if k == kind)
        assert f"No loop is needed for {kind} {places} of the state." in str(found)
        assert f"No loop is needed for {kind} {places} of the state." in found._repr_html_()
    if "loop" not in kinds:
        assert not found.loop
        assert found.reason == "no array of its state needs a loop"


@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
@pytest.mark.parametrize("name", NEEDS_NO_LOOP)
def test_delays_stay_in_a_native_loop(name):
    """They are in cache there; outside of it each step would have a copy in memory."""
    kinds, _ = NEEDS_NO_LOOP[name]
    found = nr.explain(layer_of(name), random(0, 2, 5, 3))
    assert found.backend == ("native" if {*kinds} & {"loop", "delay"} else "scan")
    assert "delay" not in found.states
    assert [k for k in found.states if k == "counter"] == [k for k in kinds if k == "counter"]


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", [n for n, (_, linear) in NEEDS_NO_LOOP.items() if linear])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_linear_ones_run_as_a_recurrence(name, reverse):
    layer, definition = (
        layer_of(name, reverse=reverse, backend=b) for b in ("associative", "reference")
    )
    xs, start = random(0, 3, 5, 3), start_of(layer, 3)
    assert_agree(layer, definition, xs, start, lengths=LENGTHS, resets=RESETS, tolerance=1e-10)


@pytest.mark.sampled(39)
@pytest.mark.parametrize("name", NEEDS_NO_LOOP)
@pytest.mark.parametrize("backend", ["auto", "scan"])
def test_pieces_and_steps_equal_the_whole(name, backend):
    """A sequence in two pieces with the carry between them, then step by step."""
    layer = layer_of(name, backend=backend)
    assert_pieces_agree(layer, random(0, 3, 5, 3), start_of(layer, 3), RESETS)


@pytest.mark.sampled(15)
@pytest.mark.parametrize("name", NEEDS_NO_LOOP)
@pytest.mark.parametrize("length", [None, 0, 3])
def test_one_example(name, length):
    layer, definition = (layer_of(name, backend=b) for b in ("auto", "reference"))
    options: dict[str, Any] = {} if length is None else {"lengths": jnp.asarray(length)}
    options |= {"resets": RESETS[2], "tolerance": 1e-10}
    assert_agree(layer, definition, random(0, 5, 3), **options)


@pytest.mark.parametrize("name", NEEDS_NO_LOOP)
def test_no_step(name):
    layer = layer_of(name)
    start = start_of(layer, 2)
    state, ys = layer.scan(start, jnp.zeros((2, 0, 3)))
    assert ys.shape[:2] == (2, 0)
    assert_close(state, start, 0.0)


@pytest.mark.parametrize("name", ["everything_at_once", "rotated", "causal_convolution"])
def test_free_sizes(name):
    """One program for all batches and lengths."""
    layer = layer_of(name, backend="scan")

    def gradient(xs: jax.Array) -> jax.Array:
        return jax.grad(lambda xs: jnp.sin(layer(xs)).sum())(xs)

    struct = jax.ShapeDtypeStruct(export.symbolic_shape("b, t, 3"), jnp.float64)
    program, xs = export.export(jax.jit(gradient))(struct), random(0, 2, 4, 3)
    np.testing.assert_allclose(program.call(xs), gradient(xs), atol=1e-12)


class Counting(nr.Cell):
    """Two numbers that count, and are emitted."""

    by: float = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        return state + jnp.asarray(self.by, self.dtype)

    def initial_state(self) -> Any:
        return jnp.zeros(2, self.dtype)


#: A dtype, by how much it counts, and where it starts.
COUNTERS: list[tuple[str, float, list[float]]] = [
    ("int32", 1, [2**31 - 2, -5]),
    ("int8", -100, [100, 0]),
    ("uint8", 255, [3, 250]),
    ("float32", 1, [7, 0]),
    ("float32", 3, [2**24 - 6, 0]),
    ("float32", 1, [0.1, -0.3]),
    ("float32", 1, [np.inf, 1]),
    ("float16", 1, [2045, 0]),
    ("bfloat16", -2, [-250, 0]),
]


@pytest.mark.covered(1)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("dtype", "by", "start"), COUNTERS)
def test_counters_give_the_same_bits(dtype, by, start, reverse):
    """Where numbers wrap around, and where they round: as if added one by one."""
    cell = Counting(by, jnp.dtype(dtype))
    xs, resets = (
        jnp.zeros((3, 6, 1)),
        jnp.zeros((3, 6), bool).at[:, 3].set(True).at[2, 3].set(False),
    )
    carry = jnp.asarray([start] * 3, dtype)
    options = {"lengths": jnp.array([6, 5, 4]), "resets": resets}

    def run(backend: str) -> Any:
        own = jnp.asarray(start[::-1], dtype)
        return nr.Recurrence(cell, own, reverse, backend=backend).scan(carry, xs, **options)

    found, expected = run("scan"), run("reference")
    for a, b in zip(*map(jtu.tree_leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_delay_past_the_end_is_what_it_was_in_the_last_step():
    """Any other value would make a distance of zero, which has no derivative."""

    def cell(state: Any, x: jax.Array) -> Any:
        h, before = state
        return 0.5 * h + jnp.linalg.norm(x - before), x

    layer = nr.Recurrence(cell, (jnp.zeros(()), jnp.zeros(3)), backend="scan")
    xs = random(0, 2, 5, 3)

    def loss(xs: Any) -> Any:
        return layer(xs, lengths=jnp.array([2, 4])).sum()

    assert np.isfinite(jax.grad(loss)(xs)).all()


def test_a_delay_of_random_numbers_draws_them_once():
    class Noisy(nr.Cell):
        W: jax.Array

        def __call__(  # type: ignore[override]
            self, state: Any, x: jax.Array, *, key: Any
        ) -> Any:
            h, before = state
            noise = jax.random.normal(key, x.shape, x.dtype)
            return jnp.tanh(self.W @ h + before + noise), noise * x

        def initial_state(self) -> Any:
            return jnp.zeros(3), jnp.zeros(3)

    layer, definition = (
        nr.Recurrence(Noisy(random(1, 3, 3)), backend=b) for b in ("scan", "reference")
    )
    assert nr.explain(layer, random(0, 5, 3), key=jax.random.key(1)).states == ("loop", "delay")
    assert_agree(layer, definition, random(0, 2, 5, 3), key=jax.random.key(1))


def test_a_delay_beside_an_operation_without_native_code():
    """The loop with its delay has an obstacle; the delay leaves it, and the operation too."""

    def cell(state: Any, x: jax.Array) -> Any:
        h, before = state
        return jnp.tanh(h + jax.lax.digamma(before + 3.0)), x

    layer, definition = (
        nr.Recurrence(cell, (jnp.zeros(3), jnp.zeros(3)), backend=b) for b in ("auto", "reference")
    )
    found = nr.explain(layer, random(0, 5, 3))
    assert (found.backend, found.states) == (AUTO, ("loop", "delay"))
    assert_agree(layer, definition, random(0, 2, 5, 3), tolerance=1e-10)


@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
@pytest.mark.parametrize("entries", [1, 2])
def test_parts_without_elements_are_left_out(entries):
    """``window[1:]`` of a window of one entry, and slices that are empty in any case."""

    def step(kernel: jax.Array, state: Any, x: jax.Array) -> Any:
        h, window = state
        window = jnp.concatenate([window[:0], window[1:], x[None]])
        return jnp.concatenate([jnp.tanh(h / 2 + (kernel * window).sum(0)), h[:0]]), window

    kernel, xs = random(0, entries, 3), random(1, 2, 5, 3)
    start = jnp.zeros(3), jnp.zeros((entries, 3))
    layer = nr.Recurrence(jtu.Partial(step, kernel), start)
    assert nr.explain(layer, xs).backend == "native"
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, tolerance=1e-12)
