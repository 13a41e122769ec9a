"""The record of a run of ``fit``."""

from dataclasses import dataclass, field
from typing import Any

from noria.train.curve import html_of


@dataclass
class History:
    """The record of a run of `fit`, with one entry for each epoch. A notebook shows it as a plot.

    Attributes:
        loss: mean training loss over the examples of the epoch, in which each batch counts with the
            model before its step.
        valid: mean validation loss after the epoch; empty without validation data.
        metrics: the means of the other numbers that the loss returns, by name. The names of
            validation metrics begin with ``valid_``.
        best_epoch: index of the epoch with the lowest validation loss.
        stopped: why the run ended before its last epoch, or ``None``.
        seconds: wall-clock time of each epoch in seconds; the first ones include compilation.

    Keras returns such a record too, with one dict of lists.

    Examples:
        >>> import noria as nr
        >>> history = nr.History(loss=[1.0, 0.5], valid=[1.1, 0.7], best_epoch=1)
        >>> history.valid[history.best_epoch]
        0.7
    """

    loss: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int | None = None
    stopped: str | None = None
    seconds: list[float] = field(default_factory=list)

    def _repr_html_(self) -> str:
        return html_of(self)

    def _record(self, metrics: dict[str, float]) -> None:
        """Append the numbers of an epoch."""
        for name, value in metrics.items():
            if name in ("loss", "valid_loss"):
                (self.loss if name == "loss" else self.valid).append(value)
            else:
                self.metrics.setdefault(name, []).append(value)

    def _as_json(self, epochs: int) -> dict[str, Any]:
        """The first epochs, for a checkpoint."""
        return {
            "loss": self.loss[:epochs],
            "valid": self.valid[:epochs],
            "seconds": self.seconds[:epochs],
            "metrics": {name: values[:epochs] for name, values in self.metrics.items()},
        }
