"""Cells around cells: their equations in NumPy, around two cells, and what each wrapper passes on.

Equations and the wrappers themselves are in `wrapper_oracles`.
"""

import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import assert_agree
from docstrings import faults
from models import AUTO, assert_close, noise, random
from wrapper_oracles import (
    BASES,
    HIDDEN,
    IN,
    KEY,
    WRAPPERS,
    by_oracle,
    lstm,
    mgu,
    options_of,
    phased,
    skipped,
)

import noria as nr
from noria.cells.base import advance, arguments_of
from noria.cells.draws import for_call
from noria.cells.products import matrix_of, replaced, with_matrices
from noria.cells.wrappers import ProjectedCell, ResidualCell, WrapperCell
from noria.cells.wrappers_clockwork import ClockworkCell, ClockworkState
from noria.cells.wrappers_dropout import DropConnect, MaskedState, VariationalDropout
from noria.cells.wrappers_fast_slow import FastSlowCell, FastSlowState
from noria.cells.wrappers_gates import PhasedCell, PhasedState, SkipCell, SkipState
from noria.cells.wrappers_norms import GateNormCell, StateNormCell, WeightNormCell
from noria.cells.wrappers_products import BlockDiagonalCell, MultiplicativeCell
from noria.cells.wrappers_time import (
    AttentionCell,
    AttentionState,
    DelayCell,
    DelayState,
    DilatedCell,
)
from noria.cells.wrappers_zoneout import RecurrentDropout, Zoneout

TIME, BATCH = 5, 3
LENGTHS = jnp.array([5, 0, 3])
RESETS = jnp.array([[0, 0, 0, 0, 1], [0] * 5, [1, 0, 1, 0, 0]], bool)


@functools.cache
def made(name: str, base: Any = lstm) -> Any:
    return WRAPPERS[name].make(base)


each = pytest.mark.parametrize("name", WRAPPERS)
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


@pytest.mark.sampled(5)
@each
@each_base
def test_values_are_those_of_the_equations(name, base):
    cell, xs = made(name, base), random(2, TIME, IN)
    final, ys = nr.Recurrence(cell, backend="reference").scan(None, xs, **options_of(name))
    assert_close(ys, by_oracle(name, cell, xs, final), 1e-11)


@pytest.mark.sampled(19)
@each
@each_base
def test_masked_sequences_equal_the_definition(name, base):
    """With lengths, one of them zero, NaN past the end, and resets; with gradients."""
    layer, xs = nr.Recurrence(made(name, base)), random(2, BATCH, TIME, IN)
    xs = jnp.where(jnp.arange(TIME)[:, None] < LENGTHS[:, None, None], xs, jnp.nan)
    definition = nr.with_backend(layer, "reference")
    found = assert_agree(
        layer, definition, xs, tolerance=1e-9, lengths=LENGTHS, resets=RESETS, **options_of(name)
    )
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(found))


@pytest.mark.sampled(7)
@each
def test_steps_and_pieces_give_what_the_whole_gives(name):
    layer, xs = nr.Recurrence(made(name), backend="reference"), random(2, TIME, IN)
    options = options_of(name)
    end, whole = layer.scan(None, xs, **options)
    middle, first = layer.scan(None, xs[:3], **options)
    state, ys = middle, [first]
    for x in xs[3:]:
        state, y = layer.step(state, x, **options)
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
    layer, xs = nr.Recurrence(made(name)), random(2, TIME, IN)
    assert nr.explain(layer, xs, **options_of(name)).backend == "native"


@pytest.mark.sampled(18)
@each
def test_narrow_numbers_and_mapped_examples_are_close(name):
    """float32 and bfloat16 against float64; `jax.vmap` of examples against each by itself."""
    layer, xs, options = nr.Recurrence(made(name)), random(2, 2, TIME, IN), options_of(name)

    def run(layer: Any, x: Any) -> Any:
        return layer(x, **options)

    expected = jnp.stack([jax.jit(run)(layer, x) for x in xs])
    assert_close(jax.jit(jax.vmap(run, (None, 0)))(layer, xs), expected, 1e-11)
    for dtype, tolerance in ((jnp.float32, 1e-4), (jnp.bfloat16, 0.1)):
        narrow, x = nr.cast((layer, xs[0]), dtype)
        ys = jax.jit(run)(narrow, x)
        assert ys.dtype == dtype
        if name != "skip" or dtype == jnp.float32:  # a gate of one bit may flip
            assert_close(ys.astype(jnp.float64), expected[0], tolerance)


