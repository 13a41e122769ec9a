"""`argmax`, `argmin`, gathers from constant positions, and counters, on every backend."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree
from models import AUTO, assert_close, random

import noria as nr
from noria.compiler.constant_positions import RUNS

SIZE = 6
ORDER = np.array([2, 0, 1, 5, 3, 4])

#: Moves of a vector of `SIZE` numbers.
MOVES: dict[str, Any] = {
    "x[jnp.array]": lambda x: x[jnp.array(ORDER)],
    "x[np.array]": lambda x: x[ORDER],
    "a negative position": lambda x: x[np.array([-1, 0, 0, 1, -2, 3])],
    "take": lambda x: jnp.take(x, jnp.array([1, 1, 0, 4, 5, 5])),
    "take, clipped": lambda x: jnp.take(x, jnp.array([1, 9, 0, 4, 5, 5]), mode="clip"),
    "roll": lambda x: jnp.roll(x, 2),
    "flip": jnp.flip,
    "columns": lambda x: x.reshape(2, 3)[:, np.array([2, 0, 1])].ravel(),
    "rows": lambda x: x.reshape(3, 2)[np.array([2, 0, 1])].ravel(),
    "jnp.diagonal": lambda x: jnp.tile(jnp.diagonal(x.reshape(2, 3)), 3),
    "a diagonal": lambda x: jnp.tile(x.reshape(2, 3)[np.arange(2), np.arange(2)], 3),
}

#: Scatters into such a vector.
MOVES |= {
    "set one": lambda x: x.at[2].set(jnp.sin(x[0])),
    "set the last": lambda x: x.at[-1].set(0.3),
    "set some": lambda x: x.at[np.array([4, 1])].set(jnp.sin(x[:2])),
    "set a slice": lambda x: x.at[1:4].set(jnp.sin(x[:3])),
    "set every other": lambda x: x.at[::2].set(jnp.sin(x[3:])),
    "add": lambda x: x.at[jnp.array([4, 1])].add(jnp.sin(x[:2])),
    "add twice to one": lambda x: x.at[jnp.array([4, 1, 4])].add(jnp.sin(x[:3])),
    "add to all": lambda x: x.at[:].add(jnp.sin(x[::-1])),
    "multiply": lambda x: x.at[np.array([5, 0])].multiply(jnp.cos(x[1:3]), unique_indices=True),
    "largest": lambda x: x.at[1:3].max(jnp.sin(x[4:])),
    "smallest": lambda x: x.at[3].min(x[4]),
    "dropped": lambda x: x.at[jnp.array([1, 9, 2])].set(jnp.sin(x[:3]), mode="drop"),
    "a column": lambda x: x.reshape(2, 3).at[:, 1].set(jnp.sin(x[:2])).ravel(),
    "an element of a matrix": lambda x: x.reshape(2, 3).at[1, 0].add(x[0]).ravel(),
    "a row of a matrix": lambda x: x.reshape(3, 2).at[2].multiply(x[1]).ravel(),
    "nothing": lambda x: x.at[jnp.zeros((0,), int)].set(jnp.zeros(0)),
}


def test_constants_of_a_step_are_few_programs():
    """Positions that are computed, and other constants, are not compiled one by one."""
    n = 37  # no other test has compiled operations of this size
    xs, events = random(1, 2, 3, n), []

    def cell(h, x):
        below = jnp.tril_indices(n, -1)
        skew = jnp.zeros((n, n)).at[below].set(0.1)
        decay = 1 - 2.0 ** (-5 - jnp.arange(n, dtype=h.dtype))
        return decay * jnp.tanh(h @ (skew - skew.T) + x)

    layer = nr.Recurrence(cell, random(0, n))

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda xs: layer(xs)).lower(xs)
    # The positions, where the scatter writes (asked twice), and the loop-invariant values.
    assert events.count("/jax/core/compile/backend_compile_duration") <= 4


@pytest.mark.sampled(35)
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("backend", ["native", "scan"])
def test_constant_positions(move, backend, request):
    if backend == "native" and AUTO != "native":
        pytest.skip("there is no machine code here")
    cell = lambda h, x: jnp.tanh(0.9 * MOVES[move](h) + x)  # noqa: E731
    layer = nr.Recurrence(cell, random(0, SIZE), backend=backend)
    options: dict[str, Any] = {
        "lengths": jnp.array([4, 2]),
        "resets": jnp.zeros((2, 4), bool).at[0, 2].set(True),
    }
    xs = random(1, 2, 4, SIZE)
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, random(2, 2, SIZE), **options)


def test_no_move_is_an_obstacle():
    for move in MOVES.values():
        cell = lambda h, x, move=move: jnp.tanh(move(h) + x)  # noqa: E731
        page = nr.explain(nr.Recurrence(cell, jnp.zeros(SIZE)), jnp.zeros((2, 3, SIZE)))
        assert page.backend == AUTO
        assert not page.obstacles


def test_of_equal_positions_the_last_one_is_set():
    """As XLA does on CPUs, whatever the rules say."""
    cell = lambda h, x: h.at[jnp.array([1, 3, 1])].set(x[:3])  # noqa: E731
    layer, xs = nr.Recurrence(cell, jnp.zeros(SIZE)), random(0, 2, 3, SIZE)
    assert nr.explain(layer, xs).backend == AUTO
    assert_close(layer(xs), nr.with_backend(layer, "reference")(xs), 0)


def test_positions_that_are_not_known_or_many_stay_gathers():
    many = np.random.default_rng(0).permutation(4 * RUNS)
    cell = lambda h, x: jnp.tanh(h[many] + x)  # noqa: E731
    page = nr.explain(nr.Recurrence(cell, jnp.zeros(4 * RUNS)), jnp.zeros((2, 3, 4 * RUNS)))
    assert page.backend == "scan"
    assert "gather" in [line.name for line in page.loop]
    cell = lambda h, x: h.at[many].add(x)  # noqa: E731
    page = nr.explain(nr.Recurrence(cell, jnp.zeros(4 * RUNS)), jnp.zeros((2, 3, 4 * RUNS)))
    assert "scatter-add" in [line.name for line in page.loop]
    cell = lambda h, x: h[jnp.argmax(h)] + x  # noqa: E731
    page = nr.explain(nr.Recurrence(cell, jnp.zeros(3)), jnp.zeros((2, 3, 3)))
    assert page.backend == "scan"


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize("backend", ["native", "scan"])
def test_positions_of_extremes(dtype, backend):
    """The first of equal ones, and of NaN; for a matrix too."""
    if backend == "native" and AUTO != "native":
        pytest.skip("there is no machine code here")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, size=(40, SIZE)).astype(dtype)
    if x.dtype.kind == "f":
        x[::5, 3] = np.nan
        x[::15] = np.nan
        x[1::7, 2] = np.inf
        x[2::7, 4] = -np.inf
        x[3::7] = -np.inf

    def cell(state, u):
        kept, _, _ = state
        rows = kept.reshape(2, 3)
        one = [f(kept) for f in (jnp.argmax, jnp.argmin)]
        return kept, jnp.stack(one), jnp.stack([jnp.argmax(rows, 1), jnp.argmin(rows, 1)])

    start = (jnp.asarray(x), jnp.zeros((40, 2), int), jnp.zeros((40, 2, 2), int))
    layer = nr.Recurrence(cell, jax.tree.map(lambda a: a[0], start), backend=backend)
    _, one, rows = layer.scan(start, jnp.zeros((40, 1, 1)))[0]
    np.testing.assert_array_equal(one, np.stack([x.argmax(-1), x.argmin(-1)], -1))
    pairs = x.reshape(40, 2, 3)
    np.testing.assert_array_equal(rows, np.stack([pairs.argmax(-1), pairs.argmin(-1)], 1))


class Clockwork(nr.Cell):
    """Koutnik et al. 2014: a module of units moves only at steps that its period divides."""

    W: jax.Array
    U: jax.Array

    def __call__(self, state, x):
        h, n = state
        moves = n % jnp.repeat(jnp.array([1, 2, 4]), 2) == 0
        return jnp.where(moves, jnp.tanh(self.W @ x + self.U @ h), h), n + 1

    def initial_state(self):
        return jnp.zeros(SIZE), jnp.zeros((), int)


class ClockworkOfSteps(nr.Cell):
    """The same with ``t``."""

    W: jax.Array
    U: jax.Array

    def __call__(self, h, x, *, t):  # type: ignore[override]
        moves = t % jnp.repeat(jnp.array([1, 2, 4], t.dtype), 2) == 0
        return jnp.where(moves, jnp.tanh(self.W @ x + self.U @ h), h)

    def initial_state(self):
        return jnp.zeros(SIZE)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("cell", [Clockwork, ClockworkOfSteps])
def test_a_clockwork_cell_is_native(cell):
    weights, xs = (random(1, SIZE, 3), random(2, SIZE, SIZE)), random(3, 2, 9, 3)
    layer = nr.Recurrence(cell(*weights))
    options: dict[str, Any] = {"resets": jnp.zeros((2, 9), bool).at[0, 3].set(True)}
    assert nr.explain(layer, xs, **options).backend == AUTO
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, **options)
    other = nr.Recurrence(Clockwork(*weights))
    assert_close(layer(xs, **options), other(xs, **options), 1e-12)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("backend", ["native", "scan"])
def test_powers_of_whole_numbers(backend):
    if backend == "native" and AUTO != "native":
        pytest.skip("there is no machine code here")

    def cell(state, u):
        n, _, _, _ = state
        return n + 1, n**3 % 7 // 2, (n - 4) ** jnp.array(5), jax.lax.pow(n.astype(float) * 0.5, n)

    start = jnp.zeros((), int), jnp.zeros((), int), jnp.zeros((), int), jnp.zeros(())
    layer = nr.Recurrence(cell, start, backend=backend)
    for steps in range(1, 8):
        found, n = layer.scan(None, jnp.zeros((steps, 1)))[0], steps - 1
        assert [int(a) for a in found[:3]] == [steps, n**3 % 7 // 2, (n - 4) ** 5]
        assert float(found[3]) == pytest.approx((n * 0.5) ** n)
