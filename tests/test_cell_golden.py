"""Cells of the catalogue against frozen arrays of other libraries and of code of the authors.

``scripts/make_cell_golden.py`` makes the arrays, and lists where the others compute something else.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from fuzzing.evaluate import evaluated

import noria as nr
from noria.cells.catalogue import catalogue, class_of
from noria.cells.spatial import SpatialCell

with np.load(Path(__file__).parent / "golden" / "cells.npz") as _file:
    ARRAYS = {name: _file[name] for name in _file.files}
CASES: dict[str, dict[str, Any]] = json.loads(ARRAYS.pop("cases").item())

HIDDEN = 4
#: Functions among the settings, by their names.
FUNCTIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}
#: Cases that are computed in float32, at least in part.
NARROW = ("rg_lru-recurrentgemma", "rwkv4-transformers", "lru-memax", "m2rnn")


def frozen(record: np.ndarray, name: str) -> Callable[..., jax.Array]:
    """An initialiser that gives an array of a record."""

    def init(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        assert record[name].shape == shape
        return jnp.asarray(record[name], dtype)

    return init


def cell_of(key: str, settings: dict[str, Any], record: np.ndarray) -> Any:
    """A cell with the parameters of a record."""
    cls, step = class_of(catalogue()[key]), record["xs"].shape[1:]
    sizes = (step if issubclass(cls, SpatialCell) else step[0], HIDDEN)
    given = {name: FUNCTIONS.get(str(value), value) for name, value in settings.items()}
    given["init"] = {name: frozen(record, name) for name in cls._parameters}
    return cls(*sizes, key=jax.random.key(0), dtype=jnp.float64, **given)


@pytest.mark.parametrize("name", CASES)
def test_a_cell_gives_what_others_compute(name):
    about, record = CASES[name], ARRAYS[name]
    cell = cell_of(about["key"], about["settings"], record)
    layer = nr.with_backend(nr.Recurrence(cell), "reference")
    arrays = [jnp.asarray(record[f"start.{state}"]) for state in cell._states]
    start = arrays[0] if cell.State is None else cell.State(*arrays)
    more = {"dt": jnp.asarray(record["dt"])} if "dt" in record.dtype.names else {}
    xs = jnp.asarray(record["xs"])
    final, ys = evaluated(lambda s, xs, more: layer.scan(s, xs, **more), start, xs, more)
    narrow = name.startswith(NARROW) or "flash-linear-attention" in name
    tolerance = 1e-6 if narrow else 1e-12
    found = {"ys": ys}
    for state, array in zip(cell._states, jtu.tree_leaves(final), strict=True):
        found[f"final.{state}"] = array
    for field, array in found.items():
        if field in record.dtype.names:
            np.testing.assert_allclose(array, record[field], tolerance, tolerance, err_msg=field)
