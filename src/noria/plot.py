"""Pictures of training and of results, as PNG files. Needs matplotlib: ``pip install 'noria[plot]'``."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from noria._errors import need_matplotlib
from noria.train.fit import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]


def _figure(width: float, height: float) -> "Figure":
    need_matplotlib("noria.plot")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def learning_curve(history: History, path: Path, *, title: str = "Learning curve") -> None:
    """Losses over epochs, and below them whatever else the loss reported, into the PNG file ``path``."""
    names = sorted({name.removeprefix("valid_") for name in history.metrics})
    figure = _figure(7, 3.2 * (1 + len(names)))
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
    figure.savefig(path)


def confusion_matrix(
    truth: Any, predicted: Any, path: Path, *, names: Sequence[str], title: str = "Confusion matrix"
) -> None:
    """How often each class was taken for each, rows the truth, into the PNG file ``path``."""
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (np.asarray(truth), np.asarray(predicted)), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = _figure(6, 5.4)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class")
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    figure.savefig(path)


def forecast(
    times: Any,
    values: Any,
    forecasts: dict[str, tuple[Any, Any]],
    path: Path,
    *,
    unit: str = "",
    title: str = "Forecast",
) -> None:
    """A series and forecasts of it, each ``(times, values)``, into the PNG file ``path``."""
    figure = _figure(9, 4)
    axes = figure.subplots()
    axes.plot(times, values, color="black", linewidth=1.5, label="measured")
    for name, (when, what) in forecasts.items():
        axes.plot(when, what, linewidth=1.2, label=name)
    axes.set_ylabel(unit)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
