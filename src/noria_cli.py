"""The command line: ``noria demo``, ``predict``, ``cells``, ``convert``, ``show`` and ``bench``.

It is a module beside the package, and each command imports the parts it needs, because ``import
noria`` loads JAX and takes a second.
"""

import csv
import difflib
import importlib.util
import shlex
import shutil
import sys
import time
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
except ModuleNotFoundError as error:
    if error.name != "typer":
        raise
    sys.exit("noria: the command line needs Typer; install it with: pip install 'noria[cli]'")
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from noria.bench.run import Point
    from noria.train.history import History

app = typer.Typer(no_args_is_help=True, add_completion=False)
console = Console()


class Task(StrEnum):
    """The demonstrations of ``noria demo``."""

    vowels = "vowels"
    forecast = "forecast"
    characters = "characters"


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"noria {version('noria')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Recurrent models on JAX: demonstrations on real data."""


@app.command()
def demo(
    task: Annotated[
        Task,
        typer.Argument(
            help="vowels: who is speaking?  forecast: how much CO2 next year?  "
            "characters: what comes next in Python's documentation?"
        ),
    ] = Task.vowels,
    out: Annotated[Path, typer.Option(help="Folder for the model and the pictures.")] = Path(
        "noria-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Times through the data; default of the task.")
    ] = None,
) -> None:
    """Train a recurrent model on real data and save the model and pictures of it."""
    _check_matplotlib("noria demo")  # say so now, not after the training
    started = time.perf_counter()
    folder = out / task
    run = {Task.vowels: _vowels, Task.forecast: _forecast, Task.characters: _characters}[task]
    files = run(folder, seed, epochs)
    console.print(
        f"\nIn {time.perf_counter() - started:.0f} s. Saved in [bold]{escape(str(folder))}[/]:"
    )
    for file in files:
        console.print(f"  {file.name}")
    command = (
        "noria" if shutil.which("noria") else sys.argv[0]
    )  # a virtual environment need not be on the path
    console.print(
        f"\nNow try: [bold]{escape(f'{command} predict {folder} {files[-1]}')}[/]", soft_wrap=True
    )


def _check_matplotlib(call: str) -> None:
    from noria._errors import need_matplotlib

    try:
        need_matplotlib(call)
    except ImportError as error:
        _fail(str(error))


def _vowels(folder: Path, seed: int, epochs: int | None) -> list[Path]:
    from noria.demo import vowels

    console.print(
        "[bold]Japanese Vowels[/]: nine men say /ae/; a bidirectional GRU tells who, "
        "from 7 to 29 steps.\n"
    )
    result = vowels.train(seed=seed, epochs=epochs or vowels.EPOCHS)
    _tell_of_interrupt(result.history)
    files = vowels.save(result, folder)
    table = Table("on the 370 test utterances", "right")
    table.add_row("bidirectional GRU", f"[bold]{result.accuracy:.1%}[/]")
    table.add_row("always the most frequent speaker", f"{result.majority:.1%}")
    console.print(table)
    return files


def _forecast(folder: Path, seed: int, epochs: int | None) -> list[Path]:
    from noria.demo import forecast

    console.print(
        "[bold]CO2 at Mauna Loa[/]: a GRU reads three years and forecasts the next twelve months.\n"
    )
    result = forecast.train(seed=seed, epochs=epochs or forecast.EPOCHS)
    _tell_of_interrupt(result.history)
    files = forecast.save(result, folder)
    table = Table(f"held out, {result.months[0]} to {result.months[-1]}", "mean error, ppm")
    for name, error in result.errors.items():
        table.add_row(name, f"[bold]{error:.2f}[/]" if name == "GRU" else f"{error:.2f}")
    console.print(table)
    return files


