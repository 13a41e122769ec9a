"""Cells around cells: their equations in NumPy, around two cells, and what each wrapper passes on.

The oracles keep the whole past in lists, where the cells keep windows.
"""

import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import oracles
import pytest
from agreement import assert_agree
from docstrings import faults
from models import AUTO, assert_close, noise, random
from oracles import sigmoid

import noria as nr
from noria.cells import MGUCell
from noria.cells.base import advance, arguments_of
from noria.cells.wrappers import ProjectedCell, ResidualCell, WrapperCell, Zoneout
from noria.cells.wrappers_fast_slow import FastSlowCell, FastSlowState
from noria.cells.wrappers_gates import PhasedCell, PhasedState, SkipCell, SkipState
from noria.cells.wrappers_time import (
    AttentionCell,
    AttentionState,
    DelayCell,
    DelayState,
    DilatedCell,
)

IN, HIDDEN, TIME, BATCH = 3, 4, 5, 3
LENGTHS = jnp.array([5, 0, 3])
RESETS = jnp.array([[0, 0, 0, 0, 1], [0] * 5, [1, 0, 1, 0, 0]], bool)
KEY = jax.random.key(3)

#: One step of one example in NumPy: the state and the input to the next state.
Step = Callable[[tuple[Any, ...], Any], tuple[Any, ...]]


def lstm(in_size: int = IN, hidden: int = HIDDEN, seed: int = 0) -> Any:
    cell = nr.LSTMCell(in_size, hidden, key=jax.random.key(0), dtype=jnp.float64)
    return noise(cell, seed, 0.5)


def mgu(in_size: int = IN, hidden: int = HIDDEN, seed: int = 0) -> Any:
    cell = MGUCell(in_size, hidden, key=jax.random.key(0), dtype=jnp.float64)
    return noise(cell, seed, 0.5)


BASES = {"lstm": lstm, "mgu": mgu}


def step_of(cell: Any) -> Step:
    """The oracle of a cell of `BASES`. Its state is a tuple whose first array is the output."""
    if isinstance(cell, nr.LSTMCell):
        return lambda s, x: oracles.lstm(s, x, *map(np.asarray, (cell.W, cell.U, cell.b)))
    names = "W_f U_f b_f W_n U_n b_n".split()
    W_f, U_f, b_f, W_n, U_n, b_n = (np.asarray(getattr(cell, name)) for name in names)

    def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        (h,) = state
        f = sigmoid(W_f @ x + U_f @ h + b_f)
        return ((1 - f) * h + f * np.tanh(W_n @ x + U_n @ (f * h) + b_n),)

    return step


def start(cell: Any) -> tuple[Any, ...]:
    return tuple(np.asarray(a) for a in jtu.tree_leaves(cell.initial_state()))


def iterated(step: Step, state: tuple[Any, ...], xs: Any) -> Iterator[tuple[Any, ...]]:
    for x in xs:
        state = step(state, x)
        yield state


# --- one maker and one oracle each ---------------------------------------------------------------


def expectation(wrapper: Any, xs: Any) -> Any:
    inner, rates = step_of(wrapper.cell), wrapper.rate

    def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        pairs = zip(rates, state, inner(state, x), strict=True)
        return tuple(rate * old + (1 - rate) * new for rate, old, new in pairs)

    return [h for h, *_ in iterated(step, start(wrapper.cell), xs)]


def residual(wrapper: Any, xs: Any) -> Any:
    states = iterated(step_of(wrapper.cell), start(wrapper.cell), xs)
    return [h + x for (h, *_), x in zip(states, xs, strict=True)]


def projected(wrapper: Any, xs: Any) -> Any:
    states = iterated(step_of(wrapper.cell), start(wrapper.cell), xs)
    return [np.asarray(wrapper.P) @ h for h, *_ in states]


def delayed(wrapper: Any, xs: Any) -> Any:
    xs = [*np.zeros((wrapper.steps, IN)), *xs][: len(xs)]
    return [h for h, *_ in iterated(step_of(wrapper.cell), start(wrapper.cell), xs)]


def dilated(wrapper: Any, xs: Any) -> Any:
    step, states = step_of(wrapper.cell), list[Any]()
    for t, x in enumerate(xs):
        before = t - wrapper.dilation
        states.append(step(start(wrapper.cell) if before < 0 else states[before], x))
    return [h for h, *_ in states]


