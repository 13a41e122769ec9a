"""The compiled cell: products inside of the loops, residuals, size of the program, explanation."""

import logging
import time
from itertools import pairwise
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from models import AUTO, CELLS, assert_close, make_cell, random
from models import sum_of_squares as loss

import noria as nr
from noria.backends import loop_backend
from noria.compiler.program import split_step
from noria.compiler.select import listening
from noria.compiler.trace import Steps, trace
from noria.ir.build import graph_of

KEY = jax.random.key(0)


class Concatenating(nr.Cell):
    """One weight for input and state together."""

    W: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.W @ jnp.concatenate([x, h]))

    def initial_state(self) -> jax.Array:
        return jnp.zeros(4)


class ReadingOut(nr.Cell):
    """A projection of the state, and one of the input, in the output."""

    U: jax.Array
    C: jax.Array
    D: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.U @ h + x)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return self.C @ h + self.D @ x

    def initial_state(self) -> jax.Array:
        return jnp.zeros(3)


class GateByGate(nr.Cell):
    """Gates from a list of weights, each with a product of its own."""

    W: list[jax.Array]
    U: list[jax.Array]

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        z, n = (W @ x + U @ h for W, U in zip(self.W, self.U, strict=True))
        return h + jax.nn.sigmoid(z) * (jnp.tanh(n) - h)

    def initial_state(self) -> jax.Array:
        return jnp.zeros(4)


class WeightNormalised(nr.Cell):
    """A recurrent weight that is computed from parameters."""

    V: jax.Array
    g: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        W = self.g[:, None] * self.V / jnp.linalg.norm(self.V @ self.V, axis=1, keepdims=True)
        return jnp.tanh(W @ h + x)

    def initial_state(self) -> jax.Array:
        return jnp.zeros(3)


class MatricesOfTheInput(nr.Cell):
    """A weight of three axes before the loop."""

    W: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return 0.5 * h + (self.W @ x) @ x

    def initial_state(self) -> jax.Array:
        return jnp.zeros(6)


class Rounds(nr.Cell):
    """The same layer twice, with other weights."""

    U: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, U: (jnp.tanh(U @ h + x), None), h, self.U)[0]

    def initial_state(self) -> jax.Array:
        return jnp.zeros(self.U.shape[-1])


class Highway(nr.Cell):
    """An inner network of two layers with normalised hidden units; two products with the state."""

    A: jax.Array
    B: jax.Array
    scale: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        inner = jax.nn.relu(self.A @ h + x)
        inner = self.scale * (inner - inner.mean()) / jnp.sqrt(inner.var() + 1e-5)
        return h + jnp.tanh(self.B @ inner)

    def initial_state(self) -> jax.Array:
        return jnp.zeros(3)


#: By name: a cell, and the products of its forward and its reverse loop.
LOOPS_OF: dict[str, tuple[Any, int, int]] = {
    "rnn": (make_cell("rnn"), 1, 1),
    "lstm": (make_cell("lstm"), 1, 1),
    "gru": (make_cell("gru"), 1, 1),
    "gruv3": (make_cell("gruv3"), 2, 2),
    "W @ concat([x, h])": (Concatenating(random(0, 4, 7)), 1, 1),
    "read-out": (ReadingOut(random(0, 3, 3), random(1, 2, 3), random(2, 2, 3)), 1, 1),
    "gate by gate": (
        GateByGate([random(0, 4, 3), random(1, 4, 3)], [random(2, 4, 4), random(3, 4, 4)]),
        1,
        1,
    ),
    "weight norm": (WeightNormalised(random(0, 3, 3), random(1, 3)), 1, 1),
    "inner loop": (Rounds(random(0, 2, 3, 3)), 2, 2),
    "inner network": (Highway(random(0, 3, 3), random(1, 3, 3), random(2, 3)), 2, 2),
}
cases = pytest.mark.parametrize("name", LOOPS_OF)


def products_of_loops(function: Any, *args: Any) -> list[int]:
    """The number of products in the body of each loop of the lowered program, in its order."""
    module: Any = jax.jit(function).lower(*args).compiler_ir("stablehlo")
    functions = {str(op.attributes["sym_name"]).strip('"'): op for op in module.body.operations}

    def operations(op: Any) -> Any:
        for region in op.regions:
            for block in region.blocks:
                for inner in block.operations:
                    yield inner.operation
                    if inner.operation.name == "func.call":
                        called = str(inner.operation.attributes["callee"]).strip('@"')
                        yield from operations(functions[called].operation)
                    yield from operations(inner.operation)

    loops = [op for op in operations(functions["main"].operation) if op.name == "stablehlo.while"]
    return [sum(op.name == "stablehlo.dot_general" for op in operations(loop)) for loop in loops]


