"""Measure the cost of packing in each call: python benchmarks/packing.py [--quick] [N ...]

``python benchmarks/packing.py --peers [--quick] [N ...]`` compares with other libraries instead: a
tick of S streams from Python, and inference, with weights that are constants in each library. Each
library has its own process, and they take turns. A line has the median time of each in
microseconds, and the ratio of the fastest other library to Noria. A library that is not installed
is left out.

``python benchmarks/packing.py --limits`` compares inference with a limit of the machine, which
depends on no library: the time of the multiply-adds at the speed of a large matrix product. The
time is the least of many calls.

``python benchmarks/packing.py --training`` prints how much of a training step the kernels of the
forward and of the reverse loop pack.

``python benchmarks/packing.py --dense`` compares the product of a `Dense` with packed weights, the
kernel of a prepared model, with that of XLA for constant weights, in microseconds of wall time.

Each other line compares programs of one LSTM with as many inputs as units:

* ``arguments``: the weights are arguments; the kernel packs them in each call, or for up to eight
  rows reads them in place.
* ``prepared``: the weights are constants, and are packed when the program is compiled.

The programs of a line take turns, and the least CPU time of each is printed in microseconds. The
kernels have one thread, so that CPU time, which depends less on the load of the machine than wall
time, is the time of a call. Numbers select lines. The last lines are calls from Python; they
include calls of JAX itself. ``python benchmarks/tuning.py step_rows`` compares a step with XLA's
operations.
"""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import noria as nr
from noria.backends.native.machine import Isa, Tuning, using
from noria.backends.native.plan.panels import ALIGN
from noria.backends.native.plan.schedule import INPUTS, RESULTS
from noria.backends.native.plan.tiling import KernelPlan
from noria.backends.native.runtime import kernels
from noria.bench.grid import GRID, Shape, Work
from noria.bench.peers import PEERS
from noria.bench.run import Lane, Run

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