def phased(wrapper: Any, xs: Any, dt: Any = None) -> Any:
    step, state, ys = step_of(wrapper.cell), start(wrapper.cell), []
    tau, s, r = (np.asarray(getattr(wrapper, name)) for name in ("tau", "s", "r"))
    for time, x in zip(np.cumsum(np.ones(len(xs)) if dt is None else dt), xs, strict=True):
        phi = ((time - s) % tau) / tau
        k = [
            2 * p / open_ if p < open_ / 2 else 2 - 2 * p / open_ if p < open_ else wrapper.leak * p
            for p, open_ in zip(phi, r, strict=True)
        ]
        new = step(state, x)
        pairs = zip(new, state, strict=True)
        state = tuple(np.multiply(k, a) + np.subtract(1, k) * b for a, b in pairs)
        ys.append(state[0])
    return ys


def skipped(wrapper: Any, xs: Any, offsets: Any = None) -> Any:
    """The outputs, and what each gate adds to ``p``; given, gates are ``p`` plus ``offsets``."""
    step, state, ys, added = step_of(wrapper.cell), start(wrapper.cell), [], list[float]()
    p: Any = 1.0
    for t, x in enumerate(xs):
        added.append((1.0 if p >= 0.5 else 0.0) - p if offsets is None else offsets[t])
        u = p + added[-1]
        state = tuple(u * a + (1 - u) * b for a, b in zip(step(state, x), state, strict=True))
        d = sigmoid(np.asarray(wrapper.W_p) @ np.concatenate(state) + np.asarray(wrapper.b_p))
        p = u * d + (1 - u) * (p + min(d, 1 - p))
        ys.append(state[0])
    return ys, added


def attended(wrapper: Any, xs: Any) -> Any:
    step, past = step_of(wrapper.cell), [start(wrapper.cell)]
    W_h, W_x, W_m, v = (np.asarray(getattr(wrapper, n)) for n in ("W_h", "W_x", "W_m", "v"))
    m = np.zeros(HIDDEN)
    for x in xs:
        last: list[Any] = past[-wrapper.window :]
        a = np.array([v @ np.tanh(W_h @ s[0] + W_x @ x + W_m @ m) for s in last])
        w = np.exp(a) / np.exp(a).sum()
        mean = tuple(np.tensordot(w, np.stack(arrays), 1) for arrays in zip(*last, strict=True))
        m = mean[0]
        past.append(step(mean, x))
    return [h for h, *_ in past[1:]]


def fast_and_slow(wrapper: Any, xs: Any) -> Any:
    first, second, third = map(step_of, wrapper.fast)
    fast, slow, ys = start(wrapper.fast[0]), start(wrapper.slow), []
    for x in xs:
        fast = first(fast, x)
        slow = step_of(wrapper.slow)(slow, fast[0])
        fast = third(second(fast, slow[0]), np.zeros(1))
        ys.append(fast[0])
    return ys


def zoneout_of(base: Any) -> Any:
    count = len(jtu.tree_leaves(base().initial_state()))
    return Zoneout(base(), (0.1, 0.6)[:count], inference=True)


def fast_slow_of(base: Any) -> Any:
    fast = base(), base(2, HIDDEN, 1), base(1, HIDDEN, 2)
    return FastSlowCell(fast, base(HIDDEN, 2, 3))


#: Each wrapper by its name: how it is made from a cell, and its oracle.
WRAPPERS: dict[str, tuple[Any, Any]] = {
    "attention": (lambda base: AttentionCell(base(), 3, size=5, key=KEY), attended),
    "zoneout": (zoneout_of, expectation),
    "residual": (lambda base: ResidualCell(base(IN, IN)), residual),
    "phased": (
        lambda base: PhasedCell(base(), 0.1, periods=(2, 5), ratio=0.6, key=KEY),
        phased,
    ),
    "delay": (lambda base: DelayCell(base(), 2), delayed),
    "projected": (lambda base: ProjectedCell(base(), 2, key=KEY), projected),
    "skip": (lambda base: SkipCell(base(), key=KEY, bias=-1.0), lambda *args: skipped(*args)[0]),
    "dilated": (lambda base: DilatedCell(base(), 3), dilated),
    "fast_slow": (fast_slow_of, fast_and_slow),
}


