"""Linear recurrences as machine code: what stays in the loop, compared with the definition.

Gates by head are products in the step. So is the read-out of a state, from eight examples on. A
factor of a parameter that is a broadcast is summed in the reverse loop.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from agreement import assert_agree
from models import AUTO, random
from published import PUBLISHED

import noria as nr

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")

TIME, WIDTH = 6, 6


class Diagonal(nr.Cell):
    """A diagonal complex state with a real read-out, as in the LRU (Orvieto et al. 2023)."""

    rate: jax.Array
    B: jax.Array
    C: jax.Array
    read_out: bool = eqx.field(static=True)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.exp(self.rate) * h + self.B @ x.astype(self.B.dtype)

    def output(self, h: jax.Array, x: jax.Array) -> Any:
        return (self.C @ h).real if self.read_out else (h, (self.C @ h).imag + x)

    def initial_state(self) -> jax.Array:
        return jnp.zeros(WIDTH, self.B.dtype)


def diagonal(read_out: bool) -> Diagonal:
    B, C = (jax.lax.complex(*random(n, 2, WIDTH, WIDTH)) for n in (1, 3))
    rate = jax.lax.complex(jnp.full(WIDTH, -1.0), 2 * random(5, WIDTH))
    return Diagonal(rate, B, C, read_out)


CELLS = {
    "gates by head": lambda: PUBLISHED["rglru"](2, 3, WIDTH, jnp.float64),
    "broadcast factor": lambda: PUBLISHED["mamba"](2, 3, WIDTH, jnp.float64),
    "read-out": lambda: diagonal(True),
    "read-out and state": lambda: diagonal(False),
}


def masks(batch: int) -> dict[str, Any]:
    """Lengths and resets, one example without a step."""
    lengths = jnp.arange(batch) % (TIME + 1)
    return {"lengths": lengths, "resets": random(8, batch, TIME) > 0.8}


def inputs(batch: int, lengths: Any = None) -> jax.Array:
    """Random inputs, NaN past the end of an example."""
    xs = random(7, batch, TIME, WIDTH)
    if lengths is None:
        return xs
    return jnp.where(jnp.arange(TIME)[:, None] < lengths[:, None, None], xs, jnp.nan)


@pytest.mark.sampled(47)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch", [2, 9])
@pytest.mark.parametrize("name", CELLS)
def test_it_agrees_with_the_definition(name, batch, masked, reverse):
    layer = nr.Recurrence(CELLS[name](), reverse=reverse)
    options = masks(batch) if masked else {}
    xs = inputs(batch, options.get("lengths"))
    native, reference = (nr.with_backend(layer, one) for one in ("native", "reference"))
    assert_agree(native, reference, xs, tolerance=1e-10, **options)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", CELLS)
def test_chunks_and_steps_agree_with_the_whole(name):
    layer = nr.Recurrence(CELLS[name](), backend="native")
    xs = inputs(9)
    final, ys = layer.scan(None, xs)
    middle, first = layer.scan(None, xs[:, :4])
    ends = layer.scan(middle, xs[:, 4:])
    pieces = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), first, ends[1])
    assert _close((final, ys), (ends[0], pieces))
    state, steps = None, []
    for t in range(TIME):
        state, y = layer.step(state, xs[:, t])
        steps.append(y)
    together = jax.tree.map(lambda *some: jnp.stack(some, 1), *steps)
    assert _close((final, ys), (state, together))


def _close(found: Any, expected: Any) -> bool:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(bool(jnp.allclose(a, b, rtol=0, atol=1e-10)) for a, b in pairs)


@pytest.mark.parametrize("batch", [1, 9])
def test_gates_by_head_stay_in_the_loop(batch):
    page = nr.explain(nr.Recurrence(CELLS["gates by head"]()), inputs(batch))
    assert page.backend == "native"
    assert not page.before
    assert sum(line.name == "dot_general" for line in page.loop) == 3


@pytest.mark.parametrize(("batch", "stay"), [(1, 0), (7, 0), (8, 2), (64, 2)])
def test_a_read_out_stays_in_the_loop_of_many_examples(batch, stay):
    page = nr.explain(nr.Recurrence(CELLS["read-out"]()), inputs(batch))
    assert sum(line.name == "dot_general" for line in page.after) == 2 - stay
    assert sum(line.name == "dot_general" for line in page.loop) == 2 + stay


def test_a_read_out_that_does_not_stay_in_the_cache_leaves_the_loop(tune):
    tune(cached_weight_bytes=100)  # the smallest weight has 288
    page = nr.explain(nr.Recurrence(CELLS["read-out"]()), inputs(8))
    assert sum(line.name == "dot_general" for line in page.after) == 2


def test_a_broadcast_factor_is_summed_in_the_reverse_loop(plans):
    layer = nr.Recurrence(CELLS["broadcast factor"](), backend="native")
    jax.jit(jax.grad(lambda layer: layer(inputs(2)).sum()))(layer)
    _, reverse = plans
    assert reverse.accumulators == 4, "A, Wd, WB and WC"
    assert not reverse.emitted
