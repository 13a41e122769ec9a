"""``noria bench``: its arithmetic, its tables, and a tiny run; no other library is needed."""

import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from typer.testing import CliRunner

import noria as nr
from noria import _errors
from noria.bench import cells, peers, report
from noria.bench.grid import CELLS, COMMON, GRID, Shape, Work, read_shapes
from noria.bench.peers import PEERS, Peer
from noria.bench.plan import plan
from noria.bench.run import Lane, Point, Run, Setting, settings
from noria_cli import app

TINY = Shape(3, 2, 4, 5)

pytestmark = pytest.mark.usefixtures("plain_jax")


def run(*words):
    result = CliRunner().invoke(
        app, ["bench", *map(str, words)], env={"COLUMNS": "200", "NO_COLOR": "1"}
    )
    return result.exit_code, result.output


def point(shape, reasons=None, **milliseconds):
    values = {Lane(name): ms / 1e3 for name, ms in milliseconds.items()}
    return Point(Work("lstm", "inference", Shape(*shape)), values, reasons or {})


def rows_of(text):
    """The rows of Markdown tables as lists of cells, the rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", CELLS)
def test_cells_have_the_weights_that_are_counted(name):
    cell = cells.make(name, TINY.inputs, TINY.hidden)
    matrices = [leaf for leaf in jtu.tree_leaves(cell) if leaf.ndim == 2]
    assert sum(leaf.size for leaf in matrices) == Work(name, "inference", TINY).weights
    xs = jnp.asarray(Work(name, "inference", TINY).inputs(time_major=False))
    plain, compiled = (nr.Recurrence(cell, backend=backend)(xs) for backend in ("plain", "auto"))
    np.testing.assert_allclose(plain, compiled, atol=1e-5)
    assert jnp.isfinite(plain).all()


def test_operations_are_those_of_the_products():
    cell = nr.LSTMCell(TINY.inputs, TINY.hidden, key=jax.random.key(0))
    xs = jnp.zeros((TINY.time, TINY.batch, TINY.inputs))
    h = jnp.zeros((TINY.time, TINY.batch, TINY.hidden))
    cost: Any = (
        jax.jit(lambda xs, h: (xs @ cell.W.T, h @ cell.U.T)).lower(xs, h).compile().cost_analysis()
    )
    assert Work("lstm", "inference", TINY).flops == cost["flops"]
    # as much again for the weights, and for the state
    training = 2 * cost["flops"] + 2 * TINY.time * TINY.batch * cell.U.size
    assert Work("lstm", "training", TINY).flops == training


def test_table_from_made_up_numbers():
    points = [
        point((1, 2, 3, 4), noria=2.0, plain=8.0, torch=4.0),
        point((5, 6, 7, 8), noria=4.0, plain=4.0, torch=6.0, scan=1.0),
        point((9, 9, 9, 9), {Lane("noria"): "its process ended with code -6"}, plain=3.0),
    ]
    peak = points[0].work.flops / 2e-3 * 4
    text = report.table(points, Setting(), report.UNITS["ms"], peak)
    head, first, second, third, mean, least = rows_of(text)
    assert head[1:5] == ["Noria, ms", "Noria, scan, ms", "lax.scan, ms", "PyTorch, ms"]
    assert first == ["1, 2, 3, 4", "2.00", "–", "8.00", "4.00", "2.00", "25%"]
    assert second[1:6] == [
        "4.00",
        "1.00",
        "4.00",
        "6.00",
        "1.00",
    ]  # Noria's other backend is no peer
    assert third == ["9, 9, 9, 9", "–", "–", "3.00", "–", "–", "–"]
    assert mean[2:6] == ["×0.250", "×2.00", "×1.73", "1.41"]
    assert least[2:6] == ["×0.250", "×1.00", "×1.50", "1.00"]
    assert "* Noria: its process ended with code -6 (9, 9, 9, 9)." in text


def test_units_are_per_step_and_in_megabytes():
    one = Point(Work("gru", "inference", Shape(1000, 1, 8, 8)), {Lane("noria"): 2e-3})
    assert rows_of(report.table([one], Setting(), report.UNITS["µs"]))[1][1] == "2.00"
    assert (
        rows_of(
            report.table([Point(one.work, {Lane("noria"): 5e6})], Setting(), report.UNITS["MB"])
        )[1][1]
        == "5.00"
    )


def test_settings_have_tables_of_their_own():
    keep = Setting("keep")
    both = Point(Work("rnn", "training", TINY), {Lane("noria"): 1e-3, Lane("noria", keep): 2e-3})
    text = report.tables([both], report.UNITS["ms"], {})
    assert re.findall("^## (.*)", text, re.MULTILINE) == [
        "With the default allocator, all cores",
        "With the allocator that keeps memory, all cores",
    ]
    assert [row[1] for row in rows_of(text) if row[0] == str(TINY)] == ["1.00", "2.00"]
    if peers.cores() > 1:
        assert len(settings("both", "both")) == 4


def test_a_tiny_run(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "USUAL", ("noria", "plain"))
    out, plot = tmp_path / "table.md", tmp_path / "plot.png"
    words = "--quick --cells leaky --shapes 3,2,4,5 --seconds 0.01 --peers plain --out".split()
    code, output = run(*words, out, "--plot", plot)
    assert code == 0, output
    text = out.read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "### leaky cell: inference",
        "### leaky cell: training",
    ]
    measured = [row for row in rows_of(text) if row[0] == "3, 2, 4, 5"]
    assert all(float(cell) > 0 for row in measured for cell in row[1:4])
    assert re.search(r"matrices: \d+ GFLOP/s \(default allocator, all cores\)", text)
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")


CRASHING = """
import os
from noria.bench.peers import Task, Unsupported

