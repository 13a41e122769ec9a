"""The native reverse loop: accumulated gradients, saved states, work shared by features.

Each is compared with the scan in values and all cotangents.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import assert_backends_agree, pulled, scanned
from agreement import check_native as check
from jax import jit
from models import AUTO, assert_close, ensemble, learned, make_cell, noise, random, random_like
from models import sum_of_squares as loss

import noria as nr

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")


class Everything(nr.Cell):
    """A weight of a concatenation, one of the input, a bias, and a vector that is used thrice."""

    W: jax.Array
    V: jax.Array
    b: jax.Array
    p: jax.Array

    def __call__(self, h: Any, x: Any) -> Any:
        a = self.W @ jnp.concatenate([x, h]) + self.b
        z = jax.nn.sigmoid(a + self.p * h)
        return z * h + (1 - z) * jnp.tanh(self.V @ x + self.p * a)

    def output(self, h: Any, x: Any) -> Any:
        return self.p * h

    def initial_state(self) -> Any:
        return jnp.zeros(len(self.b), self.b.dtype)


def everything(
    features: int = 3, hidden: int = 5, dtype: Any = jnp.float64, **options: Any
) -> nr.Recurrence:
    shapes = (hidden, features + hidden), (hidden, features), (hidden,), (hidden,)
    scale = jnp.asarray((features + hidden) ** -0.5, dtype)
    cell = Everything(*(scale * random(n, *shape, dtype=dtype) for n, shape in enumerate(shapes)))
    return learned(cell, **options)


class Step(nr.Cell):
    """A step ``step(state, x, *parameters)``, and perhaps ``read(state, x, *parameters)``."""

    parameters: list[jax.Array]
    zero: Any
    step: Any = eqx.field(static=True)
    read: Any = eqx.field(static=True, default=None)

    def __call__(self, state: Any, x: Any) -> Any:
        return self.step(state, x, *self.parameters)

    def output(self, state: Any, x: Any) -> Any:
        return (
            super().output(state, x) if self.read is None else self.read(state, x, *self.parameters)
        )

    def initial_state(self) -> Any:
        return self.zero


def step_of(
    step: Any, *shapes: Any, states: Any = None, read: Any = None, **options: Any
) -> nr.Recurrence:
    """A layer of states of four numbers, and parameters of these shapes."""
    parameters = [0.5 * random(n, *shape) for n, shape in enumerate(shapes)]
    zero = jnp.zeros(4) if states is None else (jnp.zeros(4),) * states
    return learned(Step(parameters, zero, step, read), **options)


# --- accumulators -------------------------------------------------------------------------------


def sized(*cases: tuple[int, int, Any]) -> list[Any]:
    """Cases of two sizes and a dtype, with their names."""
    return [pytest.param(*case, id=f"{case[0]}-{case[1]}-{case[2].dtype}") for case in cases]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("batch", "time", "dtype"),
    sized(
        (1, 600, jnp.float64),
        (1, 1025, jnp.float32),
        (17, 31, jnp.float64),  # 527 rows in blocks of 16 and 15 steps
        (70, 1, jnp.float64),
        (70, 15, jnp.float32),
        (600, 3, jnp.float64),  # one step has more rows than a block should
    ),
)
def test_any_number_of_rows_agrees_with_the_scan(batch, time, dtype):
    check(everything(dtype=dtype), random(0, batch, time, 3, dtype=dtype))


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("features", "hidden", "dtype"),
    sized((1, 50, jnp.float32), (2, 15, jnp.float64), (17, 50, jnp.float32), (50, 1, jnp.float64)),
)
def test_features_that_fill_no_vector_agree_with_the_scan(features, hidden, dtype, tune):
    """In blocks of two steps, the last of one."""
    tune(block_rows=4)
    check(everything(features, hidden, dtype), random(0, 3, 7, features, dtype=dtype))


def peephole(s: Any, x: Any, U: Any, W: Any, p: Any) -> Any:
    h, c = s
    i = jax.nn.sigmoid(U[:4] @ h + W @ x + p[0] * c)
    c = i * jnp.tanh(U[4:] @ h) + (1 - i) * c
    return jax.nn.sigmoid(p[1] * c) * jnp.tanh(c), c


KINDS: dict[str, nr.Recurrence] = {
    "IndRNN": step_of(lambda h, x, u, W, b: jnp.tanh(u * h + W @ x + b), (4,), (4, 3), (4,)),
    "peephole": step_of(peephole, (8, 4), (4, 3), (2, 4), states=2),
    "a weight and its transpose": step_of(
        lambda h, x, A, B: jnp.tanh(A @ jnp.tanh(A.T @ h + B @ x)), (4, 4), (4, 3)
    ),
    "a parameter in a concatenation": step_of(
        lambda h, x, W, b: jnp.tanh(W @ jnp.concatenate([x, b, h, jnp.ones(1)])), (4, 10), (2,)
    ),
    "one row": step_of(lambda h, x, A, B: jnp.tanh((A @ h)[0] * h + B @ x), (1, 4), (4, 3)),
    "one number": step_of(lambda h, x, a, B: jnp.tanh(a * h + B @ x), (), (4, 3)),
    "a gain after a norm": step_of(
        lambda h, x, A, g, b: jnp.tanh(
            (A @ h - (A @ h).mean()) * jax.lax.rsqrt((A @ h).var() + 0.1) * g + b + x[0]
        ),
        (4, 4),
        (4,),
        (4,),
    ),
    "selections": step_of(
        lambda h, x, A, a, b: jnp.where(x[0] > 0, jnp.tanh(A @ h), a) + jnp.maximum(h, b),
        (4, 4),
        (4,),
        (4,),
    ),
    "a weight before the loop and in it": step_of(
        lambda h, x, A, b: jnp.tanh(A[:, :3] @ jnp.sort(b[:3] * x) + A @ (b * h)), (4, 4), (4,)
    ),
    "a weight after the loop and in it": step_of(
        lambda h, x, A, B: jnp.tanh(A @ h + B @ x),
        (4, 4),
        (4, 3),
        read=lambda h, x, A, B: A @ h + B @ x,
    ),
}


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", KINDS)
def test_every_use_of_a_parameter_agrees_with_the_scan(name, tune):
    tune(block_rows=8)
    check(KINDS[name], random(0, 3, 7, 3))


def test_parameters_of_another_precision_agree_with_the_scan():
    """Accumulators in single precision of a loop in double."""
    layer = step_of(
        lambda h, x, A, a, B: jnp.tanh(
            (A @ h.astype(a.dtype) + a * x[0].astype(a.dtype)).astype(x.dtype) + B @ x
        ),
        (4, 4),
        (4,),
        (4, 3),
    )
    narrow = [a.astype(jnp.float32) for a in layer.cell.parameters[:2]]
    layer = eqx.tree_at(lambda l: l.cell.parameters[:2], layer, narrow)
    _, gradients = check(layer, random(0, 3, 7, 3), tolerance=1e-5)
    assert [g.dtype for g in gradients[:-1]] == [a.dtype for a in jtu.tree_leaves(layer)]


LENGTHS = jnp.array([7, 0, 4])
RESETS = jnp.asarray(np.random.default_rng(0).random((3, 7)) < 0.3)

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lengths and resets, reverse": ({"reverse": True}, {"lengths": LENGTHS, "resets": RESETS}),
    "states, reverse": (
        {"save": "states", "reverse": True},
        {"lengths": LENGTHS, "resets": RESETS},
    ),
    "checkpoints": ({"checkpoint": "sqrt"}, {"lengths": LENGTHS}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_a_layer_agree_with_the_scan(name, tune):
    tune(block_rows=8)
    of_layer, of_call = OPTIONS[name]
    check(everything(**of_layer), random(0, 3, 7, 3), **of_call)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_padding_that_is_nan_enters_no_accumulator(reverse):
    xs = random(0, 3, 7, 3)
    padded = jnp.where(jnp.arange(7)[:, None] < LENGTHS[:, None, None], xs, jnp.nan)
    layer = everything(reverse=reverse, backend="native")
    found, expected = (scanned(layer, a, lengths=LENGTHS) for a in (padded, xs))
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(found))
    assert_close(found, expected, 1e-10)


@cache
def all_gradients() -> Any:
    layer, xs = everything(backend="scan"), random(0, 3, 200, 3)
    return jit(jax.grad(loss, argnums=(0, 1)))(layer, xs)


@pytest.mark.parametrize("asked", ["p", "WVb", "x", "Wx", "state b"])
def test_gradients_of_some_parameters_are_those_of_all(asked):
    layer, xs = everything(backend="native"), random(0, 3, 200, 3)
    expected_layer, expected_xs = all_gradients()

    def some(layer: Any) -> list[Any]:
        if asked.startswith("state"):
            return [layer.learned_state, *(getattr(layer.cell, name) for name in asked[6:])]
        return [getattr(layer.cell, name) for name in asked if name != "x"]

    def of_some(arrays: Any, xs: Any) -> Any:
        return loss(eqx.tree_at(some, layer, arrays) if arrays else layer, xs)

    gradient = jit(jax.grad(of_some, argnums=(0, 1) if "x" in asked else 0))
    found, expected = gradient(some(layer), xs), some(expected_layer)
    assert_close(found, (expected, expected_xs) if "x" in asked else expected, 1e-10)


def test_the_gradient_of_the_input_alone_has_no_accumulators(plans):
    layer, xs = nr.Recurrence(make_cell("rnn", 3, 4)), random(0, 8, 6, 3)
    jit(jax.grad(lambda xs: jnp.sum(layer(xs) ** 2))).lower(xs)
    jit(jax.grad(loss)).lower(layer, xs)
    assert [plan.accumulators for plan in plans] == [0, 0, 0, 3]  # W, U and a bias


def test_no_product_follows_the_loop():
    layer, xs = everything(), random(0, 8, 6, 3)
    texts = {
        b: jit(jax.grad(loss)).lower(nr.with_backend(layer, b), xs).as_text()
        for b in ("native", "scan")
    }
    assert "dot_general" not in texts["native"]
    assert "dot_general" in texts["scan"]


# --- sums in the state ----------------------------------------------------------------------------


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", KINDS)
def test_sums_in_the_state_agree_with_the_scan(name, tune):
    tune(carried_numbers=1, block_rows=8)
    check(KINDS[name], random(0, 3, 7, 3))


@pytest.mark.parametrize("name", OPTIONS)
def test_sums_in_the_state_agree_with_the_scan_for_any_option(name, tune):
    tune(carried_numbers=1, block_rows=8)
    of_layer, of_call = OPTIONS[name]
    check(everything(**of_layer), random(0, 3, 7, 3), **of_call)


def test_sums_in_the_state_of_several_models_agree_with_the_scan(tune):
    tune(carried_numbers=1)
    each = jax.vmap(jax.grad(loss, argnums=(0, 1)))
    assert_backends_agree(each, ensemble(everything(), 3), random(0, 3, 2, 6, 3))


@pytest.mark.parametrize("models", [None, 3])
def test_an_empty_batch_has_no_sums_in_the_state(models, tune):
    tune(carried_numbers=1)
    gradients, layer, xs = jax.grad(loss, argnums=(0, 1)), everything(), random(0, 0, 6, 3)
    if models:
        gradients, layer = jax.vmap(gradients), ensemble(layer, models)
        xs = random(0, models, 0, 6, 3)
    assert_backends_agree(gradients, layer, xs)


def test_wide_sums_are_in_the_state_and_narrow_ones_are_not(plans, tune):
    """The parameters are a weight, 128 gains and four biases."""
    layer = step_of(
        lambda h, x, A, G, b: jnp.tanh(A @ h + (G * h[:, None]).sum(1) + b * x[0]),
        (4, 4),
        (4, 32),
        (4,),
    )
    xs = random(0, 2, 40, 3)
    for least, accumulators in ((128, 2), (129, 3), (1, 1)):
        plans.clear()
        tune(carried_numbers=least)
        check(layer, xs)
        assert plans[-1].accumulators == accumulators


# --- transformations ------------------------------------------------------------------------------


MAPS: dict[str, tuple[tuple[Any, Any, Any], tuple[int, ...]]] = {
    "examples": ((None, 0, None), (3, 6, 3)),
    "weights": ((0, None, None), (2, 6, 3)),
    "states": ((None, None, 0), (6, 3)),
    "states and examples": ((None, 1, 0), (6, 3, 3)),
    "all": ((0, 0, 0), (3, 6, 3)),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", MAPS)
def test_vmap_of_gradients_agrees_with_the_scan(name):
    """With respect to everything; forward for some, reverse for others."""
    axes, shape = MAPS[name]
    xs, state = random(0, *shape), random(1, *((3,) if axes[2] == 0 else ()), 5)
    layer = everything(reverse=len(shape) % 2 == 0)
    layer = ensemble(layer, 3) if axes[0] == 0 else layer
    each = jax.vmap(jax.value_and_grad(loss, argnums=(0, 1, 2)), in_axes=axes)
    assert_backends_agree(each, layer, xs, state)


def test_vmap_of_vmap_of_gradients_agrees_with_the_scan():
    each = jax.vmap(jax.vmap(jax.grad(loss), in_axes=(None, 0)), in_axes=(None, 0))
    assert_backends_agree(each, everything(), random(0, 2, 3, 4, 3))


def test_jacobians_agree_with_the_scan():
    """`jax.jacrev`: cotangents are mapped, and nothing else."""
    layer = nr.Recurrence(make_cell("lstm", 3, 5))
    xs, state = random(0, 2, 4, 3), random_like(layer.initial_state(), 1)

    def outputs(layer: Any, state: Any, xs: Any) -> Any:
        state, ys = layer.scan(state, xs)
        return jtu.tree_leaves(state)[-1], ys[:, 1:]

    assert_backends_agree(jax.jacrev(outputs, argnums=(0, 1, 2)), layer, state, xs)


def test_second_derivatives_agree_with_the_scan():
    """Reverse over reverse, with an initial state; of accumulators and of shifted states."""
    inner = jax.grad(loss, argnums=(0, 1, 2))

    def second(layer: Any, xs: Any, state: Any) -> Any:
        return sum(jnp.sum(jnp.sin(g)) for g in jtu.tree_leaves(inner(layer, xs, state)))

    outer = jax.grad(second, argnums=(0, 1, 2))
    assert_backends_agree(outer, everything(reverse=True), random(0, 3, 4, 3), random(1, 5))


def test_vmap_of_second_derivatives_agrees_with_the_scan():
    def second(layer: Any, x: Any) -> Any:
        return sum(jnp.sum(g**2) for g in jtu.tree_leaves(jax.grad(loss)(layer, x)))

    each = jax.vmap(jax.grad(second), in_axes=(None, 0))
    assert_backends_agree(each, everything(), random(0, 3, 4, 3))


# --- states that are emitted are not stored again -------------------------------------------------


@pytest.mark.covered(1)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("name", "count"), [("rnn", 0), ("lstm", 5), ("gru", 4), ("gruv3", 3)])
def test_explain_counts_the_saved_arrays(name, count, reverse):
    """LSTM: four gates and the cell. GRU: two gates, the candidate, the reset product. RNN: none.

    A scan stores h too.
    """
    layer = nr.Recurrence(make_cell(name, 3, 6), reverse=reverse)
    for backend, more, dtype in (
        ("native", 0, "float64"),
        ("native", 0, "float32"),
        ("scan", 1, "float64"),
    ):
        model = nr.with_backend(
            jtu.tree_map(lambda a, dtype=dtype: a.astype(dtype), layer), backend
        )
        found = nr.explain(model, random(0, 7, 4, 3, dtype=dtype))
        assert found.backend == backend
        assert found.saved == (f"f{dtype[-2:]}[6]",) * (count + more)
        assert found.saved_bytes == (count + more) * 7 * 4 * 6 * np.dtype(dtype).itemsize


def test_a_state_that_is_not_emitted_is_stored():
    read = lambda h, x, A, B: jnp.sum(h * h)  # noqa: E731
    hidden = step_of(lambda h, x, A, B: jnp.tanh(A @ h + B @ x), (4, 4), (4, 3), read=read)
    saved = nr.explain(hidden, random(0, 2, 5, 3)).saved
    assert "f64[4]" in saved
    check(hidden, random(0, 2, 5, 3))


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("name", "reverse"),
    [("rnn", False), ("lstm", False), ("lstm", True), ("gru", False), ("gru", True)],
)
def test_cotangents_of_an_initial_state_agree_with_the_scan(name, reverse):
    """One state for each example; over several steps, and one step for an example or a batch."""
    layer = nr.Recurrence(make_cell(name, 3, 6), reverse=reverse)
    own = layer.initial_state()
    state, alone = (
        random_like(jtu.tree_map(lambda a, b=b: jnp.zeros((*b, *a.shape)), own), 1)
        for b in ((2,), ())
    )

    def function(layer: Any, state: Any, alone: Any, xs: Any) -> Any:
        one_step = (state, xs[:, :1]) if reverse else (alone, xs[0, :1])
        return [pulled(nr.Recurrence.scan, layer, *some) for some in ((state, xs), one_step)]

    assert_backends_agree(function, layer, state, alone, random(0, 2, 5, 3))


SEVERAL: dict[str, tuple[Any, Any]] = {
    "one was the other": (lambda s, x, A: (jnp.tanh(A @ (s[1] * s[0]) + x[0]), s[0]), None),
    "the older one is emitted": (
        lambda s, x, A: (jnp.tanh(A @ (s[1] * s[0]) + x[0]), s[0]),
        lambda s, x, A: s[1],
    ),
    "they change places": (lambda s, x, A: (s[1], jnp.tanh(A @ (s[1] * s[0]) + x[0])), None),
    "all are emitted": (
        lambda s, x, A: (jnp.tanh(A @ s[1] + x[0]), jnp.sin(s[0] * x[1])),
        lambda s, x, A: (s[0], s[1], s[0]),
    ),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("name", "reverse"),
    [
        ("the older one is emitted", False),
        ("they change places", False),
        *((n, True) for n in SEVERAL),
    ],
)
def test_states_that_are_handed_on_agree_with_the_scan(name, reverse):
    step, read = SEVERAL[name]
    layer = step_of(step, (4, 4), states=2, read=read, reverse=reverse)
    check(layer, random(0, 3, 5, 3), tuple(random(n, 3, 4) for n in range(2)), resets=RESETS[:, :5])


# --- threads ------------------------------------------------------------------------------------

SMALL = {"thread_flops": 1, "block_rows": 5}
BY_FEATURES = {"stage_flops": 0, **SMALL}
BY_ROWS = {"stage_flops": 10**9, **SMALL}


def check_cores(tune: Any, layer: Any, xs: Any, state: Any, cores: Any, **numbers: int) -> None:
    """Each number of cores agrees with the scan, and gives the same bits as the others."""
    results = []
    for count in cores:
        tune(cores=count, **numbers)
        results.append(jtu.tree_leaves(check(layer, xs, state)))
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("name", "batch", "hidden", "dtype", "reverse", "cores"),
    [
        pytest.param(*case, id=f"{case[0]}-{case[1]}-{case[2]}-{case[3].dtype}")
        for case in [
            ("rnn", 1, 1, jnp.float64, False, (2, 5)),
            ("everything", 2, 15, jnp.float32, True, (3,)),
            ("gru", 1, 16, jnp.float32, False, (2,)),
            ("lstm", 1, 17, jnp.float64, False, (5,)),
            ("rnn", 2, 50, jnp.float64, True, (3,)),
            ("everything", 2, 70, jnp.float32, True, (3,)),
        ]
    ],
)
def test_sharing_features_gives_the_same_bits(
    name, batch, hidden, dtype, reverse, cores, tune, plans
):
    """Among two, three or five threads, some of which have nothing to do."""
    make = everything if name == "everything" else None
    cell = make(2, hidden, dtype).cell if make else make_cell(name, 2, hidden, dtype=dtype)
    layer, xs = nr.Recurrence(cell, reverse=reverse), random(0, batch, 7, 2, dtype=dtype)
    check_cores(tune, layer, xs, noise(layer.initial_state(), 1), cores, **BY_FEATURES)
    assert {plan.shares_features for plan in plans} == {True}


def test_sharing_rows_gives_the_same_bits(tune, plans):
    """Also among more threads than rows; those without a row take a share of the accumulators."""
    layer, xs = everything(2, 17), random(0, 2, 7, 2)
    check_cores(tune, layer, xs, random(1, 17), (3, 16), **BY_ROWS)
    assert {plan.shares_features for plan in plans} == {False}


def test_sums_over_features_are_not_shared(tune, plans):
    tune(cores=3, **BY_FEATURES)
    check(KINDS["a gain after a norm"], random(0, 1, 7, 3))
    assert {plan.shares_features for plan in plans} == {False}


def test_lengths_and_resets_with_shared_features_agree_with_the_scan(tune, plans):
    tune(cores=3, **BY_FEATURES)
    xs = random(0, 2, 7, 3)
    check(everything(3, 17, reverse=True), xs, lengths=LENGTHS[::2], resets=RESETS[:2])
    assert any(plan.shares_features and not plan.accumulators for plan in plans)
    assert any(plan.accumulators for plan in plans)


def gradients_of(layer: Any, xs: Any, state: Any) -> Any:
    return jax.grad(loss, argnums=(0, 1, 2))(layer, xs, state)


@pytest.mark.parametrize("numbers", [BY_FEATURES, BY_ROWS], ids=["features", "rows"])
def test_calls_of_one_function_from_eight_threads_give_the_same_bits(numbers, tune):
    """With more shares than there are cores."""
    tune(cores=4, **numbers)
    layer = nr.Recurrence(make_cell("lstm", 3, 40), backend="native")
    state = noise(layer.initial_state(), 1)
    function = jit(lambda layer, xs, state: (layer.scan(state, xs), gradients_of(layer, xs, state)))
    inputs = [random(n, 2, 20, 3) for n in range(8)]
    compiled = function.lower(layer, inputs[0], state).compile()  # thresholds hold in this thread

    def work(n: int) -> list[Any]:
        return [
            jtu.tree_leaves(jax.device_get(compiled(layer, inputs[n], state))) for _ in range(10)
        ]

    alone = [work(n)[0] for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    for calls, expected in zip(found, alone, strict=True):
        for leaves in calls:
            for a, b in zip(leaves, expected, strict=True):
                np.testing.assert_array_equal(a, b)


# --- nothing to do --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [("everything", {}), ("lstm", {"save": "states"}), ("lstm", {"checkpoint": "sqrt"})],
)
def test_gradients_of_no_steps_and_no_examples_are_zero(name, options):
    """Gradients of weights are zeros, those of the states pass through."""
    cell = everything().cell if name == "everything" else make_cell("lstm", 3, 5)
    layer = nr.Recurrence(cell, backend="native", **options)

    def starts(*batch: int) -> Any:
        return random_like(
            jtu.tree_map(lambda a: jnp.zeros((*batch, *a.shape)), layer.initial_state()), 1
        )

    cases = [
        (random(0, *shape, 3), starts(*shape[:-1])) for shape in ((3, 0), (0, 4), (0, 0), (0,))
    ]
    found = jit(lambda layer, cases: [gradients_of(layer, xs, state) for xs, state in cases])(
        layer, cases
    )
    for (of_layer, of_xs, of_state), (xs, state) in zip(found, cases, strict=True):
        assert of_xs.shape == xs.shape
        assert not any(np.any(leaf) for leaf in jtu.tree_leaves(of_layer))
        assert_close(of_state, jtu.tree_map(lambda a: 2 * a, state), 1e-12)