@each
def test_the_state_and_the_output_keep_a_narrow_dtype(name):
    cell = for_call("test", nr.cast(made(name), jnp.bfloat16), KEY)
    state, x = cell.initial_state(), jnp.ones(IN, jnp.bfloat16)
    after, y = jax.eval_shape(lambda s, x: advance(cell, s, x, {"key": KEY}), state, x)
    before = jax.eval_shape(lambda: state)
    assert after == before
    assert y.dtype == jnp.bfloat16
    kinds = [leaf.dtype for leaf in jtu.tree_leaves(after)]
    assert kinds.count(jnp.float32) == (name == "phased")  # the time
    assert jnp.float64 not in kinds


CELLS = [WrapperCell, Zoneout, ResidualCell, ProjectedCell, DelayCell, DilatedCell, PhasedCell]
CELLS += [SkipCell, AttentionCell, FastSlowCell, RecurrentDropout, VariationalDropout, DropConnect]
CELLS += [WeightNormCell, GateNormCell, StateNormCell, MultiplicativeCell, BlockDiagonalCell]
CELLS += [ClockworkCell]
STATES = [DelayState, PhasedState, SkipState, AttentionState, FastSlowState]
STATES += [MaskedState, ClockworkState]


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


def test_dropout_keeps_the_old_number_or_adds_a_larger_change():
    """The mean over keys is the update without dropout."""
    cell = RecurrentDropout(lstm(), (0.0, 0.25))
    state, x = noise(cell.initial_state(), 4), random(5, IN)
    h, c = cell.cell(state, x)
    drawn = jax.vmap(lambda key: cell(state, x, key=key))(jax.random.split(KEY, 4000))
    assert_close(drawn.h, jnp.broadcast_to(h, drawn.h.shape), 0)
    changes = (drawn.c - state.c) / (c - state.c)
    is_kept = jnp.abs(changes) < 1e-9
    assert_close(jnp.where(is_kept, 4 / 3, changes), jnp.full(changes.shape, 4 / 3), 1e-9)
    np.testing.assert_allclose(is_kept.mean(0), 0.25, atol=0.03)
    for found, expected in zip(nr.inference(cell)(state, x), (h, c), strict=True):
        assert_close(found, expected, 0)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["variational", "changes"])
def test_masks_belong_to_a_sequence(name):
    """Examples have their own; a reset draws new ones, and a continued sequence keeps them."""
    layer = nr.Recurrence(made(name), backend="scan")
    xs, resets = random(2, 200, 6, IN), jnp.zeros((200, 6), bool).at[100:, 3].set(True)
    first, _ = layer.scan(None, xs[:, :3], key=KEY)
    for masks, rate in zip(
        first.masks, (0.3, 0.4) if name == "variational" else (0.4,), strict=True
    ):
        np.testing.assert_allclose(masks.mean(), 1 - rate, atol=0.08)
        assert len(np.unique(masks, axis=0)) > 4
    last, _ = layer.scan(first, xs[:, 3:], resets=resets[:, 3:], key=jax.random.key(8))
    for before, after in zip(first.masks, last.masks, strict=True):
        assert bool((before == after)[:100].all())
        assert 0.3 < float((before == after)[100:].mean()) < 0.8
    seen, _ = nr.inference(layer).scan(None, xs)  # inference draws nothing: training does so then
    assert not seen.drawn.any()
    trained, _ = layer.scan(seen, xs[:, :3], key=KEY)
    assert_close(trained.masks, first.masks, 0)
    plain = nr.Recurrence(made(name).cell, backend="scan")
    assert_close(nr.inference(layer)(xs), plain(xs), 1e-12)


def test_dropped_weights_are_those_of_a_call():
    """One mask for all examples, without gradients; with `jax.vmap`, one for each key."""
    cell = DropConnect(lstm(IN, 20), 0.4)
    layer, xs = nr.Recurrence(cell, backend="scan"), random(2, 3, TIME, IN)
    resets = jnp.zeros((3, TIME), bool).at[:, 2].set(True)
    U = matrix_of(for_call("test", cell, KEY), "U")
    np.testing.assert_allclose((U == 0).mean(), 0.4, atol=0.03)
    masked = nr.Recurrence(with_matrices(cell.cell, {"U": U}), backend="scan")
    assert_close(layer(xs, resets=resets, key=KEY), masked(xs, resets=resets), 1e-12)
    gradient = nr.grad(lambda layer: jnp.sum(layer(xs, key=KEY) ** 2))(layer).cell.cell.U
    np.testing.assert_array_equal(gradient == 0, U == 0)
    keys = jax.random.split(KEY, 3)
    each = jax.vmap(lambda x, key: layer(x, key=key))(xs, keys)
    assert_close(each, jnp.stack([layer(x, key=k) for x, k in zip(xs, keys, strict=True)]), 1e-12)
    plain = nr.Recurrence(cell.cell, backend="scan")
    assert_close(nr.inference(layer)(xs), plain(xs), 0)


