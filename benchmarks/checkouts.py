"""Compare two checkouts: python benchmarks/checkouts.py OTHER [--cells lstm,gru] [--modes training]

OTHER is the folder of another checkout, such as ``git worktree add ../before COMMIT`` makes. Both
do the work of ``noria bench``, each in a process of its own, in turns. A line has the median times
of both in milliseconds, and that of OTHER divided by that of this checkout: above 1, this one is
faster.
"""

from itertools import groupby
from pathlib import Path
from statistics import geometric_mean
from typing import Annotated

import typer

from noria.bench.grid import CELLS
from noria.bench.plan import plan
from noria.bench.run import Lane, Run, Setting


def lane(checkout: Path) -> Lane:
    """The process of a checkout."""
    if not (sources := checkout.resolve() / "src").joinpath("noria").is_dir():
        raise typer.BadParameter(f"{checkout} is no checkout of Noria")
    return Lane("noria", Setting(sources=str(sources)))


def main(
    other: Path,
    cells: Annotated[str | None, typer.Option(help="Such as lstm,gru,rnn (default).")] = None,
    modes: Annotated[str | None, typer.Option(help="inference,training.")] = None,
    shapes: Annotated[str | None, typer.Option(help='"time,batch,in,hidden", semicolons.')] = None,
    turns: int = 7,
    seconds: Annotated[float, typer.Option(help="How long a turn repeats a call.")] = 0.3,
) -> None:
    """Compare this checkout with OTHER."""
    lanes = lane(other), lane(Path(__file__).parent.parent)
    works = plan("grid", cells, modes, shapes).works
    with Run(lanes, "time", seconds, turns) as run:
        points = groupby(run.points(works), lambda point: (point.work.cell, point.work.mode))
        for (cell, mode), some in points:
            print(f"\n| {CELLS[cell].title}, {mode} | other, ms | this, ms | other / this |")
            print("|---|---|---|---|")
            ratios = []
            for point in some:
                if point.reasons:
                    raise SystemExit("; ".join(point.reasons.values()))
                a, b = (point.values[one] for one in lanes)
                ratios.append(a / b)
                print(
                    f"| {point.work.shape} | {1e3 * a:.3g} | {1e3 * b:.3g} | {a / b:.2f} |",
                    flush=True,
                )
            print(f"| geometric mean | | | {geometric_mean(ratios):.2f} |")


if __name__ == "__main__":
    typer.run(main)
