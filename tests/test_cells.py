"""The cells of the catalogue: their oracles, their counts of parameters, and every cell's contract.

The oracles are in `cell_oracles`. `assert_agree` compares gradients of all backends; here those of
the definition are compared with finite differences of the oracle.
"""

import inspect
import pickle
import re
import runpy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from agreement import assert_agree, pulled, scanned
from cell_checks import (
    CASES,
    TIME,
    by_oracle,
    cell_of,
    inputs_of,
    numbers,
    options_of,
    sizes_of,
    start_of,
)
from cell_oracles import ORACLES, SURROGATE
from models import AUTO, assert_close, noise

import noria as nr
from noria import cells
from noria.cell_page import about, equations, section, settings
from noria.cells.base import arguments_of
from noria.cells.catalogue import (
    FAMILIES,
    KINDS,
    catalogue,
    class_of,
    papers,
    parameter_count,
)

ROOT = Path(__file__).parent.parent
BATCH = 3
LENGTHS = jnp.array([5, 0, 3])
RESETS = jnp.array([[0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1]], bool)

#: Cells that run as a scan, with the reason that `explain` gives.
NOT_NATIVE = {"traj_gru": "gather", "urnn": "fft"}

each = pytest.mark.parametrize("key", catalogue())
#: The definition of these takes long to run: further settings are for the full tests.
SLOW = {key for key, entry in catalogue().items() if entry.kind == "convolution"}
SLOW |= {"mamba3", "s4", "ode_rnn", "gru_ode", "ode_lstm", "ncp", "rssm", "vrnn", "event_ssm"}
each_setting = pytest.mark.parametrize(
    ("key", "settings"),
    [
        pytest.param(
            k,
            s,
            id="-".join([k, *map(str, s.values())]),
            marks=[pytest.mark.full] if s and k in SLOW else [],
        )
        for k, s in CASES
    ],
)


def made(key: str, **settings: Any) -> Any:
    """A cell whose parameters are all random."""
    return cell_of(class_of(catalogue()[key]), **settings)


@pytest.mark.sampled(2)
@each_setting
def test_values_and_gradients_are_those_of_the_paper(key, settings):
    """The derivative along a random direction is compared with finite differences."""
    cell = made(key, **settings)
    xs = inputs_of(cell, TIME)
    start = start_of(cell)
    options = options_of(cell, TIME)
    layer = nr.Recurrence(cell, backend="reference")
    (final, ys), cotangents = scanned(layer, xs, start, **options)
    arrays, structure = jtu.tree_flatten(numbers((cell, start, xs)))

    def results(arrays: list[Any]) -> list[Any]:
        cell, start, xs = jtu.tree_unflatten(structure, arrays)
        return by_oracle(key, cell, start, xs, numbers(options.get("dt")))

    found = [*jtu.tree_leaves(final), ys]
    expected = results(arrays)
    assert len(found) == len(expected)
    assert_close(found, expected, 1e-11)
    if key in SURROGATE:
        return
    weights = numbers(jtu.tree_leaves(noise((final, ys), 7)))
    steps = [numbers(noise(np.zeros_like(a), n, 1e-6)) for n, a in enumerate(arrays, 10)]
    ends = [results([a + sign * s for a, s in zip(arrays, steps, strict=True)]) for sign in (1, -1)]
    change = sum(np.sum(np.real(w * (a - b))) for w, a, b in zip(weights, *ends, strict=True))
    pairs = zip(numbers(cotangents), steps, strict=True)
    slope = sum(np.sum(np.real(c * s)) for c, s in pairs)
    np.testing.assert_allclose(2 * slope, change, rtol=1e-5, atol=1e-11)


@pytest.mark.sampled(9)
@each
def test_an_entry_is_complete(key):
    entry, cls = catalogue()[key], class_of(catalogue()[key])
    cell = made(key)
    assert getattr(cells, entry.cls) is cls
    assert entry.family in FAMILIES
    assert entry.kind in KINDS
    assert entry.paper in papers()
    assert entry.states == tuple(cell._states)
    assert parameter_count(entry, cell) == nr.count_parameters(cell)
    assert key in ORACLES


@pytest.mark.sampled(13)
@each
def test_initial_values_are_finite_and_differ_by_key(key):
    """Those of its own initialisers, and of the initial state."""
    cls = class_of(catalogue()[key])
    one, two = (cls(*sizes_of(cls), key=jax.random.key(n)) for n in (0, 1))
    leaves = jtu.tree_leaves((one, one.initial_state()))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    pairs = zip(jtu.tree_leaves(one), jtu.tree_leaves(two), strict=True)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs)


@each
def test_a_docstring_has_equations_settings_and_the_source(key):
    cls = class_of(catalogue()[key])
    assert equations(cls).count("=") >= len(cls._states)
    assert section(cls, "Source")
    assert settings(cls).keys() >= cls._settings.keys()
    text = inspect.getdoc(cls) or ""
    assert text.partition("\n")[0].endswith(".")


