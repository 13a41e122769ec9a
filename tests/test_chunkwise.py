"""The chunkwise form of matrix memories: which steps have one, and whether it is right."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from agreement import assert_agree
from matrix_memories import CHUNKWISE, OTHERS
from models import learned, noise, random

import noria as nr
from noria.compiler import chunkwise
from noria.ops.chunkwise import Chunking

HEADS, SIZE, WIDTH, TIME = 2, 3, 4, 11
LENGTHS = jnp.array([11, 0, 6])
RESETS = jnp.zeros((3, TIME), bool).at[0, jnp.array([0, 5, 6])].set(True).at[2, 3].set(True)

#: Several chunks in a segment, and several segments.
SMALL = Chunking(steps=4, key_steps=4, rows=16)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(chunkwise, "CHUNKING", SMALL)


def layer_of(cell: Any, **options: Any) -> nr.Recurrence:
    cell = cell.make(HEADS, SIZE, WIDTH)
    return learned(cell, noise(cell.initial_state(), 3), **options)


@pytest.mark.covered(2)
@pytest.mark.parametrize("cell", CHUNKWISE)
@pytest.mark.parametrize("masks", [(), ("lengths",), ("resets",), ("lengths", "resets")])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
def test_against_reference(cell, masks, reverse, batched):
    """Values, final state and cotangents of parameters, input, initial and passed state."""
    layer = layer_of(cell, reverse=reverse, backend="chunkwise")
    options = {"lengths": LENGTHS, "resets": RESETS}
    options = {name: options[name] if batched else options[name][2] for name in masks}
    xs = random(0, *([3] if batched else []), TIME, WIDTH)
    if "lengths" in masks:
        valid = jnp.arange(TIME)[:, None] < options["lengths"][..., None, None]
        xs = jnp.where(valid, xs, jnp.nan)
    state = noise(layer.initial_state(), 5)
    assert_agree(layer, nr.with_backend(layer, "reference"), xs, state, **options)
