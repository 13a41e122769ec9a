"""The kernel reads and writes arrays of the caller, batch first, through staging buffers.

Nothing is transposed, and the results are bitwise those of a program that transposes.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import check_native, scanned
from models import AUTO, CELLS, assert_close, make_cell, random

import noria as nr
from noria.backends.native import kernel_call

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")


def check(monkeypatch: Any, plans: Any, layer: Any, xs: Any, **options: Any) -> None:
    """Agree with the scan, and bitwise with a program of which XLA transposes the arrays."""
    found = check_native(layer, xs, **options)
    assert [plan.staged > 0 for plan in plans] == [True, True]
    with monkeypatch.context() as patch:
        patch.setattr(kernel_call, "_staged", lambda loop, schedule, batch_major: [])
        transposed = scanned(nr.with_backend(layer, "native"), xs, **options)
        jtu.tree_map(np.testing.assert_array_equal, found, transposed)


@pytest.mark.sampled(11)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_batch_major_is_bitwise_equal_to_transposed(name, reverse, monkeypatch, plans):
    layer = nr.Recurrence(make_cell(name, 5, 19), reverse=reverse)
    check(monkeypatch, plans, layer, random(1, 3, 11, 5))


@pytest.mark.sampled(15)
@pytest.mark.parametrize(
    "shape", [(2, 2, 1, 1), (2, 40, 1, 33), (9, 13, 70, 3), (17, 5, 33, 50), (3, 4, 600, 8)]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_odd_sizes_are_bitwise_equal_to_transposed(shape, dtype, monkeypatch, plans):
    batch, time, features, hidden = shape
    layer = nr.Recurrence(make_cell("lstm", features, hidden, dtype=dtype))
    xs = random(2, batch, time, features, dtype=dtype)
    check(monkeypatch, plans, layer, xs)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("bytes_of_an_example", [1, 300, 2**20])
@pytest.mark.parametrize("cores", [1, 2])
def test_staging_buffers_of_any_size_are_bitwise_equal_to_transposed(
    bytes_of_an_example, cores, monkeypatch, plans, tune
):
    """For one step, a few, more than there are; each thread takes its own examples."""
    tune(cores=cores, thread_flops=1, block_rows=40, staged_bytes=bytes_of_an_example)
    check(monkeypatch, plans, nr.Recurrence(make_cell("gru", 4, 9)), random(3, 8, 23, 4))


@pytest.mark.parametrize("options", [{}, {"save": "states"}])
def test_lengths_and_resets_are_bitwise_equal_to_transposed(options, monkeypatch, plans):
    lengths, resets = jnp.asarray([3, 0, 7]), random(6, 3, 7) > 0.5
    layer = nr.Recurrence(make_cell("lstm", 5, 8), **options)
    check(monkeypatch, plans, layer, random(7, 3, 7, 5), lengths=lengths, resets=resets)


class Emitting(nr.Cell):
    """Reads and emits arrays of any type and rank."""

    U: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(x[0].astype(bool), jnp.tanh(self.U @ h + x[1:].astype(h.dtype)), h)

    def output(self, h: jax.Array, x: jax.Array) -> Any:
        return h[:3], h > 0, x[2], x.astype(jnp.int32) + jnp.int32(1), h.sum()

    def initial_state(self) -> jax.Array:
        return jnp.zeros(len(self.U))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.float32])
def test_inputs_and_outputs_of_every_dtype_agree_with_the_definition(dtype, plans):
    layer, xs = nr.Recurrence(Emitting(random(8, 6, 6))), (3 * random(9, 4, 5, 7)).astype(dtype)
    found = jax.jit(lambda xs: layer.scan(None, xs))(xs)
    assert plans[0].staged >= 3, "what h decides; the rest may be computed before the loop"
    assert_close(found, nr.with_backend(layer, "reference").scan(None, xs), 1e-10)


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    "cell",
    [
        *(make_cell(name, 24, 40) for name in CELLS),
        make_cell("rnn", 24, 40, activation=jax.nn.relu),
    ],
    ids=[*CELLS, "relu"],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_compiled_hlo_has_no_transpose(cell, dtype):
    """A transpose that only changes a layout moves no number."""
    layer = nr.cast(nr.Recurrence(cell), dtype)
    xs, given = random(11, 5, 13, 24, dtype=dtype), random(12, 5, 13, 40, dtype=dtype)

    def pulled(layer: Any, xs: Any, given: Any) -> Any:
        ys, pull = jax.vjp(lambda layer, xs: layer.scan(None, xs)[1], layer, xs)
        return ys, pull(given)

    compiled = jax.jit(pulled).lower(layer, xs, given).compile().as_text() or ""
    assert re.search(r"\[5,13,|\[13,5,", compiled)
    assert not re.findall(r".*(?:\[5,13,|\[13,5,).* (?:copy|transpose|fusion)\(.*", compiled)