@pytest.mark.covered(1)
@cases
@pytest.mark.parametrize("batch", [(), (5,)], ids=["one", "batch"])
def test_products_inside_of_the_loops(name, batch):
    """As many as the mathematics needs: none of the input, for parameters, or for the output."""
    cell, forward, reverse = LOOPS_OF[name]
    layer, xs = nr.Recurrence(cell, backend="scan"), jnp.ones((*batch, 6, 3))
    assert products_of_loops(lambda layer, xs: layer.scan(None, xs), layer, xs) == [forward]
    for save in ("gates", "states"):
        layer = nr.Recurrence(cell, backend="scan", save=save)
        assert products_of_loops(jax.grad(loss), layer, xs) == [forward, reverse]
    plain = nr.Recurrence(cell, backend="plain")
    assert sum(products_of_loops(jax.grad(loss), plain, xs)) > forward + reverse


@pytest.mark.covered(1)
@cases
@pytest.mark.parametrize(("backend", "runs"), [("auto", AUTO), ("scan", "scan")])
def test_explanation_tells_the_same(name, backend, runs):
    """On the native backend, products of the input are in the loop, since they are small."""
    cell, forward, reverse = LOOPS_OF[name]
    layer, xs = nr.Recurrence(cell, backend=backend), jnp.ones((2, 6, 3))
    found, of_the_input = nr.explain(layer, xs), 0
    count = lambda lines: sum(line.name == "dot_general" for line in lines)  # noqa: E731
    if runs == "native":
        decisions: list[Any] = []
        with listening(decisions.append):
            jax.eval_shape(nr.with_backend(layer, "scan"), xs)
        of_the_input = count(decisions[0].program.split.prologue.equations)
    assert (count(found.loop), count(found.reverse)) == (
        forward + of_the_input,
        reverse + of_the_input,
    )
    assert found.flops["loop"] >= 2 * 6 * 2 * 9 * forward
    assert found.backend == runs


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_an_explanation_has_the_products_that_run(kind):
    """On the scan backend each gate has a product of the input; slices of it are hoisted."""
    layer, xs = nr.Recurrence(make_cell(kind), backend="scan"), jnp.ones((2, 6, 3))
    found = nr.explain(layer, xs)
    lines = (*found.constant, *found.before, *found.loop, *found.after)
    run = equations_of(jax.make_jaxpr(lambda layer, xs: layer(xs))(layer, xs).jaxpr)
    for name in ("dot_general", "split", "tanh"):
        assert sum(line.name == name for line in lines) == run.count(name), name
    assert sum(line.name == "dot_general" for line in found.before) > 1


def equations_of(jaxpr: Any) -> list[str]:
    """The names of all equations, inner ones too."""
    kinds = jax.extend.core.ClosedJaxpr, jax.extend.core.Jaxpr
    leaves = jtu.tree_leaves([e.params for e in jaxpr.eqns])
    inner = [getattr(leaf, "jaxpr", leaf) for leaf in leaves if isinstance(leaf, kinds)]
    names = [e.primitive.name for e in jaxpr.eqns]
    return names + [name for some in inner for name in equations_of(some)]


def test_nothing_is_differentiated_that_nobody_asked_for():
    """Without the gradient of parameters, or of the input, no contraction of it follows."""
    layer, xs = nr.Recurrence(make_cell("lstm"), backend="scan"), random(0, 2, 6, 3)

    def all_products(function: Any) -> int:
        return str(jax.jit(function).lower(layer, xs).as_text()).count("stablehlo.dot_general")

    both = all_products(lambda layer, xs: jax.grad(loss, argnums=(0, 1))(layer, xs))
    assert all_products(lambda layer, xs: jax.grad(loss, argnums=1)(layer, xs)) == both - 2
    assert all_products(lambda layer, xs: jax.grad(loss)(layer, xs)) == both - 1
    assert nr.grad(loss)(nr.freeze(layer, lambda m: m.cell.U), xs).cell.U is None


def test_the_size_of_the_program_does_not_depend_on_time():
    layer = nr.GRU(3, 4, key=KEY)

    def size(time: int) -> int:
        return len(equations_of(jax.make_jaxpr(jax.grad(loss))(layer, jnp.zeros((time, 3))).jaxpr))

    assert size(8) == size(800)