@functools.cache
def made(name: str, base: Any = lstm) -> Any:
    return WRAPPERS[name][0](base)


each = pytest.mark.parametrize("name", WRAPPERS)
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


@pytest.mark.sampled(2)
@each
@each_base
def test_values_are_those_of_the_equations(name, base):
    cell, xs = made(name, base), random(2, TIME, IN)
    ys = nr.Recurrence(cell, backend="reference")(xs)
    expected = np.stack(WRAPPERS[name][1](cell, np.asarray(xs)))
    assert_close(ys, expected, 1e-11)


@pytest.mark.sampled(6)
@each
@each_base
def test_masked_sequences_equal_the_definition(name, base):
    """With lengths, one of them zero, NaN past the end, and resets; with gradients."""
    layer, xs = nr.Recurrence(made(name, base)), random(2, BATCH, TIME, IN)
    xs = jnp.where(jnp.arange(TIME)[:, None] < LENGTHS[:, None, None], xs, jnp.nan)
    definition = nr.with_backend(layer, "reference")
    found = assert_agree(layer, definition, xs, tolerance=1e-9, lengths=LENGTHS, resets=RESETS)
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(found))


@pytest.mark.sampled(3)
@each
def test_steps_and_pieces_give_what_the_whole_gives(name):
    layer, xs = nr.Recurrence(made(name), backend="reference"), random(2, TIME, IN)
    end, whole = layer.scan(None, xs)
    middle, first = layer.scan(None, xs[:3])
    state, ys = middle, [first]
    for x in xs[3:]:
        state, y = layer.step(state, x)
        ys.append(y[None])
    assert_close(jnp.concatenate(ys), whole, 1e-11)
    assert_close(state, end, 1e-11)


@each
def test_it_is_saved_loaded_and_pickled(name, tmp_path):
    cell = made(name)
    nr.save(tmp_path / "cell.safetensors", cell)
    loaded = nr.load(tmp_path / "cell.safetensors", noise(cell, 5))
    for found in (loaded, pickle.loads(pickle.dumps(cell))):
        assert_close(jtu.tree_leaves(found), jtu.tree_leaves(cell), 0)
    state = cell.initial_state()
    structure: Any = jtu.tree_structure(state)
    assert jtu.tree_structure(pickle.loads(pickle.dumps(state))) == structure


@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
@pytest.mark.sampled(3)
@each
def test_auto_runs_machine_code(name):
    assert nr.explain(nr.Recurrence(made(name)), random(2, TIME, IN)).backend == "native"


@each
def test_the_state_and_the_output_keep_a_narrow_dtype(name):
    cell = nr.cast(made(name), jnp.bfloat16)
    state = cell.initial_state()
    after, y = jax.eval_shape(lambda s, x: advance(cell, s, x), state, jnp.ones(IN, jnp.bfloat16))
    before = jax.eval_shape(lambda: state)
    assert after == before
    assert y.dtype == jnp.bfloat16
    wide = [leaf for leaf in jtu.tree_leaves(after) if leaf.dtype != jnp.bfloat16]
    assert len(wide) == (name == "phased")  # the time


CELLS = [WrapperCell, Zoneout, ResidualCell, ProjectedCell, DelayCell, DilatedCell, PhasedCell]
CELLS += [SkipCell, AttentionCell, FastSlowCell]
STATES = [DelayState, PhasedState, SkipState, AttentionState, FastSlowState]


@pytest.mark.parametrize("cls", [*CELLS, *STATES])
def test_a_docstring_is_complete(cls):
    assert not faults(cls)
    for name, member in vars(cls).items():
        public = name == "__call__" or not name.startswith("_")
        if public and (callable(member) or isinstance(member, property)):
            assert not faults(member, True)


# --- single wrappers ------------------------------------------------------------------------------


