"""The course of a run of ``fit``: epochs, validation, the best model, checkpoints, the result."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import jax
import jax.tree_util as jtu

from noria._types import Key
from noria.module import is_inexact
from noria.train import forms
from noria.train.checkpoint import Keeper
from noria.train.history import History
from noria.train.position import State
from noria.train.progress import Progress
from noria.train.run import Run
from noria.train.signals import Termination
from noria.train.spread import Places
from noria.train.steps import Step

M = TypeVar("M")

#: Wishes of a process after a step. They are added up over all devices, of which there are fewer
#: than ``_END``.
_SAVE, _END = 1.0, 1e6


@dataclass(frozen=True)
class Plan:
    """The arguments of `fit` that say when a run goes on and whom it tells."""

    data: Any
    valid: Any
    epochs: int
    key: Key
    patience: int | None
    on_epoch: Callable[..., Any] | None
    on_step: Callable[..., Any] | None
    every: int


class _Terminated(Exception):
    """SIGTERM was received in the middle of a validation."""


class Course(Generic[M]):
    """A run from its beginning, or from its last checkpoint, to its end, however it ends.

    Args:
        given: the user's model, whose modes the result has.
        step: the compiled functions.
        state: the beginning.
        plan: when to go on.
        places: where arrays are.
        keeper: writes checkpoints, if any are wanted.
    """

    def __init__(
        self,
        given: M,
        step: Step,
        state: State,
        plan: Plan,
        places: Places,
        keeper: Keeper | None,
    ):
        self.history, self._keeper, self._plan, self._step = History(), keeper, plan, step
        self._given, self._places = given, places
        self._run = Run(step, state, places, self._after, self._wish)
        self._epoch, self._elapsed, self._asked = 0, 0.0, ""
        self._started = time.perf_counter()
        self._bar: Any = None
        self._term = Termination(False)
        self.terminated = self.bad = False
        if keeper is not None:
            self._resume(keeper)

    # --- the loop ---------------------------------------------------------------------------------

    def go(self, bar: Progress, term: Termination) -> None:
        """All epochs that are left, unless something ends the run before."""
        self._bar, self._term, plan, history = bar, term, self._plan, self.history
        bar.begin(self._run.state.position)
        try:
            while self._run.state.position.epoch < plan.epochs and history.stopped is None:
                history.stopped = self._out_of_patience()
                if history.stopped is None:
                    self._take_epoch()
        except _Terminated:
            self.terminated = True
        if self.terminated:
            history.stopped = f"SIGTERM in epoch {self._epoch}"
        if self._keeper is not None:
            self._save(self._keeper)

    def _take_epoch(self) -> None:
        """One epoch and its validation; sets ``history.stopped`` if the run ends."""
        plan, state = self._plan, self._run.state
        self._epoch = epoch = state.position.epoch
        key = jax.random.fold_in(plan.key, epoch)
        self._started = time.perf_counter() - self._elapsed
        rows = self._places.rows_here if self._places.processes > 1 else None
        batches = forms.batches(plan.data, key, state.position.batch, state.source, rows)
        self._run.epoch(batches, key, self._between)
        if self._run.bad:
            return self._stop(self._run.bad)
        if self._asked or self.terminated:
            self.history.stopped = self._asked
            return None
        metrics, best = self._means(epoch), state.best
        if plan.valid is not None:
            metrics |= self._validate(key)
            if self.history.stopped is not None:
                return None
            best = best.seen(metrics["valid_loss"], epoch, self._run.state.model)
        self.history.seconds.append(time.perf_counter() - self._started)
        self.history.best_epoch, self._elapsed = best.epoch, 0.0
        self._bar.epoch_done(metrics)
        self.history._record(metrics)
        self._run.state = self._run.state.after_epoch(best)
        if plan.on_epoch is not None and plan.on_epoch(*self.latest()):
            self.history.stopped = f"on_epoch asked to stop after epoch {epoch}"
        return None

    def _after(self, numbers: dict[str, float]) -> None:
        """After each step."""
        self._bar.step_done(numbers["loss"])
        plan, step = self._plan, self._run.state.position.step
        if (
            plan.on_step is not None
            and step % plan.every == 0
            and plan.on_step(self.latest()[0], step, numbers)
        ):
            self._asked = self._asked or f"on_step asked to stop after step {step}"

    def _wish(self) -> float:
        """What this process wishes after a step: to go on, to save, or to end the run."""
        if self._term.received:
            return _END
        return _SAVE if self._keeper is not None and self._keeper.is_late else 0.0

    def _between(self) -> bool:
        """Between two steps: saves if it is time, and says whether the run ends here."""
        wishes, keeper = self._run.wishes(), self._keeper
        self.terminated = wishes >= _END
        if keeper is not None and (wishes >= _SAVE or keeper.is_due(self._run.state.position.step)):
            self._run.settle()
            if not self._run.bad:
                self._save(keeper)
        return bool(self._asked) or self.terminated

    def _means(self, epoch: int) -> dict[str, float]:
        if not self._run.state.means.examples:
            again = (
                " It was used up by the epoch before; its __iter__ has to start again."
                if epoch
                else ""
            )
            raise ValueError(
                f"fit: epoch {epoch} found no batch in data; "
                f"expected something to iterate over.{again}"
            )
        return self._run.state.means.result()

    def _validate(self, key: Key) -> dict[str, float]:
        """The numbers of the validation; the run ends if the loss is not finite."""
        alone = self._places.processes == 1

        def between() -> None:
            if self._term.received and alone:  # other processes do not know
                raise _Terminated

        rows = None if alone else self._places.rows_here
        batches = forms.batches(self._plan.valid, None, rows=rows)
        found = self._run.evaluate(batches, key, between)
        if not math.isfinite(found["loss"]):
            self._stop(f"after epoch {self._epoch}: the validation loss is {found['loss']}")
        return {f"valid_{name}": value for name, value in found.items()}

    def _stop(self, reason: str) -> None:
        """The end by a number that is not finite."""
        self.history.stopped, self.bad = reason, True

    def _out_of_patience(self) -> str | None:
        patience, best = self._plan.patience, self._run.state.best
        if patience is None or best.waited < patience:
            return None
        return f"no lower validation loss for {patience} epochs, best in epoch {best.epoch}"

    # --- checkpoints ------------------------------------------------------------------------------

    def _save(self, keeper: Keeper) -> None:
        at = self._run.state.position
        spent = time.perf_counter() - self._started if at.batch else 0.0
        keeper.save(self._run.state, {"history": self.history._as_json(at.epoch), "spent": spent})

    def _resume(self, keeper: Keeper) -> None:
        found = keeper.load(self._run.state)
        if found is None:
            return self._save(keeper)  # a folder that cannot be written is noticed now
        self._run.state, record = found
        best_epoch = self._run.state.best.epoch
        self.history = History(**record["history"], best_epoch=best_epoch)
        self._elapsed = record["spent"]
        return None

    # --- the end ----------------------------------------------------------------------------------

    def latest(self) -> tuple[M, History]:
        return self._model(self._run.state.model), self.history

    def result(self) -> tuple[M, History]:
        best = None if self._plan.patience is None else self._run.state.best.model
        return self._model(self._run.model if best is None else best), self.history

    def _model(self, arrays: Any) -> M:
        """The user's model, modes included, with ``arrays``."""
        leaves, structure = jtu.tree_flatten(self._given)
        pairs = zip(leaves, jtu.tree_leaves(self._step.model.tree(arrays)), strict=True)
        merged = [new if is_inexact(new) else old for old, new in pairs]
        copy: M = jtu.tree_unflatten(structure, merged)
        return copy

    def interrupted(self) -> None:
        """The end by Ctrl-C."""
        self.history.stopped = self.history.stopped or f"interrupted in epoch {self._epoch}"
        if self._keeper is not None and self._keeper.can_save(self._run.state):
            self._save(self._keeper)

    def obey(self, keeper: Keeper, term: Termination) -> None:
        """The end by SIGTERM, after the last checkpoint was written.

        It may have been received after the last step.
        """
        at = self._run.state.position
        warnings.warn(
            f"{keeper.call}: SIGTERM in epoch {self._epoch}; step {at.step} is saved, "
            "and the same call continues.",
            RuntimeWarning,
            stacklevel=4,
        )
        try:
            term.obey()
        except SystemExit as error:
            self._hand_over(error, [])
            raise

    def failed(self, error: BaseException) -> None:
        """The end by an error, which gets the result and leaves a checkpoint.

        An error of a class that takes no attributes is raised without the result. Ctrl-C comes here
        if it is pressed again, while `interrupted` saves.
        """
        self.history.stopped = f"{type(error).__name__} in epoch {self._epoch}"
        notes = list[str]()
        keeper = None if isinstance(error, KeyboardInterrupt) else self._keeper
        if keeper is not None and not keeper.failed and keeper.can_save(self._run.state):
            try:
                self._save(keeper)
            except Exception as second:
                notes.append(f"noria.fit: no checkpoint could be written: {second}")
        self._hand_over(error, notes)

    def _hand_over(self, error: BaseException, notes: list[str]) -> None:
        with contextlib.suppress(Exception):
            error.model, error.history = self.result()  # type: ignore[attr-defined]
            if self._run.state.position.step:
                notes.append(
                    "noria.fit: this error carries the model and the history so far, "
                    "as error.model and error.history."
                )
            for note in notes:
                if note not in getattr(error, "__notes__", ()):
                    error.add_note(note)
