"""Compare the recurrence compiler with a plain scan: python benchmarks/compiler.py speed|memory

Prints the tables of benchmarks/results/2026-11-24-compiler.md. In ``speed`` calls of the two
backends alternate in one process, so that other load on the machine affects both. Each number is a
median. On a busy machine compare the ratio of processor time too: other processes disturb it less,
but it does not show the gain of two cores over one. ``memory`` runs nothing: it reports the
temporary memory that XLA allocates for a compiled training step.
"""

import datetime
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import noria as nr
from noria.bench.cells import make
from noria.bench.grid import GRID, QUICK, Shape, read_names, read_shapes
from noria.bench.report import processor

# --- user-written cells -------------------------------------------------------------------------


class Concatenation(nr.Cell):
    """A cell with one matrix product of the concatenated input and state."""

    W: jax.Array

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.W @ jnp.concatenate([x, h]))

    def initial_state(self) -> jax.Array:
        return jnp.zeros(self.W.shape[0])


def concatenation(n: int, m: int) -> Concatenation:
    return Concatenation(W=jax.random.normal(jax.random.key(0), (m, n + m)) / math.sqrt(n + m))


#: By name: a title, and a function from the numbers of inputs and units to a cell.
CELLS: dict[str, tuple[str, Callable[[int, int], nr.Cell]]] = {
    "lstm": ("LSTM", partial(make, "lstm")),
    "gru": ("GRU", partial(make, "gru")),
    "rnn": ("RNN", partial(make, "rnn")),
    "gruv3": ("GRUv3", lambda n, m: nr.GRUv3Cell(n, m, key=jax.random.key(0))),
    "lnlstm": ("layer-norm LSTM, user-written", partial(make, "lnlstm")),
    "concat": ("tanh(W @ concatenate([x, h])), user-written", concatenation),
    "mingru": ("minGRU, user-written", partial(make, "mingru")),
}

# --- measurement --------------------------------------------------------------------------------

BACKENDS = ("plain", "scan")


def infer(layer: nr.Recurrence, xs: jax.Array) -> Any:
    return layer.scan(None, xs)


def loss_of_all(layer: nr.Recurrence, xs: jax.Array) -> jax.Array:
    state, ys = layer.scan(None, xs)
    return jnp.mean(ys**2) + loss(state)


def loss_of_final_state(layer: nr.Recurrence, xs: jax.Array) -> jax.Array:
    return loss(layer.scan(None, xs)[0])


def loss(state: Any) -> jax.Array:
    return jnp.stack([jnp.mean(leaf**2) for leaf in jtu.tree_leaves(state)]).sum()


MODES: dict[str, Callable[..., Any]] = {
    "inference": infer,
    "training": jax.value_and_grad(loss_of_all),
}


def layer_and_input(name: str, shape: Shape, **options: Any) -> tuple[nr.Recurrence, jax.Array]:
    time, batch, inputs, hidden = shape
    xs = np.random.default_rng(0).normal(size=(batch, time, inputs))
    cell = CELLS[name][1](inputs, hidden)
    return nr.Recurrence(cell, **options), jnp.asarray(xs, jnp.float32)


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """``function`` compiled with empty caches, and the seconds of tracing and compilation."""
    jax.clear_caches()
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - start


class Point(NamedTuple):
    """By backend: median wall-clock and processor time of a call in ms, compile time in s."""

    ms: dict[str, float]
    processor_ms: dict[str, float]
    seconds: dict[str, float]

    @property
    def ratios(self) -> tuple[float, float]:
        return self.ms["plain"] / self.ms["scan"], self.processor_ms["plain"] / self.processor_ms[
            "scan"
        ]


def compare(name: str, mode: str, shape: Shape, budget: float) -> Point:
    """Time both backends alternately for about ``budget`` seconds, and at least 3 times."""
    calls, seconds, results = {}, {}, {}
    for backend in BACKENDS:
        arguments = layer_and_input(name, shape, backend=backend)
        program, seconds[backend] = compiled(MODES[mode], *arguments)
        calls[backend] = lambda program=program, arguments=arguments: jax.block_until_ready(
            program(*arguments)
        )
        results[backend] = jtu.tree_leaves(calls[backend]())
    for a, b in zip(*results.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-2 * float(jnp.abs(a).max()))
    once = sum(_clock(call)[0] for call in calls.values())
    times: dict[str, list[tuple[float, float]]] = {backend: [] for backend in BACKENDS}
    for turn in range(max(5 if once < 1 else 3, min(100, int(budget / once)))):
        for backend in BACKENDS[:: 1 if turn % 2 else -1]:
            times[backend].append(_clock(calls[backend]))
    clock, processor_time = (
        {backend: 1e3 * statistics.median(t[which] for t in times[backend]) for backend in BACKENDS}
        for which in (0, 1)
    )
    return Point(clock, processor_time, seconds)


