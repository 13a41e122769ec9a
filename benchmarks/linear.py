"""Compare the backends on linear recurrences: python benchmarks/linear.py [NAME ...]

The cells are written as their papers write them: RG-LRU with gates by head, LRU and S5 with complex
states, minGRU, and Mamba with its state of (units, 16). The backend ``associative`` takes the steps
one by one on CPUs. Under the name ``composed`` it composes chunks of steps in parallel, as on other
devices. Under the name ``by-hand`` it calls `jax.lax.associative_scan` over all steps, as one would
write it by hand; JAX differentiates the call.

The calls of ``plain`` and of one other backend alternate, and all are in one process. With more
backends in turn, the next call would wait while the system takes back the gigabyte of the form by
hand. A number is the median over turns of the time of ``plain`` divided by the time of the backend:
wall-clock time, and in brackets processor time.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import typer

import noria as nr
from noria.compiler import linear
from noria.ops.linear_recurrence import block_recurrence

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from published import PUBLISHED

from noria.bench.cells import make


class Complex(nr.Cell):
    """A complex diagonal state of ``(size,)``: parameters by name."""

    p: dict[str, jax.Array]
    size: int = eqx.field(static=True)

    def initial_state(self) -> jax.Array:
        return jnp.zeros(self.size, jnp.complex64)


class LRU(Complex):
    """Orvieto et al. 2023, arXiv 2303.06349, eq. 3 to 7."""

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        p = self.p
        eigenvalue = jnp.exp(jax.lax.complex(-jnp.exp(p["nu"]), p["theta"]))
        return eigenvalue * h + p["gamma"] * (p["B"] @ x)

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return (self.p["C"] @ h).real + self.p["D"] * x


class S5(Complex):
    """Smith et al. 2023, arXiv 2208.04933: zero-order hold; a state of half the width."""

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        p = self.p
        rate = jax.lax.complex(-jnp.exp(p["nu"]), p["theta"])
        step = jnp.exp(rate * jnp.exp(p["gamma"]))
        return step * h + (((step - 1) / rate)[:, None] * p["B"]) @ x

    def output(self, h: jax.Array, x: jax.Array) -> jax.Array:
        return 2 * (self.p["C"] @ h).real + self.p["D"] * x


def complex_cell(kind: type[Complex], size: int, width: int) -> Complex:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        parts = rng.normal(size=(2, *shape)) / np.sqrt(2 * shape[-1])
        return jnp.asarray(parts[0] + 1j * parts[1], jnp.complex64)

    rates = {name: jnp.asarray(rng.uniform(-3, -1, size), jnp.float32) for name in ("nu", "gamma")}
    more = {"theta": jnp.asarray(rng.uniform(0, 3, size), jnp.float32), "D": jnp.ones(width)}
    return kind({**rates, **more, "B": normal(size, width), "C": normal(width, size)}, size)


#: By name: from the width of input and output to a cell.
CELLS: dict[str, Callable[[int], Any]] = {
    "rglru": lambda width: PUBLISHED["rglru"](4, width // 4, width),
    "lru": lambda width: complex_cell(LRU, width, width),
    "s5": lambda width: complex_cell(S5, width // 2, width),
    "mingru": lambda width: make("mingru", width, width),
    "mamba": lambda width: PUBLISHED["mamba"](width // 16, 16, width),
}


def infer(layer: nr.Recurrence, xs: jax.Array) -> Any:
    return layer(xs)


def train(layer: nr.Recurrence, xs: jax.Array) -> Any:
    return nr.value_and_grad(lambda layer, xs: jnp.mean(layer(xs) ** 2))(layer, xs)


MODES: dict[str, Callable[..., Any]] = {"inference": infer, "training": train}


def composed(ring: Any, a: Any, b: Any, start: Any, reverse: bool, _: Any) -> Any:
    return block_recurrence(ring, a, b, start, reverse, True)


def by_hand(ring: Any, a: Any, b: Any, start: Any, *_: Any) -> Any:
    """The states of one array by `jax.lax.associative_scan`, forward in time."""
    ((scale,),), (shift,), (state,) = a, b, start
    shift = shift.at[0].add(scale[0] * state)

    def after(first: Any, then: Any) -> Any:
        return then[0] * first[0], then[0] * first[1] + then[1]

    return (jax.lax.associative_scan(after, (scale, shift))[1],)


#: Ways to run the backend ``associative``, by a name for the table.
SOLVERS: dict[str, Callable[..., Any]] = {"composed": composed, "by-hand": by_hand}


@contextmanager
def solving(solver: Callable[..., Any] | None) -> Iterator[None]:
    """A context in which ``associative`` calls this function."""
    vars(linear)["block_recurrence"] = solver or block_recurrence
    try:
        yield
    finally:
        vars(linear)["block_recurrence"] = block_recurrence


def program(mode: str, layer: nr.Recurrence, backend: str, xs: jax.Array) -> Callable[[], Any]:
    """A compiled call."""
    solver = SOLVERS.get(backend)
    layer = nr.with_backend(layer, "associative" if solver else backend)
    with solving(solver):
        compiled = jax.jit(MODES[mode]).lower(layer, xs).compile()
    return partial(compiled, layer, xs)


def compared(calls: Sequence[Callable[[], Any]], turns: int) -> list[str]:
    """For each call but the first: the time of the first divided by its own."""
    first, *others = calls
    pairs = [_turns(first, other, turns) for other in others]
    texts = [f"{1e3 * statistics.median(one[0] for one, _ in pairs[0]):.2f} ms"]
    for found in pairs:
        ratios = [[one[k] / other[k] for one, other in found] for k in (0, 1)]
        wall, processor = map(statistics.median, ratios)
        texts.append(f"{wall:.2f} ({processor:.2f})")
    return texts


def _turns(one: Callable[[], Any], other: Callable[[], Any], turns: int) -> list[Any]:
    """The times of two calls that alternate."""
    for call in (one, other):
        jax.block_until_ready(call())
    found = []
    for turn in range(turns):
        order = [one, other][:: 1 if turn % 2 else -1]
        times = {call: _clock(call) for call in order}
        found.append((times[one], times[other]))
    return found


def _clock(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock seconds and processor seconds of a call."""
    start = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return time.perf_counter() - start[0], max(time.process_time() - start[1], 1e-9)


