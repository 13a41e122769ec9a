"""Points as a picture. Needs matplotlib: ``pip install 'noria[plot]'``."""

import os
from collections.abc import Sequence
from typing import Any

from noria.bench.grid import CELLS
from noria.bench.peers import PEERS
from noria.bench.run import Lane, Point, Setting


def ratios(points: Sequence[Point], path: str | os.PathLike[str], setting: Setting) -> None:
    """Write a PNG of the times of each peer over the time of Noria, one panel per cell and mode."""
    from matplotlib.figure import Figure

    cells, modes = (
        list(dict.fromkeys(p.work.cell for p in points)),
        list(dict.fromkeys(p.work.mode for p in points)),
    )
    figure = Figure(
        figsize=(1 + 3.2 * len(cells), 0.6 + 3.2 * len(modes)), dpi=120, layout="constrained"
    )
    panels = figure.subplots(len(modes), len(cells), sharey=True, squeeze=False)
    names: dict[str, Any] = {}
    for row, mode in zip(panels, modes, strict=True):
        for axes, cell in zip(row, cells, strict=True):
            names |= _panel(axes, [p for p in points if p.work[:2] == (cell, mode)], setting)
            axes.set_title(f"{CELLS[cell].title}: {mode}", fontsize="medium")
        row[0].set_ylabel("time over Noria's")
    figure.legend(
        names.values(), names.keys(), loc="outside lower center", ncols=min(3, len(names)) or 1
    )
    figure.savefig(path, format="png")


def _panel(axes: Any, points: Sequence[Point], setting: Setting) -> dict[str, Any]:
    """Dots of one panel; returns a handle for each peer's title."""
    ours, handles = Lane("noria", setting), {}
    for n, (name, peer) in enumerate(PEERS.items()):
        lane = Lane(name, setting)
        both = [
            k for k, point in enumerate(points) if lane in point.values and ours in point.values
        ]
        if name != "noria" and both:
            ratios = [points[k].values[lane] / points[k].values[ours] for k in both]
            handles[peer.title] = axes.plot(both, ratios, "o", color=f"C{n}", alpha=0.8)[0]
    axes.axhline(1, color="black", linewidth=1)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_xticks(
        range(len(points)), [str(p.work.shape) for p in points], rotation=60, ha="right", fontsize=6
    )
    axes.grid(alpha=0.3, axis="y")
    return handles
