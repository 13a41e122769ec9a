"""The native backend: odd sizes, instruction sets, batching, NaN, what is compiled and when.

test_zoo, test_recurrence and test_fuzz compare it with the definition. Threads, other processes and
other devices are in test_native_process, elementary functions in test_native_maths.
"""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import TOLERANCE, assert_agree, assert_backends_agree, check_native, scanned
from models import AUTO, assert_close, ensemble, learned, make_cell, random
from models import sum_of_squares as loss
from tuning import tuned

import noria as nr
from noria.backends.native.runtime import target

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")

KERNELS = re.compile(r'custom_call @noria_native.*?kernel = "(\w+)"')


class Mixing(nr.Cell):
    """Two states; a product of a concatenation, a norm over features, slices, a selection."""

    U: jax.Array
    V: jax.Array

    def __call__(self, state: Any, x: jax.Array) -> Any:
        h, c = state
        a = self.U @ jnp.concatenate([h, x])
        a = a / jnp.sqrt(1 + jnp.vdot(a, a))
        c = jnp.where(a > 0, jnp.tanh(self.V @ c), c - jnp.max(h))
        return jnp.concatenate([a[1:], a[:1]]), 0.5 * c

    def initial_state(self) -> Any:
        return jnp.zeros(len(self.U), self.U.dtype), jnp.zeros(len(self.V), self.V.dtype)


def mixing(features: int, hidden: int, dtype: Any) -> Mixing:
    scale = jnp.asarray(hidden**-0.5, dtype)
    return Mixing(
        scale * random(1, hidden, hidden + features, dtype=dtype),
        scale * random(2, hidden, hidden, dtype=dtype),
    )


def layer_of(
    name: str, features: int, hidden: int, dtype: Any = jnp.float64, **options: Any
) -> nr.Recurrence:
    make = mixing if name == "mixing" else partial(make_cell, name)
    return learned(make(features, hidden, dtype=dtype), **options)


def kernels(function: Any, *args: Any) -> list[str]:
    """The names of the kernels that a function calls, in the order of the program."""
    return KERNELS.findall(jax.jit(function).lower(*args).as_text())


def check_against_scan(layer: nr.Recurrence, xs: jax.Array) -> None:
    assert nr.explain(layer, xs).backend == "native"
    check_native(layer, xs)


# --- sizes ----------------------------------------------------------------------------------------


