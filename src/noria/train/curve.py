"""The plot of a `History`, and its HTML for notebooks."""

import base64
import io
from importlib.util import find_spec
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from noria._errors import need_matplotlib
from noria.display import page, paragraph, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from noria.train.history import History


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, without a window.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    need_matplotlib("noria.plot")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def figure_of(history: "History", title: str) -> "Figure":
    """Losses over epochs, and below them the metrics."""
    names = sorted({name.removeprefix("valid_") for name in history.metrics})
    figure = new_figure(7, 3.2 * (1 + len(names)))
    rows: list[Any] = list(figure.subplots(1 + len(names), 1, sharex=True, squeeze=False)[:, 0])
    panels = [("loss", history.loss, history.valid)]
    panels += [
        (name, history.metrics.get(name, []), history.metrics.get(f"valid_{name}", []))
        for name in names
    ]
    for axes, (name, train, valid) in zip(rows, panels, strict=True):
        axes.plot(np.arange(1, len(train) + 1), train, label="training")
        if valid:
            axes.plot(np.arange(1, len(valid) + 1), valid, label="validation")
        if history.best_epoch is not None:
            axes.axvline(history.best_epoch + 1, color="grey", linestyle=":", label="best epoch")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    if min(history.loss, default=0) > 0:
        rows[0].set_yscale("log")
    rows[0].set_title(title)
    rows[0].legend()
    rows[-1].set_xlabel("epoch")
    return figure


def html_of(history: "History") -> str:
    """The plot as an inline image; a table of the epochs if matplotlib is not installed."""
    stopped = "" if history.stopped is None else f" Stopped: {history.stopped}."
    if not history.loss:
        return page(paragraph(f"No epoch was completed.{stopped}"))
    seconds = sum(history.seconds)
    summary = paragraph(f"{len(history.loss)} epochs in {seconds:.3g} s.{stopped}")
    if find_spec("matplotlib") is None:
        note = paragraph("Install matplotlib for a plot: pip install 'noria[plot]'.")
        return page(summary, note, _table(history))
    file = io.BytesIO()
    figure_of(history, "Learning curve").savefig(file, format="svg")
    # As an image: the style sheet of an inline SVG would apply to the whole notebook.
    data = base64.b64encode(file.getvalue()).decode()
    image = f'<img src="data:image/svg+xml;base64,{data}" alt="Learning curve" width="600">'
    return page(summary, f'<div style="background: white; width: 600px">{image}</div>')


def _table(history: "History") -> str:
    columns = {"loss": history.loss}
    columns |= {"valid": history.valid} if history.valid else {}
    columns |= history.metrics
    rows = (
        (epoch, *("" if value is None else f"{value:.4g}" for value in values))
        for epoch, values in enumerate(zip_longest(*columns.values()), 1)
    )
    return table(("epoch", *columns), rows)