def _characters(folder: Path, seed: int, epochs: int | None) -> list[Path]:
    from noria.demo import characters

    console.print(
        "[bold]Python's documentation[/]: an LSTM reads the topics of help(), character by "
        "character.\n"
    )
    epochs = epochs or characters.EPOCHS
    run = folder / f"run-of-seed-{seed}-{epochs}-epochs"
    result = characters.train(seed=seed, epochs=epochs, checkpoint=run)
    _tell_of_interrupt(result.history)
    if result.history.stopped is None:
        shutil.rmtree(run)
    else:
        console.print("The same command continues the training.\n")
    files = characters.save(result, folder)
    table = Table("on held-out text", "bits per character")
    for name, bits in result.bits.items():
        table.add_row(name, f"[bold]{bits:.2f}[/]" if name == "LSTM" else f"{bits:.2f}")
    console.print(table)
    console.print(f"\nIt writes:\n\n{escape(result.sample)}", highlight=False)
    return files


def _tell_of_interrupt(history: "History") -> None:
    if history.stopped is not None and history.stopped.startswith("interrupted"):
        console.print(f"Training was {history.stopped}; this is the model that it had reached.\n")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model that `noria demo` saved, or its folder.")],
    data: Annotated[
        Path, typer.Argument(help="New sequences: a .csv with a header, or an .npz; or a text.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the answers to this CSV file too.")
    ] = None,
) -> None:
    """Answer on new sequences with a saved model."""
    from noria.demo import predict as prediction

    try:
        answer = prediction.predict(model, data)
        if out is not None:
            with out.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([answer.columns, *answer.rows])
    except (ValueError, OSError, csv.Error) as error:
        _fail(str(error))
    table = Table(*answer.columns)
    for row in answer.rows:
        table.add_row(*map(escape, row))
    console.print(table)
    if out is not None:
        console.print(f"Saved in {escape(str(out))}.")


@app.command()
def cells(
    name: Annotated[
        str, typer.Argument(help="A cell of the list, such as mgu, or its class.")
    ] = "",
) -> None:
    """List the cells of the catalogue, or tell about one of them."""
    found = _catalogue()
    if not name:
        # What is searched, and not read, has one line for each cell.
        wide = console if console.is_terminal else Console(width=200)
        wide.print(_listed(found))
        console.print(f"\n{len(found)} cells. More about one: noria cells {next(iter(found))}")
        return
    key = next((key for key, cell in found.items() if name in (key, cell["class"])), "")
    if not key:
        close = difflib.get_close_matches(name.lower(), found, 3, 0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "`noria cells` lists them."
        _fail(f"cells: there is no cell {name!r}; {hint}")
    from noria.cell_page import about
    from noria.cells.catalogue import catalogue

    print(about(catalogue()[key]))


def _listed(found: dict[str, dict[str, Any]]) -> Table:
    """The cells of the catalogue, family by family."""
    table = Table(box=None, pad_edge=False)
    for title in ("cell", "name", "state", "paper"):
        table.add_column(title, no_wrap=title == "cell")
    for family in dict.fromkeys(cell["family"] for cell in found.values()):
        table.add_row()
        table.add_row(f"[bold]{family}[/]")
        for key, cell in found.items():
            if cell["family"] == family:
                table.add_row(key, cell["name"], " ".join(cell["states"]), cell["paper"])
    return table


def _catalogue() -> dict[str, dict[str, Any]]:
    """The tables of the catalogue, read without loading JAX."""
    spec = importlib.util.find_spec("noria")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "cells" / "catalogue.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help=".pt .safetensors .keras .h5 .jld2 or .onnx.")],
    target: Annotated[Path, typer.Argument(help="The new file: .safetensors or .onnx.")],
    part: Annotated[str, typer.Option(help="Path or name of the part to read.")] = "",
    framework: Annotated[str, typer.Option("--from", help="For .jld2: flux or lux.")] = "",
    names: Annotated[
        str, typer.Option("--to", help="Names of arrays: noria, torch, flax, flux or lux.")
    ] = "noria",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="What the file does not tell, such as nonlinearity=relu."),
    ] = None,
) -> None:
    """Read a model of another framework and write it as a file of Noria or of a third one."""
    from noria.interop import convert as conversion

    try:
        options = conversion.settings_of(settings or [])
        lines = conversion.convert(source, target, part, framework, names, options)
    except (ValueError, TypeError, ImportError, OSError) as error:
        _fail(str(error))
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)


