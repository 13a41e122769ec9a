"""Models that people run, beside their own runtimes on one core.

    taskset -c 0 python benchmarks/models.py [--synchronous] [MODULE ...]

The models are those of tests/real_models, or some of its modules; ``make test-models`` makes an
environment with them, ``.venv-models``. Weights are constants in both. A line is a call with a
whole sequence, or one step of a stream; both take and give NumPy arrays, and wait for the result.
Times are medians over turns, in milliseconds. The ratio is the median over turns of the time of the
own runtime divided by that of Noria: above 1, Noria is faster. With ``--synchronous`` JAX computes
in the thread of the caller.
"""

import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import jax
import numpy as np

import noria as nr
from noria.backends.native.runtime.target import available

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from real_models.parts import COUNTS, NotInstalledError, Part

Call = Callable[[], Any]

TURNS, SECONDS = 15, 0.01


def seconds(call: Call, repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def in_turns(own: Call, ours: Call) -> tuple[float, float, float]:
    """The medians of the times, and that of their ratio."""
    repeats = []
    for call in (own, ours):
        seconds(call, 3)
        repeats.append(max(1, int(SECONDS / seconds(call, 1))))
    turns = [(seconds(own, repeats[0]), seconds(ours, repeats[1])) for _ in range(TURNS)]
    theirs, found = (statistics.median(column) for column in zip(*turns, strict=True))
    return theirs, found, statistics.median(a / b for a, b in turns)


def calls(part: Part) -> Iterator[tuple[str, Call, Call]]:
    """Pairs of calls, of the own runtime and of Noria."""
    model = jax.jit(nr.prepare(part.model).__call__)
    yield "whole", lambda: part.whole(part.xs), lambda: jax.tree.map(np.asarray, model(part.xs))
    if part.begin is not None:
        step, stream = part.begin(), part.stream()
        theirs, ours = cycle(list(part.steps)), cycle(list(part.steps))
        yield (
            "step",
            lambda: step(next(theirs)),
            lambda: jax.tree.map(np.asarray, stream(next(ours))),
        )


def main(*modules: str) -> None:
    if "--synchronous" in modules:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        modules = tuple(name for name in modules if name != "--synchronous")
    if len(os.sched_getaffinity(0)) != 1:
        sys.exit("several cores; expected one: taskset -c 0 python benchmarks/models.py")
    names = "jax onnxruntime torch keras numpy".split()
    print(f"{available()[0].name};", ", ".join(f"{name} {version(name)}" for name in names))
    print("\n| model | call | shape | own runtime | its ms | Noria ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for module in modules or COUNTS:
        try:
            parts = importlib.import_module(f"real_models.{module}").parts()
        except NotInstalledError as error:
            print(f"{module}: {error}", file=sys.stderr)
            continue
        for part in parts:
            for kind, own, ours in calls(part):
                theirs, found, ratio = in_turns(own, ours)
                xs = part.xs if kind == "whole" else next(part.steps)
                shape = " × ".join(map(str, xs.shape)) or "1"
                numbers = f"{1e3 * theirs:.3f} | {1e3 * found:.3f} | {ratio:.2f}"
                print(f"| {part.name} | {kind} | {shape} | {part.runtime} | {numbers} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