#: Ticks of S streams, the shapes of ``noria bench``, and few examples with many units.
WORKS = [
    *(
        Work("lstm", "step", Shape(1, streams, units, units))
        for units in (128, 512)
        for streams in (1, 16, 128)
    ),
    *(Work("lstm", "inference", shape) for shape in GRID),
    *(
        Work("lstm", "inference", Shape(32, batch, units, units))
        for units in (256, 512, 768)
        for batch in (1, 2, 4, 8)
    ),
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


def least(
    programs: Programs,
    seconds: float,
    repeats: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """The least CPU time of each program in microseconds, or that of another clock."""
    best = {name: float("inf") for name, program in programs.items() if _ready(program)}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or float("inf") in best.values():
        for name, program in programs.items():
            began = clock()
            for _ in range(repeats):
                found = program()
            jax.block_until_ready(found)
            used = 1e6 * (clock() - began) / repeats
            best[name] = min(best[name], used)
    return best


def products_of_dense() -> None:
    """For shapes and numbers of rows: the times of XLA and of the kernel, and their ratio."""
    for shape in ((64, 8), (256, 64), (128, 1000), (512, 512), (1024, 8210)):
        dense = nr.Dense(*shape, key=jax.random.key(0))
        for rows in (1, 4, 25, 100, 128, 200):
            xs = jnp.asarray(np.random.default_rng(0).normal(size=(rows, shape[0])), jnp.float32)
            layers = {"XLA": dense, "kernel": nr.prepare(dense)}
            programs: Programs = {
                name: partial(jax.jit(lambda xs, layer=layer: layer(xs)), xs)
                for name, layer in layers.items()
            }
            found = least(programs, 0.2, clock=time.perf_counter)
            times = "  ".join(f"{name} {found[name]:9,.1f}" for name in found)
            print(f"{shape}  rows {rows:3}  {times}  ratio {found['XLA'] / found['kernel']:.2f}")


def _ready(program: Callable[[], Any]) -> bool:
    """Run a program once, so that it is compiled."""
    jax.block_until_ready(program())
    return True


def share_of_training() -> None:
    """The time of each kernel's function ``pack``, called alone, and of a whole training step."""
    made: list[tuple[kernels.Kernel, KernelPlan]] = []
    kernel_of = kernels.kernel_of

    def spied(plan: KernelPlan, isa: Isa) -> kernels.Kernel:
        made.append((kernel_of(plan, isa), plan))
        return made[-1][0]

    kernels.kernel_of = spied
    for steps, batch, inputs, units in (20, 32, 64, 128), (35, 20, 200, 650), (100, 1, 64, 256):
        made.clear()
        layer = nr.LSTM(inputs, units, key=jax.random.key(0), backend="native")
        xs = jnp.ones((batch, steps, inputs))
        step = jax.jit(nr.grad(lambda layer, xs: (layer(xs) ** 2).mean()))
        with using(replace(Tuning(), threads=1)):
            programs: Programs = {"step": partial(step, layer, xs)}
            jax.block_until_ready(programs["step"]())
            programs |= {f"pack {n}": packing_of(*pair) for n, pair in enumerate(made)}
            found = least(programs, 1)
        times = "  ".join(f"{name} {used:8,.0f}" for name, used in found.items())
        share = sum(found.values()) / found["step"] - 1
        print(f"{steps}, {batch}, {inputs}, {units}:  {times}  all packing {share:.1%}", flush=True)


def packing_of(kernel: kernels.Kernel, plan: KernelPlan) -> Callable[[], Any]:
    """A call of a kernel's function ``pack``, which reads the shared arrays."""
    count = len(plan.schedule.buffers((*INPUTS, *RESULTS)))
    arrays = [np.ones(v.aval.shape, v.aval.dtype) for v in plan.schedule.shared]
    scratch = np.zeros(plan.panel_bytes + ALIGN, np.uint8)
    table = (ctypes.c_void_p * (count + 1))(*(a.ctypes.data for a in arrays))
    table[count] = scratch.ctypes.data + -scratch.ctypes.data % ALIGN
    address = kernels._libraries[kernel.name].address("pack")
    kinds = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
    pack = ctypes.CFUNCTYPE(None, *kinds)(address)
    held = arrays, scratch
    return lambda: (pack(ctypes.addressof(table), 0, 1), held)[0]


def limits() -> None:
    """The least time of inference, and that of its multiply-adds, in microseconds."""
    lanes = [Lane(name) for name in ("torch", "call") if not PEERS[name].missing]
    with Run(lanes, "time", 0.1, 1) as run:
        peak = max(run.peaks().values())
    print(f"products {peak / 1e9:.0f} Gflop/s")
    for shape in (work.shape for work in WORKS if work.mode == "inference"):
        steps, batch, inputs, units = shape
        limit = 1e6 * steps * 2 * batch * 4 * units * (inputs + units) / peak
        layer = nr.prepare(nr.LSTM(inputs, units, key=jax.random.key(0)))
        xs = jax.random.normal(jax.random.key(1), (batch, steps, inputs))
        call = partial(jax.jit(lambda xs, layer=layer: layer(xs)), xs)
        found = least({"call": call}, 2, clock=time.perf_counter)["call"]
        print(f"{shape!s:19}  {found:9,.1f}  limit {limit:9,.1f}  {limit / found:.2f}", flush=True)


def compare(numbers: Sequence[int], quick: bool) -> None:
    """Compare `WORKS` with other libraries; a group ends with its geometric mean and minimum."""
    lanes = [Lane(name) for name in ("prepared", "onnx", "torch", "call")]
    lanes = [lane for lane in lanes if not PEERS[lane.peer].missing]
    works = [WORKS[n] for n in numbers or range(len(WORKS))]
    seconds, rounds = (0.02, 2) if quick else (0.2, 5)
    ratios: dict[str, list[float]] = {}
    with Run(lanes, "time", seconds, rounds) as run:
        for point in run.points(works):
            times = {lane.peer: 1e6 * value for lane, value in point.values.items()}
            best = min((times[n] for n in times if PEERS[n].rival), default=float("nan"))
            ratios.setdefault(point.work.mode, []).append(best / times["prepared"])
            shown = "  ".join(f"{name} {time:9,.1f}" for name, time in times.items())
            number, ratio = WORKS.index(point.work), best / times["prepared"]
            print(
                f"{number:2}  {point.work.mode:9} {point.work.shape!s:19}  {shown}  {ratio:.2f}",
                flush=True,
            )
    for mode, found in ratios.items():
        mean, least_ratio = statistics.geometric_mean(found), min(found)
        print(f"    {mode:9} geometric mean {mean:.2f}, minimum {least_ratio:.2f}")


def main(arguments: list[str]) -> None:
    quick = "--quick" in arguments
    numbers = [int(a) for a in arguments if not a.startswith("--")]
    if "--training" in arguments:
        share_of_training()
        return
    if "--dense" in arguments:
        products_of_dense()
        return
    if "--limits" in arguments:
        limits()
        return
    if "--peers" in arguments:
        compare(numbers, quick)
        return
    numbers = numbers or [*range(len(PROBLEMS))]
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
