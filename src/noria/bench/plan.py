"""The plan of a command line, and its execution."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from noria.bench.grid import (
    CELLS,
    COMMON,
    GRID,
    MODES,
    QUICK,
    SCALING,
    STEP,
    STEPS,
    Shape,
    Work,
    read_names,
    read_shapes,
)
from noria.bench.peers import PEERS, USUAL
from noria.bench.report import UNITS, header, tables
from noria.bench.run import PEAK_SIZES, Lane, Point, Run, settings

#: Sections by name: the quantity of a turn, and the unit in which it is shown.
SECTIONS = {
    "grid": ("time", "ms"),
    "scaling": ("time", "ms"),
    "memory": ("memory", "MB"),
    "compile": ("compile", "s"),
    "streaming": ("time", "µs"),
}


@dataclass
class Plan:
    """Works by lane, and their time; ``missing`` are peers that are not installed."""

    what: str
    works: list[Work]
    lanes: list[Lane]
    missing: list[str]
    seconds: float
    rounds: int
    quick: bool = False

    @property
    def advice(self) -> str:
        """The missing peers, and the command that installs them; empty if all are present."""
        if not self.missing:
            return ""
        titles = ", ".join(
            f"{PEERS[name].title} ({', '.join(PEERS[name].missing)})" for name in self.missing
        )
        return f"Not installed and left out: {titles}. To have them: pip install 'noria[bench]'"

    def carry_out(
        self, command: str, report_to: Callable[[Point, str], None]
    ) -> tuple[list[Point], str]:
        """Measure all points; return them and the report. ``report_to`` gets each of them."""
        quantity, unit = SECTIONS[self.what]
        points: list[Point] = []
        with Run(self.lanes, quantity, self.seconds, self.rounds) as run:
            peaks = run.peaks(PEAK_SIZES[:1] if self.quick else PEAK_SIZES)
            start = report = header(command, [lane.peer for lane in self.lanes], peaks)
            for point in run.points(self.works):
                points.append(point)
                report = f"{start}\n{tables(points, UNITS[unit], peaks)}"
                report_to(point, report)
        return points, report


def plan(
    what: str,
    cells: str | None = None,
    modes: str | None = None,
    shapes: str | None = None,
    peers: str | None = None,
    seconds: float | None = None,
    rounds: int | None = None,
    allocator: str = "default",
    threads: str = "all",
    quick: bool = False,
) -> Plan:
    """From the words of a command line; ``None`` is the default of the section.

    Raises:
        ValueError: for an unknown name or a shape that is none.
    """
    names = read_names("cells", cells, list(CELLS)) if cells else list(COMMON)
    works = [Work(cell, *one) for cell in names for one in _works(what, modes, shapes, quick)]
    chosen = (
        read_names("peers", peers, list(PEERS))
        if peers
        else list(USUAL) + ["call"] * (what == "streaming")
    )
    chosen = list(dict.fromkeys(["noria", *chosen]))
    missing = [name for name in chosen if PEERS[name].missing]
    lanes = [
        Lane(name, setting)
        for setting in settings(allocator, threads)
        for name in chosen
        if name not in missing
    ]
    return Plan(
        what,
        works,
        lanes,
        missing,
        (0.1 if quick else 0.5) if seconds is None else seconds,
        (2 if quick else 5) if rounds is None else rounds,
        quick,
    )


def _works(
    what: str, modes: str | None, shapes: str | None, quick: bool
) -> list[tuple[str, Shape]]:
    """Modes and shapes of a section."""
    if what == "streaming":
        return [("step", STEP), ("inference", STEPS)]
    default = {"memory": ("training",)}.get(what, MODES)
    chosen = read_names("modes", modes, MODES) if modes else list(default)
    known = SCALING if what == "scaling" else GRID
    return list(product(chosen, read_shapes(shapes) if shapes else QUICK if quick else known))
