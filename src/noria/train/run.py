"""The steps of a run of ``fit``: an epoch, an evaluation, and the reason if a number is bad."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._types import Key
from noria.module import named_leaves, partition
from noria.train.forms import Batch
from noria.train.position import Means, Position, State
from noria.train.spread import Places
from noria.train.steps import Arrays, Result, Step

#: Called after each step as ``after(numbers)``.
After = Callable[[dict[str, float]], None]


class _Ahead(NamedTuple):
    """A step that was started, and whose numbers have not been read."""

    result: Result
    examples: int
    source: Any


class Run:
    """The state of a run, and the steps that take it further.

    Args:
        step: the compiled functions.
        state: where the run begins.
        places: where arrays are.
        after: called after each step.
        wish: what this process wishes the run to do after a step, a number; see `Places.wish`.
    """

    def __init__(
        self, step: Step, state: State, places: Places, after: After, wish: Callable[[], float]
    ):
        self.state, self.bad, self._wish = state, "", wish
        self._wishes = 0.0
        self._step, self._places, self._delay, self._after = step, places, places.delay, after
        self._ahead: deque[_Ahead] = deque()
        self._final: Arrays | None = None

    @property
    def model(self) -> Arrays:
        """The last model with a finite loss."""
        return self.state.model if self._final is None else self._final

    def epoch(self, batches: Iterable[Batch], key: Key, between: Callable[[], bool]) -> None:
        """The steps on ``batches``, until a number is bad or ``between()`` is true.

        ``between`` is called between two steps.
        """
        self._ahead.clear()
        for batch in batches:
            self._start(batch, key)
            while len(self._ahead) > self._delay:
                self._read()
            if self.bad or between() or self.bad:
                return
        self.settle()

    def wishes(self) -> float:
        """The sum of the wishes of all processes, the same in each of them."""
        return self._wishes if self._places.processes > 1 else self._wish()

    def settle(self) -> None:
        """Wait for the steps that were started."""
        while self._ahead:
            self._read()

    def _start(self, batch: Batch, key: Key) -> None:
        newest: Any = self._ahead[-1].result if self._ahead else self.state
        at, ahead = self.state.position, len(self._ahead)
        first = at.batch + ahead == 0
        carry = self._carry(newest.model, newest.carry, batch.rows, first)
        columns = self._places.batch(batch.columns, batch.rows, batch.first)
        wish = self._places.wish(self._wish())
        result = self._step.train(
            newest.model, newest.opt_state, carry, columns, key, at.step + ahead, first, wish
        )
        self._ahead.append(_Ahead(result, batch.rows, batch.source))

    def _carry(self, model: Arrays, carry: Any, rows: int, first: bool) -> Any:
        """The state before a batch of so many examples."""
        if first or (isinstance(carry, tuple) and not carry):
            return self._step.start(model, rows)
        for leaf in jtu.tree_leaves(carry):
            if leaf.shape[0] != rows:
                raise ValueError(
                    f"fit(carry=True): a batch has {rows} examples, and the carried state has "
                    f"{leaf.shape[0]}; expected the same number in each batch of an epoch, since "
                    "each row continues. noria.data.streams makes such batches."
                )
        return carry

    def _read(self) -> None:
        """Read the numbers of the oldest step that was started, and take it over if they are good.

        The steps after a bad one are dropped.
        """
        (result, rows, source), old = self._ahead.popleft(), self.state
        loss, ok = np.asarray(result.told).tolist()
        if not ok:
            self._ahead.clear()
            self.bad = self._explain(loss, np.asarray(result.finite))
            self._final = old.model if math.isfinite(loss) else old.good
            return
        self._wishes = float(result.wishes) if self._places.processes > 1 else 0.0
        numbers = {"loss": loss, **_floats(result.metrics)}
        at = Position(old.position.epoch, old.position.batch + 1, old.position.step + 1)
        arrays = result.model, result.opt_state, result.carry, old.model
        self.state = State(at, *arrays, old.means.plus(numbers, rows), source, old.best)
        self._after(numbers)

    def evaluate(
        self, batches: Iterable[Batch], key: Key, between: Callable[[], None]
    ) -> dict[str, float]:
        """Means over the batches in inference mode."""
        means, carry, model = Means(), (), self.state.model
        for n, batch in enumerate(batches):
            between()
            carry = self._carry(model, carry, batch.rows, n == 0)
            columns = self._places.batch(batch.columns, batch.rows, batch.first)
            loss, (metrics, carry) = self._step.evaluate(model, carry, columns, key, n, n == 0)
            means = means.plus({"loss": float(loss), **_floats(metrics)}, batch.rows)
        if not means.examples:
            raise ValueError(
                "fit: there is no batch in valid; expected a list of batches, not an iterator."
            )
        return means.result()

    def _explain(self, loss: float, finite: np.ndarray) -> str:
        parameters = named_leaves(partition(self._step.model.tree(self.state.model))[0])
        at = self.state.position
        where = f"step {at.step} (epoch {at.epoch}): the loss is {loss}"
        for name, array in parameters:
            if not bool(jnp.isfinite(array).all()):
                return f"{where}; first offending parameter: {name}, which is not finite itself"
        if not finite.all():
            name = parameters[int(finite.argmin())][0]
            return f"{where}; first offending parameter: {name}, by its gradient or update"
        if math.isfinite(loss):
            return f"{where}; the carried state is not finite"
        return f"{where}; no parameter is to blame: all of them and their gradients are finite"


def _floats(numbers: dict[str, Any]) -> dict[str, float]:
    return {name: float(number) for name, number in numbers.items()}
