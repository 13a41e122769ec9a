"""Measure the cost of packing in each call: python benchmarks/packing.py [--quick] [N ...]

Each line compares programs of one LSTM with as many inputs as units:

* ``arguments``: the weights are arguments; the kernel packs them in each call, or for up to eight
  rows reads them in place.
* ``prepared``: the weights are constants, and are packed when the program is compiled.

The programs of a line take turns, and the least CPU time of each is printed in microseconds. The
kernels have one thread, so that CPU time, which depends less on the load of the machine than wall
time, is the time of a call. Numbers select lines. The last lines are calls from Python; they
include calls of JAX itself. ``python benchmarks/tuning.py step_rows`` compares a step with XLA's
operations.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import noria as nr
from noria.backends.native.machine import Tuning, using

Programs = dict[str, Callable[[], Any]]


class Problem(NamedTuple):
    """An LSTM; ``steps`` is 0 for `noria.Layer.step`."""

    steps: int
    batch: int
    inputs: int
    units: int


PROBLEMS = [
    Problem(20, 7, 10, 50),
    Problem(35, 20, 650, 650),
    *(Problem(32, batch, units, units) for units in (256, 512, 768) for batch in (1, 4, 8)),
    *(Problem(0, batch, units, units) for units in (128, 512) for batch in (1, 8, 16, 64, 128)),
]


def programs_of(problem: Problem) -> Programs:
    """The programs to compare, as functions without arguments."""
    steps, batch, inputs, units = problem
    layer = nr.LSTM(inputs, units, key=jax.random.key(0), backend="native")
    xs = jax.random.normal(jax.random.key(1), (batch, max(steps, 1), inputs))
    state = jax.tree.map(lambda a: jnp.zeros((batch, *a.shape), a.dtype), layer.initial_state())

    def run(layer: nr.Layer, state: Any, xs: jax.Array) -> Any:
        return layer.scan(state, xs) if steps else layer.step(state, xs[:, 0])

    with using(replace(Tuning(), threads=1)):
        given = jax.jit(run).lower(layer, state, xs).compile()
        fast = nr.prepare(layer)
        prepared = jax.jit(partial(run, fast)).lower(state, xs).compile()
    return {
        "arguments": lambda: given(layer, state, xs),
        "prepared": lambda: prepared(state, xs),
    }


def calls_from_python() -> Programs:
    """One step of one example, in several ways, and what JAX needs for a call."""
    layer = nr.LSTM(128, 128, key=jax.random.key(0))
    fast, state, x = nr.prepare(layer), layer.initial_state(), jnp.ones(128)
    jitted = jax.jit(lambda layer, state, x: layer.step(state, x))
    add, three = jax.jit(lambda x: x + 1), jax.jit(lambda state, x: (state, x + 1))
    return {
        "JAX: x + 1": lambda: add(x),
        "JAX: state and x": lambda: three(state, x),
        "layer.step": lambda: layer.step(state, x),
        "jitted step": lambda: jitted(layer, state, x),
        "prepared.step": lambda: fast.step(state, x),
    }


def least(programs: Programs, seconds: float, repeats: int = 1) -> dict[str, float]:
    """The least CPU time of each program in microseconds."""
    best = {name: float("inf") for name, program in programs.items() if _ready(program)}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or float("inf") in best.values():
        for name, program in programs.items():
            began = time.process_time()
            for _ in range(repeats):
                found = program()
            jax.block_until_ready(found)
            used = 1e6 * (time.process_time() - began) / repeats
            best[name] = min(best[name], used)
    return best


def _ready(program: Callable[[], Any]) -> bool:
    """Run a program once, so that it is compiled."""
    jax.block_until_ready(program())
    return True


def main(arguments: list[str]) -> None:
    quick = "--quick" in arguments
    numbers = [int(a) for a in arguments if a != "--quick"] or range(len(PROBLEMS))
    for number in (0, len(PROBLEMS) - 5) if quick else numbers:
        problem = PROBLEMS[number]
        found = least(programs_of(problem), 0.02 if quick else 0.5)
        times = "  ".join(f"{name} {found[name]:9,.0f}" for name in found)
        ratio = found["arguments"] / found["prepared"]
        print(f"{number:2}  {problem}  {times}  ratio {ratio:.2f}", flush=True)
    for name, used in least(calls_from_python(), 0.02 if quick else 2, repeats=50).items():
        print(f"    {name:20} {used:9.1f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
