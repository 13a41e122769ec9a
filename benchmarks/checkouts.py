"""Compare two checkouts: python benchmarks/checkouts.py OTHER [--cells lstm,gru] [--modes training]

OTHER is the folder of another checkout, such as ``git worktree add ../before COMMIT`` makes. Both
do the work of ``noria bench``, each in a process of its own, in turns. A line has the median times
of both in milliseconds, and the median over the turns of the time of OTHER divided by that of this
checkout: above 1, this one is faster.
"""

import time
from itertools import groupby
from pathlib import Path
from statistics import geometric_mean, median
from typing import Annotated, NamedTuple

import typer

from noria.bench.grid import CELLS, Work
from noria.bench.plan import plan
from noria.bench.run import PAUSE, Lane, Worker


class Times(NamedTuple):
    """Medians over the turns, in seconds, and of the ratio of the two in each turn."""

    other: float
    this: float
    ratio: float


def worker(checkout: Path) -> Worker:
    """The process of a checkout."""
    if not (source := checkout.resolve() / "src" / "noria").is_dir():
        raise typer.BadParameter(f"{checkout} is no checkout of Noria")
    return Worker(Lane("noria"), {"PYTHONPATH": str(source.parent)})


def compare(workers: tuple[Worker, Worker], work: Work, turns: int, seconds: float) -> Times:
    """The times of the other checkout and of this one."""
    for one in workers:
        one.ask(do="make", work=[work.cell, work.mode, list(work.shape)])

    def turn(one: Worker) -> float:
        time.sleep(PAUSE)
        return one.ask(do="time", seconds=seconds)

    pairs = [(turn(workers[0]), turn(workers[1])) for _ in range(turns)]
    other, this = map(median, zip(*pairs, strict=True))
    return Times(other, this, median(a / b for a, b in pairs))


def main(
    other: Path,
    cells: Annotated[str | None, typer.Option(help="Such as lstm,gru,rnn (default).")] = None,
    modes: Annotated[str | None, typer.Option(help="inference,training.")] = None,
    shapes: Annotated[str | None, typer.Option(help='"time,batch,in,hidden", semicolons.')] = None,
    turns: int = 7,
    seconds: Annotated[float, typer.Option(help="How long a turn repeats a call.")] = 0.3,
) -> None:
    """Compare this checkout with OTHER."""
    workers = worker(other), worker(Path(__file__).parent.parent)
    works = plan("grid", cells, modes, shapes).works
    for (cell, mode), some in groupby(works, lambda work: (work.cell, work.mode)):
        print(f"\n| {CELLS[cell].title}, {mode} | other, ms | this, ms | other / this |")
        print("|---|---|---|---|")
        ratios = []
        for work in some:
            times = compare(workers, work, turns, seconds)
            ratios.append(times.ratio)
            a, b = 1e3 * times.other, 1e3 * times.this
            print(f"| {work.shape} | {a:.3g} | {b:.3g} | {times.ratio:.2f} |", flush=True)
        print(f"| geometric mean | | | {geometric_mean(ratios):.2f} |")
    for one in workers:
        one.close()


if __name__ == "__main__":
    typer.run(main)
