"""Products of a block of time steps at once: of the input before it, of emitted values after it.

Each is compared with the scan in values and all cotangents. What nobody asks for is not computed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from agreement import assert_backends_agree, pulled
from agreement import check_native as check
from models import AUTO, CELLS, assert_close, make_cell, random

import noria as nr
from noria._integers import ceil_div
from noria.backends.native.runtime.target import available
from noria.cells.catalogue import catalogue, class_of

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")


@pytest.fixture
def plans(plans, tune):
    """The plans of kernels; products are taken out of the steps wherever that can be."""
    tune(small_weight_bytes=0, block_examples=2**31)
    return plans


def layer_of(name: str, features: int, hidden: int, dtype: Any = jnp.float64) -> nr.Recurrence:
    return nr.Recurrence(make_cell(name, features, hidden, dtype=dtype))


@pytest.mark.sampled(11)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_products_of_a_time_block_agree_with_the_scan(name, reverse, plans):
    check(nr.Recurrence(make_cell(name, 5, 19), reverse=reverse), random(1, 3, 11, 5))
    forward, backward = plans[0], plans[1]
    assert forward.prologue >= 1
    assert not forward.epilogue
    assert backward.epilogue >= 1, "the cotangent of the input is a product that is only emitted"


@pytest.mark.sampled(13)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 70, 1, 33), (2, 13, 70, 3), (17, 5, 33, 50), (5, 1, 16, 64)]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_time_blocks_of_odd_sizes_agree_with_the_scan(shape, dtype, plans):
    batch, time, features, hidden = shape
    xs = random(2, batch, time, features, dtype=dtype)
    check(layer_of("lstm", features, hidden, dtype), xs)
    assert plans


@pytest.mark.covered(1)
@pytest.mark.parametrize("kept", [1, 1_000, 5_000])
@pytest.mark.parametrize("reverse", [False, True])
def test_time_blocks_of_any_length_agree_with_the_scan(kept, reverse, plans, tune):
    """From one step at a time to all; the last block is shorter."""
    tune(block_bytes=kept, block_rows=1 + kept // 500, block_weight_ratio=2**20)
    check(nr.Recurrence(make_cell("gru", 4, 9), reverse=reverse), random(3, 2, 23, 4))


@pytest.mark.parametrize(("ratio", "steps"), [(2**20, 1), (4, 5), (1, 20)])
def test_blocks_are_few_where_their_weights_are_large(ratio, steps, plans, tune):
    """A step keeps four gates of 24 numbers, and a block reads forty times as many weights."""
    tune(block_bytes=1, block_weight_ratio=ratio)
    check(layer_of("lstm", 40, 24), random(3, 2, 20, 40))
    assert plans[0].plan.block_steps(20, 2) == steps


@pytest.mark.sampled(11)
@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_time_blocks_on_any_number_of_threads_agree_with_the_scan(cores, batch, plans, tune):
    tune(cores=cores, thread_flops=1, stage_flops=1)
    check(layer_of("lstm", 20, 40), random(4, batch, 9, 20))


@pytest.mark.parametrize(("batch", "shares_features"), [(4, True), (24, True), (25, False)])
def test_threads_divide_weights_that_are_not_cached(batch, shares_features, plans, tune):
    tune(cores=2, thread_flops=1, stage_flops=1, cached_weight_bytes=1)
    check(layer_of("lstm", 7, 40), random(4, batch, 5, 7))
    assert plans[0].shares_features == shares_features


@pytest.mark.parametrize("isa", [isa.name for isa in available()])
def test_time_blocks_on_each_instruction_set_agree_with_the_scan(isa, plans, tune):
    tune(isa=isa)
    check(layer_of("lstm", 7, 21), random(5, 3, 6, 7))


def test_time_blocks_with_lengths_and_resets_agree_with_the_scan(plans):
    lengths, resets = jnp.asarray([3, 0, 7]), random(6, 3, 7) > 0.5
    check(layer_of("lstm", 5, 8), random(7, 3, 7, 5), lengths=lengths, resets=resets)


def test_products_of_slices_of_the_input_agree_with_the_scan(plans):
    def cell(h: Any, x: Any) -> Any:
        return jnp.tanh(weights[0] @ h + weights[1] @ x[:3] + weights[2] @ x[3:])

    weights = random(8, 6, 6), random(9, 6, 3), random(10, 6, 2)
    check(nr.Recurrence(cell, jnp.zeros(6)), random(11, 2, 4, 5))


def test_small_weights_and_large_batches_stay_in_the_step():
    """The size of the weights and of the batch decide."""
    from noria.backends.native.machine import Tuning

    def prefers_block(weight, batch, all_weights=0):
        return Tuning().prefer_block(weight, max(weight, all_weights), batch)

    assert prefers_block(2**18, 1)
    assert prefers_block(2**18, 4)
    assert prefers_block(2**22, 20)
    assert prefers_block(2**20, 8, all_weights=2**21)
    assert not prefers_block(2**14, 1)
    assert not prefers_block(2**18, 8)
    assert not prefers_block(2**18, 8, all_weights=2**20)
    assert not prefers_block(2**22, 32)


@pytest.mark.parametrize("batch", [7, 8])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_few_rows_read_large_weights_in_few_tiles(name, batch, plans, tune):
    """In one with 32 registers: one vector of a panel is too few.

    There are several blocks of features. Every other step begins with the last.
    """
    tune(cached_weight_bytes=1, cores=1)
    check(nr.Recurrence(make_cell(name, 5, 75)), random(21, batch, 5, 5))
    assert plans
    for plan in (planned.plan for planned in plans):
        widest = max(len(panel.columns) for tiling in plan.tilings for panel in tiling.panels)
        tiles = {n: ceil_div(batch, plan.register_rows(n)) for n in range(2, widest + 3)}
        assert tiles[widest] == min(tiles.values())


def test_a_gradient_that_nobody_wants_is_not_computed(plans):
    """That of the input, or that of a frozen weight, or what must be stored for them."""
    layer = nr.Recurrence(make_cell("lstm", 5, 8), backend="native")
    xs = random(12, 2, 6, 5)

    def made(argument: int) -> list[tuple[int, int]]:
        plans.clear()
        function = jax.grad(lambda layer, xs: jnp.sum(layer(xs) ** 2), argnums=argument)
        jax.block_until_ready(jax.jit(function)(layer, xs))
        return [(plan.emitted, plan.accumulators) for plan in plans]

    (_, of_forward), (of_input, of_weights) = made(0)
    assert (of_forward, of_input, of_weights) == (0, 0, 3)
    (_, of_forward), (of_input, of_weights) = made(1)
    assert (of_forward, of_input, of_weights) == (0, 1, 0)


@pytest.mark.sampled(15)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    ("batch", "time", "features", "hidden"),
    [(1, 1, 3, 5), (1, 1, 17, 33), (2, 2, 20, 50), (1, 4, 1, 16)],
)
def test_weights_of_few_rows_are_not_packed(name, batch, time, features, hidden, plans):
    check(layer_of(name, features, hidden), random(13, batch, time, features))
    assert all(plan.unpacked and not plan.panel_bytes for plan in plans)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("batch", [(), (1,), (3,), (9,), (128,), (129,)], ids=str)
def test_a_single_step_agrees_with_the_plain_loop(batch):
    """As machine code up to 128 examples; with derivatives of both modes."""
    layer, x = layer_of("lstm", 6, 20), random(14, *batch, 6)
    state = layer.step(None, x)[0]

    def both(layer: Any, state: Any, x: Any) -> Any:
        return layer.step(state, x), jax.jvp(layer.step, (state, x), (state, x))

    def pull(layer: Any, state: Any, x: Any) -> Any:
        return pulled(lambda state, x: layer.step(state, x), state, x)

    assert_backends_agree(both, layer, state, x, backends=("auto", "plain"))
    assert_backends_agree(pull, layer, state, x, backends=("auto", "plain"))


@pytest.mark.parametrize(
    ("rows", "packed"), [(16, [False]), (17, [True]), (128, [True]), (129, [])]
)
def test_a_single_step_packs_weights_for_more_than_16_rows(rows, packed, plans):
    layer_of("lstm", 6, 20).step(None, random(14, rows, 6))
    assert [not plan.unpacked for plan in plans] == packed


def assert_steps_agree(layer: Any, state: Any, x: Any, tolerance: float = 1e-10) -> None:
    """With the weights as arguments."""

    def step(layer: Any, state: Any, x: Any) -> Any:
        return layer.step(state, x)

    backends = "auto", "plain"
    assert_backends_agree(step, layer, state, x, backends=backends, tolerance=tolerance)


@pytest.mark.covered(1)
@pytest.mark.parametrize("unit_step_rows", [1, 2**31])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("features", "hidden"), [(6, 20), (17, 100), (40, 130)])
@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("name", ["lstm", "gru", "gruv3"])
def test_a_single_step_packs_a_block_where_it_multiplies(
    name, cores, features, hidden, dtype, unit_step_rows, plans, tune
):
    """Each thread packs the panels of its features: products of one and of several stages."""
    tune(cores=cores, thread_flops=1, stage_flops=1, unit_step_rows=unit_step_rows)
    layer, x = layer_of(name, features, hidden, dtype), random(14, 40, features, dtype=dtype)
    state = jax.tree.map(lambda a: random(15, 40, *a.shape, dtype=dtype), layer.initial_state())
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-12
    assert_steps_agree(layer, state, x, tolerance)
    assert plans[-1].plan.packs_blocks
    assert not plans[-1].plan.panel_bytes


@pytest.mark.covered(1)
@pytest.mark.parametrize("rows", [5, 24])
@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("name", ["layer_norm_lstm", "mass_conserving_lstm", "mlstm", "ntm"])
def test_threads_share_the_examples_of_stages_that_need_all_features(name, cores, rows, tune):
    """Norms and matrices in a single step, beside products whose features are shared."""
    tune(cores=cores, thread_flops=1, stage_flops=1)
    cell = class_of(catalogue()[name])(6, 16, key=jax.random.key(0), dtype=jnp.float64)
    layer, x = nr.Recurrence(cell), random(14, rows, 6)
    state = jax.tree.map(
        lambda a: jnp.broadcast_to(a, (rows, *a.shape)) + 0.1, layer.initial_state()
    )
    assert_steps_agree(layer, state, x)


@pytest.mark.parametrize("backend", ["auto", "scan", "plain", "reference"])
def test_a_step_of_a_function_reads_what_is_outside_anew(backend):
    outside = [jnp.ones(2)]
    layer = nr.Recurrence(lambda h, x: h + outside[0] * x, jnp.zeros(2), backend=backend)
    layer.step(None, jnp.ones(2))
    outside[0] = jnp.full(2, 5.0)
    assert_close(layer.step(None, jnp.ones(2))[1], jnp.full(2, 5.0), 0)


class Linear(nr.Cell):
    """A product that is the next state; emitted too, in parts, or as an operand of other work."""

    W: jax.Array
    emits: str

    def __init__(self, emits: str):
        self.W, self.emits = random(5, 7, 7), emits

    def initial_state(self) -> Any:
        return jnp.zeros(7)

    def __call__(self, h: Any, x: Any) -> Any:
        return (h + x) @ self.W

    def output(self, h: Any, x: Any) -> Any:
        emitted = {"whole": h, "part": h[:3], "twice": (h, h), "matrix": h.reshape(1, 7)}
        return emitted[self.emits] if self.emits in emitted else jnp.tanh(h + x)


@pytest.mark.parametrize("emits", ["whole", "part", "twice", "matrix", "work"])
def test_a_product_that_is_the_next_state_stays_in_the_step(emits, plans):
    """In the reverse loop, the product is the cotangent of the state and of the input."""
    check(nr.Recurrence(Linear(emits)), random(6, 2, 5, 7))
    assert not plans[0].epilogue


def test_a_product_that_two_cotangents_share_stays_in_the_step(plans):
    V = random(7, 7, 7)
    check(nr.Recurrence(lambda h, x: jnp.tanh((h + x) @ V), jnp.zeros(7)), random(8, 2, 5, 7))
    assert not plans[1].epilogue


class Selected(nr.Cell):
    """Transition and read-out are matrices that the step makes from its input."""

    A: jax.Array
    C: jax.Array

    def initial_state(self) -> jax.Array:
        return jnp.ones(self.A.shape[0], self.A.dtype)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh((self.A @ x) @ h)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return (self.C @ x) @ h


@pytest.mark.parametrize("sizes", [(12, 3, 16), (5, 1, 3), (1, 12, 2)])
def test_matrices_that_a_step_makes_from_its_input_stay_in_the_loop(sizes):
    """They are not stored for all steps, and neither is what reads them computed after the loop."""
    hidden, outputs, features = sizes
    given = random(3, hidden, hidden, features), random(4, outputs, hidden, features)
    layer, xs = nr.Recurrence(Selected(*given)), random(1, 2, 64, features)
    check(layer, xs)
    if hidden == 12:
        program = jax.jit(lambda layer, xs: layer(xs)).lower(layer, xs).compile()
        memory: Any = program.memory_analysis()
        assert memory.temp_size_in_bytes < 2 * 64 * hidden * hidden * 8 / 2
