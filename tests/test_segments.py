"""Gradients that compute the residuals of a memory again, segment by segment."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from agreement import assert_agree, assert_backends_agree
from matrix_memories import CHUNKWISE, RWKV6, DeltaNet, GatedDeltaNet, RetNet, Titans
from models import assert_close, ensemble, learned, random
from published import PUBLISHED

import noria as nr

pytest.importorskip("llvmlite")

WIDTH = 5
#: Thresholds with which short sequences run in segments of two steps.
SHORT = {
    "matrix_state_bytes": 1,
    "recomputed_ratio": 1,
    "stored_bytes": 0,
    "segment_bytes": 1,
    "segment_steps": 2,
}
KINDS = {kind.__name__: kind for kind in CHUNKWISE} | {"Titans": Titans}


class Flat(nr.Cell):
    """Weights that are matrices: in inference the products of the input stay in the loop."""

    W: jax.Array
    U: jax.Array

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        k, v = jnp.split(self.W @ x, 2)
        return 0.9 * S + jnp.outer(jnp.tanh(k), v)

    def output(self, S: jax.Array, x: jax.Array) -> jax.Array:
        return (self.U @ x) @ S

    def initial_state(self) -> jax.Array:
        return jnp.zeros((32, 32), self.W.dtype)


def layer_of(kind, size=16, dtype=jnp.float64, **options):
    return learned(kind.make(2, size, WIDTH, dtype), **options)


def segment_of(layer, xs):
    return nr.explain(layer, xs).segment


#: Memories whose reverse loop needs no matrix of the forward loop.
RERUN = {"Memory", "RetNet", "Flat"}


def assert_right(layer, xs, state=None, **options):
    """Check that it runs in segments, or twice as a whole, and against the definition."""
    runs_again = type(layer.cell).__name__ in RERUN
    assert (segment_of(layer, xs) == xs.shape[-2]) == runs_again
    assert segment_of(layer, xs) > 0
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, state, **options)


@pytest.mark.sampled(14)
@pytest.mark.parametrize("name", KINDS)
def test_memories_with_lengths_equal_their_definition(name, tune):
    tune(**SHORT)
    assert_right(layer_of(KINDS[name]), random(1, 3, 5, WIDTH), lengths=jnp.array([5, 0, 3]))


@pytest.mark.sampled(13)
@pytest.mark.parametrize("name", KINDS)
def test_memories_with_resets_in_reverse_equal_their_definition(name, tune):
    tune(**SHORT)
    resets = jnp.array([False, True, False, True, False])
    layer = layer_of(KINDS[name], reverse=True)
    assert_right(layer, random(1, 5, WIDTH), resets=resets)


def test_weights_that_are_matrices_equal_their_definition(tune):
    """The loop of the gradient has no product, and the one of the inference has them."""
    tune(**SHORT)
    layer = learned(Flat(random(0, 64, WIDTH), random(1, 32, WIDTH)))
    xs = random(2, 3, 5, WIDTH)
    assert_right(layer, xs)
    found = nr.explain(layer, xs)
    products = [
        sum(line.name == "dot_general" for line in part) for part in (found.before, found.loop)
    ]
    assert products == [0, 3]
    assert not found.gradients


@pytest.mark.sampled(4)
@pytest.mark.parametrize("time", [7, 1, 2, 3])
def test_a_carried_state_and_any_number_of_steps(time, tune):
    tune(**SHORT)
    layer, xs = layer_of(GatedDeltaNet), random(1, 2, time, WIDTH)
    assert (segment_of(layer, xs) > 0) == (time > 2)
    state = random(3, 2, 2, 16, 16)
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, state)


@pytest.mark.parametrize("axes", [(0, 0), (0, 5), (2, 0)])
def test_no_examples_and_no_steps(axes, tune):
    tune(**SHORT)
    layer = layer_of(RetNet)
    assert_agree(layer, nr.with_backend(layer, "scan"), random(1, *axes, WIDTH))


def test_decays_of_elements(tune):
    """Mamba: the decay of each element depends on the input and a parameter."""
    tune(**SHORT)
    layer = learned(PUBLISHED["mamba"](2, 16, WIDTH, jnp.float64))
    assert_right(layer, random(1, 2, 5, WIDTH))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [DeltaNet, RWKV6], ids=lambda kind: kind.__name__)
def test_sums_in_bfloat16(kind, tune):
    tune(**SHORT)
    low = nr.cast(layer_of(kind, dtype=jnp.float32), jnp.bfloat16)
    xs = random(1, 2, 33, WIDTH, dtype=jnp.float32)

    def gradient(layer, xs):
        return jax.tree.leaves(
            nr.grad(lambda layer: (layer(xs).astype(jnp.float32) ** 2).sum())(layer)
        )

    assert segment_of(low, xs.astype(jnp.bfloat16))
    found = gradient(low, xs.astype(jnp.bfloat16))
    expected = gradient(nr.with_backend(nr.cast(low, jnp.float32), "scan"), xs)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        error = jnp.abs(one.astype(jnp.float32) - other).max()
        assert error <= jnp.abs(other).max() / 30


def second_derivative(layer, xs):
    def penalty(layer, xs):
        return sum((g**2).sum() for g in jax.tree.leaves(nr.grad(loss)(layer, xs)))

    return nr.grad(penalty)(layer, xs)


def loss(layer, xs):
    return (layer(xs) ** 2).sum()


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    "function",
    [
        second_derivative,
        lambda layer, xs: jax.jvp(lambda xs: layer(xs), (xs,), (xs,)),
        lambda layer, xs: jax.jvp(jax.grad(lambda xs: loss(layer, xs)), (xs,), (xs,)),
        lambda layer, xs: jax.vmap(lambda xs: nr.grad(loss)(layer, xs))(jnp.stack([xs, 2 * xs])),
        lambda layer, xs: nr.grad(
            lambda layer: jax.vmap(lambda xs: loss(layer, xs))(jnp.stack([xs, 2 * xs])).sum()
        )(layer),
        lambda layer, xs: jax.hessian(lambda a: loss(layer, a * xs))(jnp.array(0.7, xs.dtype)),
    ],
    ids=["grad of grad", "jvp", "jvp of grad", "vmap of grad", "grad of vmap", "hessian"],
)
def test_derivatives_and_maps(function, tune):
    tune(**SHORT)
    layer, xs = layer_of(DeltaNet), random(1, 2, 5, WIDTH) / 3
    assert segment_of(layer, xs)
    assert_backends_agree(function, layer, xs)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("over_inputs", [False, True])
def test_models_in_one_call(over_inputs, tune):
    """The gradient of each model of an ensemble, which is one call in each direction."""
    tune(**SHORT)
    layer, xs = layer_of(RetNet), random(1, 3, 2, 5, WIDTH)
    layers = ensemble(layer, 3)
    axes = eqx.if_array(0), 0 if over_inputs else None
    xs = xs if over_inputs else xs[0]
    found = eqx.filter_vmap(nr.grad(loss), in_axes=axes)(layers, xs)
    for n in range(3):
        one = jax.tree.map(lambda a, n=n: a[n], eqx.filter(layers, eqx.is_array))
        one = eqx.combine(one, eqx.filter(layers, eqx.is_array, inverse=True))
        expected = nr.grad(loss)(nr.with_backend(one, "scan"), xs[n] if over_inputs else xs)
        each = jax.tree.map(lambda a, n=n: a[n], found)
        assert_close(jax.tree.leaves(each), jax.tree.leaves(expected), 1e-10)


# --- the choice -----------------------------------------------------------------------------------


def test_a_long_sequence_of_a_memory_stores_the_inputs_of_its_steps():
    found = nr.explain(
        layer_of(DeltaNet, 32, jnp.float32), jnp.zeros((1, 2048, WIDTH), jnp.float32)
    )
    assert found.segment == 2**21 // (4 * 2 * 32 * (32 + 1))
    assert set(found.saved_segments) == {"f32[2,32,32]"}
    assert found.saved_bytes < 2048 * 4 * 2 * 32 * 8
    assert f"every {found.segment} steps 1 f32[2,32,32]" in str(found)
    assert f"every {found.segment} steps" in found._repr_html_()


def no_segments(layer, time=2048):
    return nr.explain(layer, jnp.zeros((1, time, WIDTH), jnp.float32)).segment == 0


def test_other_gradients_store_their_residuals():
    """Few steps, other policies and backends, and a step with products of the state."""
    assert no_segments(layer_of(DeltaNet, 32, jnp.float32), 128)
    assert no_segments(layer_of(DeltaNet, 32, jnp.float32, save="states"))
    assert no_segments(layer_of(DeltaNet, 32, jnp.float32, backend="scan"))
    assert no_segments(nr.GRU(WIDTH, 64, dtype=jnp.float32, key=jax.random.key(0)))
    assert no_segments(learned(PUBLISHED["slstm"](2, 32, WIDTH, jnp.float32)))


def test_a_checkpoint_is_a_segment():
    layer = nr.GRU(WIDTH, 4, key=jax.random.key(0), checkpoint=16)
    found = nr.explain(layer, jnp.zeros((2, 100, WIDTH)))
    assert (found.segment, found.saved, found.saved_segments) == (16, (), ("f64[4]",))
    assert found.saved_bytes == 2 * 7 * 4 * 8


def test_an_outer_product_of_inputs_stays_in_the_loop():
    """Hoisted, it would be a matrix for each step."""

    def step(S, x):
        return 0.5 * S + x[:3, None] @ x[None, 3:]

    found = nr.explain(nr.Recurrence(step, jnp.zeros((3, 4))), jnp.zeros((2, 5, 7)))
    assert [line.name for line in found.before if line.name == "dot_general"] == []
    assert sum(line.name == "dot_general" for line in found.loop) == 1


def test_a_token_shift_leaves_the_loop_of_a_memory():
    """Its products would keep the gradient from computing matrices again."""
    found = nr.explain(layer_of(RWKV6, 32, jnp.float32), jnp.zeros((1, 2048, WIDTH), jnp.float32))
    assert found.segment
    assert "delay" in found.states