def odd_sizes() -> list[Any]:
    """(cell, dtype, batch, time, features, hidden): sizes at borders of vectors and tiles."""
    rng = np.random.default_rng(0)
    hidden = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 47, 50, 63, 64, 65, 70]
    found = []
    for n, size in enumerate(hidden):
        name = ("mixing", "lstm", "gru", "rnn")[n % 4]
        dtype = (jnp.float32, jnp.float64)[n // 2 % 2]
        batch, time = int(rng.integers(1, 71)), int(rng.integers(1, 4))
        features = (1, 3, 1, 20)[n % 4]
        size = max(size, 2) if name == "mixing" else size  # it takes half of its state
        label = f"{name}-{dtype.dtype}-{batch}-{size}"
        found.append(pytest.param(name, dtype, batch, time, features, size, id=label))
    return found


@pytest.mark.sampled(27)
@pytest.mark.parametrize(("name", "dtype", "batch", "time", "features", "hidden"), odd_sizes())
def test_odd_sizes_agree_with_the_scan(name, dtype, batch, time, features, hidden):
    check_against_scan(
        layer_of(name, features, hidden, dtype), random(0, batch, time, features, dtype=dtype)
    )


def test_products_of_a_vector_and_of_its_beginning_have_panels_of_their_own():
    """Both multiply the same row from its first number on, with different depths."""
    U, V = random(1, 3, 3), random(2, 6, 3)

    def cell(state: Any, x: jax.Array) -> Any:
        a = jnp.concatenate([state[0], state[1]]) * x
        return a[:3] @ U + 1, a @ V, a

    start = jnp.ones(3), jnp.ones(3), jnp.ones(6)
    check_against_scan(nr.Recurrence(cell, start), random(3, 3, 5, 6))


@pytest.mark.sampled(7)
@pytest.mark.parametrize("batch", [0, 1, 2, 5, 6, 7, 8, 9, 13, 29, 70])
def test_every_batch_size_agrees_with_the_scan(batch):
    check_against_scan(layer_of("mixing", 2, 5), random(0, batch, 3, 2))


@pytest.mark.covered(1)
@pytest.mark.parametrize("batch", [(), (0,), (1,), (3,)])
@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_zero_steps_and_one_agree_with_the_scan(batch, time, reverse):
    check_against_scan(layer_of("mixing", 2, 5, reverse=reverse), random(0, *batch, time, 2))


# --- instruction sets -----------------------------------------------------------------------------


@pytest.mark.covered(1)
@pytest.mark.parametrize("isa", [isa.name for isa in target.available()])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("cell", ["mixing", "lstm"])
def test_each_instruction_set_agrees_with_the_scan(isa, dtype, cell, tune):
    tune(isa=isa)
    check_against_scan(layer_of(cell, 3, 19, dtype), random(0, 7, 4, 3, dtype=dtype))


def test_each_instruction_set_has_its_own_kernel():
    layer, xs = layer_of("rnn", 3, 19), random(0, 7, 4, 3)
    found = set()
    for isa in target.available():
        with tuned(isa=isa.name):
            found.update(kernels(lambda layer, xs: layer(xs), layer, xs))
    assert len(found) == len(target.available())


def test_an_unknown_instruction_set_is_refused_with_the_reason(tune):
    tune(isa="nonsense")
    layer, xs = layer_of("rnn", 3, 4), random(0, 2, 4, 3)
    found = nr.explain(layer, xs)
    assert found.backend == "scan"
    assert "NORIA_NATIVE_ISA='nonsense'; expected one of what this machine has: " in found.reason
    with pytest.raises(
        ValueError, match=r'backend="native" cannot run this step: NORIA_NATIVE_ISA=.nonsense.'
    ):
        nr.with_backend(layer, "native")(xs)


# --- which backend, and where ---------------------------------------------------------------------


def test_noria_backend_selects_the_scan(monkeypatch):
    monkeypatch.setenv("NORIA_BACKEND", "scan")
    layer, xs = layer_of("rnn", 3, 4), random(0, 2, 4, 3)
    found = nr.explain(layer, xs)
    assert (found.backend, found.reason) == (
        "scan",
        "as the environment variable NORIA_BACKEND asks for",
    )
    assert not kernels(jax.grad(loss), layer, xs)


def test_a_step_without_code_is_refused_with_the_reason():
    layer = nr.Recurrence(lambda h, x: jnp.sort(h) + x, jnp.zeros(3), backend="native")
    expected = (
        r'Recurrence\(<lambda>\): backend="native" cannot run this step: '
        r"there is no native code for sort of "
        r'f64\[3\]( f64\[3\])?(, test_native.py:\d+)?; expected backend="auto" or backend="scan"\.'
    )
    with pytest.raises(ValueError, match=expected):
        layer(random(0, 2, 4, 3))


@pytest.mark.sampled(13)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gruv3", "rnn"])  # nothing that jumps
@pytest.mark.parametrize(("batch", "time"), [(1, 7), (3, 6)])
def test_bfloat16_is_computed_in_float32(name, reverse, batch, time):
    """Results and cotangents are those of the layer in float32, rounded."""
    layer = layer_of(name, 3, 8, jnp.bfloat16, reverse=reverse)
    xs = random(0, batch, time, 3, dtype=jnp.bfloat16)
    wide = nr.cast(layer, jnp.float32)
    assert nr.explain(layer, xs).backend == "native"
    options = {"lengths": jnp.arange(batch) + time - batch, "resets": random(1, batch, time) > 1}
    for some in ({}, options):
        found, expected = scanned(layer, xs, **some), scanned(wide, xs.astype(jnp.float32), **some)
        assert {leaf.dtype.name for leaf in jtu.tree_leaves(found)} == {"bfloat16"}
        assert_close(jtu.tree_map(lambda a: a.astype(jnp.float32), found), expected, 2**-6)


def test_bfloat16_is_carried_in_float32():
    """A sum of small numbers keeps growing, for which eight bits are too few."""
    layer = nr.Recurrence(lambda h, x: h + x, jnp.zeros(2, jnp.bfloat16))
    xs = jnp.full((1000, 2), 0.01, jnp.bfloat16)
    np.testing.assert_allclose(jax.jit(layer)(xs)[-1].astype(jnp.float32), 10, rtol=2**-7)
    assert nr.with_backend(layer, "scan")(xs)[-1].max() < 5


@jax.custom_vjp
def straight_through(x):
    return jnp.minimum(x, 0.5)


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, g: (3 * g,))


