"""Draw the pictures of README and docs into docs/img: python scripts/make_pictures.py

The demonstrations draw ``vowels.png`` and ``forecast.png``; this script draws ``unrolled.png``.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from noria.demo import forecast, vowels

IMAGES = Path(__file__).parent.parent / "docs" / "img"
BLUE, GREY = "#1f5f8b", "#444444"


def box(axes: Axes, x: float, y: float, text: str) -> None:
    patch = FancyBboxPatch(
        (x - 0.42, y - 0.28),
        0.84,
        0.56,
        boxstyle="round,pad=0.04",
        facecolor="#e4eef6",
        edgecolor=BLUE,
    )
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center", fontsize=13, color=BLUE)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0
) -> None:
    style = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=14,
            color=GREY,
            connectionstyle=style,
            linewidth=1.3,
        )
    )


def label(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=13, color=GREY)


def column(axes: Axes, x: float, index: str) -> None:
    """Draw one step, with its input below and its output above."""
    box(axes, x, 0, "cell")
    label(axes, x, -1.15, f"$x_{{{index}}}$")
    label(axes, x, 1.15, f"$y_{{{index}}}$")
    arrow(axes, (x, -0.97), (x, -0.34))
    arrow(axes, (x, 0.34), (x, 0.97))


def unrolled() -> None:
    figure = Figure(figsize=(9, 3), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-1.2, 10.2)
    axes.set_ylim(-1.5, 1.5)
    column(axes, 0, "t")
    arrow(axes, (0.46, 0.15), (0.46, -0.15), bend=-3.6)
    label(axes, 1.35, 0, "$h$")
    label(axes, 2.1, 0, "=")
    label(axes, 2.9, 0, "$h_0$")
    for n, x in enumerate((4.1, 5.9, 7.7), start=1):
        column(axes, x, str(n))
        arrow(axes, (x - (0.95 if n == 1 else 1.34), 0), (x - 0.48, 0))
        if n < 3:
            label(axes, x + 0.9, 0.25, f"$h_{n}$")
    arrow(axes, (8.18, 0), (9.0, 0))
    label(axes, 9.3, 0, "$h_3$")
    figure.savefig(IMAGES / "unrolled.png")


def demonstrations() -> None:
    vowels.draw(vowels.train(progress=False), IMAGES / "vowels.png")
    forecast.draw(forecast.train(progress=False), IMAGES / "forecast.png")


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    unrolled()
    demonstrations()
