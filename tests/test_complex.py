"""Complex cells: rewritten to pairs of real numbers, they give what the definition gives."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from agreement import assert_agree, assert_backends_agree, pulled
from models import AUTO, assert_close, learned, noise, random

import noria as nr
from noria._parameters import complex_dtype
from noria.compiler.complex_pairs import PairedStep, in_pairs
from noria.compiler.complex_rules import MOVES, RULES
from noria.compiler.trace import Steps, trace

BATCH, TIME, IN, SIZE = 3, 5, 3, 4
LENGTHS = jnp.array([5, 0, 3])
RESETS = jnp.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [1, 1, 0, 0, 1]], bool)


def promoting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function in which real numbers may meet complex ones."""

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return wrapped


# --- cells ----------------------------------------------------------------------------------------


class ComplexCell(nr.Cell):
    """Parameters by name, and the shape of a complex state."""

    p: dict[str, jax.Array]
    shape: tuple[int, ...] = eqx.field(static=True)

    def initial_state(self) -> Any:
        return jnp.zeros(self.shape, self.p["W"].dtype)


class LRU(ComplexCell):
    """Orvieto et al. 2023, arXiv 2303.06349, eq. 3 to 7."""

    @promoting
    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        p = self.p
        eigenvalue = jnp.exp(jax.lax.complex(-jnp.exp(p["nu"]), p["theta"]))
        return eigenvalue * h + p["gamma"] * (p["W"] @ x)

    @promoting
    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return (self.p["C"] @ h).real + self.p["D"] * x


class S5(ComplexCell):
    """Smith et al. 2023, arXiv 2208.04933: zero-order hold, a multi-input state."""

    @promoting
    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        p = self.p
        rate = jax.lax.complex(-jnp.exp(p["nu"]), p["theta"])
        step = jnp.exp(rate * jnp.exp(p["gamma"]))
        return step * h + (((step - 1) / rate)[:, None] * p["W"]) @ x

    @promoting
    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return 2 * (self.p["C"] @ h).real + self.p["D"] * x


class S4D(ComplexCell):
    """Gu et al. 2022, arXiv 2206.11893: one diagonal state for each feature."""

    @promoting
    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        p = self.p
        rate = jax.lax.complex(-jnp.exp(p["nu"]), p["theta"])
        return jnp.exp(p["gamma"] * rate) * h + p["W"] * x[:, None]

    @promoting
    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return 2 * jnp.sum(self.p["C"] * h, axis=-1).real + self.p["D"] * x


class Gated(ComplexCell):
    """A complex gated unit with modReLU; cf. Wolter and Yao 2018, arXiv 1806.08267."""

    @promoting
    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        p = self.p
        gates = p["U"] @ h + p["W"] @ x.astype(h.dtype) + p["b"]
        g, z = jnp.split(gates, 2)
        size = jnp.abs(z)
        n = z * (jax.nn.relu(size + p["gamma"]) / (size + 0.1))
        g = jax.nn.sigmoid(g.real + 0.3 * g.imag)
        return (1 - g) * h + g * n

    @promoting
    def output(self, h: jax.Array, x: jax.Array) -> Any:
        return {"h": h, "product": h * h.conj() * x.sum(), "sizes": jnp.abs(h)}


def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    if name == "s4d":
        square = (IN, SIZE)
        return {**dict.fromkeys(("nu", "theta"), square), "gamma": (IN, 1), "D": (IN,)} | {
            "W*": square,
            "C*": square,
        }
    if name == "gated":
        return {"U*": (2 * SIZE, SIZE), "W*": (2 * SIZE, IN), "b*": (2 * SIZE,), "gamma": (SIZE,)}
    vectors = dict.fromkeys(("nu", "theta", "gamma"), (SIZE,))
    return {**vectors, "D": (IN,), "W*": (SIZE, IN), "C*": (IN, SIZE)}


KINDS: dict[str, type[Any]] = {"lru": LRU, "s5": S5, "s4d": S4D, "gated": Gated}


def layer_of(name: str, dtype: Any = jnp.float64, **options: Any) -> nr.Recurrence:
    """A layer with an initial state that is learned; names with a star are complex."""
    wide = complex_dtype(dtype)
    p = {
        key.strip("*"): noise(jnp.zeros(shape, wide if "*" in key else dtype), i, 0.5)
        for i, (key, shape) in enumerate(_shapes(name).items())
    }
    shape = (IN, SIZE) if name == "s4d" else (SIZE,)
    return learned(KINDS[name](p, shape), **options)


def start_of(layer: nr.Recurrence) -> Any:
    return noise(jnp.stack([layer.initial_state()] * BATCH), 5)