def main(
    name: Annotated[list[str] | None, typer.Argument(help="Cells; all by default.")] = None,
    mode: Annotated[str, typer.Option(help="Modes with commas between.")] = ",".join(MODES),
    backends: Annotated[str, typer.Option(help="Backends with commas between.")] = "native,by-hand",
    steps: Annotated[str, typer.Option(help="Numbers of steps with commas between.")] = "2048,8192",
    batch: Annotated[int, typer.Option(help="Examples.")] = 8,
    width: Annotated[int, typer.Option(help="Features of input and output.")] = 128,
    turns: Annotated[int, typer.Option(help="Turns of each measurement.")] = 7,
) -> None:
    """Time of ``plain`` divided by the time of other backends."""
    names = backends.split(",")
    print(f"| cell | mode | batch, steps, width | plain | {' | '.join(names)} |")
    print("|" + "---|" * (4 + len(names)))
    for label in name or CELLS:
        for time_steps in map(int, steps.split(",")):
            xs = jax.random.normal(jax.random.key(1), (batch, time_steps, width), jnp.float32)
            layer = nr.Recurrence(CELLS[label](width))
            for one in mode.split(","):
                calls = [program(one, layer, backend, xs) for backend in ("plain", *names)]
                shown = " | ".join(compared(calls, turns))
                print(f"| {label} | {one} | {batch, time_steps, width} | {shown} |", flush=True)
                jax.clear_caches()


if __name__ == "__main__":
    typer.run(main)
