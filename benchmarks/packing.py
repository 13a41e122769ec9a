"""Measure the cost of packing in each call: python benchmarks/packing.py [--quick] [N ...]

Each line compares programs of one LSTM with as many inputs as units, whose weights are constants:

* ``packed``: the kernel packs its weights into panels in each call.
* ``given``: the same kernel finds the panels in memory, as if they had been made once.
* ``in place``: the kernel reads the weights without packing; for one step only.

The programs of a line take turns, and the least CPU time of each is printed in microseconds. The
kernels have one thread, so that CPU time, which depends less on the load of the machine than wall
time, is the time of a call. Numbers select lines. ``python benchmarks/tuning.py step_rows``
compares a step with XLA's operations.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from llvmlite import ir

import noria as nr
from noria.backends.native.codegen import kernel, packing, time_block
from noria.backends.native.codegen.addresses import panel_vector
from noria.backends.native.codegen.llvm import (
    I64,
    POINTER,
    VOID,
    advance,
    begin_function,
    bytes_of,
    i64,
)
from noria.backends.native.machine import Tuning, using
from noria.backends.native.plan.tiling import ALIGN, KernelPlan, Panel

ALL = 2**30


class Problem(NamedTuple):
    """An LSTM; ``steps`` is 0 for `noria.Recurrence.step`."""

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


@contextmanager
def panels_at(memory: np.ndarray, is_packed: bool) -> Iterator[None]:
    """A context in which kernels have their panels in this memory, and may not pack them."""
    start = -(-memory.ctypes.data // ALIGN) * ALIGN

    def panel_at(b: ir.IRBuilder, _: Any, plan: KernelPlan, panel: Panel, j: ir.Value) -> ir.Value:
        width = panel.dot.depth * len(panel.columns) * bytes_of(panel_vector(plan, panel))
        base = b.inttoptr(i64(start + panel.scratch_offset), POINTER)
        return advance(b, base, b.mul(j, i64(width)))

    def emit_pack(plan: KernelPlan, module: ir.Module) -> None:
        assert plan.panel_bytes + ALIGN <= memory.nbytes
        if is_packed:
            packing.emit_pack(plan, module)
        else:
            begin_function(module, "pack", VOID, POINTER, I64, I64)[0].ret_void()

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(kernel, "emit_pack", emit_pack))
        for module in (kernel, packing, time_block):
            stack.enter_context(mock.patch.object(module, "panel_at", panel_at))
        yield


def function_of(problem: Problem) -> tuple[Callable[..., Any], Any]:
    """A layer's call, and its arguments."""
    steps, batch, inputs, units = problem
    cell = nr.LSTMCell(inputs, units, key=jax.random.key(0))
    layer = nr.Recurrence(cell, backend="native")
    xs = jax.random.normal(jax.random.key(1), (batch, max(steps, 1), inputs))
    if steps:
        return lambda xs: layer.scan(None, xs), (xs,)
    state = jax.tree.map(lambda a: jnp.zeros((batch, *a.shape), a.dtype), layer.initial_state())
    return lambda state, x: layer.step(state, x), (state, xs[:, 0])


def compiled(problem: Problem, *, unpacked_rows: int) -> Callable[[], Any]:
    """A compiled program as a function without arguments."""
    function, arguments = function_of(problem)
    with using(replace(Tuning(), threads=1, step_rows=ALL, unpacked_rows=unpacked_rows)):
        program = jax.jit(function).lower(*arguments).compile()
    return lambda: jax.block_until_ready(program(*arguments))


def programs_of(problem: Problem) -> dict[str, Callable[[], Any]]:
    """The programs to compare."""
    found = {"packed": compiled(problem, unpacked_rows=0)}
    memory = np.zeros(2**26, np.uint8)
    with panels_at(memory, is_packed=True):
        compiled(problem, unpacked_rows=0)()
    with panels_at(memory, is_packed=False):
        given = compiled(problem, unpacked_rows=0)
    for one, two in zip(*map(jax.tree.leaves, (found["packed"](), given())), strict=True):
        np.testing.assert_array_equal(one, two)
    # The program reads the memory for as long as it lives.
    found["given"] = partial(_kept, given, memory)
    if not problem.steps:
        found["in place"] = compiled(problem, unpacked_rows=ALL)
    return found


def _kept(program: Callable[[], Any], memory: np.ndarray) -> Any:
    return program()


def least(programs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """The least CPU time of each program in microseconds."""
    best = dict.fromkeys(programs, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or float("inf") in best.values():
        for name, program in programs.items():
            began = time.process_time()
            program()
            best[name] = min(best[name], 1e6 * (time.process_time() - began))
    return best


def main(arguments: list[str]) -> None:
    quick = "--quick" in arguments
    numbers = [int(a) for a in arguments if a != "--quick"] or range(len(PROBLEMS))
    for number in (0, len(PROBLEMS) - 5) if quick else numbers:
        problem = PROBLEMS[number]
        found = least(programs_of(problem), 0.02 if quick else 0.5)
        times = "  ".join(f"{name} {found[name]:9,.0f}" for name in found)
        print(f"{number:2}  {problem}  {times}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
