"""Matrices of any size in machine code: loops over heads, rows and features."""

import jax
import jax.numpy as jnp
import pytest
from agreement import assert_agree, check_native
from matrix_cells import CELLS
from models import random

import noria as nr

pytest.importorskip("llvmlite")


def backends_of(cell):
    layer = nr.Recurrence(cell)
    return [nr.with_backend(layer, name) for name in ("native", "reference")]


@pytest.mark.parametrize("name", CELLS)
def test_matrix_cells_agree_with_their_definition(name):
    """Values, final state and all cotangents, with lengths, and with resets in reverse."""
    cell = CELLS[name](2, 18)
    native, reference = backends_of(cell)
    xs = random(1, 3, 4, 4)
    assert_agree(native, reference, xs, lengths=jnp.array([4, 0, 2]))


@pytest.mark.parametrize("name", CELLS)
def test_matrix_cells_with_resets_in_reverse(name):
    cell = CELLS[name](3, 17)
    layer = nr.Recurrence(cell, reverse=True)
    native, reference = (nr.with_backend(layer, n) for n in ("native", "reference"))
    resets = jnp.array([False, False, True, False])
    assert_agree(native, reference, random(1, 4, 4), resets=resets)


@pytest.mark.parametrize("name", CELLS)
def test_matrix_cells_in_single_precision(name):
    cell = CELLS[name](2, 33, dtype=jnp.float32)
    native, reference = backends_of(cell)
    assert_agree(native, reference, random(1, 1, 3, 4, dtype=jnp.float32), tolerance=2e-5)


@pytest.mark.parametrize("isa", ["avx2", "sse"])
@pytest.mark.parametrize("name", ["deltanet", "rwkv7", "mlstm", "norms", "window attention"])
def test_matrix_cells_with_narrow_vectors(name, isa, tune):
    """The code for other instruction sets, here emulated."""
    tune(isa=isa)
    check_native(nr.Recurrence(CELLS[name](2, 19)), random(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("name", "heads", "size"),
    [
        *[(name, 1, size) for name in ("deltanet", "norms") for size in (3, 70)],
        *[("rwkv7", heads, size) for heads, size in [(1, 1), (5, 1), (3, 5)]],
    ],
)
def test_matrices_of_odd_sizes(name, heads, size, tune):
    """Few rows and features, and many, all by loops."""
    tune(pieces=1)
    check_native(nr.Recurrence(CELLS[name](heads, size)), random(1, 2, 3, 4))


@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("name", ["gated deltanet", "mamba", "ltc"])
def test_matrix_cells_on_threads(name, batch, tune):
    tune(cores=3, thread_flops=1, stage_flops=1)
    check_native(nr.Recurrence(CELLS[name](2, 18)), random(1, batch, 4, 4))


@pytest.mark.parametrize("name", ["retnet", "mlstm"])
def test_matrix_cells_in_bfloat16(name):
    layer = nr.Recurrence(CELLS[name](2, 18, dtype=jnp.float32))
    xs = random(1, 2, 3, 4, dtype=jnp.float32)
    low = nr.cast(layer, jnp.bfloat16)
    found = nr.with_backend(low, "native")(xs.astype(jnp.bfloat16))
    expected = nr.with_backend(nr.cast(low, jnp.float32), "reference")(xs)
    assert found.dtype == jnp.bfloat16
    assert jnp.abs(found.astype(jnp.float32) - expected).max() < jnp.abs(expected).max() / 100


def test_the_code_does_not_grow_with_the_rows():
    """The same number of instructions for heads of 32 and of 256 numbers."""
    counts = [_instructions(CELLS["deltanet"](2, size, dtype=jnp.float32)) for size in (64, 256)]
    assert counts[0] == counts[1]


def _instructions(cell):
    from noria.backends.native.runtime import kernels

    made = []
    original = kernels.emit

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
