"""Check that ``backend="auto"`` is never slower than ``"plain"``: python benchmarks/guard.py

The cells are those of the library, the published ones of tests/published.py and of
tests/published_vectors.py, or with ``--catalogue`` those of ``noria cells``, and with ``--zoo`` the
small ones of tests/test_zoo.py and those of tests/test_arguments.py, which read a context or the
time. Each is run in inference, in training and step by step, with (batch, time, features) of
(16, 256, 128) and (1, 1024, 64), the zoo with (3, 256, 3), and cells of images with those of
`IMAGES`. Besides there are LSTMs whose states are images, with features first or last. A cell that
needs time differences, a context or random numbers gets them as arguments.

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
from noria.cells.spatial import SpatialCell

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


class Case(NamedTuple):
    """A layer to measure.

    Attributes:
        name: its name in the table.
        shape: the shape of its input.
        layer: the layer.
        context: the shapes of the context of one example, for a cell that needs one.
    """

    name: str
    shape: tuple[int, ...]
    layer: nr.Recurrence
    context: Any = None


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


def listed() -> Iterator[tuple[str, Callable[[], Iterator[Case]]]]:
    """The cells of the catalogue by name, as `known` gives them."""
    for key, entry in catalogue().items():
        yield key, partial(_of_catalogue, key, class_of(entry))


def _of_catalogue(key: str, kind: Any) -> Iterator[Case]:
    """Three variables of GRU-D are one input, and the input of a cell of images is an image."""
    if issubclass(kind, SpatialCell):
        for axes, size, features in IMAGES.values():
            cell = kind((*size, features), features, key=jax.random.key(0))
            yield Case(key, (*axes, *size, features), nr.Recurrence(cell))
        return
    for batch, steps, features, width in SHAPES:
        sizes = SIZES[key](4 * width) if key in SIZES else {}
        inputs = features - features % 3 if key == "gru_d" else features
        cell = kind(inputs, 4 * width, key=jax.random.key(0), **sizes)
        yield Case(key, (batch, steps, inputs), nr.Recurrence(cell))


def known(zoo: bool) -> Iterator[tuple[str, Callable[[], Iterator[Case]]]]:
    """All other cells by name, each with a function that makes them in all sizes."""
    for name in CELLS:
        yield name, partial(_of_shapes, name, partial(_of_library, name))
    for name, make in PUBLISHED.items():
        yield name, partial(_of_shapes, name, make)
    for name, (axes, size, features) in IMAGES.items():
        for last in (False, True):
            label = f"convlstm_{name}" + "_last" * last
            yield label, partial(_of_images, label, axes, size, features, last)
    if zoo:
        from test_zoo import ZOO

        for name, enter in ZOO.items():
            yield name, partial(_of_zoo, name, enter)
        yield from ((name, partial(_of_arguments, name)) for name in WITH_ARGUMENTS)


def _of_library(name: str, heads: int, width: int, features: int) -> Any:
    return make_cell(name, features, heads * width, dtype=jnp.float32)


def _of_shapes(name: str, make: Callable[[int, int, int], Any]) -> Iterator[Case]:
    for batch, steps, features, width in SHAPES:
        cell = make(4, width, features)
        yield Case(name, (batch, steps, features), nr.Recurrence(cell))


def _of_images(
    name: str, axes: tuple[int, ...], size: tuple[int, ...], features: int, last: bool
) -> Iterator[Case]:
    cell = ConvolutionalCell(size, (features,) * 2, dtype=jnp.float32, last=last)
    yield Case(name, (*axes, *cell.input_shape()), nr.Recurrence(cell))


def _of_zoo(name: str, enter: Callable[[Any], tuple[Any, Any]]) -> Iterator[Case]:
    yield Case(name, (3, 256, 3), nr.Recurrence(*enter(jnp.float32)))


#: Cells of tests/test_arguments.py by their names there: the shapes of their contexts.
WITH_ARGUMENTS: dict[str, Any] = {
    "Timed": None,
    "Conditioned": {"speaker": (3,), "scale": ()},
    "DotAttention": (4, 3),
}


def _of_arguments(name: str) -> Iterator[Case]:
    import test_arguments

    kind, matrix = getattr(test_arguments, name), test_arguments.MATRIX.astype(jnp.float32)
    cell = kind(matrix) if name == "Timed" else kind(matrix, matrix.T)
    yield Case(name, (3, 256, 3), nr.Recurrence(cell), WITH_ARGUMENTS[name])


#: What a cell takes by name, as `noria.Recurrence.scan` does.
Given = dict[str, Any]


def given(case: Case) -> Given:
    """Time differences, a context, and a key, for a cell that needs them."""
    batch, steps, *_ = case.shape

    def drawn(shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(jax.random.key(2), (batch, *shape))

    offered: dict[str, Callable[[], Any]] = {
        "dt": lambda: jnp.ones((batch, steps)),
        "key": lambda: jax.random.key(3),
        "context": lambda: jax.tree.map(
            drawn, case.context, is_leaf=lambda shape: isinstance(shape, tuple)
        ),
    }
    needed = arguments_of(case.layer.cell)
    return {name: make() for name, make in offered.items() if needed.get(name)}


def backend_of(case: Case) -> str:
    """The backend, and of a layer on machine code that of a reverse loop on scan."""
    page = nr.explain(case.layer, jax.ShapeDtypeStruct(case.shape, jnp.float32), **given(case))
    return page.backend + ", reverse scan" * ("reverse loop runs on" in page.reason)


def infer(layer: nr.Recurrence, xs: jax.Array, given: Given) -> Any:
    return layer(xs, **given)


def train(layer: nr.Recurrence, xs: jax.Array, given: Given) -> Any:
    def loss(layer: nr.Recurrence, xs: jax.Array) -> jax.Array:
        outputs = jax.tree.leaves(infer(layer, xs, given))
        return sum(
            (jnp.mean(jnp.abs(a) ** 2) for a in outputs if jnp.issubdtype(a.dtype, jnp.inexact)),
            jnp.zeros(()),
        )

    if not nr.count_parameters(layer, trainable=True):
        return jax.value_and_grad(loss, 1)(layer, xs)
    return nr.value_and_grad(loss)(layer, xs)


def step(layer: nr.Recurrence, xs: jax.Array, given: Given, state: Any) -> Any:
    now = {name: a[:, 0] if name == "dt" else a for name, a in given.items()}
    return layer.step(state, xs[:, 0], **now)


def arguments(run: Callable[..., Any], case: Case) -> tuple[Any, ...]:
    """What a mode takes besides the layer. A step is given its state, as from the step before."""
    taken = jax.random.normal(jax.random.key(1), case.shape), given(case)
    if run is not step:
        return taken
    batch = case.shape[0]
    state = jax.tree.map(lambda a: jnp.tile(a, (batch, *[1] * a.ndim)), case.layer.initial_state())
    return *taken, state


MODES: dict[str, Callable[..., Any]] = {"inference": infer, "training": train, "step": step}


def compared(run: Callable[..., Any], case: Case, turns: int) -> Ratio:
    """Compile both programs, and time them in turns; once more if ``auto`` seems slower."""
    calls, taken = [], arguments(run, case)
    for backend in BACKENDS:
        program = jax.jit(run)
        chosen = nr.with_backend(case.layer, backend)
        calls.append(partial(program, chosen, *taken))
    repeats = max(1, int(0.02 / max(_clock(call, 1)[0] for call in calls for _ in range(2))))
    ratio = _ratio(calls, turns, repeats)
    return _ratio(calls, 4 * turns, repeats) if ratio.is_slower else ratio


def compared_compiling(run: Callable[..., Any], case: Case, turns: int) -> Ratio:
    """Compile both programs anew in turns."""
    taken = arguments(run, case)

    def forget() -> None:
        jax.clear_caches()
        gc.collect()

    def compiling(backend: str) -> None:
        jax.jit(run).lower(nr.with_backend(case.layer, backend), *taken).compile()

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
    makers = [make for key, make in (listed() if every else known(zoo)) if key in (name or [key])]
    for case in (case for make in makers for case in make()):
        ratios = [compare(MODES[one], case, turns) for one in modes]
        slower += sum(ratio.is_slower for ratio in ratios)
        row = case.name, str(case.shape), backend_of(case), *map(str, ratios)
        print(f"| {' | '.join(row)} |", flush=True)
        jax.clear_caches()
    if slower:
        print(f'\n{slower} programs are slower with backend="auto" than with "plain".')
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
