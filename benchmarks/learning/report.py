"""Tables, plots, and the page "Which cell should I use?", all from the lines of results."""

import statistics
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from task import SCORES, Task
from training import Result

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
PAGE = DOCS / "which-cell.md"
NOTE = "<!-- Written by benchmarks/learning; its words are in benchmarks/learning/words.toml. -->"
HEAD = (
    "| cell | {score}: mean of {seeds} seeds (worst to best) | parameters | training | streaming "
    "| published |\n|---|---|---|---|---|---|"
)


def write(tasks: Mapping[str, Task], found: Mapping[tuple[str, str], Result]) -> None:
    """Write ``docs/which-cell.md`` and a plot for each task that has results."""
    words = tomllib.loads((HERE / "words.toml").read_text())
    parts = [NOTE, words["head"].strip()]
    for task in tasks.values():
        results = [result for (name, _), result in found.items() if name == task.name]
        if results:
            picture = DOCS / "img" / f"learning-{task.name}.png"
            draw(task, results, picture)
            parts.append(section(task, results, words["tasks"].get(task.name, ""), picture.name))
    PAGE.write_text("\n\n".join([*parts, words["tail"].strip()]) + "\n")


def section(task: Task, results: Sequence[Result], remark: str, picture: str) -> str:
    """What the page says of a task."""
    best = SCORES[task.score].more_is_better
    ordered = sorted(results, key=lambda r: statistics.fmean(r.scores), reverse=best)
    seeds = len(ordered[0].scores)
    chance = format(task.chance, SCORES[task.score].digits)
    head = HEAD.format(score=SCORES[task.score].title, seeds=seeds)
    blocks = [
        f"## {task.title}",
        wrapped(f"{task.about} A constant guess has {chance}."),
        "\n".join([head, *(row(task, result) for result in ordered)]),
        f"![{task.title}: score, parameters and times of each cell](img/{picture})",
        wrapped(f"{settings(task)} Published: {task.source}."),
        wrapped(remark),
    ]
    return "\n\n".join(block for block in blocks if block)


def settings(task: Task) -> str:
    layers = "One layer" if task.depth == 1 else f"{task.depth} blocks"
    return (
        f"{layers} of {task.width} units, {task.steps:,} steps of Adam at {task.rate:g}, "
        f"{task.rows} sequences in a batch."
    )


def row(task: Task, result: Result) -> str:
    digits = SCORES[task.score].digits
    low, high = (format(pick(result.scores), digits) for pick in (min, max))
    if not SCORES[task.score].more_is_better:
        low, high = high, low
    mean = format(statistics.fmean(result.scores), digits)
    return (
        f"| `{result.cell}` | {mean} ({low} to {high}) | {result.parameters:,} "
        f"| {result.training:.2f} µs | {result.streaming:.0f} µs "
        f"| {task.published.get(result.cell, '')} |"
    )


def wrapped(text: str) -> str:
    return fill(" ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False)


def draw(task: Task, results: Sequence[Result], path: Path) -> None:
    """Write a PNG: the score over the time of a step, in training and in streaming."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    times = {
        "µs of one sequence and step in training": [r.training for r in results],
        "µs of one step of one stream": [r.streaming for r in results],
    }
    for axes, (label, values) in zip(panels, times.items(), strict=True):
        _panel(axes, results, values)
        axes.set_xlabel(label)
        axes.axhline(task.chance, color="grey", linewidth=0.8, linestyle="--")
    if not SCORES[task.score].more_is_better:
        panels[0].set_yscale("log")
        panels[0].invert_yaxis()
    panels[0].set_ylabel(SCORES[task.score].title)
    figure.suptitle(f"{task.title}: area of a dot ~ parameters; dashed: a constant guess")
    figure.savefig(path, format="png")


def _panel(axes: Any, results: Sequence[Result], times: Sequence[float]) -> None:
    for n, (result, microseconds) in enumerate(zip(results, times, strict=True)):
        mean = statistics.fmean(result.scores)
        color = f"C{n % 10}"
        axes.scatter(microseconds, mean, s=result.parameters / 200, color=color, alpha=0.6)
        axes.plot(2 * [microseconds], [min(result.scores), max(result.scores)], color=color)
        axes.annotate(
            result.cell, (microseconds, mean), textcoords="offset points", xytext=(5, 4), fontsize=8
        )
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