@jax.custom_jvp
def steep(x):
    return jnp.tanh(x)


steep.defjvp(lambda primals, tangents: (jnp.tanh(primals[0]), 3 * tangents[0]))


def branched(x):
    return jax.lax.cond(x.sum() > 0, straight_through, steep, x)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("function", [straight_through, steep, branched])
def test_functions_keep_their_own_derivatives(function, dtype):
    """In a step, which is differentiated by XLA; in the loop; and in forward mode."""
    layer = nr.Recurrence(lambda h, x: function(h) + x, jnp.zeros(2, dtype))
    assert nr.explain(layer, jnp.ones((3, 2), dtype)).backend == "native"
    state, xs = jnp.full(2, 0.75, dtype), jnp.ones((3, 2), dtype)

    def runs(backend: str) -> list[Any]:
        run = nr.with_backend(layer, backend)
        ends = [lambda h: run.step(h, xs[0])[0], lambda h: run.scan(h, xs)[0]]
        ends.append(lambda h: jax.vmap(ends[0])(jnp.stack([h, -h])).sum(0))
        found = [jax.vjp(jax.jit(end), state)[1](state) for end in ends]
        if function is steep:
            found += [(jax.jvp(jax.jit(end), [state], [state])[1],) for end in ends]
        return [a.astype(jnp.float32) for (a,) in found]

    found = runs("native")
    assert_close(found, runs("plain"), 2**-6)
    expected = [np.full(2, slope * 0.75, np.float32) for slope in (3, 27)]
    assert_close(found[:2], expected, 2**-6)


def test_another_platform_is_lowered_as_a_scan():
    """A layer becomes one loop of XLA, and its gradient two."""
    layer, xs = layer_of("lstm", 3, 4), random(0, 2, 4, 3)
    for function, loops in ((lambda layer, xs: layer(xs), 1), (jax.grad(loss), 2)):
        text = jax.jit(function).trace(layer, xs).lower(lowering_platforms=("cuda",)).as_text()
        assert text.count("stablehlo.while") == loops
        assert "noria_" not in text


def test_only_kernels_that_run_are_compiled(monkeypatch):
    """Inference compiles one kernel, a training step two, and the same training step none.

    The gradient of the input alone stores less and sums nothing, which makes two other kernels.
    """
    import llvmlite.binding

    compiled, original = [], llvmlite.binding.create_mcjit_compiler

    def spy(*args: Any) -> Any:
        compiled.append(args)
        return original(*args)

    monkeypatch.setattr(llvmlite.binding, "create_mcjit_compiler", spy)
    layer, xs = layer_of("lstm", 3, 43), random(0, 3, 4, 3)
    jax.jit(loss)(layer_of("rnn", 3, 2), xs)  # also loads the code that all kernels share
    compiled.clear()

    @jax.jit
    def train(layer: Any, xs: Any) -> Any:
        value, gradient = nr.value_and_grad(loss)(layer, xs)
        return value, jtu.tree_map(lambda p, g: p - 0.1 * g, layer, gradient)

    for function, count in (
        (train, 2),
        (train, 2),
        (jax.jit(loss), 3),
        (jax.jit(jax.grad(loss, argnums=1)), 5),
    ):
        function(layer, xs)
        assert len(compiled) <= count
        assert len(compiled) >= min(count, 3)
    train(layer, random(0, 5, 9, 3))  # other sizes, the same code
    assert len(compiled) <= 5


