"""Plots of training and of results, as PNG files.

They need matplotlib: ``pip install 'noria[plot]'``.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from noria.train import curve
from noria.train.history import History

Path = str | os.PathLike[str]


def learning_curve(history: History, path: Path, *, title: str = "Learning curve") -> None:
    """Write a plot of the losses and metrics over the epochs to a PNG file.

    Args:
        history: of `noria.fit`.
        path: path of the PNG file.
        title: above the plot.

    Raises:
        ImportError: if matplotlib is not installed.

    Examples:
        >>> import os, tempfile, noria as nr
        >>> from noria import plot
        >>> history = nr.History(loss=[1.0, 0.5], valid=[1.1, 0.7], best_epoch=1)
        >>> path = os.path.join(tempfile.mkdtemp(), "curve.png")
        >>> plot.learning_curve(history, path)
        >>> os.path.getsize(path) > 1000
        True
    """
    curve.figure_of(history, title).savefig(path)


def confusion_matrix(
    truth: Any, predicted: Any, path: Path, *, names: Sequence[str], title: str = "Confusion matrix"
) -> None:
    """Write a plot of the counts of each pair of true and predicted class to a PNG file.

    Args:
        truth: integers ``(examples,)``, the true classes, one for each row of the matrix.
        predicted: integers ``(examples,)``, the predicted classes, the columns.
        path: path of the PNG file.
        names: a name for each class, in order.
        title: above the plot.

    Raises:
        ImportError: if matplotlib is not installed.
        IndexError: if a class has no name.

    Examples:
        >>> import os, tempfile
        >>> from noria import plot
        >>> path = os.path.join(tempfile.mkdtemp(), "matrix.png")
        >>> plot.confusion_matrix([0, 1, 1], [0, 1, 0], path, names=["no", "yes"])
        >>> os.path.getsize(path) > 1000
        True
    """
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (np.asarray(truth), np.asarray(predicted)), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = curve.new_figure(6, 5.4)
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
    """Write a plot of a series and of forecasts of it to a PNG file.

    Args:
        times: ``(time,)``, numbers or dates.
        values: ``(time,)``, the measured values.
        forecasts: by name, each ``(times, values)``.
        path: path of the PNG file.
        unit: of the values, for the axis.
        title: above the plot.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if times and values differ in length.

    Examples:
        >>> import os, tempfile
        >>> from noria import plot
        >>> path = os.path.join(tempfile.mkdtemp(), "forecast.png")
        >>> plot.forecast([1, 2, 3], [4.0, 5.0, 6.0], {"naive": ([2, 3], [4.0, 5.0])}, path)
        >>> os.path.getsize(path) > 1000
        True
    """
    figure = curve.new_figure(9, 4)
    axes = figure.subplots()
    axes.plot(times, values, color="black", linewidth=1.5, label="measured")
    for name, (when, what) in forecasts.items():
        axes.plot(when, what, linewidth=1.2, label=name)
    axes.set_ylabel(unit)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
