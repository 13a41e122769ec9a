"""Linear recurrences: which steps are found to be one, and `associative` against the definition."""

import itertools
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from models import assert_close, cotangents, make_cell, random, random_like

import noria as nr
from noria.compiler import linear
from noria.compiler.linear import linear_executor
from noria.compiler.linear_forms import NotLinear
from noria.compiler.split import split
from noria.compiler.trace import Steps, trace
from noria.ops.linear_recurrence import CHUNK, block_recurrence

SIZE, TIME = 3, 5
LENGTHS = jnp.array([5, 0, 3])
RESETS = jnp.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [1, 1, 0, 0, 1]], bool)
W, U = random(1, SIZE, SIZE), random(2, SIZE, SIZE)


class MinGRU(nr.Cell):
    """Feng et al. 2024, arXiv 2410.01201: h' = (1 - z) * h + z * n, gates of the input only."""

    Wz: jax.Array
    Wn: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z = jax.nn.sigmoid(self.Wz @ x)
        return (1 - z) * h + z * (self.Wn @ x)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.Wn @ h + x)

    def initial_state(self) -> jax.Array:
        return jnp.zeros(SIZE)


class Diagonal(nr.Cell):
    """A complex diagonal of whose state the real part is emitted."""

    phase: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return 0.9 * jnp.exp(
            jax.lax.complex(jnp.zeros_like(self.phase), self.phase)
        ) * h + x.astype(complex)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return h.real * h.imag

    def initial_state(self) -> jax.Array:
        return jnp.zeros(SIZE, complex)


class Two(NamedTuple):
    h: jax.Array
    taken: jax.Array


class TwoArrays(nr.Cell):
    """Two arrays, one of whole numbers; differences, quotients, a selection by the input."""

    tau: jax.Array

    def __call__(self, state: Two, x: jax.Array) -> Two:
        h = state.h - (state.h - W @ x) / (1 + jax.nn.softplus(self.tau + x))
        h = jnp.where(x > 0, h, -(x - state.h) + h)
        return Two(h, 2 * state.taken + 1)

    def initial_state(self) -> Two:
        return Two(jnp.ones(SIZE), jnp.zeros((), int))