def test_normed_weights_have_the_lengths():
    """At first the cell is as it was; scaling the directions changes nothing."""
    cell = WeightNormCell(lstm())
    xs = random(2, TIME, IN)
    before = nr.Recurrence(cell.cell, backend="scan")(xs)
    assert_close(nr.Recurrence(cell, backend="scan")(xs), before, 1e-12)
    scaled = replaced(cell, cell=with_matrices(cell.cell, {"U": 7 * matrix_of(cell, "U")}))
    assert_close(nr.Recurrence(scaled, backend="scan")(xs), before, 1e-12)
    blocks = BlockDiagonalCell(lstm(), 2, key=KEY)
    weighted = matrix_of(WeightNormCell(blocks)._weighted(), "U")
    assert_close(weighted.blocks, matrix_of(blocks, "U").blocks, 1e-12)
    lengths = jnp.linalg.norm(matrix_of(blocks, "U").blocks, axis=-1)
    assert_close(WeightNormCell(blocks).g["U"], lengths, 1e-12)


def test_multiplicative_integration_gives_the_cell_of_the_catalogue():
    of_catalogue = noise(nr.cells.MILSTMCell(IN, HIDDEN, key=KEY, dtype=jnp.float64), 3, 0.5)
    inner = lstm()
    inner = replaced(inner, **{name: getattr(of_catalogue, name) for name in ("W", "U", "b")})
    cell = MultiplicativeCell(inner)
    vectors = {name: {"U": getattr(of_catalogue, name)} for name in ("alpha", "beta_1", "beta_2")}
    xs = random(2, TIME, IN)
    found, expected = (
        nr.Recurrence(one, backend="scan")(xs) for one in (replaced(cell, **vectors), of_catalogue)
    )
    assert_close(found, expected, 1e-12)


def test_a_slow_module_waits():
    layer = nr.Recurrence(ClockworkCell(lstm(), (1, 2, 3, 4)), backend="scan")
    (end, ys), resets = layer.scan(None, random(2, 9, IN)), jnp.zeros(9, bool).at[5].set(True)
    assert int(end.t) == 9
    for unit, period in enumerate((1, 2, 3, 4)):
        moved = np.flatnonzero(np.diff(ys[:, unit])) + 1
        assert moved.tolist() == [t for t in range(1, 9) if t % period == 0]
    again = layer(random(2, 9, IN), resets=resets)
    assert bool((again[5] != again[4]).all())


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


def test_the_likelihood_of_a_skipped_update_is_at_most_one():
    """``p' = p + min(d, 1 - p)`` where the step is skipped, with ``d`` as good as one."""
    cell = SkipCell(made("skip").cell, key=KEY, bias=30.0)
    start = cell.initial_state()._replace(likelihood=jnp.asarray(0.3))
    after = cell(start, random(2, IN))
    assert float(after.gate) == 0
    assert_close(after.likelihood, jnp.ones(()), 1e-12)


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


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda cell: DropConnect(GateNormCell(WeightNormCell(cell)), 0.3),
        lambda cell: GateNormCell(DropConnect(VariationalDropout(cell, 0.4), 0.3)),
        lambda cell: MultiplicativeCell(DropConnect(DropConnect(Zoneout(cell, 0.2), 0.3), 0.4)),
    ],
)
def test_wrappers_of_products_nest(wrap):
    layer = nr.Recurrence(wrap(BlockDiagonalCell(lstm(), 2, key=KEY)))
    definition = nr.with_backend(layer, "reference")
    assert_agree(layer, definition, random(2, 1, 3, IN), tolerance=1e-9, key=KEY)


def test_two_masks_of_weights_are_independent():
    blocks = BlockDiagonalCell(lstm(IN, 20), 2, key=KEY)
    assert matrix_of(blocks, "U").blocks.shape == (4, 2, 10, 10)  # a gate each
    twice = for_call("test", DropConnect(DropConnect(blocks, 0.3), 0.4), KEY)
    factors = np.asarray(matrix_of(twice, "U").blocks / matrix_of(blocks, "U").blocks)
    assert {*np.round(factors.ravel(), 9)} == {0, round(1 / 0.7 / 0.6, 9)}
    np.testing.assert_allclose((factors != 0).mean(), 0.42, atol=0.05)


