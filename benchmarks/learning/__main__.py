"""Which cells learn what? Train cells on published tasks: python benchmarks/learning --help

Every cell of a task gets the same model, optimiser, steps and batches, and several seeds, which
train at once. Scores are of held-out sequences. All data are made here or are on the machine;
digits need scikit-learn. Results are kept as lines of JSON; what is there is not run again.
``--times`` measures the steps of the results. ``--report`` writes tables, plots and
``docs/which-cell.md`` from them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import languages
import recall
import report
import series
import typer
from rich.progress import Progress
from task import SCORES, Task
from training import Key, Result, key_of, measured, timed

RESULTS = Path(__file__).parent.parent / "results" / "learning.jsonl"
SETTINGS = ("width", "depth", "rows", "steps", "rate", "rectified")


def every_task() -> dict[str, Task]:
    return {task.name: task for task in (*languages.TASKS, *recall.TASKS, *series.tasks())}


def read(path: Path) -> dict[Key, Result]:
    """The results of a file."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [Result(**json.loads(line)) for line in lines]
    return {key_of(r.task, r.cell, r.settings): r for r in found}


def line(result: Result) -> str:
    return json.dumps(asdict(result)) + "\n"


def parsed(settings: Sequence[str]) -> dict[str, Any]:
    """``["steps=100"]`` as a dictionary."""
    pairs = dict(setting.partition("=")[::2] for setting in settings)
    unknown = sorted({*pairs} - {*SETTINGS})
    if unknown:
        raise typer.BadParameter(f"no setting {unknown[0]}; there are {', '.join(SETTINGS)}.")
    return {name: json.loads(value) for name, value in pairs.items()}


def train(
    task: Task, cells: Sequence[str], seeds: int, changed: dict[str, Any], path: Path
) -> None:
    """Append the results that the file does not have."""
    done = read(path)
    with Progress() as progress:
        for cell in cells:
            if key_of(task.name, cell, changed) in done:
                continue
            bar = progress.add_task(f"{task.name}: {cell}", total=task.steps)

            def told(step: int, value: float, bar=bar, label=f"{task.name}: {cell}") -> None:
                progress.update(bar, completed=step, description=f"{label}, loss {value:.4f}")

            result = replace(measured(task, cell, seeds, told), settings=changed)
            with path.open("a") as file:
                file.write(line(result))
            shown = ", ".join(format(s, SCORES[task.score].digits) for s in result.scores)
            progress.console.print(f"{task.name}: {cell}: {shown} ({result.seconds:.0f} s)")
            progress.remove_task(bar)


def measure(task: Task, cells: Sequence[str], path: Path) -> None:
    """Put the times of steps into the results of a task with its own settings, or of some cells."""
    done = read(path)
    for key, result in done.items():
        named = not cells or result.cell in cells
        if result.task == task.name and named and not result.settings:
            done[key] = timed(task, result)
            print(
                f"{task.name}: {result.cell}: {done[key].training:.3f} µs in training, "
                f"{done[key].streaming:.1f} µs in a stream"
            )
    path.write_text("".join(map(line, done.values())))


def main(
    task: Annotated[
        list[str] | None, typer.Argument(help="Names of tasks; all by default.")
    ] = None,
    cells: Annotated[str, typer.Option(help="Names with commas between; all by default.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help=f"NAME=VALUE, one of {', '.join(SETTINGS)}; may be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of each cell.")] = 3,
    results: Annotated[Path, typer.Option(help="Lines of results.")] = RESULTS,
    times: Annotated[bool, typer.Option("--times", help="Measure steps of the results.")] = False,
    pages: Annotated[bool, typer.Option("--report", help="Write tables and plots only.")] = False,
) -> None:
    """Train cells on published tasks."""
    tasks = every_task()
    unknown = sorted({*(task or [])} - {*tasks})
    if unknown:
        raise typer.BadParameter(f"no task {', '.join(unknown)}; there are {', '.join(tasks)}.")
    if pages:
        report.write(tasks, list(read(results).values()))
        return
    changed = parsed(settings or [])
    chosen = cells.split(",") if cells else ()
    for name in task or tasks:
        if times:
            measure(tasks[name], chosen, results)
        else:
            one = replace(tasks[name], **changed)
            train(one, chosen or one.cells, seeds, changed, results)


if __name__ == "__main__":
    typer.run(main)