def test_zoneout_holds_entries_and_takes_expectations():
    """Each entry is the old or the new one; the mean over keys is the expectation."""
    rates: Any = nr.LSTMState(h=0.2, c=0.7)  # type: ignore[arg-type]
    cell = Zoneout(lstm(), rates)
    state, x = noise(cell.initial_state(), 4), random(5, IN)
    new = cell.cell(state, x)
    keys = jax.random.split(KEY, 4000)
    drawn = jax.vmap(lambda key: cell(state, x, key=key))(keys)
    expected = nr.inference(cell)(state, x)
    for many, old, one, mean, rate in zip(drawn, state, new, expected, (0.2, 0.7), strict=True):
        held = many == old
        assert bool(jnp.all(held | (many == one)))
        np.testing.assert_allclose(held.mean(), rate, atol=0.02)
        np.testing.assert_allclose(many.mean(0), mean, atol=0.1)
    assert bool(jnp.all(nr.training(nr.inference(cell))(state, x, key=KEY)[0] != expected[0]))


def test_a_phase_follows_the_time_that_passes():
    cell, xs = made("phased"), random(2, TIME, IN)
    dt = jnp.abs(random(6, TIME))
    layer = nr.Recurrence(cell, backend="scan")
    assert_close(layer(xs, dt=dt), np.stack(phased(cell, np.asarray(xs), np.asarray(dt))), 1e-11)
    state, _ = layer.scan(None, xs, dt=dt)
    np.testing.assert_allclose(state.time, dt.sum())
    closed = nr.inference(layer).cell
    gate = closed._gate(cell.s + 0.9 * cell.tau)
    assert_close(gate, jnp.zeros(HIDDEN), 0)
    assert_close(cell._gate(cell.s + 0.3 * cell.tau), jnp.ones(HIDDEN), 1e-12)


def test_the_gradient_of_a_skipped_step_is_straight_through():
    """It is that of the equations whose gates are ``p`` plus constants."""
    cell, xs = made("skip"), random(2, TIME, IN)
    layer = nr.Recurrence(cell, backend="scan")
    _, offsets = skipped(cell, np.asarray(xs))
    gates = nr.Recurrence(SkipCell(cell.cell, key=KEY, bias=-1.0, with_gate=True))(xs)[1]
    assert sorted(set(gates.tolist())) == [0, 1]
    arrays, structure = jtu.tree_flatten((cell, xs))
    rng = np.random.default_rng(4)
    steps = [1e-6 * rng.normal(size=a.shape) for a in arrays]

    def moved(sign: float) -> Any:
        leaves = [np.asarray(a) + sign * s for a, s in zip(arrays, steps, strict=True)]
        there, inputs = jtu.tree_unflatten(structure, leaves)
        return np.stack(skipped(there, inputs, offsets)[0])

    weights = noise(layer.scan(None, xs), 7)[1]
    change = np.sum(np.asarray(weights) * (moved(1) - moved(-1)))
    pull = jax.vjp(lambda arrays: _run(structure, arrays), arrays)[1]
    slope = sum(np.sum(c * s) for c, s in zip(*pull(weights), steps, strict=True))
    np.testing.assert_allclose(2 * slope, change, rtol=1e-5)


def _run(structure: Any, arrays: list[Any]) -> Any:
    cell, xs = jtu.tree_unflatten(structure, arrays)
    return nr.Recurrence(cell, backend="scan")(xs)


# --- nesting and arguments ------------------------------------------------------------------------


def test_wrappers_nest():
    """The outer ones compute outputs from what the inner ones make of the state."""
    inner = Zoneout(lstm(), 0.3)
    layer = nr.Recurrence(ResidualCell(ProjectedCell(DilatedCell(inner, 2), IN, key=KEY)))
    xs = random(2, 2, TIME, IN)
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, tolerance=1e-9, key=KEY)
    outside = Zoneout(ResidualCell(lstm(IN, IN)), 0.3)
    inside = ResidualCell(Zoneout(lstm(IN, IN), 0.3))
    a, b = (nr.Recurrence(cell, backend="reference")(xs[0], key=KEY) for cell in (outside, inside))
    assert_close(a, b, 1e-12)


class Asking(nr.Cell):
    """A cell that takes all arguments, and returns its output with the state."""

    W: jax.Array
    in_size = IN
    dtype = jnp.dtype("float64")

    def __call__(self, h, x, *, key, t, dt, context=None):  # type: ignore[override]
        h = jnp.tanh(self.W @ x + dt * h + t.astype(h.dtype))
        return h, h + jax.random.normal(key, h.shape, h.dtype)

    def initial_state(self):
        return jnp.zeros(HIDDEN)


