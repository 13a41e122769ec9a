"""``Checkpoint``: where, how often and how many; and the files from which ``fit`` resumes."""

import math
import os
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.tree_util as jtu

from noria._errors import check_sizes
from noria.optimise import OptimiserState
from noria.train.facts import check_facts
from noria.train.files import Files
from noria.train.machines import of_the_first
from noria.train.orbax import OrbaxFolder, holds_checkpoints
from noria.train.position import Best, Means, Position, State
from noria.train.spread import Places
from noria.train.steps import Arrays, Step


@dataclass(frozen=True)
class Checkpoint:
    """Where `fit` keeps the state of a run, and how often it saves.

    A file ``step-000000123.safetensors`` holds everything after 123 steps: parameters, optimiser,
    best model, carried state, position, history. The next call of `fit` with the same arguments
    continues from the newest file, with the same numbers as a run that was not stopped.

    Args:
        folder: a folder for this run alone; it is created.
        every: save after so many steps too.
        keep: so many files are kept, the newest ones.
        seconds: save when the last file is so old, after the next step.

    `fit` also saves at its beginning and at its end, however it ends.

    Raises:
        ValueError: for numbers that are not above 0.
        TypeError: for a folder that is no path.

    Keras' ``BackupAndRestore`` restores at the beginning of an epoch, and deletes its file at the
    end.

    Examples:
        >>> import noria as nr
        >>> nr.Checkpoint("runs/a", every=500).keep
        2
    """

    folder: str | os.PathLike[str]
    every: int | None = None
    keep: int = 2
    seconds: float = 300.0

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str | os.PathLike):
            raise TypeError(
                f"Checkpoint: folder is a {type(self.folder).__name__}; expected the path of a "
                "folder, such as 'runs/a'."
            )
        check_sizes("Checkpoint", keep=self.keep)
        if self.every is not None:
            check_sizes("Checkpoint", every=self.every)
        if not self.seconds > 0:
            raise ValueError(f"Checkpoint: seconds is {self.seconds!r}; expected a number above 0.")


