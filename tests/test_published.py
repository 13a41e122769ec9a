"""Published cells: each backend against the definition."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from agreement import assert_agree
from models import learned, random
from published import DrawingPublished
from published_vectors import FROM_PUBLISHED, PUBLISHED

import noria as nr

LENGTHS = jnp.array([4, 0, 2])
RESETS = jnp.array([[0, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]], bool)


def assert_defined(layer: Any, xs: jax.Array, **options: Any) -> None:
    """Check against the definition; a cell that draws random numbers gets a key."""
    if isinstance(layer.cell, DrawingPublished):
        options["key"] = jax.random.key(8)
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, tolerance=1e-10, **options)


@pytest.mark.sampled(97)
@pytest.mark.parametrize("backend", ["auto", "scan", "plain"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_masked_sequences_equal_the_definition(name, backend):
    layer = learned(PUBLISHED[name](2, 3, 5, jnp.float64), backend=backend)
    assert_defined(layer, random(1, 3, 4, 5), lengths=LENGTHS, resets=RESETS)


@pytest.mark.sampled(25)
@pytest.mark.parametrize("name", PUBLISHED)
def test_one_example_in_reverse_equals_the_definition(name):
    layer = learned(PUBLISHED[name](3, 2, 5, jnp.float64), reverse=True)
    assert_defined(layer, random(1, 4, 5))


@pytest.mark.parametrize("name", [name for name in FROM_PUBLISHED if name != "window_attention"])
def test_the_loop_emits_no_matrix(name):
    """A read-out ``q S`` needs no parameter, so it stays in the loop, which then emits vectors.

    The read-out of a window leaves the loop where that has machine code only without it.
    """
    heads, width, features = 2, 16, 5
    layer = nr.Recurrence(PUBLISHED[name](heads, width, features, jnp.float64))
    found = nr.explain(layer, random(1, 3, 4, features))
    assert found.bytes is not None
    assert found.bytes["loop"] == 3 * 4 * heads * width * 8
