"""Matrices of any size in machine code: loops over heads, rows and features."""

import jax
import jax.numpy as jnp
import pytest
from agreement import assert_agree, assert_pieces_agree, check_native, scanned
from matrix_cells import CELLS
from models import assert_close, learned, noise, random
from published_vectors import FROM_PUBLISHED, PUBLISHED

import noria as nr

pytest.importorskip("llvmlite")

from graphs import planned

from noria.backends.native.plan.access import Access, Misaligned, Unreachable, affine, composed

ALL = {name: PUBLISHED[name] for name in FROM_PUBLISHED} | CELLS
FEATURES = 4
RESETS = jnp.array([[0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0]], bool)


def assert_native(name, heads, size, xs, reverse=False, **options):
    """Check machine code against the definition."""
    layer = learned(ALL[name](heads, size, FEATURES, xs.dtype), reverse=reverse)
    assert_agree(
        nr.with_backend(layer, "native"), nr.with_backend(layer, "reference"), xs, **options
    )


@pytest.mark.sampled(31)
@pytest.mark.parametrize("name", ALL)
def test_matrix_cells_with_lengths_equal_their_definition(name):
    assert_native(name, 2, 18, random(1, 3, 4, FEATURES), lengths=jnp.array([4, 0, 2]))


@pytest.mark.sampled(23)
@pytest.mark.parametrize("name", ALL)
def test_matrix_cells_with_resets_in_reverse_equal_their_definition(name):
    resets = jnp.array([False, False, True, False])
    assert_native(name, 3, 17, random(1, 4, FEATURES), reverse=True, resets=resets)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("resets", [None, RESETS], ids=["", "resets"])
def test_pieces_steps_and_chunks_equal_the_whole(name, resets):
    """Values, final state and cotangents; the carry goes from one call to the next."""
    cell = ALL[name](2, 18, FEATURES, jnp.float64)
    layer, xs = learned(cell, backend="native"), random(1, 3, 4, FEATURES)
    start = noise(jax.tree.map(lambda a: jnp.stack([a] * 3), cell.initial_state()), 5)
    whole = assert_pieces_agree(layer, xs, start, resets)
    if nr.explain(layer, xs).chunkwise == "yes":
        chunked = nr.with_backend(layer, "chunkwise")
        assert_close(scanned(chunked, xs, start, resets=resets), whole, 1e-10)


@pytest.mark.sampled(19)
@pytest.mark.parametrize("name", ALL)
def test_matrix_cells_in_single_precision_equal_their_definition(name):
    xs = random(1, 1, 3, FEATURES, dtype=jnp.float32)
    assert_native(name, 2, 33, xs, tolerance=2e-5)


@pytest.mark.sampled(11)
@pytest.mark.parametrize("isa", ["avx2", "sse"])
@pytest.mark.parametrize("name", ["gated_deltanet", "rwkv7", "mlstm", "mixed", "window attention"])
def test_matrix_cells_with_narrow_vectors(name, isa, tune):
    """The code for other instruction sets."""
    tune(isa=isa)
    check_native(learned(ALL[name](2, 19, FEATURES, jnp.float64)), random(1, 2, 3, FEATURES))


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("name", "heads", "size"),
    [
        *[(name, 1, size) for name in ("deltanet", "mixed") for size in (3, 70)],
        *[("rwkv7", heads, size) for heads, size in [(1, 1), (5, 1), (3, 5)]],
    ],
)
def test_matrices_of_odd_sizes(name, heads, size, tune):
    """Few rows and features, and many, all by loops."""
    tune(pieces=1)
    check_native(learned(ALL[name](heads, size, FEATURES, jnp.float64)), random(1, 2, 3, FEATURES))


@pytest.mark.covered(1)
@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("name", ["gated_deltanet", "mamba", "ltc"])
def test_matrix_cells_on_threads(name, batch, tune):
    tune(cores=3, thread_flops=1, stage_flops=1)
    check_native(learned(ALL[name](2, 18, FEATURES, jnp.float64)), random(1, batch, 4, FEATURES))


