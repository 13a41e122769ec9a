"""Steps that take ``t``, ``dt`` and ``context`` by name, and inputs of any form."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import pulled_at_once
from attention_cells import DotAttention
from models import AUTO, assert_close, poisoned, random

import noria as nr

BATCH, TIME, SIZE = 2, 7, 3


class Timed(nr.Cell):
    """Reads the number of the step and the time difference, in the step and in the output."""

    U: jax.Array

    def __call__(self, h, x, *, t, dt):  # type: ignore[override]
        turn = jnp.where(t % 2 == 0, h @ self.U, h)
        return h + dt * (jnp.tanh(x + turn) - h) + 0.1 * jnp.sin(t.astype(h.dtype))

    def output(self, h, x, *, dt, t):  # type: ignore[override]
        return h * (1 + dt), t

    def initial_state(self):
        return jnp.zeros(SIZE)


class Conditioned(nr.Cell):
    """Reads a vector of each example, in the step and in the output."""

    W: jax.Array
    U: jax.Array

    def __call__(self, h, x, *, context):  # type: ignore[override]
        return jnp.tanh(self.W @ context["speaker"] + self.U @ h + x)

    def output(self, h, x, *, context):  # type: ignore[override]
        return h * context["scale"]

    def initial_state(self):
        return jnp.zeros(SIZE)


BACKENDS = ("plain", "scan", "auto")
MATRIX = random(1, SIZE, SIZE) / 2
VARIANTS = ("plain", "lengths", "resets", "reverse", "all", "one")


def options_of(variant: str) -> tuple[dict[str, Any], bool]:
    """The options of a call, and whether its layer is reversed."""
    some, everything = {}, variant in ("all", "one")
    if variant == "lengths" or everything:
        some["lengths"] = jnp.array([TIME, 3])
    if variant == "resets" or everything:
        some["resets"] = jnp.zeros((BATCH, TIME), bool).at[0, 2].set(True).at[:, 4].set(True)
    if variant == "one":
        some = {name: array[0] for name, array in some.items()}
    return some, variant == "reverse" or everything


def padded(array: jax.Array, options: dict[str, Any]) -> jax.Array:
    """An array of all steps with NaN past the end."""
    if "lengths" not in options or array.ndim < 2 or not options["lengths"].ndim:
        return array
    return poisoned(array, options["lengths"])


def agree(cell: Any, xs: Any, variant: str, backend: str, **inputs: Any) -> None:
    """Check values and all gradients, those of the inputs by name too, against the definition."""
    options, reverse = options_of(variant)
    if variant == "one":
        xs, inputs = jtu.tree_map(lambda a: a[0], (xs, inputs))

    def run(backend: str) -> Any:
        def call(cell: Any, xs: Any, inputs: Any) -> Any:
            layer = nr.Recurrence(cell, reverse=reverse, backend=backend)
            return layer.scan(None, xs, **inputs, **options)

        return pulled_at_once(call, cell, xs, inputs)

    found, expected = run(backend), run("reference")
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(expected))
    assert_close(found, expected, 1e-10)


@pytest.mark.covered(1, group="arguments")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_gets_its_number_and_time_difference(backend, variant):
    options, _ = options_of(variant)
    xs, dt = random(2, BATCH, TIME, SIZE), abs(random(3, BATCH, TIME))
    given = {"t": jnp.array([0, 5])} if variant == "reverse" else {}
    xs, dt = padded(xs, options), padded(dt, options)
    agree(Timed(MATRIX), xs, variant, backend, dt=dt, **given)


@pytest.mark.covered(1, group="arguments")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_gets_the_context_of_its_example(backend, variant):
    options, _ = options_of(variant)
    xs = padded(random(2, BATCH, TIME, SIZE), options)
    context = {"speaker": random(3, BATCH, SIZE), "scale": random(4, BATCH)}
    agree(Conditioned(MATRIX, MATRIX.T), xs, variant, backend, context=context)


@pytest.mark.covered(1, group="arguments")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_attends_to_a_memory(backend, variant):
    options, _ = options_of(variant)
    xs, memory = padded(random(2, BATCH, TIME, SIZE), options), random(3, BATCH, 4, SIZE)
    agree(DotAttention(MATRIX, MATRIX.T), xs, variant, backend, context=memory)


def test_work_on_the_context_runs_once_per_example():
    memory, xs = random(3, BATCH, 4, SIZE), random(2, BATCH, TIME, SIZE)
    page = nr.explain(nr.Recurrence(DotAttention(MATRIX, MATRIX.T)), xs, context=memory)
    assert [line.name for line in page.context].count("dot_general") == 1
    assert page.backend == AUTO
    assert not page.obstacles
    context = {"speaker": random(3, BATCH, SIZE), "scale": random(4, BATCH)}
    page = nr.explain(nr.Recurrence(Conditioned(MATRIX, MATRIX)), xs, context=context)
    assert [line.name for line in page.context].count("dot_general") == 1
    assert [line.name for line in page.loop].count("dot_general") == 1
    assert "context: once per example" in str(page)


def test_a_number_counts_from_the_last_reset_also_reversed_and_continued():
    xs = jnp.zeros((TIME, 1))
    cell = lambda h, x, *, t: h * 0 + t.astype(h.dtype)  # noqa: E731
    resets = jnp.zeros(TIME, bool).at[3].set(True)
    for backend in ("reference", *BACKENDS):
        for reverse in (False, True):
            layer = nr.Recurrence(cell, jnp.zeros(1), reverse, backend=backend)
            assert layer(xs).ravel().tolist() == [0, 1, 2, 3, 4, 5, 6]
            assert layer(xs, t=5).ravel().tolist() == [5, 6, 7, 8, 9, 10, 11]
            assert layer(xs, t=5, resets=resets).ravel().tolist() == [5, 6, 7, 0, 1, 2, 3]
    many = layer(jnp.zeros((2, 3, 1)), t=jnp.array([0, 4]))
    assert many[..., 0].tolist() == [[0, 1, 2], [4, 5, 6]]


@pytest.mark.covered(1)
@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("batched", [True, False])
def test_steps_give_what_a_sequence_gives(backend, batched):
    pick = (lambda a: a) if batched else (lambda a: a[0])
    xs, dt = pick(random(2, BATCH, TIME, SIZE)), pick(abs(random(3, BATCH, TIME)))
    resets = pick(jnp.zeros((BATCH, TIME), bool).at[0, 2].set(True))
    layer = nr.Recurrence(Timed(MATRIX), backend=backend)
    expected = layer.scan(None, xs, dt=dt, resets=resets)
    state, ys, t = None, [], jnp.zeros(resets.shape[:-1], int)
    for n in range(TIME):
        t = jnp.where(resets[..., n], 0, t)
        now = {"t": t, "dt": dt[..., n], "resets": resets[..., n]}
        state, y = layer.step(state, xs[..., n, :], **now)
        ys.append(y)
        t = t + 1
    assert_close(
        (state, ys[3]),
        (
            expected[0],
            jtu.tree_map(
                lambda a: a[..., 3, :] if a.ndim > resets.ndim else a[..., 3], expected[1]
            ),
        ),
        1e-10,
    )


@pytest.mark.covered(1)
@pytest.mark.parametrize("cell", [Conditioned(MATRIX, MATRIX.T), DotAttention(MATRIX, MATRIX.T)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_of_a_stream_reads_the_context(cell, backend):
    memory = random(3, BATCH, 4, SIZE)
    vectors = {"speaker": random(3, BATCH, SIZE), "scale": random(4, BATCH)}
    context = memory if isinstance(cell, DotAttention) else vectors
    layer, xs = nr.Recurrence(cell, backend=backend), random(2, BATCH, 2, SIZE)
    state, ys = layer.scan(None, xs, context=context)
    after, _ = layer.step(None, xs[:, 0], context=context)
    after, y = layer.step(after, xs[:, 1], context=context)
    assert_close((after, y), (state, ys[:, 1]), 1e-10)


@pytest.mark.covered(1)
@pytest.mark.parametrize("save", ["gates", "states"])
@pytest.mark.parametrize("checkpoint", [None, 3])
def test_a_context_with_every_way_to_store(save, checkpoint):
    xs, memory = random(2, BATCH, TIME, SIZE), random(3, BATCH, 4, SIZE)
    cell = DotAttention(MATRIX, MATRIX.T)

    def call(layer, xs, memory):
        return layer.scan(None, xs, context=memory)

    layer = nr.Recurrence(cell, save=save, checkpoint=checkpoint)
    expected = pulled_at_once(call, nr.Recurrence(cell, backend="reference"), xs, memory)
    assert_close(pulled_at_once(call, layer, xs, memory), expected, 1e-10)


@pytest.mark.parametrize("cell", [Conditioned(MATRIX, MATRIX.T), DotAttention(MATRIX, MATRIX.T)])
def test_the_context_of_an_example_without_steps_is_not_read(cell):
    xs, lengths = random(2, BATCH, TIME, SIZE), jnp.array([TIME, 0])
    memory = random(3, BATCH, 4, SIZE)
    vectors = {"speaker": random(3, BATCH, SIZE), "scale": random(4, BATCH)}
    context = memory if isinstance(cell, DotAttention) else vectors
    context = jtu.tree_map(lambda a: a.at[1].set(jnp.nan), context)
    for backend in ("reference", *BACKENDS):
        layer = nr.Recurrence(cell, backend=backend)
        loss = lambda layer, xs: jnp.sum(layer(xs, context=context, lengths=lengths))  # noqa: E731
        found = jax.grad(loss, argnums=1)(layer, xs)
        assert np.isfinite(found).all()


def test_the_derivative_of_a_linear_step_with_dt_on_the_associative_backend():
    cell = lambda h, x, *, dt, context: jnp.exp(-dt) * h + context * x  # noqa: E731
    xs, dt = random(2, BATCH, TIME, SIZE), abs(random(3, BATCH, TIME))
    context = random(4, BATCH, SIZE)

    def call(xs, dt, context, *, backend):
        layer = nr.Recurrence(cell, jnp.zeros(SIZE), backend=backend)
        return layer.scan(None, xs, dt=dt, context=context)

    found, expected = (
        pulled_at_once(lambda *a, b=b: call(*a, backend=b), xs, dt, context)
        for b in ("associative", "reference")
    )
    assert_close(found, expected, 1e-10)


def test_models_of_layers_pass_on_what_their_cells_take():
    xs, dt = random(2, BATCH, TIME, SIZE), abs(random(3, BATCH, TIME))
    memory = random(3, BATCH, 4, SIZE)
    timed = nr.Recurrence(lambda h, x, *, dt: h + dt * (x - h), jnp.zeros(SIZE))
    attending = nr.Recurrence(DotAttention(MATRIX, MATRIX.T))
    chain = nr.Chain(timed, jnp.tanh, attending, nr.Residual(timed))
    by_hand = timed(attending(jnp.tanh(timed(xs, dt=dt)), context=memory), dt=dt)
    by_hand = by_hand + attending(jnp.tanh(timed(xs, dt=dt)), context=memory)
    assert_close(chain(xs, dt=dt, context=memory), by_hand, 1e-12)
    assert chain.takes() == {"dt", "context"}
    _, y = chain.step(None, xs[:, 0], dt=dt[:, 0], context=memory)
    assert_close(y, chain(xs, dt=dt, context=memory)[:, 0], 1e-12)
    both = nr.Bidirectional(timed, attending)(xs, dt=dt, context=memory)
    backward = nr.Recurrence(DotAttention(MATRIX, MATRIX.T), reverse=True)
    expected = jnp.concatenate([timed(xs, dt=dt), backward(xs, context=memory)], axis=-1)
    assert_close(both, expected, 1e-12)
    assert len(nr.explain(chain, xs, dt=dt, context=memory)) == 3


def test_what_vmap_gives():
    xs, memory = random(2, 3, BATCH, TIME, SIZE), random(3, 3, BATCH, 4, SIZE)
    for cell, context in (
        (DotAttention(MATRIX, MATRIX.T), memory),
        (Conditioned(MATRIX, MATRIX.T), {"speaker": memory[:, :, 0], "scale": memory[:, :, 0, 0]}),
    ):
        layer = nr.Recurrence(cell)
        found = jax.vmap(lambda xs, c, layer=layer: layer(xs, context=c))(xs, context)
        some = jtu.tree_map(lambda a: a[1], context)
        assert_close(found[1], layer(xs[1], context=some), 1e-12)


def test_a_default_makes_an_argument_optional():
    def cell(h, x, dt=1.0, context=None):
        return h + dt * x + (0 if context is None else context)

    layer, xs = nr.Recurrence(cell, jnp.zeros(1)), jnp.ones((2, 3, 1))
    assert layer(xs)[0, -1].tolist() == [3.0]
    assert layer(xs, dt=jnp.full((2, 3), 2.0))[0, -1].tolist() == [6.0]
    assert layer(xs, context=jnp.ones((2, 1)))[0, -1].tolist() == [6.0]


WRONG: dict[str, tuple[Any, dict[str, Any], type, str]] = {
    "dt is missing": (
        Timed(MATRIX),
        {},
        TypeError,
        r"Recurrence\(Timed\): its cell takes dt, and dt is None; expected dt= .*\(2, 7\)",
    ),
    "context is missing": (
        DotAttention(MATRIX, MATRIX),
        {},
        TypeError,
        r"takes context, and context is None; expected context= .*\(batch, ...\)",
    ),
    "dt is not taken": (
        DotAttention(MATRIX, MATRIX),
        {"context": jnp.ones((BATCH, 4, SIZE)), "dt": jnp.ones((BATCH, TIME))},
        TypeError,
        r"dt was given, but none of its cells takes it; expected a cell .*\(state, x, \*, dt\), or",
    ),
    "t is not taken": (
        DotAttention(MATRIX, MATRIX),
        {"context": jnp.ones((BATCH, 4, SIZE)), "t": 3},
        TypeError,
        "t was given, but none of its cells takes it",
    ),
    "dt of another shape": (
        Timed(MATRIX),
        {"dt": jnp.ones((BATCH, TIME + 1))},
        ValueError,
        r"dt has shape \(2, 8\); expected \(2, 7\), one for each step",
    ),
    "t of another shape": (
        Timed(MATRIX),
        {"dt": jnp.ones((BATCH, TIME)), "t": jnp.arange(TIME)},
        ValueError,
        r"t has shape \(7,\); expected \(\) or \(2,\), the number of the first step",
    ),
    "t that is no whole number": (
        Timed(MATRIX),
        {"dt": jnp.ones((BATCH, TIME)), "t": 0.5},
        TypeError,
        "t is float64; expected whole numbers",
    ),
    "context without a batch": (
        DotAttention(MATRIX, MATRIX),
        {"context": jnp.ones((4, SIZE))},
        ValueError,
        r"context is float64\[4, 3\]; expected arrays \(2, ...\), one row for each example",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("whole", [True, False])
def test_errors_of_arguments(name, whole):
    cell, inputs, error, message = WRONG[name]
    recurrence = nr.Recurrence(cell)
    layer = recurrence if whole else nr.Chain(recurrence)
    with pytest.raises(error, match=message):
        layer(jnp.zeros((BATCH, TIME, SIZE)), **inputs)


def test_a_model_whose_cells_take_nothing_refuses_inputs():
    net = nr.Chain(nr.GRU(SIZE, 4, key=jax.random.key(0)), nr.Dense(4, 1, key=jax.random.key(1)))
    with pytest.raises(TypeError, match="Chain: dt was given, but none of its cells takes it"):
        net(jnp.zeros((BATCH, TIME, SIZE), jnp.float32), dt=jnp.ones((BATCH, TIME)))


# --- inputs of any form ---------------------------------------------------------------------------


class Frame(NamedTuple):
    image: Any
    gate: Any


class Framed(nr.Cell):
    """Reads an image and a number; ``kind`` makes one step from both."""

    W: jax.Array
    in_shape: ClassVar[Any] = Frame((2, 2), ())

    def __call__(self, h, x):
        image, gate = jtu.tree_leaves(x)
        flat = image.ravel()
        return jnp.tanh(self.W @ flat[: h.size] + h) * jax.nn.sigmoid(gate) + image.sum()

    def output(self, h, x):
        return {"h": h, "image": jtu.tree_leaves(x)[0].T}

    def initial_state(self):
        return jnp.zeros(SIZE)


class FramedDict(Framed):
    in_shape: ClassVar[Any] = {"a": (2, 2), "b": ()}


class FramedTuple(Framed):
    in_shape: ClassVar[Any] = ((2, 2), ())


FORMS: dict[str, tuple[Any, Any]] = {
    "NamedTuple": (Framed, Frame),
    "dict": (FramedDict, lambda image, gate: {"a": image, "b": gate}),
    "tuple": (FramedTuple, lambda image, gate: (image, gate)),
}


@pytest.mark.sampled(35)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_of_any_form(form, variant, backend):
    options, _ = options_of(variant)
    cell, made = FORMS[form]
    xs = made(random(2, BATCH, TIME, 2, 2), random(3, BATCH, TIME))
    xs = jtu.tree_map(lambda a: padded(a, options), xs)
    agree(cell(MATRIX), xs, variant, backend)


def test_a_step_of_any_form_and_vmap():
    xs = Frame(random(2, 3, TIME, 2, 2), random(3, 3, TIME))
    layer = nr.Recurrence(Framed(MATRIX))
    _, ys = layer.scan(None, xs)
    _, y = layer.step(None, jtu.tree_map(lambda a: a[:, 0], xs))
    assert_close(y, jtu.tree_map(lambda a: a[:, 0], ys), 1e-12)
    _, y = layer.step(None, jtu.tree_map(lambda a: a[1, 0], xs))
    assert_close(y, jtu.tree_map(lambda a: a[1, 0], ys), 1e-12)
    assert_close(jax.vmap(layer)(xs), ys, 1e-12)


def test_an_image_without_in_shape_has_a_batch():
    layer = nr.Recurrence(lambda h, x: h + x.sum(), jnp.zeros(1))
    assert layer(jnp.ones((2, 3, 4, 4))).shape == (2, 3, 1)
    assert layer.step(None, jnp.ones((2, 4, 4)))[1].shape == (2, 1)
    pair = nr.Recurrence(lambda h, x: h + x["a"] + x["b"].sum(), jnp.zeros(1))
    assert pair({"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3, 5))})[:, -1].tolist() == [[18.0]] * 2


@pytest.mark.parametrize(
    ("cell", "xs", "error", "message"),
    [
        (
            Framed(MATRIX),
            Frame(jnp.ones((2, 3, 2, 3)), jnp.ones((2, 3))),
            ValueError,
            r"xs is Frame\(image=float64\[2, 3, 2, 3\].*expected the cell's in_shape=Frame\(",
        ),
        (
            Framed(MATRIX),
            jnp.ones((2, 3, 2, 2)),
            ValueError,
            r"xs is float64\[2, 3, 2, 2\]; expected the cell's in_shape",
        ),
        (
            lambda h, x: h,
            (jnp.ones((2, 3)), jnp.ones((2, 4))),
            ValueError,
            r"xs is tuple\(.*; expected arrays \(batch, time, ...\) with equal axes in front",
        ),
        (
            lambda h, x: h,
            [jnp.ones((2, 3)), jnp.ones((2, 3))],
            TypeError,
            "xs is a list; expected one array",
        ),
    ],
)
def test_errors_of_inputs_of_any_form(cell, xs, error, message):
    state = None if isinstance(cell, nr.Cell) else jnp.zeros(1)
    with pytest.raises(error, match=message):
        nr.Recurrence(cell, state)(xs)


def test_fit_of_a_model_with_inputs_of_any_form():
    optax = pytest.importorskip("optax")
    xs = Frame(random(2, 4, TIME, 2, 2), random(3, 4, TIME))
    model = nr.Recurrence(Framed(MATRIX))
    loss = lambda model, xs, ys: jnp.mean((model(xs)["h"] - ys) ** 2)  # noqa: E731
    ys = random(4, 4, TIME, SIZE)
    _, history = nr.fit(
        model,
        loss,
        (xs, ys),
        optimiser=optax.sgd(1e-2),
        epochs=3,
        key=jax.random.key(0),
        progress=False,
    )
    assert history.loss[-1] < history.loss[0]
