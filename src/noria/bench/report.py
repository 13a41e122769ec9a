"""Points as Markdown tables."""

import datetime
import math
import os
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from noria.bench.grid import CELLS
from noria.bench.peers import PEERS, cores, versions
from noria.bench.run import Lane, Point, Setting


class Unit(NamedTuple):
    """The unit and the format of the values of a section."""

    name: str
    convert: Callable[[float, Point], float]


UNITS = {
    "ms": Unit("ms", lambda value, _: 1e3 * value),
    "µs": Unit("µs a step", lambda value, point: 1e6 * value / point.work.shape.time),
    "s": Unit("s", lambda value, _: value),
    "MB": Unit("MB", lambda value, _: value / 1e6),
}


def header(command: str, peers: Sequence[str], peaks: Mapping[Setting, float]) -> str:
    """The origin of the numbers: command, date, machine, versions, and speed of products."""
    software = ", ".join(f"{name} {version}" for name, version in versions(list(peers)).items())
    speeds = "; ".join(
        f"{speed / 1e9:.0f} GFLOP/s ({describe(setting)})" for setting, speed in peaks.items()
    )
    lines = [
        f"Made by `{command}` on {datetime.date.today():%-d %B %Y}.",
        f"* Machine: {cores()} cores of {processor()}, {platform.system()} {platform.release()}, "
        f"load {load()} at the start.",
        f"* Versions: Python {platform.python_version()}, {software}.",
        f"* Fastest float32 product of two square matrices: {speeds or 'not measured'}.",
    ]
    return lines[0] + "\n\n" + "\n".join(lines[1:]) + "\n"


def processor() -> str:
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else platform.machine()


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def describe(setting: Setting) -> str:
    """In words: ``default allocator, all cores``."""
    number = {0: "all cores", 1: "one core"}.get(setting.cores, f"{setting.cores} cores")
    keeps = setting.allocator != "default"
    return f"{'allocator that keeps memory' if keeps else 'default allocator'}, {number}"


def tables(points: Sequence[Point], unit: Unit, peaks: Mapping[Setting, float]) -> str:
    """One table for each setting, cell and mode, in this order."""
    found = list(
        dict.fromkeys(lane.setting for point in points for lane in (*point.values, *point.reasons))
    )
    parts = []
    for setting in found:
        if len(found) > 1:
            parts.append(f"## With the {describe(setting)}\n")
        for (cell, mode), group in groupby(
            points, lambda point: (point.work.cell, point.work.mode)
        ):
            parts.append(
                f"### {CELLS[cell].title}: "
                f"{mode}\n\n{table(list(group), setting, unit, peaks.get(setting))}"
            )
    return "\n".join(parts)


def table(points: Sequence[Point], setting: Setting, unit: Unit, peak: float | None = None) -> str:
    """A row for each shape, the geometric mean and minimum of ratios, and the reasons for dashes.

    A ratio is the time of a peer over the time of Noria. ``peak`` is the peak of the machine in
    operations per second; without it there is no column with the share of the peak.
    """
    order = list(PEERS)
    peers = sorted(
        {lane.peer for p in points for lane in p.values if lane.setting == setting}, key=order.index
    )
    others = [name for name in peers if name != "noria"]
    shares = peak is not None and unit.name == "ms" and "noria" in peers

    def of(name: str, point: Point) -> float:
        if name != "best":
            return point.values.get(Lane(name, setting), math.nan)
        rivals = [of(peer, point) for peer in others if PEERS[peer].rival]
        return least(rivals)

    def ratio(name: str, point: Point) -> float:
        own = of("noria", point)
        return of(name, point) / own if own else math.nan

    titles = [f"{PEERS[name].title}, {unit.name}" for name in peers]
    rows = [["time, batch, in, hidden", *titles, "best peer / Noria", *["share of peak"] * shares]]
    for point in points:
        shown = [number(unit.convert(of(name, point), point)) for name in peers]
        rows.append([str(point.work.shape), *shown, f"**{number(ratio('best', point))}**"])
        if peak is not None and shares:
            rows[-1].append(percent(point.work.flops / of("noria", point) / peak))
    for title, mean in (("geometric mean", geometric_mean), ("minimum", least)):
        means = {
            name: number(mean([ratio(name, point) for point in points]))
            for name in (*others, "best")
        }
        shown = ["" if name == "noria" else f"×{means[name]}" for name in peers]
        rows.append([f"{title}, peer / Noria", *shown, f"**{means['best']}**", *[""] * shares])
    return markdown(rows) + reasons(points, setting)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def reasons(points: Sequence[Point], setting: Setting) -> str:
    """The reasons for dashes and missing columns, once for each library, with the shapes."""
    found: dict[tuple[str, str], list[str]] = {}
    for point in points:
        for lane, reason in point.reasons.items():
            if lane.setting == setting:
                found.setdefault((PEERS[lane.peer].title, reason), []).append(str(point.work.shape))
    lines = []
    for (title, reason), shapes in found.items():
        where = "" if len(shapes) == len(points) else f" ({'; '.join(shapes)})"
        lines.append(f"* {title}: {reason}{where}.\n")
    return "\n" + "".join(lines) if lines else ""


def percent(part: float) -> str:
    return "–" if math.isnan(part) else f"{part:.0%}"


def geometric_mean(values: Sequence[float]) -> float:
    """Of those that are numbers."""
    kept = [value for value in values if value > 0]
    return statistics.geometric_mean(kept) if kept else math.nan


def least(values: Sequence[float]) -> float:
    """Of those that are numbers."""
    return min((value for value in values if value > 0), default=math.nan)


def number(value: float) -> str:
    """Three digits, or all before the point; a dash for a missing number."""
    if math.isnan(value):
        return "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(digits, 4)}f}"