BACKENDS = ["scan", "native"]
all_kinds = pytest.mark.parametrize("name", KINDS)
both_backends = pytest.mark.parametrize("backend", BACKENDS)


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.sampled(59)
@all_kinds
@both_backends
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("save", ["gates", "states", "segments"])
def test_equals_the_definition(name, backend, reverse, save):
    """With lengths, one of them zero, NaN past the end, resets, and a start for each example."""
    xs = random(0, BATCH, TIME, IN)
    xs = jnp.where(jnp.arange(TIME)[:, None] < LENGTHS[:, None, None], xs, jnp.nan)
    options = {"checkpoint": 2} if save == "segments" else {"save": save}
    layer = layer_of(name, reverse=reverse, backend=backend, **options)
    definition = layer_of(name, reverse=reverse, backend="reference")
    masks = {"lengths": LENGTHS, "resets": RESETS}
    found = assert_agree(layer, definition, xs, start_of(layer), tolerance=1e-10, **masks)
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(found))


@pytest.mark.sampled(9)
@all_kinds
@both_backends
def test_one_example_in_single_precision(name, backend):
    layer, definition = (layer_of(name, jnp.float32, backend=b) for b in (backend, "reference"))
    assert_agree(layer, definition, random(0, TIME, IN, dtype=jnp.float32), tolerance=1e-5)


@all_kinds
@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
def test_explained(name):
    layer = layer_of(name)
    found = nr.explain(layer, random(0, BATCH, TIME, IN))
    assert (found.backend, found.reason) == ("native", "the fastest one on CPUs")
    assert len(found.states) == len(jtu.tree_leaves(layer.initial_state()))
    assert found.linear == (name != "gated")
    assert not any("c128" in line.shapes for line in (*found.before, *found.loop, *found.reverse))


@pytest.mark.parametrize("name", ["lru", "s5", "s4d"])
def test_associative(name):
    layer, definition = (layer_of(name, backend=b) for b in ("associative", "reference"))
    xs = random(0, BATCH, TIME, IN)
    assert_agree(layer, definition, xs, tolerance=1e-10, lengths=LENGTHS, resets=RESETS)


@pytest.mark.sampled(11)
@all_kinds
@both_backends
def test_step_and_chunks_equal_the_sequence(name, backend):
    layer, xs = layer_of(name, backend=backend), random(0, BATCH, TIME, IN)
    final, ys = layer.scan(None, xs)
    middle, head = layer.scan(None, xs[:, :2])
    end, tail = layer.scan(middle, xs[:, 2:])
    assert_close(
        (end, jtu.tree_map(lambda *a: jnp.concatenate(a, 1), head, tail)), (final, ys), 1e-12
    )
    state = None
    for t in range(TIME):
        state, y = layer.step(state, xs[:, t])
        assert_close(y, jtu.tree_map(lambda a, t=t: a[:, t], ys), 1e-12)
    assert_close(state, final, 1e-12)


@pytest.mark.sampled(27)
@all_kinds
@both_backends
@pytest.mark.parametrize("way", ["vmap", "models", "twice"])
def test_transformations(name, backend, way):
    """Examples mapped by `jax.vmap`, models mapped by it, and gradients of gradients."""
    layer, xs = layer_of(name), random(0, BATCH, TIME, IN)

    def loss(layer: Any, xs: Any) -> jax.Array:
        leaves = jtu.tree_leaves(layer.scan(None, xs))
        return jnp.sum(jnp.stack([jnp.sum(jnp.abs(a + 1) ** 2) for a in leaves]))

    def examples(layer: Any, xs: Any) -> Any:
        return jax.vmap(jax.grad(loss), in_axes=(None, 0))(layer, xs)

    def models(layer: Any, xs: Any) -> Any:
        several = jtu.tree_map(lambda a: jnp.stack([a, 0.9 * a]), layer)
        return jax.vmap(jax.grad(loss, argnums=1), in_axes=(0, None))(several, xs)

    def twice(layer: Any, xs: Any) -> Any:
        norm = lambda xs: jnp.sum(jax.grad(loss, argnums=1)(layer, xs) ** 2)  # noqa: E731
        return jax.grad(norm)(xs)

    function = {"vmap": examples, "models": models, "twice": twice}[way]
    assert_backends_agree(function, layer, xs, backends=(backend, "plain"))