@pytest.mark.full
def test_second_derivatives_agree_with_the_plain_loop():
    """Reverse over reverse."""

    def inner(layer: Any, xs: Any) -> Any:
        gradients = jtu.tree_leaves(jax.grad(loss, argnums=(0, 1))(layer, xs))
        return sum(jnp.sum(g**2) for g in gradients)

    second = jax.grad(inner, argnums=(0, 1))
    layer, xs = layer_of("mixing", 2, 5), random(0, 3, 4, 2)
    assert_backends_agree(second, layer, xs, backends=("native", "plain"))


# --- batching -------------------------------------------------------------------------------------


MAPS: dict[str, tuple[Any, Any]] = {
    "weights": ((0, None), (4, 3, 2)),
    "weights and inputs": ((0, 0), (3, 4, 3, 2)),
    "weights and single inputs": ((0, 0), (3, 3, 2)),
    "inputs": ((None, 0), (3, 4, 3, 2)),
    "inputs along another axis": ((None, 1), (4, 3, 3, 2)),
    "no steps": ((None, 0), (3, 4, 0, 2)),
}


@pytest.mark.sampled(19)
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("cell", ["mixing", "gru"])
def test_vmap_agrees_with_a_loop(name, cell):
    """Values and gradients of each model or input, against a loop over them."""
    axes, shape = MAPS[name]
    layer, xs = layer_of(cell, 2, 5), random(0, *shape)
    layers = ensemble(layer, 3) if axes[0] == 0 else layer

    def each(layer: Any, xs: Any) -> Any:
        return layer.scan(None, xs), jtu.tree_leaves(jax.grad(loss, argnums=(0, 1))(layer, xs))

    def alone(n: int) -> Any:
        def pick(tree: Any, axis: Any) -> Any:
            return tree if axis is None else jtu.tree_map(lambda a: jnp.take(a, n, axis), tree)

        return jax.jit(each)(nr.with_backend(pick(layers, axes[0]), "scan"), pick(xs, axes[1]))

    found = jax.jit(jax.vmap(each, in_axes=axes))(layers, xs)
    assert_close(
        found, jtu.tree_map(lambda *leaves: jnp.stack(leaves), *map(alone, range(3))), 1e-10
    )


def test_vmap_in_vmap_and_over_the_state_alone_agree_with_one_batch():
    layer, xs, starts = layer_of("gru", 2, 5), random(0, 2, 3, 4, 2), random(1, 6, 5)
    twice = jax.vmap(jax.vmap(lambda x: layer.scan(None, x)))(xs)
    flat = nr.with_backend(layer, "scan").scan(None, xs.reshape(6, 4, 2))
    assert_close(twice, jtu.tree_map(lambda a: a.reshape(2, 3, *a.shape[1:]), flat), 1e-12)
    found = jax.vmap(lambda start: layer.scan(start, xs[0, 0]))(starts)
    expected = nr.with_backend(layer, "scan").scan(starts, jnp.broadcast_to(xs[0, 0], (6, 4, 2)))
    assert_close(found, expected, 1e-12)


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.sampled(9)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", ["mixing", "lstm", "gru", "rnn"])
def test_nan_and_infinity_arise_where_they_do_in_a_scan(name, dtype):
    """One example of each kind among ordinary ones, which stay finite."""
    big = float(jnp.finfo(dtype).max)
    poison = [jnp.nan, jnp.inf, -jnp.inf, big, -big, 0.0, -0.0, float(jnp.finfo(dtype).tiny), 1.0]
    layer, xs = layer_of(name, 2, 9, dtype), random(0, len(poison), 4, 2, dtype=dtype)
    xs = xs.at[:, 1, 1].set(jnp.asarray(poison, dtype))
    one = lambda layer, x: (layer.scan(None, x), jax.grad(loss, argnums=1)(layer, x))  # noqa: E731
    found, expected = (
        jtu.tree_leaves(
            jax.jit(jax.vmap(one, in_axes=(None, 0)))(nr.with_backend(layer, backend), xs)
        )
        for backend in ("native", "scan")
    )
    for a, b in zip(found, expected, strict=True):
        tolerance = 100 * TOLERANCE[dtype.dtype.name]
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    assert np.isnan(found[0][0]).any()
    assert np.isfinite(found[0][5:]).all()