class Reading(nr.Cell):
    """A cell whose output takes the time difference."""

    in_size = IN
    dtype = jnp.dtype("float64")

    def __call__(self, h, x):
        return h + x

    def initial_state(self):
        return jnp.zeros(IN)

    def output(self, h, x, *, dt):  # type: ignore[override]
        return dt * h


def test_arguments_are_passed_on():
    inner = Asking(random(1, HIDDEN, IN))
    asked = {"key": True, "t": True, "dt": True, "context": False}
    xs, dt = random(2, TIME, IN), jnp.abs(random(3, TIME))
    expected = nr.Recurrence(inner, backend="reference")(xs, key=KEY, dt=dt)
    for cell in (WrapperCell(inner), Zoneout(inner, 0.0), DilatedCell(inner, 1)):
        assert arguments_of(cell) == asked
        layer = nr.Recurrence(cell, backend="reference")
        same = layer(xs, key=KEY, dt=dt)
        if not isinstance(cell, Zoneout):  # it splits the key
            assert_close(same, expected, 1e-12)
    assert arguments_of(PhasedCell(Reading(), key=KEY)) == {"dt": True}
    assert arguments_of(WrapperCell(lstm())) == {}
    reading = nr.Recurrence(ResidualCell(Reading()), backend="reference")
    assert_close(reading(xs, dt=dt), xs + dt[:, None] * jnp.cumsum(xs, 0), 1e-12)
    with pytest.raises(TypeError, match="dt is None"):
        reading(xs)


def test_fast_and_slow_cells_draw_their_own_numbers():
    def zoned(cell: Any) -> Any:
        return Zoneout(cell, 0.5)

    fast = zoned(lstm(IN, HIDDEN)), zoned(lstm(HIDDEN, HIDDEN))
    cell = FastSlowCell(fast, zoned(lstm(HIDDEN, HIDDEN)))
    assert arguments_of(cell) == {"key": False}
    state, x = noise(cell.initial_state(), 4), random(5, IN)
    slow_key, *keys = jax.random.split(KEY, 3)
    f, y = advance(fast[0], state.fast, x, {"key": keys[0]})
    s, y = advance(cell.slow, state.slow, y, {"key": slow_key})
    f, y = advance(fast[1], f, y, {"key": keys[1]})
    assert_close(cell(state, x, key=KEY), (FastSlowState(f, s), y), 1e-12)


def test_inputs_of_any_shape_are_delayed():
    class Frames(nr.Cell):
        in_shape = {"frame": (2, 3), "gate": ()}  # noqa: RUF012

        def __call__(self, h, x):
            return x["gate"] * h + x["frame"].sum(0)

        def initial_state(self):
            return jnp.zeros(3)

    xs = {"frame": random(1, TIME, 2, 3), "gate": random(2, TIME)}
    layer = nr.Recurrence(DelayCell(Frames(), 2), backend="reference")
    zeros = jtu.tree_map(lambda a: jnp.zeros_like(a[:2]), xs)
    before = jtu.tree_map(lambda a, b: jnp.concatenate([a, b[:-2]]), zeros, xs)
    assert_close(layer(xs), nr.Recurrence(Frames(), backend="reference")(before), 1e-12)


def test_sizes_are_those_of_the_inner_cell():
    for name in WRAPPERS:
        cell = made(name, mgu)
        hidden = IN if name == "residual" else HIDDEN
        assert (cell.in_size, cell.hidden_size, cell.dtype) == (IN, hidden, jnp.float64)
    plain = WrapperCell(Asking(random(1, HIDDEN, IN)))
    assert not hasattr(plain, "hidden_size")
    assert not hasattr(plain, "in_shape")


class Turning(nr.Cell):
    """A cell with a complex state."""

    a: jax.Array
    in_size = IN
    dtype = jnp.dtype("float64")

    def __call__(self, h, x):
        return self.a * h + x.astype(self.a.dtype)

    def initial_state(self):
        return jnp.zeros(IN, self.a.dtype)

    def output(self, h, x):
        return h.real


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda cell: SkipCell(cell, key=KEY, bias=-1.0),
        lambda cell: Zoneout(cell, 0.3, inference=True),
        lambda cell: PhasedCell(cell, periods=(2, 5), ratio=0.6, key=KEY),
    ],
)
def test_complex_states_are_wrapped(wrap):
    layer = nr.Recurrence(wrap(Turning(jnp.exp(jax.lax.complex(jnp.zeros(IN), random(1, IN))))))
    xs = random(2, 2, 4, IN)
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, tolerance=1e-9)