@app.command()
def show(
    source: Annotated[Path, typer.Argument(help="A file of Noria or of another framework.")],
) -> None:
    """List the arrays of a file, and the layers that they belong to."""
    from noria.interop import convert as conversion

    table = Table("entry", "dtype and shape", "layer", box=None, pad_edge=False)
    try:
        for row in conversion.show(source):
            table.add_row(*map(escape, row))
    except (ValueError, ImportError, OSError) as error:
        _fail(str(error))
    console.print(table)


class What(StrEnum):
    """The quantities of ``noria bench``."""

    grid = "grid"
    scaling = "scaling"
    memory = "memory"
    compile = "compile"
    streaming = "streaming"


class Allocator(StrEnum):
    """Settings of glibc's allocator."""

    default = "default"
    keep = "keep"
    both = "both"


class Threads(StrEnum):
    """On how many cores."""

    all = "all"
    one = "one"
    both = "both"


@app.command()
def bench(
    what: Annotated[
        What, typer.Option(help="grid and scaling: time; memory and compile: of one call.")
    ] = What.grid,
    cells: Annotated[
        str, typer.Option(help="Such as lstm,gru,rnn (default), lnlstm,peephole,mgu,indrnn.")
    ] = "",
    modes: Annotated[str, typer.Option(help="inference,training.")] = "",
    shapes: Annotated[
        str, typer.Option(help='"time,batch,in,hidden", several with semicolons between.')
    ] = "",
    peers: Annotated[
        str, typer.Option(help="Some of scan,plain,torch,flax,keras,onnx; Noria always is.")
    ] = "",
    seconds: Annotated[
        float | None, typer.Option(min=0, help="How long a turn repeats a call; default 0.5.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Turns of each at each point; default 5.")
    ] = None,
    allocator: Annotated[
        Allocator, typer.Option(help="keep: memory is never given back.")
    ] = Allocator.default,
    threads: Annotated[Threads, typer.Option(help="On all cores, on one, or both.")] = Threads.all,
    out: Annotated[
        Path | None, typer.Option(help="Write the Markdown to this file; default to the screen.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the ratios into this PNG file.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two small shapes, two short turns each.")
    ] = False,
) -> None:
    """Measure the same work on Noria and on other libraries, each in its own process, in turns."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from noria.bench import picture
    from noria.bench.plan import plan

    try:
        todo = plan(what, cells, modes, shapes, peers, seconds, rounds, allocator, threads, quick)
        if plot is not None:
            _check_matplotlib("noria bench --plot")
        if out is not None:
            out.touch()  # say so now, not after the measurements
    except (ValueError, OSError) as error:
        _fail(str(error))
    if todo.advice:
        console.print(f"[yellow]{escape(todo.advice)}[/]", soft_wrap=True)
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=len(todo.works))

        def show(point: "Point", report: str) -> None:
            bar.update(
                task,
                advance=1,
                description=f"{point.work.cell} {point.work.mode} {point.work.shape}",
            )
            if out is not None:
                out.write_text(report, encoding="utf-8")  # a stopped run leaves its results so far

        points, report = todo.carry_out(shlex.join(["noria", *sys.argv[1:]]), show)
    if out is None:
        print(report)
    else:
        console.print(f"Saved in {escape(str(out))}.")
    if plot is not None:
        picture.ratios(points, plot, todo.lanes[0].setting)


def _fail(message: str) -> None:
    Console(stderr=True).print(f"[red]noria:[/] {escape(message)}", soft_wrap=True, highlight=False)
    sys.exit(1)