def test_repeated_calls_give_the_same_bits():
    layer, xs = layer_of("mixing", 20, 33, jnp.float32), random(0, 37, 9, 20, dtype=jnp.float32)
    function = jax.jit(
        lambda layer, xs: (layer.scan(None, xs), jax.grad(loss, argnums=(0, 1))(layer, xs))
    )
    first = jtu.tree_leaves(function(layer, xs))
    for _ in range(20):
        for a, b in zip(jtu.tree_leaves(function(layer, xs)), first, strict=True):
            np.testing.assert_array_equal(a, b)


def test_every_number_of_threads_gives_the_same_bits():
    layer, xs = layer_of("lstm", 20, 65, jnp.float32), random(0, 37, 50, 20, dtype=jnp.float32)
    results, programs = [], set()
    for cores in (1, 2, 3):
        function = jax.jit(
            lambda layer, xs: (layer.scan(None, xs), jax.grad(loss, argnums=(0, 1))(layer, xs))
        )
        with tuned(cores=cores):
            programs.add(function.lower(layer, xs).as_text())
            results.append(jtu.tree_leaves(function(layer, xs)))
    assert len(programs) == 3, "each number of cores shares the work otherwise"
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


# --- steps that were once computed wrongly, or not at all -----------------------------------------


A, B = random(1, 4, 4), random(2, 4, 3)
A32 = A.astype(jnp.float32)
WHOLE = jnp.arange(16).reshape(4, 4) % 3
ONES, COUNTS = jnp.ones(4), jnp.arange(4)