def test_tracing_and_splitting_a_gru_is_quick():
    cell = make_cell("gru", 64, 64)
    step = Steps(jax.ShapeDtypeStruct((64,), jnp.float64), None, None, None)
    durations = []
    for _ in range(5):
        began = time.perf_counter()
        split_step(trace(cell, cell.initial_state(), step), 8, loop_backend("scan"))
        durations.append(time.perf_counter() - began)
    assert sorted(durations)[2] < 0.15


# --- memory ---------------------------------------------------------------------------------------


def temporary_bytes(layer: Any, xs: Any) -> int:
    def last(layer: Any, xs: Any) -> Any:
        return sum(jnp.sum(leaf**2) for leaf in jtu.tree_leaves(layer.scan(None, xs)[0]))

    analysis: Any = jax.jit(jax.grad(last)).lower(layer, xs).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def test_checkpoints_make_memory_grow_like_the_square_root_of_time():
    cell = make_cell("lstm", 8, 32)
    sizes = [
        temporary_bytes(nr.Recurrence(cell, checkpoint="sqrt"), jnp.zeros((4, t, 8)))
        for t in (1024, 4096, 16384)
    ]
    for small, large in pairwise(sizes):
        assert 2 * 0.85 < large / small < 2 * 1.15
    assert temporary_bytes(nr.Recurrence(cell), jnp.zeros((4, 4096, 8))) > 10 * sizes[1]


@pytest.mark.parametrize("verb", ["sequence", "step"])
def test_a_weight_of_three_axes_outside_of_the_loop_is_a_matrix(verb):
    """XLA transposes a copy of it in each call otherwise."""
    layer, xs = nr.Recurrence(MatricesOfTheInput(random(1, 6, 4, 4))), random(2, 3, 7, 4)

    def run(layer, xs):
        return layer(xs) if verb == "sequence" else layer.step(jnp.zeros((3, 6)), xs[:, 0])[1]

    lowered = jax.jit(run).lower(layer, xs)
    products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    assert products
    assert not any("6x4x4x" in line for line in products)
    plain = nr.with_backend(layer, "plain")
    assert_close(run(layer, xs), run(plain, xs), 1e-12)
    gradient = jax.grad(lambda layer: jnp.sum(run(layer, xs) ** 2))
    assert_close(gradient(layer).cell, gradient(plain).cell, 1e-12)