def test_rows_of_a_wrapped_matrix_are_those_of_its_product():
    """`GRUv3Cell` takes rows of ``U``."""
    cell = nr.GRUv3Cell(IN, HIDDEN, key=KEY, dtype=jnp.float64)
    blocks = BlockDiagonalCell(cell, 2, key=KEY)
    U = jnp.stack([matrix_of(blocks, "U") @ unit for unit in jnp.eye(HIDDEN)], axis=1)
    assert matrix_of(blocks, "U").shape == U.shape
    xs = random(2, TIME, IN)
    dense = nr.Recurrence(replaced(cell, U=U), backend="scan")
    assert_close(nr.Recurrence(blocks, backend="scan")(xs), dense(xs), 1e-12)


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


class Frames(nr.Cell):
    """A cell whose input is a tree of arrays."""

    in_shape = {"frame": (2, 3), "gate": ()}  # noqa: RUF012

    def __call__(self, h, x):
        return x["gate"] * h + x["frame"].sum(0)

    def initial_state(self):
        return jnp.zeros(3)


def test_inputs_of_any_shape_are_delayed():
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
SEED: Any = 0


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
        (lambda: RecurrentDropout(lstm(), 1), ValueError, "nothing is kept"),
        (lambda: RecurrentDropout(lstm(), (0.1,) * 3), ValueError, "there are 3 rates"),
        (lambda: RecurrentDropout(lstm(), 0.1, per="batch"), ValueError, "per is 'batch'"),
        (lambda: VariationalDropout(lstm(), 0.1, 1.0), ValueError, "at least 0 and below 1"),
        (lambda: VariationalDropout(Frames(), 0.1), ValueError, "expected a vector"),
        (lambda: VariationalDropout(Turning(jnp.ones(3)), 0.1), ValueError, "no matrix that mult"),
        (
            lambda: VariationalDropout(lstm(), 0.1, matrices=("W", "U")),
            ValueError,
            r"W, U have \[3, 4\] columns",
        ),
        (lambda: DropConnect(lstm(), -0.1), ValueError, "expected a probability"),
        (
            lambda: DropConnect(lstm(), 0.1, matrices=("b",)),
            ValueError,
            r"\('b',\); expected a tuple of names among the matrices of LSTMCell: W, U",
        ),
        (lambda: WeightNormCell(lstm(), matrices=TEXT), ValueError, "matrices is 'all'"),
        (lambda: GateNormCell(Counting()), ValueError, "no matrix that multiplies its input or"),
        (
            lambda: GateNormCell(nr.cells.AntisymmetricRNNCell(IN, HIDDEN, key=KEY)),
            TypeError,
            "AntisymmetricRNNCell uses one of V, W in another way than U @ v",
        ),
        (lambda: StateNormCell(DilatedCell(lstm(), 2)), ValueError, "a vector of real numbers"),
        (lambda: StateNormCell(Turning(jnp.ones(3, complex))), ValueError, "a vector of real"),
        (lambda: MultiplicativeCell(Counting()), ValueError, "names that go together"),
        (lambda: MultiplicativeCell(lstm(), pairs=(("W", "V"),)), ValueError, "matrices is"),
        (lambda: BlockDiagonalCell(lstm(), 3, key=KEY), ValueError, "heads to divide them"),
        (lambda: BlockDiagonalCell(lstm(), 0, key=KEY), ValueError, "heads is 0"),
        (lambda: BlockDiagonalCell(lstm(), 2, key=NOTHING), TypeError, "key is None"),
        (lambda: ClockworkCell(lstm(), ()), ValueError, "modules is 0"),
        (lambda: ClockworkCell(lstm(), (1, 0)), ValueError, "T_1 is 0"),
        (lambda: ClockworkCell(lstm(), (1, 2, 4)), ValueError, "a multiple of 3"),
        (lambda: ClockworkCell(DelayCell(lstm(), 1), (1, 2)), ValueError, "the same last axis"),
        (
            lambda: ClockworkCell(lstm(), (1, 2), matrices=("W",)),
            ValueError,
            r"W has shape \(16, 3\); expected \(4, 4\)",
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
    for wrap in (RecurrentDropout, VariationalDropout, DropConnect):
        cell = wrap(lstm(), 0.1)
        with pytest.raises(TypeError, match=f"{wrap.__name__}: in training mode it needs a key"):
            nr.Recurrence(cell, backend="reference")(random(1, 2, IN))
        with pytest.raises(TypeError, match="key is a int"):
            nr.Recurrence(cell, backend="reference")(random(1, 2, IN), key=SEED)