class Keeper:
    """Writes and reads the checkpoints of one run.

    Args:
        checkpoint: the user's wishes.
        step: the compiled functions, which know the structure of model and optimiser.
        facts: what must be the same when the run continues, by name.
        with_best: whether the best model is kept.
        state: the beginning of the run.
        places: where arrays are.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | str | os.PathLike[str],
        step: Step,
        facts: dict[str, Any],
        with_best: bool,
        state: State,
        places: Places,
    ):
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint(checkpoint)
        self.failed = False
        self._checkpoint, self._step, self._facts = checkpoint, step, facts
        self._with_best, self._places = with_best, places
        self._store = self._store_for(state)
        self._saved: Position | None = None
        self._time = time.monotonic()

    def _store_for(self, state: State) -> Files | OrbaxFolder:
        """Orbax where arrays are cut over processes, in remote storage, and where it was before.

        Raises:
            ValueError: if arrays are cut, and the folder has files of a run in which they were not.
        """
        folder, keep = self._checkpoint.folder, self._checkpoint.keep
        files = Files(folder, keep)
        cut = self._places.processes > 1 and not all(
            leaf.is_fully_replicated for leaf in state.model
        )
        if cut and files.steps():
            raise ValueError(
                f"{self.call}: the run there has whole arrays on each process, and here they are "
                "cut over processes; continue it with whole ones, or pass another folder."
            )
        if cut or "://" in os.fspath(folder) or holds_checkpoints(folder):
            return OrbaxFolder(folder, keep)
        return files

    @property
    def call(self) -> str:
        """The beginning of messages."""
        return f"fit(checkpoint={os.fspath(self._checkpoint.folder)!r})"

    @property
    def is_late(self) -> bool:
        """Whether the last checkpoint is too old."""
        return time.monotonic() - self._time > self._checkpoint.seconds

    def is_due(self, step: int) -> bool:
        """Whether the number of steps asks for a checkpoint, and has none."""
        every, saved = self._checkpoint.every, self._saved
        return every is not None and step % every == 0 and (saved is None or step != saved.step)

    def save(self, state: State, record: dict[str, Any]) -> None:
        """Write a checkpoint, unless this one is written already, and remove old ones.

        Raises:
            OSError: if it cannot be written. The checkpoints before are still there.
            TypeError: if the state of an iterator over the data cannot be written.
        """
        at = state.position
        if at == self._saved:
            return
        with_best = self._with_best and state.best.model is not None
        record = record | {
            "run": self._facts,
            "position": at,
            "means": state.means,
            "source": state.source,
            "best": [_finite(state.best.loss), state.best.epoch, state.best.waited],
            "has_best": with_best,
            "carry": _rows(state.carry),
        }
        if not with_best:
            state = state._replace(best=Best())
        if self._store.by_one:
            state = state._replace(carry=self._places.readable(state.carry))
        self.failed = True
        try:
            if jax.process_index() == 0 or not self._store.by_one:
                self._store.write(at.step, self._tree(state), record)
        except OSError as error:
            saved = self._saved
            last = "" if saved is None else f" The checkpoint of step {saved.step} is whole."
            raise OSError(
                error.errno,
                f"{self.call}: the checkpoint of step {at.step} could not be written: {error}."
                f"{last} Make the folder writable, with enough space, and call fit again.",
            ) from error
        except TypeError as error:
            raise TypeError(
                f"{self.call}: the checkpoint of step {at.step} could not be written: {error} "
                "Expected get_state() of an iterator over the data to return what JSON can hold."
            ) from error
        self.failed, self._saved, self._time = False, at, time.monotonic()

    def can_save(self, state: State) -> bool:
        """Whether this process can save by itself, when others may be elsewhere."""
        if jax.process_count() == 1:
            return True
        return self._store.by_one and all(
            leaf.is_fully_addressable or leaf.is_fully_replicated
            for leaf in jtu.tree_leaves(state.carry)
        )

    def load(self, state: State) -> tuple[State, dict[str, Any]] | None:
        """The newest checkpoint, for a run that would begin at ``state``.

        Raises:
            ValueError: if it is of another run.
        """
        steps = self._store.steps()
        step = of_the_first(max(steps, default=-1))
        if step < 0:
            return None
        if step not in steps:
            raise FileNotFoundError(
                f"{self.call}: process {jax.process_index()} finds no checkpoint of step {step}, "
                "which the first process has; expected one folder that all processes share."
            )
        record = self._record(step)
        rows = record["carry"]
        like = state._replace(
            carry=() if rows is None else self._step.start(state.model, rows),
            best=Best(state.model if record["has_best"] else None),
        )
        try:
            tree = self._store.read(step, self._tree(like))
        except ValueError as error:
            raise ValueError(
                f"{self.call}: the run there has another model or optimiser: {error} "
                "Pass the ones that it was begun with, or another folder."
            ) from error
        loss, epoch, waited = record["best"]
        best = self._step.model.arrays(tree["best"]) if record["has_best"] else None
        after = like._replace(
            position=Position(*record["position"]),
            model=self._step.model.arrays(tree["model"]),
            opt_state=self._opt_arrays(state, tree["optimiser"]),
            carry=tree["carry"],
            good=self._step.model.arrays(tree["good"]),
            means=Means(*record["means"]),
            source=record["source"],
            best=Best(best, Best().loss if loss is None else loss, epoch, waited),
        )
        self._saved = after.position
        return after.put(self._places, state), record

    def _record(self, step: int) -> dict[str, Any]:
        """What a checkpoint tells beside its arrays, after a check."""
        try:
            record: dict[str, Any] = self._store.record(step)
        except ValueError as error:
            raise ValueError(
                f"{self.call}: the newest checkpoint, of step {step}, cannot be read: {error} "
                "Remove it, and the same call continues from the one before."
            ) from error
        check_facts(self.call, record, self._facts)
        if self._with_best and not record["has_best"] and record["best"][1] is not None:
            raise ValueError(
                f"{self.call}: the run there was begun without patience=, and its best model is "
                "not kept; leave patience= out to continue it, or pass another folder."
            )
        return record

    def _opt_arrays(self, state: State, opt_state: Any) -> Arrays:
        like = self._step.opt_state.tree(state.opt_state)
        whole = OptimiserState(like.optimiser, opt_state, like._structure)
        return self._step.opt_state.arrays(whole)

    def _tree(self, state: State) -> dict[str, Any]:
        model = self._step.model.tree
        opt_state = self._step.opt_state.tree(state.opt_state).state
        return {
            "model": model(state.model),
            "optimiser": opt_state,
            "good": model(state.good),
            "best": state.best.model and model(state.best.model),
            "carry": state.carry,
        }


def _finite(loss: float) -> float | None:
    """JSON has no infinity."""
    return loss if math.isfinite(loss) else None


def _rows(carry: Any) -> int | None:
    """The examples of a carried state."""
    leaves = jtu.tree_leaves(carry)
    return leaves[0].shape[0] if leaves else None
