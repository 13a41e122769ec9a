"""The progress bar of `fit`: rich's, on standard error, silent where that is no terminal."""

from types import TracebackType

from rich import progress
from rich.console import Console


class Progress:
    """One bar over all steps of all epochs, with the latest losses beside it."""

    def __init__(self, epochs: int, steps: int | None, show: bool | None):
        console = Console(stderr=True)
        self._epochs, self._steps, self._done, self._seen = epochs, steps, 0, 0
        self._bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[losses]}"),
            console=console,
            disable=not (console.is_terminal if show is None else show),
        )
        total = None if steps is None else epochs * steps
        self._task = self._bar.add_task("fit", total=total, epoch=f"1/{epochs}", losses="compiling")

    def step_done(self, loss: float) -> None:
        """One more step is taken."""
        self._seen += 1
        self._bar.advance(self._task)
        if self._done == 0:
            self._bar.update(self._task, losses=f"loss {loss:.4g}")

    def epoch_done(self, metrics: dict[str, float]) -> None:
        """One more epoch is done; ``metrics`` are its losses and whatever else is reported."""
        self._done += 1
        if self._steps is None:  # the first epoch tells how many steps there are
            self._steps = self._seen
            self._bar.update(self._task, total=self._epochs * self._seen)
        losses = "  ".join(
            f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items()
        )
        self._bar.update(
            self._task, epoch=f"{min(self._done + 1, self._epochs)}/{self._epochs}", losses=losses
        )

    def __enter__(self) -> "Progress":
        if not self._bar.disable:  # older versions of rich print a line even so
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._bar.disable:
            self._bar.stop()