class Counting(nr.Cell):
    """A cell with a whole number in its state."""

    in_size = IN
    dtype = jnp.dtype("float64")

    def __call__(self, state, x):
        h, n = state
        return h + x, n + 1

    def initial_state(self):
        return jnp.zeros(IN), jnp.zeros((), jnp.int32)


@pytest.mark.parametrize(
    ("wrap", "count"),
    [
        (lambda cell: Zoneout(cell, 0.5, inference=True), 4),
        (lambda cell: AttentionCell(cell, 2, key=KEY), 4),
        (lambda cell: SkipCell(cell, key=KEY, bias=-30.0), 1),
    ],
)
def test_whole_numbers_are_not_averaged(wrap, count):
    layer = nr.Recurrence(wrap(Counting()), backend="reference")
    state, _ = layer.scan(None, random(1, 4, IN))
    whole = [a for a in jtu.tree_leaves(state) if a.dtype == jnp.int32]
    assert int(whole[0].max()) == count


# --- errors ---------------------------------------------------------------------------------------


class Open(nr.Cell):
    """A cell that does not tell its sizes."""

    def __call__(self, h, x):
        return h + x

    def initial_state(self):
        return jnp.zeros(3)


NOTHING: Any = None
TEXT: Any = "all"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Zoneout(lstm(), 1.5), ValueError, "expected 0 to 1"),
        (lambda: Zoneout(lstm(), (0.1,) * 3), ValueError, "there are 3 rates; .* or 2, one"),
        (lambda: Zoneout(lstm(), TEXT), ValueError, "rate is a probability"),
        (
            lambda: ResidualCell(NOTHING),
            TypeError,
            "ResidualCell: cell is a NoneType; expected a cell",
        ),
        (lambda: ProjectedCell(lstm(), 0, key=KEY), ValueError, "out_size is 0"),
        (lambda: ProjectedCell(lstm(), 2, key=NOTHING), TypeError, "key is None"),
        (lambda: ProjectedCell(Open(), 2, key=KEY), ValueError, "neither in_size nor in_shape"),
        (
            lambda: ProjectedCell(Asking(jnp.ones((4, 3))), 2, key=KEY),
            ValueError,
            "depends on a context",
        ),
        (
            lambda: ProjectedCell(SkipCell(lstm(), key=KEY, with_gate=True), 2, key=KEY),
            ValueError,
            r"the output of the cell is Aux\(.*expected a vector",
        ),
        (lambda: DelayCell(lstm(), 0), ValueError, "steps is 0"),
        (lambda: DelayCell(Open(), 1), ValueError, "Open has neither"),
        (lambda: DilatedCell(lstm(), 0), ValueError, "dilation is 0"),
        (lambda: PhasedCell(lstm(), 2.0, key=KEY), ValueError, "0 <= leak <= 1"),
        (lambda: PhasedCell(DelayCell(lstm(), 2), key=KEY), ValueError, "the same last axis"),
        (lambda: SkipCell(lstm(), key=NOTHING), TypeError, "key is None"),
        (lambda: AttentionCell(lstm(), 0, key=KEY), ValueError, "window is 0"),
        (
            lambda: AttentionCell(DilatedCell(lstm(), 2), 3, key=KEY),
            ValueError,
            "expected vectors",
        ),
        (lambda: FastSlowCell((lstm(),), lstm()), ValueError, "1 fast cells: expected at least"),
        (lambda: FastSlowCell((lstm(), mgu()), lstm()), ValueError, r"the state of fast\[1\] is"),
        (
            lambda: FastSlowCell((Open(), Open(), Open()), Open()),
            ValueError,
            r"fast\[2\] has no in_size",
        ),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_wrong_steps_are_named():
    x, state = random(1, IN), lstm().initial_state()
    with pytest.raises(TypeError, match="in training mode it needs a key"):
        nr.Recurrence(Zoneout(lstm(), 0.1), backend="reference")(random(1, 2, IN))
    with pytest.raises(ValueError, match="expected equal shapes"):
        advance(ResidualCell(lstm()), state, x)