@pytest.mark.parametrize(
    "cell",
    [
        Concatenating(random(1, 4, 7)),
        GateByGate([random(2, 4, 3), random(3, 4, 3)], [random(4, 4, 4), random(5, 4, 4)]),
        ReadingOut(random(6, 3, 3), random(7, 5, 3), random(8, 5, 3)),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_one_step_is_one_kernel_that_reads_each_weight_where_it_is(cell):
    layer, state, x = nr.Recurrence(cell), cell.initial_state(), random(9, 3)
    jaxpr = jax.make_jaxpr(lambda layer, state, x: layer.step(state, x))(layer, state, x)
    names = equations_of(jaxpr.jaxpr)
    assert "slice" not in names
    assert "concatenate" not in names
    assert "dot_general" not in names
    plain = nr.with_backend(layer, "plain")
    assert_close(layer.step(state, x), plain.step(state, x), 1e-14)


def test_states_alone_take_less_memory_than_gates():
    cell, xs = make_cell("lstm", 8, 32), jnp.zeros((4, 1024, 8))
    gates, states = (
        temporary_bytes(nr.Recurrence(cell, save=save), xs) for save in ("gates", "states")
    )
    assert (
        states < gates / 2
    )  # two arrays instead of five, where h is read from the outputs, or of six


@pytest.mark.covered(1)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    "options", [{}, {"save": "states"}, {"checkpoint": 8}], ids=["gates", "states", "checkpoint"]
)
def test_saved_bytes_predict_what_is_stored(name, options):
    """Measured: the residuals of the compiled forward pass, less parameters, inputs and outputs.

    The native backend reads the state before a step from the outputs, which are residuals too.
    """
    layer, xs = nr.Recurrence(make_cell(name, 8, 16), **options), jnp.zeros((4, 64, 8))

    def forward(layer: Any, xs: Any) -> Any:
        values, pull = jax.vjp(lambda layer, xs: layer.scan(None, xs), layer, xs)
        return values, jtu.tree_leaves(pull)

    _, stored = jax.eval_shape(forward, layer, xs)
    long = sum(
        leaf.size * leaf.dtype.itemsize for leaf in stored if leaf.size >= 4 * 8 and leaf.ndim >= 3
    )
    outputs = layer(xs).nbytes if AUTO == "native" and not options else 0
    assert nr.explain(layer, xs).saved_bytes == pytest.approx(long - xs.nbytes - outputs, rel=0.05)


# --- explanations ---------------------------------------------------------------------------------


def test_a_page_about_an_lstm():
    page = str(nr.explain(nr.LSTM(3, 4, key=KEY), jnp.zeros((2, 5, 3)), lengths=jnp.array([3, 5])))
    assert page.startswith(f"LSTM(in_size=3): 2 examples, 5 steps, backend {AUTO}: ")
    for text in (
        "before: all steps at once",
        "lstm.py:",
        "c = f * c + i * self.activation(clipped(self.clip, g))",
        "3 logistic",
        "2 mul, tanh, add",
        f"dot_general(f64[4] {'f64[16,4]' if AUTO == 'native' else 'f64[4,16]'} -> f64[16])",
        "stored for the gradient",
    ):
        assert text in page
    assert len(page.splitlines()) < 60


def test_a_model_explains_each_recurrent_layer():
    k1, k2 = jax.random.split(KEY)
    net = nr.Chain(
        nr.Bidirectional(nr.GRU(3, 4, key=k1)),
        nr.Dense(8, 2, key=k2),
        nr.RNN(2, 2, key=k2, backend="plain"),
    )
    found = nr.explain(net, jax.ShapeDtypeStruct((5, 3), jnp.float64))
    assert [e.label for e in found] == ["GRU(in_size=3)", "GRU(in_size=3)", "RNN(in_size=2)"]
    assert [e.backend for e in found] == [AUTO, AUTO, "plain"]
    assert str(found[2]) == "RNN(in_size=2): 5 steps, backend plain: as asked for."
    with pytest.raises(ValueError, match=r"explain\(Dense.*no recurrent layer"):
        nr.explain(net[1], jnp.zeros((5, 8)))


def test_a_cell_with_a_side_effect_runs_plainly_and_says_so(caplog):
    def cell(h: jax.Array, x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda h: None, h)
        return jnp.tanh(h + x)

    layer, xs = nr.Recurrence(cell, initial_state=jnp.zeros(3)), random(0, 4, 3)
    with caplog.at_level(logging.DEBUG, "noria"):
        ys = layer(xs)
    assert "backend plain: a step has the side effect" in caplog.text
    assert_close(ys, nr.with_backend(layer, "reference")(xs), 1e-12)
    assert nr.explain(layer, xs).backend == "plain"
    with pytest.raises(ValueError, match=r"side effect .* cannot be split"):
        nr.Recurrence(cell, initial_state=jnp.zeros(3), checkpoint=2)(xs)


@pytest.mark.parametrize("backend", ["auto", "scan"])
@pytest.mark.parametrize("options", [{}, {"save": "states"}, {"checkpoint": 2}])
def test_a_layer_without_a_gradient_is_explained(backend, options):
    """`jax.lax.while_loop` has no derivative in reverse mode: the page says so."""

    def cell(h: jax.Array, x: jax.Array) -> jax.Array:
        grown = jax.lax.while_loop(lambda a: a.sum() < 3.0, lambda a: a + 1.0, jnp.abs(h))
        return jnp.tanh(grown + x)

    layer = nr.Recurrence(cell, initial_state=jnp.zeros(4), backend=backend, **options)
    found = nr.explain(layer, jnp.ones((2, 3, 4)))
    assert "while" in [line.name for line in found.loop]
    assert "; no gradient: Reverse-mode differentiation does not work for" in found.reason
    assert (found.reverse, found.gradients, found.saved, found.saved_bytes) == ((), (), (), 0)
    assert "no gradient" in str(found)
    assert "no gradient" in found._repr_html_()
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work for"):
        jax.grad(loss)(layer, jnp.ones((2, 3, 4)))


@pytest.mark.parametrize("backend", ["scan", "native", "associative"])
def test_a_prologue_without_a_gradient_is_explained(backend):
    """`jax.lax.while_loop` of the input is hoisted, and JAX differentiates the prologue."""

    def cell(h: jax.Array, x: jax.Array) -> jax.Array:
        return 0.5 * h + jax.lax.while_loop(lambda a: a.sum() < 3.0, lambda a: a + 1.0, x)

    layer = nr.Recurrence(cell, initial_state=jnp.zeros(4), backend=backend)
    found = nr.explain(layer, jnp.ones((2, 3, 4)))
    assert "while" in [line.name for line in found.before]
    assert "; no gradient: Reverse-mode differentiation does not work for" in found.reason
    assert (found.reverse, found.gradients, found.saved, found.saved_bytes) == ((), (), (), 0)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work for"):
        jax.grad(loss, argnums=1)(layer, jnp.ones((2, 3, 4)))


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.covered(1)
@pytest.mark.parametrize("options", [{"save": "states"}, {"checkpoint": 1}, {"checkpoint": 3}])
@pytest.mark.parametrize(("batch", "time"), [((), 0), ((2,), 0), ((0,), 7), ((), 1), ((2,), 7)])
def test_short_and_empty_sequences(options, batch, time):
    layer, xs = nr.Recurrence(make_cell("lstm"), **options), random(0, *batch, time, 3)
    plain = nr.Recurrence(make_cell("lstm"), backend="plain")
    assert_close(layer.scan(None, xs), plain.scan(None, xs), 1e-12)
    both = [jtu.tree_leaves(jax.grad(loss, argnums=(0, 1))(model, xs)) for model in (layer, plain)]
    assert_close(both[0], both[1], 1e-12)


@pytest.mark.covered(1)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("learned", ["state and outputs", "state"])
def test_states_are_differentiated_in_chunks(reverse, learned):
    """Three chunks of 16 steps and a rest of 5, with lengths, and perhaps cotangents of outputs."""
    xs, lengths = random(0, 2, 53, 3), jnp.array([50, 7])

    def gradients(**options: Any) -> Any:
        layer = nr.Recurrence(
            make_cell("gru"), reverse=reverse, learn_initial_state=True, **options
        )

        def value(layer: Any, xs: Any) -> jax.Array:
            state, ys = layer.scan(None, xs, lengths=lengths)
            return jnp.sum(state**3) + (jnp.sum(ys**2) if learned != "state" else 0.0)

        return jtu.tree_leaves(jax.jit(jax.grad(value, argnums=(0, 1)))(layer, xs))

    assert_close(gradients(save="states"), gradients(backend="plain"), 1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_long_sequences_are_hoisted_in_chunks(reverse, tune):
    """With a budget that no sequence fits, chunks of 16 steps and a rest of 5."""
    tune(chunk_bytes=1)
    xs, lengths = random(0, 2, 53, 3), jnp.array([50, 7])
    layers = [
        nr.Recurrence(make_cell("gru"), reverse=reverse, backend=b) for b in ("scan", "plain")
    ]
    values = [
        jax.jit(lambda layer: layer.scan(None, xs, lengths=lengths))(layer) for layer in layers
    ]
    assert_close(values[0], values[1], 1e-12)


def test_wide_batches_keep_deep_products_in_the_loop_on_cpu():
    layer, xs = (
        nr.GRU(128, 8, key=KEY, dtype=jnp.float32, backend="scan"),
        jnp.zeros((96, 4, 128), jnp.float32),
    )
    inside = 2 if jax.default_backend() == "cpu" else 1
    assert products_of_loops(lambda layer, xs: layer(xs), layer, xs) == [inside]
    assert products_of_loops(jax.grad(loss), layer, xs) == [inside, 1]


def test_two_threads_trace_and_run_at_once():
    from concurrent.futures import ThreadPoolExecutor

    def work(n: int) -> Any:
        layer, xs = nr.Recurrence(make_cell("lstm", 3, 4 + n % 2)), random(n, 2, 5, 3)
        return nr.explain(layer, xs).loop, jax.grad(loss)(layer, xs).cell.U

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8)))
    for n, (lines, gradient) in enumerate(found):
        assert [line.name for line in lines] == [line.name for line in work(n)[0]]
        np.testing.assert_array_equal(gradient, work(n)[1])


def test_parameters_of_equations_are_integers_of_python():
    """`jnp.pad` passes integers of NumPy, and LLVM knows none."""
    graph, *_ = graph_of(lambda x: jnp.pad(x, 1), jnp.ones(3))
    (config,) = (e.params["padding_config"] for e in graph.equations if e.name == "pad")
    assert [type(n) for n in config[0]] == [int] * 3
