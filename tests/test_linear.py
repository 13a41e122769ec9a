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
from noria.ops.linear_recurrence import CHUNK, linear_recurrence
from noria.ops.max_plus_recurrence import max_plus_recurrence

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


CELLS = {
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
    "widened": (lambda s, x: (s[0] + x.sum(), s[0] * x), (jnp.ones(()), ONE)),
}

NOT_LINEAR: dict[str, tuple[Any, Any, str]] = {
    "gru": (make_cell("gru", SIZE, SIZE), ONE, "dot_general at cells/base.py"),
    "rnn": (make_cell("rnn", SIZE, SIZE), ONE, "dot_general at cells/base.py"),
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
    "roll": (lambda h, x: jnp.roll(h, 1) + x, ONE, "slice"),
    "mean": (lambda h, x: h - h.mean() + x, ONE, "reduce_sum"),
    "exchanged": (
        lambda s, x: (s[1], s[0] + x),
        PAIR,
        "its arrays 0 and 1 depend on each other|select_n",
    ),
    "rotated": (lambda s, x: (s[0] - s[1], s[0] + s[1] + x), PAIR, "sub|add"),
    "ring": (
        lambda s, x: (s[1], s[2], s[0] * x),
        (ONE, ONE, ONE),
        "its arrays 0 and 1 depend on each other|select_n",
    ),
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
        r"dot_general at cells/base.py:\d+ is not\."
    )
    with pytest.raises(ValueError, match=expected):
        layer(random(0, TIME, SIZE))


#: Which cell with lengths, resets, a batch: one with all combinations, the others with all at once.
CASES = [("mingru", *flags) for flags in itertools.product([False, True], repeat=3)]
CASES += [(name, True, True, True) for name in ("diagonal", "two", "momentum", "stabilized")]


@pytest.mark.covered(1)
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

    def forced(a: Any, b: Any, start: Any, reverse: bool, _: Any) -> Any:
        return linear_recurrence(a, b, start, reverse, parallel)

    monkeypatch.setattr("noria.ops.linear_recurrence.CHUNK", chunk)

    def forced_max(a: Any, b: Any, start: Any, reverse: bool, _: Any) -> Any:
        return max_plus_recurrence(a, b, start, reverse, parallel)

    monkeypatch.setattr(linear, "linear_recurrence", forced)
    monkeypatch.setattr(linear, "max_plus_recurrence", forced_max)
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


# --- the recurrence itself ------------------------------------------------------------------------

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
