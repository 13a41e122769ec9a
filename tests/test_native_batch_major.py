"""Arrays of the caller have the batch in front. The kernel takes them as they lie, a few steps at a time: nothing is transposed, and not a bit of the result is another."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import by_scan, scanned
from models import AUTO, CELLS, assert_close, make_cell, random

import noria as nr
from noria.backends.native import primitive
from noria.backends.native.plan import tiling

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")


def check(
    monkeypatch: Any, plans: Any, layer: Any, xs: Any, tolerance: float = 1e-10, **options: Any
) -> None:
    """As near to the scan as ever; and bit for bit what comes out if XLA transposes before and after."""
    found = scanned(layer, xs, **options)
    assert [bool(plan.staged) for plan in plans] == [True, layer.save == "gates"]
    assert_close(found, by_scan(layer, xs, **options), tolerance)
    with monkeypatch.context() as patch:
        patch.setattr(primitive.Call, "_batch_major", lambda call, program: [])
        jtu.tree_map(np.testing.assert_array_equal, found, scanned(layer, xs, **options))


@pytest.mark.covered(1)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_nothing_changes(name, reverse, monkeypatch, plans):
    check(
        monkeypatch,
        plans,
        nr.Recurrence(make_cell(name, 5, 19), reverse=reverse),
        random(1, 3, 11, 5),
    )


@pytest.mark.covered(1)
@pytest.mark.parametrize(
    "shape", [(2, 2, 1, 1), (2, 40, 1, 33), (9, 13, 70, 3), (17, 5, 33, 50), (3, 4, 600, 8)]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_odd_sizes(shape, dtype, monkeypatch, plans):
    batch, time, features, hidden = shape
    layer = nr.Recurrence(make_cell("lstm", features, hidden, dtype=dtype))
    xs = random(2, batch, time, features, dtype=dtype)
    check(monkeypatch, plans, layer, xs, 1e-5 if dtype == jnp.float32 else 1e-10)


@pytest.mark.covered(1)
@pytest.mark.parametrize("bytes_of_an_example", [1, 300, 2**20])
@pytest.mark.parametrize("cores", [1, 2])
def test_any_number_of_steps_at_a_time(bytes_of_an_example, cores, monkeypatch, plans):
    """One, a few, more than there are; and each thread takes its own examples."""
    monkeypatch.setattr(tiling, "_RUN", bytes_of_an_example)
    monkeypatch.setattr(primitive, "_cores", lambda: cores)
    monkeypatch.setattr(primitive, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(primitive, "_RECORDED", 40)
    check(monkeypatch, plans, nr.Recurrence(make_cell("gru", 4, 9)), random(3, 8, 23, 4))


@pytest.mark.parametrize("options", [{}, {"save": "states"}])
def test_lengths_and_resets(options, monkeypatch, plans):
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
def test_inputs_and_outputs_of_all_types(dtype, plans):
    layer, xs = nr.Recurrence(Emitting(random(8, 6, 6))), (3 * random(9, 4, 5, 7)).astype(dtype)
    found = jax.jit(lambda xs: layer.scan(None, xs))(xs)
    assert len(plans[0].staged) >= 3, "what h decides; the rest may be computed before the loop"
    assert_close(found, nr.with_backend(layer, "reference").scan(None, xs), 1e-10)


@pytest.mark.covered(1)
@pytest.mark.parametrize(
    "cell",
    [
        *(make_cell(name, 24, 40) for name in CELLS),
        make_cell("rnn", 24, 40, activation=jax.nn.relu),
    ],
    ids=[*CELLS, "relu"],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_nothing_is_transposed(cell, dtype):
    """A transpose that moves no number, since it goes with a layout, is none."""
    layer = nr.cast(nr.Recurrence(cell), dtype)
    xs, given = random(11, 5, 13, 24, dtype=dtype), random(12, 5, 13, 40, dtype=dtype)

    def pulled(layer: Any, xs: Any, given: Any) -> Any:
        ys, pull = jax.vjp(lambda layer, xs: layer.scan(None, xs)[1], layer, xs)
        return ys, pull(given)

    compiled = jax.jit(pulled).lower(layer, xs, given).compile().as_text() or ""
    assert re.search(r"\[5,13,|\[13,5,", compiled)
    assert not re.findall(r".*(?:\[5,13,|\[13,5,).* (?:copy|transpose|fusion)\(.*", compiled)
