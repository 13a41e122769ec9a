"""Cells of the catalogue against frozen arrays of other libraries and of code of the authors.

``scripts/make_cell_golden.py`` makes the arrays, and lists where the others compute something else.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzing.evaluate import evaluated

import noria as nr
from noria.cells.catalogue import catalogue, class_of

with np.load(Path(__file__).parent / "golden" / "cells.npz") as _file:
    ARRAYS = {name: _file[name] for name in _file.files}
CASES: dict[str, dict[str, Any]] = json.loads(ARRAYS.pop("cases").item())
CASES = {name: about for name, about in CASES.items() if about["key"] in catalogue()}

HIDDEN = 4
#: Functions among the settings, by their names.
FUNCTIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}
#: Cases that are computed in float32, at least in part.
NARROW = ("recurrentgemma", "flash-linear-attention", "transformers", "memax")


def cell_of(key: str, settings: dict[str, Any], record: np.ndarray) -> Any:
    """A cell with the parameters of a record."""
    cls, sizes = class_of(catalogue()[key]), (record["xs"].shape[-1], HIDDEN)
    given = {name: FUNCTIONS.get(str(value), value) for name, value in settings.items()}
    nothing = dict.fromkeys(cls._parameters, 0.0)
    cell = cls(*sizes, key=jax.random.key(0), dtype=jnp.float64, init=nothing, **given)
    for name in cell._parameters:
        if (drawn := getattr(cell, name)) is not None:
            assert record[name].shape == drawn.shape, name
            object.__setattr__(cell, name, jnp.asarray(record[name]))
    return cell


@pytest.mark.parametrize("name", CASES)
def test_a_cell_gives_what_others_compute(name):
    about, record = CASES[name], ARRAYS[name]
    cell = cell_of(about["key"], about["settings"], record)
    layer = nr.with_backend(nr.Recurrence(cell), "reference")
    states = [f"start.{state}" for state in cell._states]
    start = [jnp.asarray(record[state]) for state in states]
    start = start[0] if cell.State is None else cell.State(*start)
    more = {"dt": jnp.asarray(record["dt"])} if "dt" in record.dtype.names else {}
    final, ys = evaluated(
        lambda start, xs, more: layer.scan(start, xs, **more), start, jnp.asarray(record["xs"]), more
    )
    tolerance = 1e-6 if about["library"].startswith(NARROW) else 1e-12
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(ys, record["ys"], **close)
    after = dict(zip(cell._states, (final,) if cell.State is None else final, strict=True))
    for state, array in after.items():
        if f"final.{state}" in record.dtype.names:
            np.testing.assert_allclose(array, record[f"final.{state}"], err_msg=state, **close)