def make(work):
    if work.shape.time == 1:
        raise Unsupported("not for one step")
    if work.shape.time == 2:
        print("about to fall over")
        os.abort()
    return Task(lambda: print("not an answer"), work.weights + (work.shape.time == 3))
"""


def test_a_crash_is_a_dash_with_a_reason(monkeypatch, tmp_path):
    (tmp_path / "crashing.py").write_text(CRASHING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(PEERS, "bad", Peer("Bad", "crashing", {}))
    works = [Work("rnn", "inference", Shape(time, 1, 2, 2)) for time in (1, 2, 3, 4)]
    with Run([Lane("bad")], "time", 0.001, 2) as running:
        points = list(running.points(works))
    reasons = [point.reasons.get(Lane("bad")) for point in points]
    assert reasons == [
        "not for one step",
        "its process ended with code -6: about to fall over",
        "ValueError: its matrices hold 9 numbers; expected 8",
        None,
    ]
    assert points[3].values[Lane("bad")] > 0  # started again, and its printing is no answer


@pytest.mark.full
def test_a_hanging_worker_is_ended(monkeypatch, tmp_path):
    (tmp_path / "hanging.py").write_text("import time\ndef make(work):\n    time.sleep(100)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(PEERS, "slow", Peer("Slow", "hanging", {}))
    monkeypatch.setattr("noria.bench.run.LIMIT", 3)
    with Run([Lane("slow")], "time", 0.001, 1) as running:
        (found,) = running.points([Work("rnn", "inference", TINY)])
    assert found.reasons[Lane("slow")] == "took more than 3 s"


def test_missing_peers_are_named(monkeypatch):
    monkeypatch.setitem(PEERS, "torch", Peer("PyTorch", "none", {}, ("no_such_package",)))
    todo = plan("grid", peers="plain,torch")
    assert {lane.peer for lane in todo.lanes} == {"noria", "plain"}
    assert "PyTorch (no_such_package). To have them: pip install 'noria[bench]'" in todo.advice
    assert plan("grid", peers="plain").advice == ""


def test_sections_have_works_of_their_own():
    assert len(plan("grid").works) == len(COMMON) * 2 * len(GRID)
    assert {work.mode for work in plan("memory").works} == {"training"}
    assert {work.mode for work in plan("streaming").works} == {"step", "inference"}
    assert "call" in {lane.peer for lane in plan("streaming").lanes}
    assert plan("grid", quick=True).rounds < plan("grid").rounds


def test_what_is_wrong_is_said(monkeypatch, tmp_path):
    def complaint(*words):
        code, output = run(*words)
        assert code == 1
        assert "Traceback" not in output
        return " ".join(output.split())

    assert "cells: 'lstn' is not known; expected some of lstm, gru" in complaint("--cells", "lstn")
    assert "peers: 'jax' is not known; expected some of noria, scan" in complaint("--peers", "jax")
    assert "modes: 'both' is not known" in complaint("--modes", "both")
    assert 'expected "time,batch,in,hidden"' in complaint("--shapes", "1,2,3")
    assert "No such file or directory" in complaint("--out", tmp_path / "none" / "x.md")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(_errors, "find_spec", lambda name: None)
    assert (
        "noria bench --plot needs matplotlib; install it with: pip install 'noria[plot]'"
        in complaint("--plot", "x.png")
    )


def test_shapes_are_read():
    assert read_shapes("1,2,3,4;5,6,7,8") == [Shape(1, 2, 3, 4), Shape(5, 6, 7, 8)]
    with pytest.raises(ValueError, match="0,2,3,4"):
        read_shapes("0,2,3,4")
