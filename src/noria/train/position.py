"""The position of a run of ``fit``, and everything that a run needs to go on from there."""

import math
from typing import Any, NamedTuple

from noria.train.spread import Places, examples
from noria.train.steps import Arrays


class Position(NamedTuple):
    """The steps that are done: in which epoch, how many of it, and how many in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


class Means(NamedTuple):
    """Sums over the examples of an epoch: each batch counts by its first axis."""

    examples: int = 0
    sums: dict[str, float] = {}  # noqa: RUF012  # never changed in place

    def plus(self, numbers: dict[str, float], weight: int) -> "Means":
        sums = {name: self.sums.get(name, 0.0) + weight * n for name, n in numbers.items()}
        return Means(self.examples + weight, sums)

    def result(self) -> dict[str, float]:
        return {name: total / self.examples for name, total in self.sums.items()}


class Best(NamedTuple):
    """The model with the lowest validation loss so far, and the epochs without a lower one."""

    model: Arrays | None = None
    loss: float = math.inf
    epoch: int | None = None
    waited: int = 0

    def seen(self, loss: float, epoch: int, model: Arrays) -> "Best":
        """After the validation of an epoch."""
        if loss < self.loss:
            return Best(model, loss, epoch)
        return self._replace(waited=self.waited + 1)


class State(NamedTuple):
    """A run after a step whose numbers were finite. Each step makes a new one.

    An interrupt at any moment finds either the one before a step or the one after it.

    Attributes:
        position: the steps that are done.
        model: the arrays of the model.
        opt_state: the arrays of the optimiser.
        carry: the carried state, ``()`` before the first batch and without ``carry=True``.
        good: the arrays of the last model with a finite loss, one update behind ``model``.
        means: sums over the current epoch.
        source: the state of the iterator over the data, if it has one.
        best: the best model of the epochs before.
    """

    position: Position
    model: Arrays
    opt_state: Arrays
    carry: Any
    good: Arrays
    means: Means = Means()
    source: Any = None
    best: Best = Best()

    def put(self, places: Places, like: "State") -> "State":
        """The same, with all arrays where those of ``like`` are."""
        model, good = places.at(self.model, like.model), places.at(self.good, like.model)
        best = self.best.model and places.at(self.best.model, like.model)
        return self._replace(
            model=model,
            opt_state=places.at(self.opt_state, like.opt_state),
            good=good,
            best=self.best._replace(model=best),
            carry=places.batch(self.carry, examples(self.carry)),
        )

    def after_epoch(self, best: Best) -> "State":
        """At the beginning of the next epoch."""
        position = Position(self.position.epoch + 1, 0, self.position.step)
        return self._replace(position=position, means=Means(), source=None, best=best)