@pytest.mark.parametrize("limit", [1, 2**20])
def test_products_of_the_input_in_the_step_and_in_a_time_block(limit, tune):
    """Each example alone goes through the steps of a block, or all of them through each step."""
    tune(matrix_state_bytes=limit, block_bytes=2**12)
    cell = ALL["gated_deltanet"](2, 18, FEATURES, jnp.float64)
    check_native(learned(cell), random(1, 12, 7, FEATURES))


@pytest.mark.parametrize("name", ["retnet", "mlstm"])
def test_matrix_cells_in_bfloat16(name):
    layer = learned(ALL[name](2, 18, FEATURES, jnp.float32))
    xs = random(1, 2, 3, FEATURES, dtype=jnp.float32)
    low = nr.cast(layer, jnp.bfloat16)
    found = nr.with_backend(low, "native")(xs.astype(jnp.bfloat16))
    expected = nr.with_backend(nr.cast(low, jnp.float32), "reference")(xs)
    assert found.dtype == jnp.bfloat16
    assert jnp.abs(found.astype(jnp.float32) - expected).max() < jnp.abs(expected).max() / 100


class Turned(nr.Cell):
    """Parameters with the order of a transpose, and of parts of rows."""

    A: jax.Array
    B: jax.Array

    def __call__(self, S: jax.Array, x: jax.Array) -> jax.Array:
        S = jnp.tanh(S + x[: S.shape[0], None])
        joined = jnp.concatenate([S[:, 2:], S[:, :2] * x[0]], 1)
        return jnp.tanh(jnp.tanh(self.A * S).T + jnp.flip(self.B * joined, 0) + (self.A * S.T).T)

    def initial_state(self) -> jax.Array:
        return jnp.zeros_like(self.A)


@pytest.mark.parametrize("size", [3, 18])
def test_gradients_of_parameters_keep_the_order_of_elements(size):
    """Sums over steps of values that are transposes, concatenations and flips."""
    cell = Turned(random(0, size, size), random(1, size, size))
    check_native(learned(cell), random(2, 2, 5, size))


def test_matrices_of_whole_numbers_and_truths():
    """Sums, maxima and selections, along rows and features."""

    def step(state, x):
        n, m = state
        n = jnp.where((n.sum(1) > 3)[:, None], n - m.max(0), n + (m > 0).T.astype(n.dtype))
        return n, m.T + jnp.where(x > 0, 1, -1)[:, None] * n.min(0)

    start = jnp.arange(25, dtype=jnp.int32).reshape(5, 5) % 7, jnp.ones((5, 5), jnp.int32)
    layer = nr.Recurrence(step, start)
    found, expected = (
        nr.with_backend(layer, backend).scan(None, random(1, 3, 6, 5))
        for backend in ("auto", "reference")
    )
    assert_close(found, expected, 0)
    assert nr.explain(layer, random(1, 3, 6, 5)).backend == "native"


def test_a_reduction_follows_the_stage_that_stores_its_operand():
    """The operand is computed, point by point, from a matrix in another order."""

    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        turned = h.reshape(2, 2).T.reshape(4)
        largest = jax.lax.argmax(1.5 * turned + x, 0, jnp.int32)
        return jnp.tanh(0.3 * largest.astype(h.dtype) + x * turned)

    check_native(nr.Recurrence(step, jnp.zeros(4)), random(2, 5, 4))


def test_reductions_of_truths_and_choices_by_numbers():
    """Along features, along rows, and of everything."""

    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        above = h.reshape(2, 3) > x.reshape(2, 3)
        kind = above.any(0).astype(jnp.int32) + jnp.min(above, 0).astype(jnp.int32)
        chosen = jax.lax.select_n(kind, x[:3], -x[3:], h[:3])
        wide = jnp.where(above.all(1), 0.2, 0.6)
        return jnp.tanh(jnp.concatenate([chosen, wide, wide[:1]]) + jnp.where(above.any(), h, 0.3))

    check_native(nr.Recurrence(step, jnp.zeros(6)), random(2, 5, 6))


