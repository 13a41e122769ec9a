"""Steps of `fit`: the compiled step, an epoch, an evaluation, and the reason for a stop."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._types import Key
from noria.module import inference, named_leaves, partition
from noria.optimise import OptimiserState, update, value_and_grad
from noria.train import forms
from noria.train.progress import Progress


class Step:
    """The loss, and the compiled training and evaluation steps made from it."""

    def __init__(self, loss: Callable[..., Any]):
        self._loss = loss
        self._takes_key = "key" in inspect.signature(loss).parameters
        self.train = eqx.filter_jit(self._train)
        self.evaluate = eqx.filter_jit(self._objective)

    def _objective(
        self, model: Any, batch: tuple[Any, ...], key: Key
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        result = (
            self._loss(model, *batch, key=key) if self._takes_key else self._loss(model, *batch)
        )
        value, metrics = result if isinstance(result, tuple) else (result, {})
        numbers = isinstance(metrics, dict) and all(
            jnp.shape(metric) == () for metric in metrics.values()
        )
        if jnp.shape(value) != () or not numbers:
            raise TypeError(
                f"fit: loss returned {jnp.shape(value)} and {type(metrics).__name__}; "
                "expected a number, or a pair of a number and a dict of numbers."
            )
        if taken := [name for name in metrics if name == "loss" or name.startswith("valid_")]:
            raise ValueError(
                f"fit: the loss reports {taken[0]!r}, a name that the history keeps for itself; "
                "rename it."
            )
        return value, metrics

    def _train(
        self, model: Any, opt_state: OptimiserState, batch: tuple[Any, ...], key: Key
    ) -> Any:
        (value, metrics), gradient = value_and_grad(self._objective, has_aux=True)(
            model, batch, key
        )
        # A line search looks at the loss elsewhere, on the same batch with the same random numbers.
        extra = {"value": value, "value_fn": lambda other: self._objective(other, batch, key)[0]}
        new_model, new_state = update(opt_state, model, gradient, **extra)
        # A parameter is the cause if its gradient is not finite, or its new value.
        pairs = zip(
            jtu.tree_leaves(gradient), jtu.tree_leaves(partition(new_model)[0]), strict=True
        )
        finite = [jnp.isfinite(g).all() & jnp.isfinite(new).all() for g, new in pairs]
        return new_model, new_state, value, metrics, jnp.stack(finite)


class Run:
    """The state of a run: model, optimiser state, and the reason if a number is not finite."""

    def __init__(self, model: Any, opt_state: OptimiserState, step: Step):
        self.model, self.opt_state = model, opt_state
        self.bad: str | None = None
        self.steps = 0
        self._good, self._step = model, step

    def epoch(self, data: Any, key: Key, epoch: int, bar: Progress) -> dict[str, float]:
        means = _Means()
        for batch in forms.batches(data, key):
            step_key = jax.random.fold_in(key, self.steps)
            model, state, loss, metrics, finite = self._step.train(
                self.model, self.opt_state, batch, step_key
            )
            if not (math.isfinite(loss) and np.asarray(finite).all()):
                self.bad = self._explain(epoch, float(loss), np.asarray(finite))
                self.model = self.model if math.isfinite(loss) else self._good
                break
            self._good, self.model, self.opt_state = self.model, model, state
            self.steps += 1
            means.add({"loss": loss, **metrics}, batch)
            bar.step_done(float(loss))
        else:
            if not means.examples:
                again = (
                    " It was used up by the epoch before; its __iter__ has to start again."
                    if epoch
                    else ""
                )
                raise ValueError(
                    f"fit: epoch {epoch} found no batch in data; "
                    f"expected something to iterate over.{again}"
                )
        return means.result()

    def evaluate(self, data: Any, key: Key) -> dict[str, float]:
        means, model = _Means(), inference(self.model)
        for n, batch in enumerate(forms.batches(data, None)):
            loss, metrics = self._step.evaluate(model, batch, jax.random.fold_in(key, n))
            means.add({"loss": loss, **metrics}, batch)
        if not means.examples:
            raise ValueError(
                "fit: there is no batch in valid; expected a list of batches, not an iterator."
            )
        return means.result()

    def _explain(self, epoch: int, loss: float, finite: np.ndarray) -> str:
        parameters = named_leaves(partition(self.model)[0])
        where = f"step {self.steps} (epoch {epoch}): the loss is {loss}"
        for name, array in parameters:
            if not bool(jnp.isfinite(array).all()):
                return f"{where}; first offending parameter: {name}, which is not finite itself"
        if not finite.all():
            name = parameters[int(finite.argmin())][0]
            return f"{where}; first offending parameter: {name}, by its gradient or update"
        return f"{where}; no parameter is to blame: all of them and their gradients are finite"


class _Means:
    """Means over examples: each batch counts by its first axis."""

    def __init__(self) -> None:
        self.examples = 0
        self._sums: dict[str, float] = {}

    def add(self, values: dict[str, Any], batch: tuple[Any, ...]) -> None:
        weight = forms.examples(batch)
        self.examples += weight
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + weight * float(value)

    def result(self) -> dict[str, float]:
        return {name: total / self.examples for name, total in self._sums.items()}
