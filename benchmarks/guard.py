"""Check that ``backend="auto"`` is never slower than ``"plain"``: python benchmarks/guard.py

The cells are those of the library, the published ones of tests/published.py and of
tests/published_vectors.py, or with ``--catalogue`` those of ``noria cells``, and with ``--zoo`` the
small ones of tests/test_zoo.py. Each is run in
inference, in training and step by step, with (batch, time, features) of (16, 256, 128) and
(1, 1024, 64), the zoo with (3, 256, 3). Besides there are LSTMs whose states are images, with
features first or last.

Calls of the two backends alternate. A ratio is the median over turns of the time of ``plain``
divided by the time of ``auto``: wall-clock time, and in brackets processor time. A cell is slower
if both are below 0.95. It is then measured again with four times as many turns, since other load
disturbs few turns. The exit status is 1 if a cell is still slower.

With ``--compiling`` the ratios are of the times to trace, lower and compile, without kernels on
disk. There a cell is slower if both ratios are below 0.5.
"""

import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import typer

import noria as nr
from noria.cells.base import arguments_of
from noria.cells.catalogue import catalogue, class_of

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from convolutional_cells import ConvolutionalCell
from models import CELLS, make_cell
from published_vectors import PUBLISHED

#: How much slower ``auto`` may be, in calls and in compiling.
LEAST, LEAST_COMPILING = 0.95, 0.5

#: (batch, time, features, width of each of four heads).
SHAPES = ((16, 256, 128, 32), (1, 1024, 64, 16))
#: Images: (batch, time), size, and features.
IMAGES = {"8x16x16": ((4, 32), (16, 16), 8), "32x16x16": ((2, 8), (16, 16), 32)}
BACKENDS = ("auto", "plain")


class Ratio(NamedTuple):
    """Time of ``plain`` divided by time of ``auto``."""

    wall: float
    processor: float
    least: float

    @property
    def is_slower(self) -> bool:
        return max(self.wall, self.processor) < self.least

    def __str__(self) -> str:
        return f"{self.wall:.2f} ({self.processor:.2f})" + " SLOWER" * self.is_slower


#: The sizes of a cell that does not take any number of units.
SIZES = {"kru": lambda units: {"factor_size": 2, "factors": units.bit_length() - 1}}


def listed(names: list[str]) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """The cells of the catalogue, as `cells` gives them, except those of images.

    Three variables of GRU-D are one input.
    """
    for batch, steps, features, width in SHAPES:
        for key, entry in catalogue().items():
            if entry.family != "convolutional" and (not names or key in names):
                given = SIZES[key](4 * width) if key in SIZES else {}
                inputs = features - features % 3 if key == "gru_d" else features
                cell = class_of(entry)(inputs, 4 * width, key=jax.random.key(0), **given)
                yield key, (batch, steps, inputs), nr.Recurrence(cell)


def cells(names: list[str], zoo: bool) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """Name, shape of the input, and layer."""
    for batch, steps, features, width in SHAPES:
        for name in CELLS:
            if not names or name in names:
                cell = make_cell(name, features, 4 * width, dtype=jnp.float32)
                yield name, (batch, steps, features), nr.Recurrence(cell)
        for name, make in PUBLISHED.items():
            if not names or name in names:
                cell = make(4, width, features)
                yield name, (batch, steps, features), nr.Recurrence(cell)
    for name, (axes, size, features) in IMAGES.items():
        for last in (False, True):
            label = f"convlstm_{name}" + "_last" * last
            if not names or label in names:
                cell = ConvolutionalCell(size, (features,) * 2, dtype=jnp.float32, last=last)
                yield label, (*axes, *cell.input_shape()), nr.Recurrence(cell)
    if zoo:
        from test_zoo import ZOO, DrawingCell

        for name, enter in ZOO.items():
            cell, start = enter(jnp.float32)
            if (not names or name in names) and not isinstance(cell, DrawingCell):
                yield name, (3, 256, 3), nr.Recurrence(cell, start)


def backend_of(layer: nr.Recurrence, xs: jax.Array) -> str:
    """The backend, and of a layer on machine code that of a reverse loop on scan."""
    page = nr.explain(layer, xs, **given(layer, xs))
    return page.backend + ", reverse scan" * ("reverse loop runs on" in page.reason)


def given(layer: nr.Recurrence, xs: jax.Array) -> dict[str, jax.Array]:
    """The time differences, for a cell that needs them."""
    return {"dt": jnp.ones(xs.shape[:2])} if arguments_of(layer.cell).get("dt") else {}


def infer(layer: nr.Recurrence, xs: jax.Array) -> Any:
    return layer(xs, **given(layer, xs))


