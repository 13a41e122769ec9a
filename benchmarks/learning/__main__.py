"""Which cells learn what? Train cells on published tasks: python benchmarks/learning --help

Every cell of a task gets the same model, optimiser, steps and batches, and several seeds, which
train at once. Scores are of held-out sequences. All data are made here or are on the machine;
digits need scikit-learn. Results are kept as lines of JSON, one for each task and cell; what is
there is not run again. ``--report`` writes tables, plots and ``docs/which-cell.md`` from them.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parent))
import languages
import recall
import report
import series
from rich.progress import Progress
from task import SCORES
from training import Result, measured, timed

RESULTS = Path(__file__).parent.parent / "results" / "learning.jsonl"


def read(path: Path) -> dict[tuple[str, str], Result]:
    """The last result of each task and cell."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [Result(**json.loads(line)) for line in lines]
    return {(result.task, result.cell): result for result in found}


def append(path: Path, result: Result) -> None:
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def main(
    task: Annotated[
        list[str] | None, typer.Argument(help="Names of tasks; all by default.")
    ] = None,
    cells: Annotated[str, typer.Option(help="Names with commas between; all by default.")] = "",
    steps: Annotated[int, typer.Option(help="Training steps; 0 for those of the task.")] = 0,
    seeds: Annotated[int, typer.Option(help="Seeds of each cell.")] = 3,
    results: Annotated[Path, typer.Option(help="Lines of results.")] = RESULTS,
    times: Annotated[bool, typer.Option("--times", help="Measure steps of the results.")] = False,
    pages: Annotated[bool, typer.Option("--report", help="Write tables and plots only.")] = False,
) -> None:
    """Train cells on published tasks."""
    tasks = {t.name: t for t in (*languages.TASKS, *recall.TASKS, *series.tasks())}
    tasks = {n: replace(t, steps=steps) if steps else t for n, t in tasks.items()}
    unknown = sorted({*(task or [])} - {*tasks})
    if unknown:
        raise typer.BadParameter(f"no task {', '.join(unknown)}; there are {', '.join(tasks)}.")
    done = read(results)
    if pages:
        report.write(tasks, done)
        return
    with Progress() as progress:
        for name in task or tasks:
            chosen = cells.split(",") if cells else tasks[name].cells
            for cell in chosen:
                bar = progress.add_task(f"{name}: {cell}", total=tasks[name].steps)
                if times and (name, cell) in done:
                    append(results, timed(tasks[name], done[name, cell]))
                elif not times and (name, cell) not in done:

                    def told(step: int, value: float, bar=bar, label=f"{name}: {cell}") -> None:
                        text = f"{label}, loss {value:.4f}"
                        progress.update(bar, completed=step, description=text)

                    result = measured(tasks[name], cell, seeds, told)
                    append(results, result)
                    shown = ", ".join(
                        format(s, SCORES[tasks[name].score].digits) for s in result.scores
                    )
                    progress.console.print(f"{name}: {cell}: {shown} ({result.seconds:.0f} s)")
                progress.remove_task(bar)


if __name__ == "__main__":
    typer.run(main)