@both_backends
def test_complex_inputs_and_states_of_several_types(backend):
    """A complex input, and a real and an integer array beside the complex state."""
    weight = noise(jnp.zeros((SIZE, IN), complex), 1)

    @promoting
    def cell(state: Any, x: jax.Array) -> Any:
        h, size, count = state
        h = jnp.where(count & 1 == 0, 0.5j * h + weight @ x, h / (1 + x[0] * x[0].conj()))
        return h, 0.5 * size + jnp.abs(h), count + 1

    state = jnp.ones(SIZE, complex), jnp.zeros(SIZE), jnp.zeros((), int)
    layer = nr.Recurrence(cell, state, backend=backend)
    xs = noise(jnp.zeros((BATCH, TIME, IN), complex), 2)
    definition = nr.with_backend(layer, "reference")
    assert_agree(layer, definition, xs, tolerance=1e-10, lengths=LENGTHS, resets=RESETS)


def test_training_descends():
    """Parameters stay complex, and the optimiser is given the direction of steepest ascent."""
    layer, xs = layer_of("lru"), random(0, BATCH, TIME, IN)

    def loss(layer: nr.Recurrence) -> jax.Array:
        return nr.mse(layer(xs), jnp.ones((BATCH, TIME, IN)))

    opt_state, first = nr.setup(optax.sgd(0.05), layer), loss(layer)
    values = [first]
    for _ in range(20):
        layer, opt_state = nr.update(opt_state, layer, nr.grad(loss)(layer))
        values.append(loss(layer))
    assert all(b < a for a, b in itertools.pairwise(values))
    assert layer.cell.p["C"].dtype == jnp.complex128


def test_saved_and_loaded(tmp_path):
    layer = layer_of("gated")
    nr.save(tmp_path / "m", layer)
    found = nr.load(tmp_path / "m", jtu.tree_map(jnp.zeros_like, layer))
    assert eqx.tree_equal(found, layer)


@pytest.mark.parametrize(("to", "wide"), [("float32", "complex64"), ("float64", "complex128")])
def test_cast(to, wide):
    found = nr.cast(layer_of("lru"), to)
    assert (found.cell.p["D"].dtype, found.cell.p["C"].dtype) == (to, wide)
    ys = found(random(0, TIME, IN, dtype=to))
    assert ys.dtype == to


# --- what has no rule -----------------------------------------------------------------------------


def test_the_operations_without_a_rule_are_named():
    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        h = jnp.arcsin(0.1 * h)
        return jnp.arccos(0.1 * h) + x[0]

    layer = nr.Recurrence(promoting(step), jnp.zeros(2, complex))
    found = nr.explain(layer, random(0, BATCH, TIME, IN))
    if AUTO == "native":
        line = step.__code__.co_firstlineno
        start = "complex numbers do not become pairs of real ones, because there is no rule for"
        asin = f"{start} asin, test_complex.py:{line + 1}"
        acos = f"{start} acos, test_complex.py:{line + 2}"
        assert asin in found.reason
        assert acos not in found.reason
        assert {asin, acos} <= {*found.obstacles}
    assert found.backend == "scan"
    xs = random(0, BATCH, TIME, IN)
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, tolerance=1e-10)


def test_a_real_step_is_returned_as_it_is():
    steps = Steps(jnp.zeros(3), None, None, None)
    spectrum = noise(jnp.zeros(3, complex), 1)
    traced = trace(lambda h, x: jnp.abs(spectrum) * h + x, jnp.zeros(3), steps)
    assert in_pairs(traced) == (traced, ())


# --- rules ----------------------------------------------------------------------------------------


class Pure(nr.Cell):
    """A function of the state ``(z, w)`` and of the real input, as output of a cell."""

    function: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        return state

    def initial_state(self) -> Any:
        return jnp.zeros(3, complex), jnp.zeros(3, complex)

    @promoting
    def output(self, state: Any, x: jax.Array) -> Any:
        return self.function(*state, x)


