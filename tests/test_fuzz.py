"""Random cells on the native backend and as a scan against the definition, values and every cotangent.

By default some of 50 cells are run. A long run is ``NORIA_FUZZ=2000 python -m pytest tests/test_fuzz.py``;
``NORIA_FUZZ_FIRST=500`` begins at another seed.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import pulled_at_once
from fuzzing import random_cell
from models import assert_close, random, random_like

import noria as nr

FIRST = int(os.environ.get("NORIA_FUZZ_FIRST", "0"))
FAULTS = [131, 171]  # they have found some
#: Of a run of the usual length, those that are run by default: all numbers of examples, and both precisions, are among them.
FEW = {*range(0, 50, 7), *FAULTS}
SEEDS = [
    pytest.param(seed, marks=() if seed in FEW or "NORIA_FUZZ" in os.environ else pytest.mark.full)
    for seed in sorted({*range(FIRST, FIRST + int(os.environ.get("NORIA_FUZZ", "50"))), *FAULTS})
]


def case(seed: int) -> tuple[nr.Recurrence, jax.Array, dict[str, Any], float]:
    """A layer, its input, the options of the call, and how close the results must be."""
    rng = np.random.default_rng(10_000 + seed)
    dtype = jnp.float32 if seed % 5 == 4 else jnp.float64
    cell, features = random_cell(seed, dtype)
    batch, time = [(), (1,), (2,), (3,)][seed % 4], int(rng.integers(1, 5))
    xs = random(seed, *batch, time, features, dtype=dtype)
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["lengths"] = jnp.asarray(rng.integers(0, time + 1, batch))
    if rng.random() < 0.3:
        options["resets"] = jnp.asarray(rng.random((*batch, time)) < 0.4)
    ways: list[dict[str, Any]] = [{}, {}, {"save": "states"}, {"checkpoint": 2}]
    stored = ways[int(rng.integers(4))]
    start = jtu.tree_map(lambda a: random_like(a, seed, dtype) if a.dtype == dtype else a, cell.initial_state())
    layer = nr.Recurrence(cell, start, bool(rng.integers(2)), learn_initial_state=True, **stored)
    rough = dtype == jnp.float32 or any(kind == "narrow" for kind, *_ in cell.instructions)
    return layer, xs, options, 2e-4 if rough else 1e-9


def scan(layer: nr.Recurrence, xs: jax.Array, options: dict[str, Any]) -> Any:
    return layer.scan(None, xs, **options)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.timeout(60)
def test_backends_agree_on_a_random_cell(seed):
    """Those that there is no machine code for run as a scan."""
    layer, xs, options, tolerance = case(seed)
    expected = pulled_at_once(scan, reference_of(layer), xs, options)
    assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(expected))
    for backend in ("auto", "scan"):
        assert_close(pulled_at_once(scan, nr.with_backend(layer, backend), xs, options), expected, tolerance)


def reference_of(layer: nr.Recurrence) -> nr.Recurrence:
    """The definition, which stores what JAX likes."""
    options: dict[str, Any] = {"learn_initial_state": True, "backend": "reference"}
    return nr.Recurrence(layer.cell, layer.initial_state(), layer.reverse, **options)


def test_most_random_cells_run_as_machine_code():
    """So that the comparison above is one."""
    found = []
    for seed in range(40):
        layer, xs, options, _ = case(seed)
        found.append(nr.explain(layer, xs, **options).backend == "native")
    assert sum(found) > 30
