"""The progress bar of `fit`, on standard error, by default only if that is a terminal."""

import sys
from types import TracebackType
from typing import Any

from noria.train.position import Position


class Progress:
    """One bar over all steps of all epochs, followed by the latest losses.

    Args:
        epochs: epochs of the run.
        steps: steps of an epoch, or ``None`` if they are not known before the first one.
        show: whether to show the bar; ``None`` shows it on a terminal.
    """

    def __init__(self, epochs: int, steps: int | None, show: bool | None):
        self._epochs, self._steps, self._done, self._seen = epochs, steps, 0, 0
        self._bar: Any = None
        if show or (show is None and sys.stderr is not None and sys.stderr.isatty()):
            self._bar = _bar()
            total = None if steps is None else epochs * steps
            self._task = self._bar.add_task(
                "fit", total=total, epoch=f"1/{epochs}", losses="compiling"
            )

    def begin(self, position: Position) -> None:
        """Count the steps that a run has done before."""
        self._done, self._seen = position.epoch, position.batch
        if self._bar is not None and position.step:
            epoch = f"{min(position.epoch + 1, self._epochs)}/{self._epochs}"
            self._bar.update(self._task, completed=position.step, epoch=epoch)

    def step_done(self, loss: float) -> None:
        """Advance by one step."""
        self._seen += 1
        if self._bar is None:
            return
        self._bar.advance(self._task)
        if self._done == 0:
            self._bar.update(self._task, losses=f"loss {loss:.4g}")

    def epoch_done(self, metrics: dict[str, float]) -> None:
        """Advance by one epoch, and show its losses and metrics."""
        self._done += 1
        if self._bar is None:
            return
        if self._steps is None:  # the first epoch shows how many steps there are
            self._steps = self._seen
            self._bar.update(self._task, total=self._epochs * self._seen)
        losses = "  ".join(
            f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items()
        )
        epoch = f"{min(self._done + 1, self._epochs)}/{self._epochs}"
        self._bar.update(self._task, epoch=epoch, losses=losses)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar() -> Any:
    from rich import progress  # here, since `import noria` need not load it
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("epoch {task.fields[epoch]}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[losses]}"),
        console=Console(stderr=True),
    )