def _clock(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock seconds and processor seconds of a call."""
    start = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start[0], time.process_time() - start[1]


# --- output -------------------------------------------------------------------------------------


def header() -> None:
    command, cores = " ".join(sys.argv[1:]), len(os.sched_getaffinity(0))
    print(
        f"Made by `python benchmarks/compiler.py {command}` on {cores} cores of {processor()}, "
        f"with Python {platform.python_version()}, JAX {jax.__version__} and jaxlib "
        f"{jax.lib.__version__}, on {datetime.date.today():%-d %B %Y}.\n",
        flush=True,
    )


def row(cells: Iterable[object]) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def table(columns: Sequence[str]) -> None:
    row(columns)
    print("|" + "---|" * len(columns), flush=True)


def progress() -> Progress:
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, redirect_stdout=False, transient=True)


app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def speed(
    cells: Annotated[
        str, typer.Option(help=f"Names with commas between: {', '.join(CELLS)}.")
    ] = ",".join(CELLS),
    modes: Annotated[
        str, typer.Option(help=f"Names with commas between: {', '.join(MODES)}.")
    ] = ",".join(MODES),
    shapes: Annotated[
        str, typer.Option(help="time,batch,in,hidden; several with semicolons between.")
    ] = "",
    seconds: Annotated[float, typer.Option(help="For how long, about, a point is measured.")] = 1.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two small shapes, and fewer calls.")
    ] = False,
) -> None:
    """Inference and a training step on backend "scan" against "plain"."""
    grid = _read(read_shapes, shapes) if shapes else QUICK if quick else GRID
    names, chosen = (
        _read(read_names, "cells", cells, list(CELLS)),
        _read(read_names, "modes", modes, list(MODES)),
    )
    header()
    summary: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with progress() as bar:
        task = bar.add_task("", total=len(names) * len(chosen) * len(grid))
        for name in names:
            for mode in chosen:
                print(f"### {CELLS[name][0]}: {mode}\n")
                table(
                    (
                        "time, batch, in, hidden",
                        "plain ms",
                        "scan ms",
                        "ratio",
                        "of processor time",
                        "plain compiles in s",
                        "scan compiles in s",
                    )
                )
                ratios = summary[name, mode] = []
                for shape in grid:
                    bar.update(task, description=f"{name} {mode} {shape}")
                    point = compare(name, mode, shape, 0.3 if quick else seconds)
                    compiling = [f"{v:.1f}" for v in point.seconds.values()]
                    row(
                        (
                            shape,
                            *(f"{v:.2f}" for v in (*point.ms.values(), *point.ratios)),
                            *compiling,
                        )
                    )
                    ratios.append(point.ratios)
                    bar.advance(task)
                print(f"\n{_in_short(ratios)}\n", flush=True)
    print("### Together\n\nRatios, in brackets those of processor time.\n")
    table(("cell", *(f"{mode}: {of}" for mode in chosen for of in ("geometric mean", "minimum"))))
    for name in [*names, "all"]:
        found = [
            [r for n in (names if name == "all" else [name]) for r in summary[n, mode]]
            for mode in chosen
        ]
        title = name if name == "all" else CELLS[name][0]
        row(
            (
                title,
                *(_both(ratios, of) for ratios in found for of in (statistics.geometric_mean, min)),
            )
        )


def _in_short(ratios: list[tuple[float, float]]) -> str:
    mean, least = _both(ratios, statistics.geometric_mean), _both(ratios, min)
    return f"Geometric mean {mean}, minimum {least}; in brackets that of processor time."


def _both(ratios: list[tuple[float, float]], of: Callable[[Iterable[float]], float]) -> str:
    clock, processor_time = (of(column) for column in zip(*ratios, strict=True))
    return f"{clock:.2f} ({processor_time:.2f})"


SAVINGS: dict[str, dict[str, Any]] = {
    "plain": {"backend": "plain"},
    "scan, gates": {"backend": "scan", "save": "gates"},
    "scan, states": {"backend": "scan", "save": "states"},
    'scan, checkpoint="sqrt"': {"backend": "scan", "checkpoint": "sqrt"},
    "scan, checkpoint=64": {"backend": "scan", "checkpoint": 64},
}


@app.command()
def memory(
    cells: Annotated[
        str, typer.Option(help=f"Names with commas between: {', '.join(CELLS)}.")
    ] = "lstm",
    lengths: Annotated[
        str, typer.Option(help="Numbers of steps with commas between.")
    ] = "256,1024,4096,16384",
) -> None:
    """Temporary memory of a training step: loss of the final state; batch 8, in 16, hidden 64."""
    steps = [int(n) for n in lengths.split(",")]
    names = _read(read_names, "cells", cells, list(CELLS))
    header()
    with progress() as bar:
        task = bar.add_task("", total=len(names) * len(steps) * len(SAVINGS))
        for name in names:
            print(f"### {CELLS[name][0]}: memory in MB\n")
            table(("time", *SAVINGS))
            found = []
            for time in steps:
                sizes = []
                for saving, options in SAVINGS.items():
                    bar.update(task, description=f"{name} {time} {saving}")
                    arguments = layer_and_input(name, Shape(time, 8, 16, 64), **options)
                    program, _ = compiled(jax.value_and_grad(loss_of_final_state), *arguments)
                    sizes.append(program.memory_analysis().temp_size_in_bytes)
                    bar.advance(task)
                row((time, *(f"{size / 1e6:.2f}" for size in sizes)))
                found.append(sizes)
            print("\nFrom one row to the next it grows by a factor of\n")
            table(("time", *SAVINGS))
            for k in range(1, len(steps)):
                factors = (b / a for a, b in zip(found[k - 1], found[k], strict=True))
                row((f"{steps[k - 1]} to {steps[k]}", *(f"{factor:.2f}" for factor in factors)))
            print(flush=True)


def _read(reader: Callable[..., list[Any]], *words: Any) -> list[Any]:
    """The value of an option; `typer.BadParameter` if it is invalid."""
    try:
        return reader(*words)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    app()