@pytest.mark.sampled(75)
@each
def test_masked_sequences_equal_the_definition(key):
    """With lengths, one of them zero, NaN past the end, and resets; forward and reverse."""
    cell = made(key)
    xs = inputs_of(cell, BATCH, TIME)
    valid = jnp.arange(TIME) < LENGTHS[:, None]
    xs = jnp.where(valid.reshape(BATCH, TIME, *[1] * (xs.ndim - 2)), xs, jnp.nan)
    options = {"lengths": LENGTHS, "resets": RESETS, **options_of(cell, BATCH, TIME)}
    for reverse in (False, True):
        layer = nr.Recurrence(cell, reverse=reverse)
        definition = nr.with_backend(layer, "reference")
        found = assert_agree(layer, definition, xs, tolerance=1e-9, **options)
        assert all(np.isfinite(leaf).all() for leaf in jtu.tree_leaves(found))


@pytest.mark.sampled(121)
@each
def test_dtypes_are_carried_through(key):
    """Outputs, states and gradients have the dtype of the parameters, and are close to float64."""
    exact = made(key)
    wide, xs = nr.Recurrence(exact), inputs_of(exact, BATCH, TIME)
    options = options_of(exact, BATCH, TIME)
    (_, expected), _ = scanned(nr.with_backend(wide, "reference"), xs, **options)

    def run(layer: Any, xs: Any, given: Any) -> Any:
        return layer(xs, **given)

    for dtype, tolerance in ((jnp.float32, 1e-4), (jnp.bfloat16, 0.1)):
        narrow = nr.cast((wide, xs, options), dtype)
        types = jax.eval_shape(lambda *args: pulled(run, *args), *narrow)
        assert {leaf.dtype for leaf in jtu.tree_leaves(types)} == {jnp.dtype(dtype)}
        assert_close(run(*narrow).astype(jnp.float64), expected, tolerance)


@pytest.mark.sampled(83)
@each
def test_steps_and_pieces_give_what_the_whole_gives(key):
    cell = made(key)
    xs = inputs_of(cell, TIME)
    layer, options = nr.Recurrence(cell), options_of(cell, TIME)
    state, whole = layer.scan(None, xs, **options)
    counts = "t" in arguments_of(cell)

    def here(part: Any, t: int) -> dict[str, Any]:
        return {name: array[part] for name, array in options.items()} | ({"t": t} if counts else {})

    middle, first = layer.scan(None, xs[:2], **here(slice(2), 0))
    end, second = layer.scan(middle, xs[2:], **here(slice(2, None), 2))
    assert_close(jnp.concatenate([first, second]), whole, 1e-11)
    assert_close(end, state, 1e-11)
    step, ys = None, []
    for t in range(TIME):
        step, y = layer.step(step, xs[t], **here(t, t))
        ys.append(y)
    assert_close(jnp.stack(ys), whole, 1e-11)


@pytest.mark.sampled(13)
@each
def test_it_is_saved_loaded_and_pickled(key, tmp_path):
    cell = made(key)
    nr.save(tmp_path / "cell.safetensors", cell)
    cls = class_of(catalogue()[key])
    other = cls(*sizes_of(cls), key=jax.random.key(5), dtype=jnp.float64)
    loaded = nr.load(tmp_path / "cell.safetensors", other)
    for found in (loaded, pickle.loads(pickle.dumps(cell))):
        assert_close(jtu.tree_leaves(found), jtu.tree_leaves(cell), 0)
    state = cell.initial_state()
    structure: Any = jtu.tree_structure(state)
    assert jtu.tree_structure(pickle.loads(pickle.dumps(state))) == structure


@pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")
@pytest.mark.sampled(13)
@each
def test_auto_runs_machine_code_or_says_why_not(key):
    cell = made(key)
    found = nr.explain(nr.Recurrence(cell), inputs_of(cell, TIME), **options_of(cell, TIME))
    assert found.backend == ("scan" if key in NOT_NATIVE else "native")
    if key in NOT_NATIVE:
        assert NOT_NATIVE[key] in found.reason
    else:
        assert not found.obstacles
    assert "loop of tangents" not in found.reason
    assert "reverse loop" not in found.reason


@pytest.mark.sampled(40)
@each
def test_a_page_about_it(key):
    page = about(catalogue()[key])
    assert equations(class_of(catalogue()[key])).splitlines()[0].strip() in page


def test_each_paper_is_cited_once():
    text = (ROOT / "src" / "noria" / "cells" / "papers.bib").read_text()
    keys = re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE)
    assert sorted(keys) == sorted(papers())
    assert {entry.paper for entry in catalogue().values()} == {*keys}


def test_pages_of_the_documentation_are_up_to_date():
    script = runpy.run_path(str(ROOT / "scripts" / "cell_pages.py"))
    for name, text in script["pages"]().items():
        path = ROOT / "docs" / "cells" / name
        assert path.read_text() == text, "run python scripts/cell_pages.py"