lax = jax.lax
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": lambda z, w, x: jnp.abs(z),
    "add": lambda z, w, x: (z + w, z + x, x + z, z + 2, 2j + z),
    "angle": lambda z, w, x: jnp.angle(z),
    "broadcast_in_dim": lambda z, w, x: z[:, None] * w,
    "complex": lambda z, w, x: lax.complex(x, z.real),
    "concatenate": lambda z, w, x: jnp.concatenate([z, x.astype(z.dtype), w]),
    "conj": lambda z, w, x: (z.conj(), x.astype(z.dtype).conj() * w),
    "conv_general_dilated": lambda z, w, x: (jnp.convolve(z, w), jnp.convolve(x, w)),
    "convert_element_type": lambda z, w, x: (
        z.astype(jnp.complex64).astype(z.dtype),
        jax.grad(lambda x: (x.astype(z.dtype) * z).real.sum())(x) * z,
    ),
    "cos": lambda z, w, x: jnp.cos(z),
    "cosh": lambda z, w, x: jnp.cosh(z),
    "cumsum": lambda z, w, x: lax.cumsum(z),
    "div": lambda z, w, x: (z / w, z / (2 + x), x / w, z / 2, 1 / (z * 1e200)),
    "dot_general": lambda z, w, x: (z @ w, z @ x, x @ w, jnp.outer(z, w) @ x),
    "dynamic_slice": lambda z, w, x: lax.dynamic_slice(z, [1], [2]),
    "dynamic_update_slice": lambda z, w, x: lax.dynamic_update_slice(z, w[:2], [1]),
    "eq": lambda z, w, x: (z == w, z == z, z.real == z),
    "exp": lambda z, w, x: (jnp.exp(z), jnp.exp(x.astype(z.dtype))),
    "expm1": lambda z, w, x: (jnp.expm1(z), jnp.expm1(1e-9 * z)),
    "gather": lambda z, w, x: z[jnp.array([2, 0])],
    "imag": lambda z, w, x: (z.imag, x.astype(z.dtype).imag),
    "integer_pow": lambda z, w, x: (z**2, z**3, z**7),
    "log": lambda z, w, x: jnp.log(z),
    "logistic": lambda z, w, x: (jax.nn.sigmoid(z), jax.nn.sigmoid(z - 40)),
    "mul": lambda z, w, x: (z * w, z * x, x * z, 2 * z, 2j * z, 1j * x),
    "ne": lambda z, w, x: (z != w, z != z),
    "neg": lambda z, w, x: -z,
    "pad": lambda z, w, x: jnp.pad(z, 1, constant_values=2),
    "real": lambda z, w, x: (z.real, (z * w).real),
    "reduce_sum": lambda z, w, x: (z.sum(), z.mean()),
    "reshape": lambda z, w, x: z.reshape(3, 1),
    "rev": lambda z, w, x: z[::-1],
    "select_n": lambda z, w, x: (jnp.where(x > 0, z, w), jnp.where(x > 0, z, 0)),
    "sign": lambda z, w, x: jnp.sign(z),
    "sin": lambda z, w, x: jnp.sin(z),
    "sinh": lambda z, w, x: jnp.sinh(z),
    "slice": lambda z, w, x: z[1:],
    "split": lambda z, w, x: jnp.split(z, 3),
    "square": lambda z, w, x: (jnp.square(z), lax.square(z)),
    "squeeze": lambda z, w, x: lax.squeeze(z.reshape(3, 1), [1]),
    "stop_gradient": lambda z, w, x: lax.stop_gradient(z) * w,
    "sub": lambda z, w, x: (z - w, z - x, x - z, z - 2, 2j - z),
    "tanh": lambda z, w, x: (jnp.tanh(z), jnp.tanh(50 * z)),
    "transpose": lambda z, w, x: jnp.outer(z, w).T,
}


def test_every_rule_has_a_function():
    """Except for those that no function of this version of JAX leaves in a step."""
    compared = {"add_any", "copy", "copy_p", "expand_dims", "stack", "tile", "unstack"}
    assert set(RULES) - compared <= set(FUNCTIONS)
    assert set(MOVES) <= set(RULES)


#: Functions with a rule of their own for zero.
AT_ZERO = "abs sign mul exp tanh logistic".split()


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("name", "at"),
    [*((name, "random") for name in FUNCTIONS), *((name, "zero") for name in AT_ZERO)],
)
def test_rule_equals_complex_arithmetic(name, at):
    """Values and gradients."""
    z, w = noise((jnp.zeros(3, complex), jnp.zeros(3, complex)), 1)
    state, x = (jnp.zeros_like(z) if at == "zero" else z, w), random(3, 3)
    traced = trace(Pure(FUNCTIONS[name]), state, Steps(x, None, None, None))
    paired, obstacles = in_pairs(traced)
    assert obstacles == ()
    assert isinstance(paired, PairedStep)
    inner = [v for e in paired.graph.equations for v in (*e.inputs, *e.outputs)]
    assert not any(jnp.iscomplexobj(v.aval) for v in inner)
    own = traced.parameters

    def by(step: Any) -> Any:
        def run(state: Any, steps: Any) -> Any:
            found = step.graph([*own, *state, *steps])
            return found[: len(step.state)], found[len(step.state) :]

        return run

    found = pulled(paired.outside(by(paired)), list(state), [x])
    assert_close(found, pulled(by(traced), list(state), [x]), 1e-12)