STEPS: dict[str, tuple[Any, Any]] = {
    "a row that is one number": (
        lambda h, x: jnp.tanh(A @ jnp.broadcast_to(h.sum(), (4,)) + B @ x),
        ONES,
    ),
    "a row that is one number of the state": (
        lambda h, x: jnp.tanh((A @ jnp.broadcast_to(h, 4) + B @ x)[:1]),
        ONES[:1],
    ),
    "the mean of a product": (lambda h, x: jnp.tanh((A @ h).mean() + (B @ x) * h.mean()), ONES),
    "a product that gives another precision": (
        lambda h, x: jnp.tanh(
            jax.lax.dot_general(
                h.astype(jnp.float32),
                A32,
                (((0,), (1,)), ((), ())),
                preferred_element_type=jnp.float64,
            )
            + B @ x
        ),
        ONES,
    ),
    "products of two precisions": (
        lambda s, x: (
            jnp.tanh(A32 @ s[0] + (A @ s[1]).astype(jnp.float32)),
            jnp.tanh(A @ s[1] + (A32 @ s[0]).astype(jnp.float64) + B @ x),
        ),
        (ONES.astype(jnp.float32), ONES),
    ),
    "a product of whole numbers": (
        lambda s, x: (jnp.tanh(A @ s[0] + B @ x), (WHOLE @ s[1]) & 7),
        (ONES, COUNTS),
    ),
    "the maximum of truth values": (
        lambda s, x: (0.5 * s[0] + s[1].astype(x.dtype) * (B @ x), jnp.max(s[0] > 0)),
        (ONES, jnp.array(False)),
    ),
    "a concatenation of concatenations": (
        lambda h, x: jnp.tanh(jnp.concatenate([jnp.concatenate([h[2:], x[:1]]), h[:1]])),
        ONES,
    ),
    "a concatenation that is the state": (
        lambda h, x: jnp.concatenate([jnp.concatenate([h[2:], x[:1]]), h[:1]]),
        ONES,
    ),
    "a slice from the first on": (lambda h, x: jnp.tanh(A[:, :2] @ h[:2] + B @ x), ONES),
    "features rolled": (lambda h, x: jnp.roll(jnp.tanh(h + B @ x), 1), ONES),
    "numbers out of the range of whole ones": (
        lambda s, x: (
            -2 * s[0] + B @ x,
            (1e10 * s[0]).astype(jnp.int32),
            (1e9 * s[0]).astype(jnp.uint8),
        ),
        (ONES, jnp.zeros(4, jnp.int32), jnp.zeros(4, jnp.uint8)),
    ),
    "a parameter as the state": (lambda s, x: (A[0], s[0], 0 * s[1] + 1), (ONES, ONES, ONES)),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.timeout(60)
def test_steps_that_once_failed_agree_with_the_plain_loop(name):
    """As machine code if there is any."""
    check(*STEPS[name])


def check(cell: Any, state: Any) -> None:
    layer, xs = nr.Recurrence(cell, state), random(0, 3, 4, 3)
    narrow = any(leaf.dtype == jnp.float32 for leaf in jtu.tree_leaves(state))
    tolerance = TOLERANCE["float32" if narrow else "float64"]
    assert_agree(layer, nr.with_backend(layer, "plain"), xs, tolerance=tolerance)


WIDENED: dict[str, Any] = {
    "layer norm": lambda h, x: (
        (A @ h - (A @ h).mean()) * jax.lax.rsqrt((A @ h).var() + 0.1) + B @ x
    ),
    "softmax": lambda h, x: jax.nn.softmax(A @ h + B @ x),
    "log softmax": lambda h, x: jax.nn.log_softmax(A @ h + B @ x),
    "logsumexp": lambda h, x: jax.nn.logsumexp(A @ h) + B @ x,
    "slice": STEPS["a slice from the first on"][0],
    "padding": lambda h, x: jnp.pad(jnp.tanh(h[1:]), (1, 0)) + B @ x,
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", WIDENED)
def test_common_steps_have_machine_code_in_both_directions(name):
    layer, xs = nr.Recurrence(WIDENED[name], ONES), random(0, 3, 4, 3)
    assert nr.explain(layer, xs).reason == "the fastest one on CPUs"
    assert len(kernels(jax.grad(lambda xs: loss(layer, xs)), xs)) == 2
    check(WIDENED[name], ONES)


class SpreadCell(nr.Cell):
    """A product of a weight with one number, repeated."""

    U: jax.Array
    of_input: bool

    def initial_state(self) -> jax.Array:
        return jnp.linspace(0.1, 0.9, 7)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        number = x[1] if self.of_input else h[2]
        return jnp.tanh(self.U @ jnp.broadcast_to(number, (3,)) + 0.3 * h)


@pytest.mark.parametrize("cached_weight_bytes", [1, 1_000_000], ids=["block", "step"])
@pytest.mark.parametrize("of_input", [False, True], ids=["state", "input"])
def test_a_product_of_one_number_repeated(of_input, cached_weight_bytes, tune):
    tune(cached_weight_bytes=cached_weight_bytes)
    layer = nr.Recurrence(SpreadCell(random(0, 7, 3), of_input))
    check_native(layer, random(1, 2, 5, 4))
