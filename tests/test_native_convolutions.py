"""Convolutional states in machine code: windows, and products with kernels."""

import jax
import jax.numpy as jnp
import pytest
from agreement import assert_agree, assert_backends_agree, check_native
from convolutional_cells import CELLS, ConvolutionalCell
from models import assert_close, learned, random, random_like

import noria as nr

pytest.importorskip("llvmlite")

each_cell = pytest.mark.parametrize("name", CELLS)


def assert_native(layer, xs, state=None, **options):
    """Check machine code, in both directions, against the definition."""
    page = nr.explain(layer, xs)
    assert page.backend == "native"
    assert not page.obstacles
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, state, **options)


@pytest.mark.sampled(21)
@each_cell
def test_convolutional_cells_with_lengths_equal_their_definition(name):
    """What is past the end of an example is never read."""
    cell = CELLS[name]()
    xs = random(1, 3, 4, *cell.input_shape()).at[1, 2:].set(jnp.nan).at[2].set(jnp.nan)
    state = random_like(jax.tree.map(lambda a: jnp.stack([a] * 3), cell.initial_state()), 3)
    assert_native(learned(cell), xs, state, lengths=jnp.array([4, 2, 0]))


@pytest.mark.sampled(21)
@each_cell
def test_convolutional_cells_with_resets_in_reverse_equal_their_definition(name):
    cell, resets = CELLS[name](), jnp.array([[False, False, True, False], [False] * 4])
    layer = learned(cell, reverse=True)
    assert_native(layer, random(1, 2, 4, *cell.input_shape()), resets=resets)


@pytest.mark.sampled(23)
@each_cell
def test_steps_give_what_the_whole_sequence_gives(name):
    cell = CELLS[name]()
    layer, xs = learned(cell), random(1, 2, 3, *cell.input_shape())
    final, ys = layer.scan(None, xs)
    state = jax.tree.map(lambda a: jnp.stack([a] * 2), layer.initial_state())
    for n in range(3):
        state, y = layer.step(state, xs[:, n])
        assert_close(y, ys[:, n], 1e-12)
    assert_close(state, final, 1e-12)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("isa", ["avx2", "sse"])
@pytest.mark.parametrize("last", [False, True])
def test_convolutional_cells_with_narrow_vectors(isa, last, tune):
    tune(isa=isa)
    cell = ConvolutionalCell((5, 19), (3, 2), dtype=jnp.float32, last=last)
    xs = random(1, 2, 3, *cell.input_shape(), dtype=jnp.float32)
    check_native(learned(cell), xs, tolerance=2e-5)


@pytest.mark.parametrize("last", [False, True])
def test_convolutional_cells_in_bfloat16(last):
    cell = ConvolutionalCell((5, 6), dtype=jnp.float32, last=last)
    layer, xs = learned(cell), random(1, 2, 3, *cell.input_shape(), dtype=jnp.float32)
    low = nr.cast(layer, jnp.bfloat16)
    found = nr.with_backend(low, "native")(xs.astype(jnp.bfloat16))
    expected = nr.with_backend(nr.cast(low, jnp.float32), "reference")(xs)
    assert found.dtype == jnp.bfloat16
    assert jnp.abs(found.astype(jnp.float32) - expected).max() < jnp.abs(expected).max() / 50


def two_filters(h, x, K, V):
    """A convolution with a stride, and one that enlarges its operand again."""
    low = jax.lax.conv_general_dilated(h[None], K, (2, 1), [(1, 2), (0, 1)])
    high = jax.lax.conv_general_dilated(low, V, (1, 1), [(2, 1), (1, 1)], (2, 1))
    return jnp.tanh(h + high[0, :, :6, :5] + x)


def depthwise(h, x, K, V):
    """One filter for each feature, with features last and first."""
    numbers = "NHWC", "HWIO", "NHWC"
    last = jax.lax.conv_general_dilated(
        h.transpose(1, 2, 0)[None], K, (1, 1), "SAME", None, None, numbers, 2
    )
    first = jax.lax.conv_general_dilated(h[None], V, (1, 1), "SAME", feature_group_count=2)
    return jnp.tanh(last[0].transpose(2, 0, 1) + first[0] + x)


def mixed_orders(h, x, K, V):
    """Axes of operand, kernel and result in any order, and several examples in one."""
    numbers = "HCNW", "WIHO", "NWCH"  # two examples of one feature, then two features
    found = jax.lax.conv_general_dilated(
        h.transpose(1, 0, 2)[:, None], K, (1, 1), "SAME", dimension_numbers=numbers
    )
    return jnp.tanh((found[:, :, 0] + found[:, :, 1]).transpose(0, 2, 1) * V + h + x)


def convolved_vectors(h, x, K, V):
    rows = [jnp.convolve(row, K, mode) for row, mode in zip(h[:, 0], ("same", "full"), strict=True)]
    return jnp.tanh(V * (rows[0] + rows[1][1:-1])[None, None, :] + h + x)


def own_filters(h, x, K, V):
    """A filter that is a part of the state."""
    return jnp.tanh(
        V * jax.lax.conv_general_dilated(h[None], h[None, :, :3, :3], (1, 1), "SAME")[0] + h + x
    )


STEPS = {
    two_filters: ((3, 2, 2, 2), (2, 3, 2, 2)),
    depthwise: ((3, 2, 1, 2), (2, 1, 2, 3)),
    mixed_orders: ((3, 1, 3, 2), ()),
    convolved_vectors: ((3,), ()),
    own_filters: ((), ()),
}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_other_convolutions_equal_their_definition(step):
    K, V = (random(n, *shape) / 2 for n, shape in enumerate(STEPS[step]))

    class Cell(nr.Cell):
        K: jax.Array
        V: jax.Array

        def __call__(self, h, x):
            return step(h, x, self.K, self.V)

        def initial_state(self):
            return jnp.zeros((2, 6, 5))

    assert_native(learned(Cell(K, V)), random(5, 2, 3, 2, 6, 5))


def test_kernels_are_brought_into_order_outside_of_the_loop():
    """Under `jax.vmap` over layers, each layer has its own kernels."""
    cells = [ConvolutionalCell((4, 5)), ConvolutionalCell((4, 5), last=False)]
    both = jax.tree.map(lambda *a: jnp.stack([a[0], a[1] * 0.5]), *map(learned, cells))
    xs = random(2, 2, 3, *cells[0].input_shape())

    def loss(layers, xs):
        return jax.grad(lambda layers: (jax.vmap(lambda one: one(xs))(layers) ** 2).sum())(layers)

    assert_backends_agree(loss, both, xs)


def test_a_convolution_of_many_taps_is_an_obstacle():
    h = jnp.zeros(64)
    kernel = random(1, 40)
    layer = nr.Recurrence(lambda h, x: jnp.tanh(jnp.convolve(h, kernel, "same") + x), h)
    page = nr.explain(layer, random(1, 3, 64))
    assert page.backend == "scan"
    assert "no native code for conv_general_dilated of" in page.reason
