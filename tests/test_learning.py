"""The tasks of ``benchmarks/learning`` against plain Python, and the page that it writes."""

import runpy
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import typer

ROOT = Path(__file__).parent.parent
ANSWERS = {
    "parity": lambda word: sum(word) % 2,
    "even_pairs": lambda word: int(word[0] != word[-1]),
    "cycle": lambda word: sum(symbol - 1 for symbol in word) % 5,
    "arithmetic": lambda word: eval("".join("01234+-*"[s] for s in word).rstrip("+-*")) % 5,
}


@pytest.fixture(scope="module")
def learning() -> dict[str, Any]:
    """What the program defines."""
    return runpy.run_path(str(ROOT / "benchmarks" / "learning"))


@pytest.fixture(scope="module")
def tasks(learning):
    return learning["every_task"]()


@pytest.mark.parametrize("name", ANSWERS)
def test_languages_have_the_answers_of_plain_python(name, tasks):
    xs, targets, weights = map(np.asarray, tasks[name].draw(jax.random.key(0), 40))
    assert {int(np.sum(row)) for row in weights} == {1}
    ends = np.argmax(weights, 1)
    words = [np.argmax(x[: end + 1], 1).tolist() for x, end in zip(xs, ends, strict=True)]
    assert len({len(word) for word in words}) > 10
    found = targets[np.arange(40), ends].tolist()
    assert found == [ANSWERS[name](word) for word in words]


def test_the_later_value_of_a_key_is_asked(tasks):
    xs, targets, weights = map(np.asarray, tasks["recall"].draw(jax.random.key(0), 20))
    for x, target, weight in zip(xs, targets, weights, strict=True):
        keys, values = np.argmax(x[:, :16], 1), np.argmax(x[:, 16:], 1)
        told, asked = weight == 0, weight == 1
        last = dict(zip(keys[told], values[told], strict=True))
        assert sorted(keys[asked]) == sorted(last)
        assert target[asked].tolist() == [last[key] for key in keys[asked]]


def test_the_page_is_up_to_date(learning, tasks):
    """Else run ``python benchmarks/learning --report``."""
    results = learning["read"](learning["RESULTS"])
    page = learning["report"].page(tasks, list(results.values()))
    assert page == (ROOT / "docs" / "which-cell.md").read_text()


def test_settings_are_those_of_a_task(learning):
    assert learning["parsed"](["steps=20", "rate=1e-3"]) == {"steps": 20, "rate": 1e-3}
    with pytest.raises(typer.BadParameter, match=r"no setting step; there are width, depth, rows"):
        learning["parsed"](["step=20"])
