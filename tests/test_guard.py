"""The cells and the programs of ``benchmarks/guard.py``; nothing is timed."""

import runpy
from pathlib import Path
from typing import Any

import jax
import pytest
from convolutional_cells import ConvolutionalCell
from published import PUBLISHED
from test_zoo import ZOO

import noria as nr
from noria.cells.catalogue import catalogue

GUARD = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "guard.py"))
KNOWN = dict(GUARD["known"](zoo=True))
SMALL = [*ZOO, *GUARD["WITH_ARGUMENTS"]]

pytestmark = pytest.mark.usefixtures("plain_jax")


def test_every_cell_is_listed():
    assert [name for name, _ in GUARD["listed"]()] == [*catalogue()]
    assert {*PUBLISHED, *SMALL, "lstm"} <= {*KNOWN}
    assert not {*SMALL} & {*dict(GUARD["known"](zoo=False))} - {*PUBLISHED}


def traced(case: Any) -> None:
    """Trace each program, and check that the outputs of inference are those of all steps."""
    for mode, run in GUARD["MODES"].items():
        taken = jax.eval_shape(lambda run=run: GUARD["arguments"](run, case))
        found = jax.eval_shape(run, nr.with_backend(case.layer, "plain"), *taken)
        if mode == "inference":
            assert {leaf.shape[:2] for leaf in jax.tree.leaves(found)} == {case.shape[:2]}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", SMALL)
def test_programs_of_small_cells(name):
    """Also of cells that draw random numbers, or read the time or a context."""
    for case in KNOWN[name]():
        traced(case)


@pytest.mark.parametrize("name", ["Timed", "Conditioned", "DotAttention", "zoneout", "convlstm"])
def test_programs_of_cells_that_need_more(name):
    for case in KNOWN[name]():
        traced(case)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", [n for n, e in catalogue().items() if e.family == "convolutional"])
def test_programs_of_the_catalogue_of_images(name):
    for case in dict(GUARD["listed"]())[name]():
        assert len(case.shape) == 5
        traced(case)


def test_states_that_are_images():
    (case,) = KNOWN["convlstm_8x16x16"]()
    assert isinstance(case.layer.cell, ConvolutionalCell)
    traced(case)