class Momentum(nr.Cell):
    """A velocity, and a position whose gate reads the velocity before and after the step."""

    U: jax.Array

    def __call__(self, state: tuple[jax.Array, ...], x: jax.Array) -> tuple[jax.Array, ...]:
        position, velocity = state
        moved = 0.9 * velocity + W @ x
        keep = jax.nn.sigmoid(self.U @ moved - velocity)
        return keep * position + moved, moved

    def output(self, state: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
        return state[0] * state[1]

    def initial_state(self) -> tuple[jax.Array, ...]:
        return jnp.ones(SIZE), jnp.zeros(SIZE)


class Stabilized(nr.Cell):
    """An exponential gate with its stabilizer, as in xLSTM (Beck et al. 2024, eq. 15 to 17)."""

    U: jax.Array

    def __call__(self, state: tuple[jax.Array, ...], x: jax.Array) -> tuple[jax.Array, ...]:
        c, n, m = state
        forget, accept = jax.nn.log_sigmoid(self.U @ x), W @ x
        top = jnp.maximum(forget + m, accept)
        f, i = jnp.exp(forget + m - top), jnp.exp(accept - top)
        return f * c + i * jnp.tanh(x), f * n + i, top

    def output(self, state: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
        return state[0] / state[1] + state[2]

    def initial_state(self) -> tuple[jax.Array, ...]:
        return jnp.zeros(SIZE), jnp.ones(SIZE), jnp.zeros(SIZE)


class Oscillators(nr.Cell):
    """Forced oscillators (Rusch and Rus 2024, arXiv 2410.03943, eq. 6), damped by the input."""

    stiffness: jax.Array
    B: jax.Array

    def __call__(self, state: tuple[jax.Array, ...], x: jax.Array) -> tuple[jax.Array, ...]:
        position, velocity = state
        force = self.B @ x - jax.nn.softplus(self.stiffness) * position
        velocity = jax.nn.sigmoid(x) * velocity + 0.3 * force
        return position + 0.3 * velocity, velocity

    def output(self, state: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
        return jnp.tanh(state[0]) * state[1]

    def initial_state(self) -> tuple[jax.Array, ...]:
        return jnp.ones(SIZE), jnp.zeros(SIZE)


class RealLRU(nr.Cell):
    """A linear recurrent unit (Orvieto et al. 2023) with real and imaginary parts by hand."""

    nu: jax.Array
    theta: jax.Array

    def __call__(self, state: tuple[jax.Array, ...], x: jax.Array) -> tuple[jax.Array, ...]:
        re, im = state
        size, phase = jnp.exp(-jnp.exp(self.nu)), jnp.exp(self.theta)
        a, b = size * jnp.cos(phase), size * jnp.sin(phase)
        return a * re - b * im + W @ x, b * re + a * im + U @ x

    def output(self, state: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
        return state[0] - x * state[1]

    def initial_state(self) -> tuple[jax.Array, ...]:
        return jnp.zeros(SIZE), jnp.ones(SIZE)


class BestPaths(nr.Cell):
    """The scores of the best paths that end in one of two states (Viterbi's recursion)."""

    stay: jax.Array
    change: jax.Array

    def __call__(self, state: tuple[jax.Array, ...], x: jax.Array) -> tuple[jax.Array, ...]:
        one, two = state
        gain = W @ x
        first = jnp.maximum(one + self.stay, two + self.change) + gain
        second = jnp.maximum(jnp.maximum(one + self.change - x, two + self.stay), gain)
        return first, second

    def initial_state(self) -> tuple[jax.Array, ...]:
        return jnp.zeros(SIZE), jnp.full(SIZE, -1.0)


CELLS = {
    "oscillators": Oscillators(random(8, SIZE), random(9, SIZE, SIZE)),
    "real lru": RealLRU(random(10, SIZE), random(11, SIZE)),
    "best paths": BestPaths(random(12, SIZE), random(13, SIZE)),
    "mingru": MinGRU(W, U),
    "stabilized": Stabilized(random(7, SIZE, SIZE)),
    "momentum": Momentum(random(6, SIZE, SIZE)),
    "diagonal": Diagonal(random(4, SIZE)),
    "two": TwoArrays(random(5, SIZE)),
}


def step_of(cell: Any, state: Any, lengths: bool = True, resets: bool = True) -> Any:
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    x = jax.ShapeDtypeStruct((SIZE,), jnp.float64)
    return split(
        trace(cell, state, Steps(x, flag if lengths else None, flag if resets else None, None))
    )


ONE = jnp.ones(SIZE)
PAIR = (ONE, ONE)

COS, SIN = jnp.cos(U[0]), jnp.sin(U[1])


def turned(re: jax.Array, im: jax.Array) -> tuple[jax.Array, jax.Array]:
    return COS * re - SIN * im, SIN * re + COS * im


#: Cells whose state is one array of several parts, and its shape.
PARTS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "halves": (
        lambda h, x: jnp.concatenate(turned(*jnp.split(h, 2))) + jnp.tile(W @ x, 2),
        (2 * SIZE,),
    ),
    "last axis": (
        lambda h, x: jnp.stack(turned(h[..., 0], h[..., 1]), -1) + (W @ x)[:, None],
        (SIZE, 2),
    ),
    "first axis": (lambda h, x: jnp.stack(turned(*h)) + W @ x, (2, SIZE)),
    "unstacked": (
        lambda h, x: jnp.stack(turned(*jnp.unstack(h, axis=1)), 1) * x[:, None],
        (SIZE, 2),
    ),
    "packed": (
        lambda h, x: jnp.concatenate(
            [m := 0.9 * h[:SIZE] + W @ x, jax.nn.sigmoid(m * h[:SIZE]) * h[SIZE:]]
        ),
        (2 * SIZE,),
    ),
    "thirds": (
        lambda h, x: jnp.concatenate([h[SIZE:] * jnp.tile(x, 2), h[:SIZE] + x]),
        (3 * SIZE,),
    ),
    "roll by a half": (lambda h, x: 0.5 * jnp.roll(h, SIZE) + jnp.tile(x, 2), (2 * SIZE,)),
    "roll of three": (lambda h, x: jnp.roll(h, 1) + x, (SIZE,)),
}

LINEAR: dict[str, tuple[Any, Any]] = {
    "constant": (lambda h, x: W @ x, ONE),
    "sum": (lambda h, x: h + x, ONE),
    "decay": (lambda h, x: 0.9 * h + x, ONE),
    "leaky": (lambda h, x: h + jax.nn.sigmoid(W @ x) * (U @ x - h), ONE),
    "indrnn": (lambda h, x: U[0] * h + W @ x, ONE),
    "quotient": (lambda h, x: (h - x) / (1 + x**2) - h, ONE),
    "selection": (lambda h, x: jnp.where(x > 0, -h, x), ONE),
    "twice": (lambda h, x: h + x * h + (h - x), ONE),
    "complex": (lambda h, x: (0.5 + 0.5j) * h + x.astype(complex), ONE.astype(complex)),
    "precision": (
        lambda h, x: (h.astype(jnp.float64) * x).astype(jnp.float32),
        ONE.astype(jnp.float32),
    ),
    "pair": (lambda s, x: (0.5 * s[0] + x, x * s[1]), PAIR),
    "counter": (lambda s, x: (0.5 * s[0] + x, s[1] + 1), (ONE, jnp.zeros((), int))),
    "momentum": (lambda s, x: (s[0] + (m := 0.9 * s[1] + x), m), PAIR),
    "gate of another": (
        lambda s, x: (jax.nn.sigmoid(U @ s[1]) * s[0] + jnp.tanh(s[1]), x * s[1] + W @ x),
        PAIR,
    ),
    "chain": (
        lambda s, x: (s[0] * s[1] * s[2], 0.5 * s[1] + jnp.flip(s[2]) ** 2, x * s[2] + 1),
        (ONE, ONE, ONE),
    ),
    "the same next": (lambda s, x: (n := 0.5 * s[0] + x, n), PAIR),
    "old and new": (lambda s, x: (m := 0.5 * s[0] + x, s[0] * m + x * s[1]), PAIR),
    "constant of another": (lambda s, x: (jnp.zeros(SIZE), s[0] + 0.5 * s[1] + x), PAIR),
    "largest": (lambda m, x: jnp.maximum(x, jnp.maximum(x + m, m - 1) - x), ONE),
    "stabilizer": (lambda m, x: jnp.maximum(m + jax.nn.log_sigmoid(x), W @ x), ONE),
    "mixed": (lambda s, x: (s[0] + s[1], s[1] + x), PAIR),
    "exchanged": (lambda s, x: (s[1], s[0] + x), PAIR),
    "rotated": (lambda s, x: (0.6 * s[0] - 0.8 * s[1], x * (0.8 * s[0] + 0.6 * s[1])), PAIR),
    "turned back": (lambda s, x: (x - s[1], s[0] / (1 + x**2) - s[1]), PAIR),
    "ring": (lambda s, x: (s[1], s[2], s[0] * x), (ONE, ONE, ONE)),
    "oscillator": (lambda s, x: (v := 0.9 * s[0] - U[0] ** 2 * s[1] + W @ x, s[1] + v), PAIR),
    "complex pair": (
        lambda s, x: (1j * s[1] + x.astype(complex), (0.5 - 0.5j) * s[0] - s[1]),
        (ONE.astype(complex),) * 2,
    ),
    "gated by another": (
        lambda s, x: (s[1] * jnp.tanh(s[2]), x - s[0], 0.5 * s[2] + W @ x),
        (ONE, ONE, ONE),
    ),
    "two largest": (
        lambda s, x: (jnp.maximum(s[0] + x, s[1] - 1), jnp.maximum(s[0], jnp.maximum(s[1], x))),
        PAIR,
    ),
    "integers in a pair": (
        lambda s, x: (s[0] - 2 * s[1] + 1, s[0]),
        (jnp.ones((), int), jnp.zeros((), int)),
    ),
    **{name: (cell, jnp.full(shape, 0.5)) for name, (cell, shape) in PARTS.items()},
    "parts of another": (
        lambda s, x: (0.9 * s[0] + jnp.tile(x, 3), 0.5 * s[1] + s[0][: 2 * SIZE]),
        (jnp.ones(3 * SIZE), jnp.ones(2 * SIZE)),
    ),
    "smaller parts of another": (
        lambda s, x: (
            0.9 * s[0] + jnp.tile(x, 2),
            jnp.concatenate([jnp.split(s[1], SIZE)[n] * x[n] for n in range(SIZE)]) + s[0][:SIZE],
        ),
        (jnp.ones(2 * SIZE), ONE),
    ),
    "widened": (lambda s, x: (s[0] + x.sum(), s[0] * x), (jnp.ones(()), ONE)),
}

NOT_LINEAR: dict[str, tuple[Any, Any, str]] = {
    "gru": (make_cell("gru", SIZE, SIZE), ONE, "dot_general at cells/stacked.py"),
    "rnn": (make_cell("rnn", SIZE, SIZE), ONE, "dot_general at cells/stacked.py"),
    "matrix": (lambda h, x: U @ h + x, ONE, "dot_general at tests/test_linear.py"),
    "tanh": (lambda h, x: jnp.tanh(x + h), ONE, "tanh at tests/test_linear.py"),
    "least": (lambda h, x: jnp.minimum(h, x), ONE, "min at tests/test_linear.py"),
    "largest of a product": (lambda h, x: jnp.maximum(x * h, x), ONE, "max at tests/test_linear"),
    "reflected": (lambda h, x: jnp.maximum(x - h, x), ONE, "max at tests/test_linear.py"),
    "relu": (lambda h, x: jax.nn.relu(h * x), ONE, "is not"),
    "square": (lambda h, x: h * h + x, ONE, "mul|square"),
    "quotient": (lambda h, x: x / h, ONE, "div"),
    "gate": (lambda h, x: jax.nn.sigmoid(h) * x, ONE, "logistic"),
    "condition": (lambda h, x: jnp.where(h > 0, h, x), ONE, "gt"),
    "flip": (lambda h, x: jnp.flip(h) + x, ONE, "rev"),
    "roll": (lambda h, x: jnp.roll(h, 1) + x.sum(), jnp.ones(5), "slice"),
    "every other": (
        lambda h, x: jnp.concatenate([h[::2] + x.sum(), h[1::2]]),
        jnp.ones(4),
        "slice|gather",
    ),
    "quarters of halves": (
        lambda h, x: jnp.concatenate([jnp.flip(h[:4][1:3]), h[4:] + x.sum(), h[:2]]),
        jnp.ones(8),
        "slice|rev",
    ),
    "tanh of a half": (
        lambda h, x: jnp.concatenate([jnp.tanh(h[SIZE:]), h[:SIZE] + x]),
        jnp.ones(2 * SIZE),
        "split|slice",
    ),
    "mean": (lambda h, x: h - h.mean() + x, ONE, "reduce_sum"),
    "tanh, and parts of it": (
        lambda s, x: (jnp.tanh(s[0] + jnp.tile(x, 3)), 0.5 * s[1] + s[0][: 2 * SIZE]),
        (jnp.ones(3 * SIZE), jnp.ones(2 * SIZE)),
        "tanh",
    ),
    "five arrays": (
        lambda s, x: (*s[1:], s[0] * x),
        (ONE,) * 5,
        "its arrays 0, 1, 2, 3, 4 depend on each other",
    ),
    "shapes": (
        lambda s, x: (s[0] + s[1].sum(), s[0] * x),
        (jnp.ones(()), ONE),
        "its arrays 0, 1 depend on each other",
    ),
    "precisions": (
        lambda s, x: (s[0] + s[1].astype(float), s[0].astype(jnp.float32)),
        (ONE, ONE.astype(jnp.float32)),
        "its arrays 0, 1 depend on each other",
    ),
    "product of two": (lambda s, x: (s[0] * s[1], s[0] + x), PAIR, "mul"),
    "swapped elements": (lambda s, x: (jnp.flip(s[1]), s[0] + x), PAIR, "rev"),
    "conjugate": (lambda h, x: h.conj() + x.astype(complex), ONE.astype(complex), "conj|real|imag"),
    "rounded": (lambda h, x: h.astype(int).astype(float) + x, ONE, "convert_element_type"),
    "integer quotient": (lambda n, x: n // 2, jnp.zeros((), int), "is not"),
}


@pytest.mark.covered(1)
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("masks", [False, True], ids=["plain", "lengths and resets"])
def test_found_linear(name, masks):
    cell, state = LINEAR[name]
    linear_executor(step_of(cell, state, masks, masks))


@pytest.mark.sampled(15)
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("masks", [False, True], ids=["plain", "lengths and resets"])
def test_linear_cells_equal_their_definition(name, masks):
    cell, state = LINEAR[name]
    layer = nr.Recurrence(cell, initial_state=state, backend="associative")
    xs = random(0, 3, TIME, SIZE)
    options: dict[str, Any] = {"lengths": LENGTHS, "resets": RESETS} if masks else {}
    start = jtu.tree_map(lambda leaf: leaf * 2, state)
    expected = nr.with_backend(layer, "reference").scan(start, xs, **options)
    assert_close(layer.scan(start, xs, **options), expected, 1e-6 if name == "precision" else 1e-12)


@pytest.mark.covered(1)
@pytest.mark.parametrize("name", NOT_LINEAR)
@pytest.mark.parametrize("masks", [False, True], ids=["plain", "lengths and resets"])
def test_found_not_linear(name, masks):
    cell, state, reason = NOT_LINEAR[name]
    with pytest.raises(NotLinear, match=reason):
        linear_executor(step_of(cell, state, masks, masks))
    assert not linear.is_linear(step_of(cell, state, masks, masks))


def test_a_cell_that_is_not_linear_is_refused():
    layer = nr.Recurrence(make_cell("gru", SIZE, SIZE), backend="associative")
    expected = (
        r'GRU\(in_size=3\): backend="associative" needs a next state that is affine '
        r"and element-wise in the state; "
        r"dot_general at cells/stacked.py:\d+ is not\."
    )
    with pytest.raises(ValueError, match=expected):
        layer(random(0, TIME, SIZE))


#: Which cell with lengths, resets, a batch: one with all combinations, the others with all at once.
CASES = [("mingru", *flags) for flags in itertools.product([False, True], repeat=3)]
CASES += [(name, True, True, True) for name in CELLS if name != "mingru"]
CASES += [("oscillators", False, False, batched) for batched in (False, True)]


@pytest.mark.sampled(35)
@pytest.mark.parametrize(("name", "lengths", "resets", "batched"), CASES)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_against_reference(monkeypatch, name, lengths, resets, batched, reverse):
    """Outputs, final state, cotangents of parameters, initial state, passed state and input."""
    options: dict[str, Any] = {"lengths": LENGTHS} if lengths else {}
    options |= {"resets": RESETS} if resets else {}
    options = options if batched else jtu.tree_map(lambda leaf: leaf[2], options)
    xs = random(0, *([3] if batched else []), TIME, SIZE)
    if lengths:
        xs = jnp.where(jnp.arange(TIME)[:, None] < options["lengths"][..., None, None], xs, jnp.nan)
    layer = nr.Recurrence(
        CELLS[name], reverse=reverse, learn_initial_state=True, backend="reference"
    )
    expected = gradients(layer, xs, **options)
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(expected))
    for parallel in (False, True):
        force(monkeypatch, parallel, chunk=2)
        assert_close(
            gradients(nr.with_backend(layer, "associative"), xs, **options), expected, 1e-10
        )


def gradients(layer: Any, xs: Any, **options: Any) -> list[Any]:
    """Values, and gradients of their sum with random weights, for all inexact arrays."""
    start = jtu.tree_map(lambda leaf: leaf + 1, layer.initial_state())
    leaves, tree = jtu.tree_flatten((layer, start, xs))
    inexact = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def scalar(some: list[Any]) -> Any:
        new = iter(some)
        all_leaves = [
            next(new) if flag else leaf for leaf, flag in zip(leaves, inexact, strict=True)
        ]
        layer, start, xs = jtu.tree_unflatten(tree, all_leaves)
        values = jtu.tree_leaves(layer.scan(start, xs, **options))
        smooth = [v for v in values if jnp.issubdtype(v.dtype, jnp.inexact)]
        weights = [
            w.astype(v.dtype) + 0.3 * v for w, v in zip(random_like(smooth, 9), smooth, strict=True)
        ]
        return sum(
            jnp.sum(w * v).real + jnp.sum(w * v).imag for w, v in zip(weights, smooth, strict=True)
        ), values

    some = [leaf for leaf, flag in zip(leaves, inexact, strict=True) if flag]
    found, values = jax.jit(jax.grad(scalar, has_aux=True))(some)
    return [values, found]


def force(monkeypatch: Any, parallel: bool, chunk: int = CHUNK) -> None:
    """Have the compiler call either form, whatever the platform."""

    def forced(ring: Any, a: Any, b: Any, start: Any, reverse: bool, _: Any) -> Any:
        return block_recurrence(ring, a, b, start, reverse, parallel)

    monkeypatch.setattr("noria.ops.linear_recurrence.CHUNK", chunk)
    monkeypatch.setattr(linear, "block_recurrence", forced)
    jax.clear_caches()


def test_the_loop_that_runs_is_explained():
    """The page shows scale, shift and recurrence, not the equations of the cell."""

    def cell(h: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x) * (jax.nn.sigmoid(x) * h + x)

    layer = nr.Recurrence(cell, initial_state=jnp.zeros(SIZE), backend="associative")
    split = nr.explain(nr.with_backend(layer, "scan"), random(0, 2, TIME, SIZE))
    found = nr.explain(layer, random(0, 2, TIME, SIZE))
    names = Counter(line.name for line in found.loop)
    assert names == {"logistic": 2, "mul": 3, "add": 1}  # a * a', x * a and the recurrence
    assert Counter(line.name for line in split.loop) == {"logistic": 2, "mul": 2, "add": 1}
    assert found.bytes == split.bytes
    assert {line.where.split(":")[0] for line in found.loop[-2:]} == {"test_linear.py"}


@pytest.mark.parametrize("checkpoint", [2, "sqrt"])
def test_checkpoints(checkpoint):
    xs = random(0, 3, TIME, SIZE)
    layers = [
        nr.Recurrence(CELLS["mingru"], backend="associative", checkpoint=c)
        for c in (checkpoint, None)
    ]
    found, expected = (
        jtu.tree_leaves(cotangents(layer, None, xs, lengths=LENGTHS)) for layer in layers
    )
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("batch", [(), (0,), (2,)])
def test_no_steps(batch):
    layer = nr.Recurrence(CELLS["two"], backend="associative")
    state, ys = layer.scan(None, jnp.zeros((*batch, 0, SIZE)))
    assert ys.shape == (*batch, 0, SIZE)
    assert state.taken.shape == batch


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_vmap_equals_the_batch(monkeypatch, parallel):
    force(monkeypatch, parallel, chunk=2)
    layer = nr.Recurrence(CELLS["mingru"], backend="associative")
    xs = random(0, 3, TIME, SIZE)
    one = lambda x, length, reset: layer.scan(None, x, lengths=length, resets=reset)  # noqa: E731
    mapped = jax.vmap(one)(xs, LENGTHS, RESETS)
    assert_close(mapped, layer.scan(None, xs, lengths=LENGTHS, resets=RESETS), 1e-12)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("checkpoint", [None, "sqrt"])
def test_second_derivatives_of_a_layer(monkeypatch, checkpoint):
    force(monkeypatch, True, 3)

    def second(**options: Any) -> Any:
        layer = nr.Recurrence(CELLS["mingru"], **options)

        def inner(xs: Any) -> Any:
            return jnp.sum(
                jax.grad(lambda xs: jnp.sum(layer(xs, lengths=LENGTHS, resets=RESETS) ** 2))(xs)
                ** 2
            )

        return jax.jit(jax.grad(inner))(random(0, 3, TIME, SIZE))

    want = second(backend="plain")
    assert_close(second(backend="associative", checkpoint=checkpoint), want, 1e-10)
