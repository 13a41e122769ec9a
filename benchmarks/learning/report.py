"""Tables, plots, and the page "Which cell should I use?", all from the lines of results."""

import statistics
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

from plot import draw
from task import SCORES, Task
from training import Result

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
PAGE = DOCS / "which-cell.md"
NOTE = "<!-- Written by benchmarks/learning; its words are in benchmarks/learning/words.toml. -->"


def write(tasks: Mapping[str, Task], found: Sequence[Result]) -> None:
    """Write ``docs/which-cell.md`` and a plot for each task that has results."""
    PAGE.write_text(page(tasks, found))
    for task in tasks.values():
        results = own(task, found)
        if results:
            draw(task, results, DOCS / "img" / picture(task))


def page(tasks: Mapping[str, Task], found: Sequence[Result]) -> str:
    """The text of the page."""
    words = tomllib.loads((HERE / "words.toml").read_text())
    parts = [NOTE, words["head"].strip()]
    for task in tasks.values():
        if own(task, found):
            parts.append(section(task, found, words["tasks"][task.name]))
    return "\n\n".join([*parts, words["tail"].strip()]) + "\n"


def picture(task: Task) -> str:
    return f"learning-{task.name}.png"


def own(task: Task, found: Sequence[Result]) -> list[Result]:
    """The results with the settings of the task, the best first."""
    results = [r for r in found if r.task == task.name and not r.settings]
    best = SCORES[task.score].more_is_better
    return sorted(results, key=lambda r: statistics.fmean(r.scores), reverse=best)


def section(task: Task, found: Sequence[Result], remark: str) -> str:
    """What the page says of a task."""
    results = own(task, found)
    others = [r for r in found if r.task == task.name and r.settings]
    score, digits = SCORES[task.score].title, SCORES[task.score].digits
    blocks = [
        f"## {task.title}",
        wrapped(f"{task.about} A constant guess has {format(task.chance, digits)}."),
        table(
            ["cell", score, "parameters", "training", "streaming", "published"],
            [row(task, result) for result in results],
        ),
        f"![{task.title}: score and times of each cell](img/{picture(task)})",
        wrapped(f"{described(task)} Published: {task.source}."),
    ]
    if others:
        rows = [[f"`{r.cell}`", changes(r), scores(task, r), f"{r.parameters:,}"] for r in others]
        blocks += ["With other settings:", table(["cell", "settings", score, "parameters"], rows)]
    return "\n\n".join([*blocks, wrapped(remark)])


def described(task: Task) -> str:
    layers = "One layer" if task.depth == 1 else f"A stack of {task.depth} blocks"
    return (
        f"{layers} of {task.width} units, {task.steps:,} steps of Adam at {task.rate:g}, "
        f"{task.rows} sequences in a batch."
    )


def row(task: Task, result: Result) -> list[str]:
    return [
        f"`{result.cell}`",
        scores(task, result),
        f"{result.parameters:,}",
        f"{result.training:.2f} µs",
        f"{result.streaming:.0f} µs",
        task.published.get(result.cell, ""),
    ]


def scores(task: Task, result: Result) -> str:
    """The mean over the seeds, and the worst and the best."""
    digits = SCORES[task.score].digits
    ordered = sorted(result.scores, reverse=not SCORES[task.score].more_is_better)
    worst, best = (format(score, digits) for score in (ordered[0], ordered[-1]))
    return f"{format(statistics.fmean(result.scores), digits)} ({worst} to {best})"


def changes(result: Result) -> str:
    return ", ".join(
        name if value is True else f"{name} {value:,}" for name, value in result.settings.items()
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def wrapped(text: str) -> str:
    return fill(" ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False)