def train(layer: nr.Recurrence, xs: jax.Array) -> Any:
    loss = lambda layer, xs: jnp.mean(jnp.abs(infer(layer, xs)) ** 2)  # noqa: E731
    if not nr.count_parameters(layer, trainable=True):
        return jax.value_and_grad(loss, 1)(layer, xs)
    return nr.value_and_grad(loss)(layer, xs)


def step(layer: nr.Recurrence, xs: jax.Array, state: Any) -> Any:
    dt = {name: array[:, 0] for name, array in given(layer, xs).items()}
    return layer.step(state, xs[:, 0], **dt)


def arguments(run: Callable[..., Any], layer: nr.Recurrence, xs: jax.Array) -> tuple[Any, ...]:
    """What a mode takes besides the layer. A step is given its state, as from the step before."""
    if run is not step:
        return (xs,)
    state = jax.tree.map(lambda a: jnp.tile(a, (len(xs), *[1] * a.ndim)), layer.initial_state())
    return xs, state


MODES: dict[str, Callable[..., Any]] = {"inference": infer, "training": train, "step": step}


def compared(run: Callable[..., Any], layer: nr.Recurrence, xs: jax.Array, turns: int) -> Ratio:
    """Compile both programs, and time them in turns; once more if ``auto`` seems slower."""
    calls, taken = [], arguments(run, layer, xs)
    for backend in BACKENDS:
        program = jax.jit(run)
        chosen = nr.with_backend(layer, backend)
        calls.append(partial(program, chosen, *taken))
    repeats = max(1, int(0.02 / max(_clock(call, 1)[0] for call in calls for _ in range(2))))
    ratio = _ratio(calls, turns, repeats)
    return _ratio(calls, 4 * turns, repeats) if ratio.is_slower else ratio


def compared_compiling(
    run: Callable[..., Any], layer: nr.Recurrence, xs: jax.Array, turns: int
) -> Ratio:
    """Compile both programs anew in turns."""
    taken = arguments(run, layer, xs)

    def forget() -> None:
        jax.clear_caches()
        gc.collect()

    def compiling(backend: str) -> None:
        jax.jit(run).lower(nr.with_backend(layer, backend), *taken).compile()

    calls = [partial(compiling, backend) for backend in BACKENDS]
    for call in calls:
        call()
    return _ratio(calls, turns, 1, LEAST_COMPILING, forget)


def _ratio(
    calls: Sequence[Callable[[], Any]],
    turns: int,
    repeats: int,
    least: float = LEAST,
    before: Callable[[], None] = lambda: None,
) -> Ratio:
    found: list[tuple[float, float]] = []
    for turn in range(turns):
        times = {}
        for which in (0, 1) if turn % 2 else (1, 0):
            before()
            times[which] = _clock(calls[which], repeats)
        found.append((times[1][0] / times[0][0], times[1][1] / times[0][1]))
    wall, processor = zip(*found, strict=True)
    return Ratio(statistics.median(wall), statistics.median(processor), least)


def _clock(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Wall-clock seconds and processor seconds of some calls."""
    start = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return time.perf_counter() - start[0], max(time.process_time() - start[1], 1e-9)


def main(
    name: Annotated[
        list[str] | None, typer.Argument(help="Names of cells; all by default.")
    ] = None,
    mode: Annotated[str, typer.Option(help="Modes with commas between.")] = ",".join(MODES),
    turns: Annotated[int, typer.Option(help="Turns of each measurement.")] = 7,
    zoo: Annotated[bool, typer.Option(help="The small cells of the tests, too.")] = False,
    every: Annotated[
        bool, typer.Option("--catalogue", help="The cells of `noria cells` instead.")
    ] = False,
    compiling: Annotated[bool, typer.Option(help="Compare compile times instead.")] = False,
) -> None:
    """Compare ``auto`` with ``plain`` for every cell."""
    modes, slower = mode.split(","), 0
    compare = compared_compiling if compiling else compared
    if compiling:
        os.environ["NORIA_CACHE"] = "off"
    print(f"| cell | batch, time, features | backend | {' | '.join(modes)} |")
    print("|" + "---|" * (3 + len(modes)))
    for label, shape, layer in listed(name or []) if every else cells(name or [], zoo):
        xs = jax.random.normal(jax.random.key(1), shape)
        backend = backend_of(layer, xs)
        ratios = [compare(MODES[one], layer, xs, turns) for one in modes]
        slower += sum(ratio.is_slower for ratio in ratios)
        print(f"| {label} | {shape} | {backend} | {' | '.join(map(str, ratios))} |", flush=True)
        jax.clear_caches()
    if slower:
        print(f'\n{slower} programs are slower with backend="auto" than with "plain".')
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
