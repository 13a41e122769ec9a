"""The plot of a task: the score over the time of a step, in training and in a stream."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter
from task import SCORES, Task
from training import Result

MARKS = "os^DvP*X<>ph8d"


def draw(task: Task, results: Sequence[Result], path: Path) -> None:
    """Write a PNG; its legend has the number of parameters, and a line spans the seeds."""
    figure = Figure(figsize=(9.5, 3.8), dpi=110, layout="constrained")
    training, streaming = figure.subplots(1, 2, sharey=True)
    for n, result in enumerate(results):
        label = f"{result.cell}  ({result.parameters:,})"
        for axes, time in ((training, result.training), (streaming, result.streaming)):
            axes.plot(2 * [time], [min(result.scores), max(result.scores)], color=f"C{n}")
            mean = statistics.fmean(result.scores)
            axes.plot(time, mean, MARKS[n], color=f"C{n}", markersize=8, alpha=0.8, label=label)
    _decorate(training, task, [r.training for r in results])
    _decorate(streaming, task, [r.streaming for r in results])
    training.set_xlabel("training: µs of one step of one sequence")
    streaming.set_xlabel("stream: µs of one step")
    training.set_ylabel(SCORES[task.score].title)
    if not SCORES[task.score].more_is_better:
        training.invert_yaxis()
        if task.chance > 5 * min(min(result.scores) for result in results):
            training.set_yscale("log")
    handles, labels = training.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right upper", frameon=False, title="cell (parameters)"
    )
    figure.suptitle(f"{task.title}: up is better, left is faster")
    figure.savefig(path)


def _decorate(axes: Axes, task: Task, times: Sequence[float]) -> None:
    axes.axhline(task.chance, color="grey", linewidth=1, linestyle="--")
    axes.annotate(
        "a constant guess",
        (0.01, task.chance),
        xycoords=axes.get_yaxis_transform(),
        color="grey",
        fontsize=8,
        va="bottom",
    )
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.3, max(1.3 * max(times), 8 * min(times)))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
