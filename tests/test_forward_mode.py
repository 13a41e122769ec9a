"""Forward mode and second derivatives of compiled loops, against the plain scan."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from convolutional_cells import ConvolutionalCell
from matrix_memories import GatedDeltaNet, RetNet
from models import AUTO, assert_close, make_cell, noise, random
from published_vectors import PUBLISHED

import noria as nr

LENGTHS = jnp.array([6, 4])
RESETS = jnp.array([[0, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]], bool)
XS = random(0, 2, 6, 2)


def flat(
    layer: Any, xs: jax.Array = XS
) -> tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]:
    """The layer as a function of parameters and input; these, and their tangents."""
    leaves, tree = jtu.tree_flatten(layer)

    def run(leaves: Any, xs: Any) -> list[Any]:
        found = jtu.tree_unflatten(tree, leaves).scan(None, xs, lengths=LENGTHS, resets=RESETS)
        return jtu.tree_leaves(found)

    given = leaves, xs
    return run, given, noise(given, 1)


def scalar(run: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: sum(jnp.sum(jnp.sin(a).real) for a in run(*given))


def gradient(run: Callable[..., Any]) -> Callable[..., Any]:
    return jax.grad(scalar(run), argnums=(0, 1))


def product(a: Any, b: Any) -> Any:
    pairs = zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True)
    return sum(jnp.vdot(x, y).real for x, y in pairs)


TRANSFORMATIONS: dict[str, Callable[..., Any]] = {
    "jvp": lambda run, given, moved: jax.jvp(run, given, moved),
    "jvp of parameters": lambda run, given, moved: jax.jvp(
        lambda leaves: run(leaves, given[1]), given[:1], moved[:1]
    ),
    "jvp of the input": lambda run, given, moved: jax.jvp(
        lambda xs: run(given[0], xs), given[1:], moved[1:]
    ),
    "linearize": lambda run, given, moved: jax.linearize(run, *given)[1](*moved),
    "jacfwd": lambda run, given, moved: jax.jacfwd(run, argnums=(0, 1))(*given),
    "jacfwd of the input": lambda run, given, moved: jax.jacfwd(run, argnums=1)(*given),
    "jvp of jvp": lambda run, given, moved: jax.jvp(
        lambda *given: jax.jvp(run, given, moved)[1], given, moved
    ),
    "jvp of grad": lambda run, given, moved: jax.jvp(gradient(run), given, moved),
    "grad of jvp": lambda run, given, moved: jax.grad(
        lambda *given: jax.jvp(scalar(run), given, moved)[1], argnums=(0, 1)
    )(*given),
    "grad of the product": lambda run, given, moved: jax.grad(
        lambda *given: product(gradient(run)(*given), moved), argnums=(0, 1)
    )(*given),
    "hessian": lambda run, given, moved: jax.hessian(
        lambda x: scalar(run)(given[0], given[1].at[:, 1].set(x))
    )(given[1][:, 1]),
    "mapped jvp": lambda run, given, moved: jax.vmap(lambda a: jax.jvp(run, given, a))(
        jtu.tree_map(lambda a: jnp.stack([a, -2 * a]), moved)
    ),
    "jvp of mapped grad": lambda run, given, moved: jax.jvp(
        lambda leaves, xs: jax.vmap(gradient(run), (None, 0))(leaves, xs[None]), given, moved
    ),
    "grad of the map": lambda run, given, moved: gradient(jax.vmap(run, (None, 0)))(
        given[0], jnp.stack([given[1], moved[1]])
    ),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "gates": {},
    "states": {"save": "states"},
    "checkpoint": {"checkpoint": 3},
    "reverse": {"reverse": True},
    "scan": {"backend": "scan"},
}


@functools.cache
def expected(transformation: str, reverse: bool) -> Any:
    layer = nr.Recurrence(make_cell("lstm", 2, 3), backend="plain", reverse=reverse)
    run, given, moved = flat(layer)
    return jax.jit(lambda: TRANSFORMATIONS[transformation](run, given, moved))()


@pytest.mark.sampled(39)
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_derivatives_equal_those_of_the_plain_loop(transformation, options):
    layer = nr.Recurrence(make_cell("lstm", 2, 3), **OPTIONS[options])
    run, given, moved = flat(layer)
    found = jax.jit(lambda: TRANSFORMATIONS[transformation](run, given, moved))()
    right = expected(transformation, layer.reverse)
    assert_close(jtu.tree_leaves(found), jtu.tree_leaves(right), 1e-10)


#: Cells of each kind, by name: a maker, and the shape of an input.
KINDS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "lstm": (lambda: make_cell("lstm", 2, 3), (2,)),
    "gru": (lambda: make_cell("gru", 2, 3), (2,)),
    "matrix memory": (lambda: GatedDeltaNet.make(2, 3, 2), (2,)),
    "complex": (lambda: PUBLISHED["lru"](1, 3, 2, jnp.float64), (2,)),
    "convolutional": (lambda: ConvolutionalCell((3, 4), (2, 1)), (1, 3, 4)),
}


def ran(transformation: str, kind: str, backend: str) -> tuple[list[Any], tuple[int, int]]:
    """What a program gives, how often it calls machine code, and how many loops of XLA it has."""
    make, shape = KINDS[kind]
    run, given, moved = flat(nr.Recurrence(make(), backend=backend), random(0, 2, 6, *shape))
    function = TRANSFORMATIONS[transformation]
    program = jax.jit(functools.partial(function, run)).lower(given, moved).compile()
    text = str(program.as_text())
    counts = text.count('custom_call_target="noria_native"'), text.count(" while(")
    return jtu.tree_leaves(program(given, moved)), counts


#: How many kernels a transformation calls.
CALLS = {
    "jvp": 2,  # the loop, and the loop of tangents
    "jvp of the input": 2,
    "jacfwd of the input": 2,  # all tangents are rows of one call
    "jvp of grad": 4,  # both for each direction
    "grad of jvp": 6,  # both, and for each a forward loop with residuals and a reverse loop
    "grad of the product": 5,  # the loop, and the same two for it and its reverse loop
}
#: And of some cells.
OTHER_CALLS = {
    ("jacfwd of the input", "complex"): 1,  # tangents of a linear loop do not read its states
    **{  # the derivative of the prologue reads the results of the reverse loop
        ("grad of the product", kind): 6 for kind in ("matrix memory", "complex", "convolutional")
    },
}


@pytest.mark.skipif(AUTO != "native", reason="counts calls of machine code")
@pytest.mark.covered(1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transformation", CALLS)
def test_tangents_run_as_machine_code(kind, transformation):
    found, counts = ran(transformation, kind, "auto")
    count = OTHER_CALLS.get((transformation, kind), CALLS[transformation])
    assert counts == (count, 0)
    assert_close(found, ran(transformation, kind, "plain")[0], 1e-10)


def test_forward_mode_outside_of_jit():
    layer = nr.Recurrence(make_cell("gru", 2, 3))
    right = jax.jvp(nr.with_backend(layer, "plain"), [XS], [XS + 1])
    assert_close(jax.jvp(layer, [XS], [XS + 1]), right, 1e-10)
    with jax.disable_jit():
        assert_close(jax.jvp(layer, [XS], [XS + 1]), right, 1e-10)


def test_forward_mode_of_one_example_and_one_step():
    layer = nr.Recurrence(make_cell("gru", 2, 3))
    plain = nr.with_backend(layer, "plain")
    h, x = random(1, 3), random(2, 2)
    for one in (
        lambda layer: jax.jvp(layer, [h, XS[0]], [2 * h, -XS[0]]),
        lambda layer: jax.jvp(jax.jit(layer.step), [h, x], [2 * h, -x]),
        lambda layer: jax.jacfwd(lambda h: layer.scan(h, XS[0])[0])(h),
    ):
        assert_close(jtu.tree_leaves(one(layer)), jtu.tree_leaves(one(plain)), 1e-10)


def test_a_derivative_without_machine_code_is_that_of_a_scan(caplog):
    """A rule that closes over an array has no graph of its own."""
    table = random(3, 3)

    @jax.custom_jvp
    def bent(a):
        return jnp.tanh(a)

    bent.defjvp(lambda primals, tangents: (bent(*primals), jnp.cos(table) * tangents[0]))

    def cell(h, x):
        return bent(0.5 * h + x)

    xs = random(4, 2, 5, 3)
    layer = nr.Recurrence(cell, initial_state=jnp.zeros(3))
    right = jax.jvp(nr.with_backend(layer, "plain"), [xs], [xs + 1])
    with caplog.at_level(logging.DEBUG, "noria"):
        assert_close(jax.jvp(layer, [xs], [xs + 1]), right, 1e-10)
    if AUTO == "native":
        assert "the tangents of a loop are those of a scan" in caplog.text


def test_integers_in_the_state_have_no_tangent():
    def cell(state, x):
        h, count = state
        return jnp.tanh(h + x / (1 + count.astype(h.dtype))), count + 1 + (h[0] > 0).astype(int)

    layer = nr.Recurrence(cell, initial_state=(jnp.zeros(2), jnp.zeros((), int)))
    plain = nr.with_backend(layer, "plain")
    assert_close(jax.jvp(layer, [XS], [XS + 1]), jax.jvp(plain, [XS], [XS + 1]), 1e-10)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("backend", ["associative", "chunkwise"])
@pytest.mark.parametrize("transformation", ["jvp", "jvp of grad", "grad of jvp"])
def test_forward_mode_of_other_forms(backend, transformation):
    """A linear recurrence, and a matrix memory in chunks."""

    def decay(h, x):
        return jax.nn.sigmoid(x) * h + x

    cell = decay if backend == "associative" else RetNet.make(1, 2, 2)
    start = jnp.zeros(2) if backend == "associative" else None
    found = []
    for name in (backend, "plain"):
        layer = nr.Recurrence(cell, start, backend=name)
        run, given, moved = flat(layer)
        function = TRANSFORMATIONS[transformation]
        found.append(jtu.tree_leaves(jax.jit(functools.partial(function, run))(given, moved)))
    assert_close(found[0], found[1], 1e-10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_tangents_have_the_dtype_of_the_layer(dtype):
    layer = nr.cast(nr.Recurrence(make_cell("lstm", 2, 3)), dtype)
    xs = XS.astype(dtype)
    right = jax.jvp(nr.with_backend(layer, "plain"), [xs], [xs])[1]
    found = jax.jvp(layer, [xs], [xs])[1]
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(
        found.astype(jnp.float32), right.astype(jnp.float32), rtol=tolerance, atol=tolerance
    )


def bent_by(rule: Callable[[Any, Any], Any]) -> Any:
    """A layer with a function whose tangents follow a rule."""

    @jax.custom_jvp
    def bent(a):
        return jnp.tanh(a)

    bent.defjvp(lambda primals, tangents: (bent(*primals), rule(*primals, *tangents)))
    return nr.Recurrence(lambda h, x: bent(0.5 * h + x), initial_state=jnp.zeros(2))


@pytest.mark.skipif(AUTO != "native", reason="about machine code")
@pytest.mark.parametrize("options", [{}, {"save": "states"}])
def test_explain_names_obstacles_to_forward_mode(options):
    table = random(5, 2)
    layer = bent_by(lambda a, t: table * t)
    page = nr.explain(nr.Recurrence(layer.cell, jnp.zeros(2), **options), XS)
    assert page.reason.endswith(
        "; the loop of tangents runs on backend scan: the derivative of a step closes over an array"
    )
    assert page.obstacles == ("the derivative of a step closes over an array",)


@pytest.mark.skipif(AUTO != "native", reason="about machine code")
@pytest.mark.parametrize("options", [{}, {"save": "states"}])
def test_explain_has_the_lines_of_operations_in_the_loop_of_tangents(options):
    """A Fourier transform is in the tangents, and in the reverse loop as its transpose."""
    layer = bent_by(lambda a, t: jnp.fft.fft(t).real)
    page = nr.explain(nr.Recurrence(layer.cell, jnp.zeros(2), **options), XS)
    assert "the loop of tangents runs on backend scan: there is no native code" in page.reason
    assert any("test_forward_mode.py" in obstacle for obstacle in page.obstacles)


def test_explain_says_nothing_of_forward_mode_that_is_machine_code():
    for options in OPTIONS.values():
        layer = nr.Recurrence(make_cell("lstm", 2, 3), **options)
        assert "tangents" not in nr.explain(layer, XS).reason