@pytest.mark.parametrize("save", ["gates", "states"])
@pytest.mark.parametrize(
    "part",
    [lambda q: jnp.pad(q[:1, :1], ((0, 1), (0, 1), (0, 0))), lambda q: 2 * q[::2, ::2]],
    ids=["padded", "strided"],
)
def test_a_stage_of_a_part_of_the_state_does_not_store_the_whole(part, save):
    """The state that is stored for the gradient is larger than the part of it that is read."""
    layer = nr.Recurrence(
        lambda q, x: jnp.tanh(part(q) + q / 2 + x), jnp.zeros((2, 2, 2)), save=save
    )
    check_native(layer, random(0, 3, 4, 2, 2, 2))


# --- plans --------------------------------------------------------------------------------------


def test_an_update_and_its_read_out_are_one_stage():
    """No outer product is stored, and the state is read once."""
    found = planned(
        lambda hS, hy, q, k, v: (
            0.9 * hS + k[:, :, None] * v[:, None, :],
            jnp.einsum("hk,hkv->hv", q, 0.9 * hS + k[:, :, None] * v[:, None, :]),
        ),
        hS=(4, 32, 32),
        hy=(4, 32),
        q=(4, 32),
        k=(4, 32),
        v=(4, 32),
    )
    stages = [line for line in found.splitlines() if line.startswith("stage")]
    assert stages == ["stage of 4 x 32 x 32, rows 1:"]


def test_a_delta_rule_reads_the_state_twice():
    def step(S, y, k, v):
        u = v - jnp.einsum("hk,hkv->hv", k, S)
        S = S + k[:, :, None] * u[:, None, :]
        return S, jnp.einsum("hk,hkv->hv", k, S)

    square, row = (2, 18, 18), (2, 18)
    found = planned(lambda hS, hy, k, v: step(hS, hy, k, v), hS=square, hy=row, k=row, v=row)
    stages = [line for line in found.splitlines() if line.startswith("stage")]
    assert stages == [
        "stage of 2 x 18 x 18, rows 1:",
        "stage of 36:",
        "stage of 2 x 18 x 18, rows 1:",
    ]


@pytest.mark.parametrize(
    ("domain", "access", "step", "found"),
    [
        ((3, 4), Access(0, (4, 1)), affine(0, (3, 1), (4, 0)), Access(0, (1, 0))),  # a column
        ((3, 4), Access(0, (4, 1)), affine(0, (3, 0), (4, 1)), Access(0, (0, 1))),  # a row
        ((3, 4), Access(0, (4, 1)), affine(0, (3, 1), (4, 3)), Access(0, (1, 3))),  # a transpose
        ((2, 2), Access(0, (2, 1)), affine(5, (2, 4), (2, 1)), Access(5, (4, 1))),  # a part
        ((12,), Access(0, (1,)), affine(0, (3, 1), (4, 0)), Misaligned),
        ((4, 3), Access(0, (3, 1)), affine(0, (3, 1), (4, 0)), Unreachable),
    ],
)
def test_accesses_through_views(domain, access, step, found):
    if isinstance(found, type):
        with pytest.raises(found):
            composed(domain, access, step)
    else:
        assert composed(domain, access, step) == found


def test_the_code_does_not_grow_with_the_rows():
    """The same number of instructions for heads of 256 and of 1024 numbers."""
    cells = (ALL["deltanet"](2, size, FEATURES, jnp.float32) for size in (256, 1024))
    one, other = map(_instructions, cells)
    assert one == other


def _instructions(cell):
    from noria.backends.native.codegen import kernel
    from noria.backends.native.runtime import kernels

    made: list[int] = []
    original = kernel.emit

    def spied(plan):
        module = original(plan)
        made.append(sum(1 for line in str(module).splitlines() if "=" in line))
        return module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "emit", spied)
        layer = nr.with_backend(nr.Recurrence(cell), "native")
        jax.jit(layer).lower(jnp.zeros((2, 6, 4), jnp.float32))
    assert made
    return made[0]
