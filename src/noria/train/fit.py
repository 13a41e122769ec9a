"""``fit``: epochs of one compiled step, validation, early stopping, and a clear stop when numbers go bad."""

import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax

from noria._errors import check_key, check_sizes
from noria._types import Key
from noria.data.ragged import Batches
from noria.module import inference, is_inexact, named_leaves, partition, training
from noria.optimise import OptimiserState, setup, update, value_and_grad
from noria.train.progress import Progress

M = TypeVar("M")


@dataclass
class History:
    """What happened in a run of `fit`, one entry an epoch.

    Attributes:
        loss: mean training loss over the examples of the epoch, each batch as it was when its step was taken.
        valid: mean validation loss after the epoch; empty without validation data.
        metrics: the means of what the loss returned besides, by name; validation ones begin with ``valid_``.
        best_epoch: index of the epoch with the lowest validation loss.
        stopped: why the run ended before its last epoch, or ``None``.
        seconds: wall-clock time of each epoch; the first ones compile.
    """

    loss: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int | None = None
    stopped: str | None = None
    seconds: list[float] = field(default_factory=list)


def fit(
    model: M,
    loss: Callable[..., Any],
    data: Iterable[Any],
    *,
    optimiser: optax.GradientTransformation,
    epochs: int,
    key: Key,
    valid: Iterable[Any] | None = None,
    patience: int | None = None,
    clip_norm: float | None = None,
    on_epoch: Callable[[M, History], Any] | None = None,
    progress: bool | None = None,
) -> tuple[M, History]:
    """Train a model.

    Args:
        model: what to train; its trainable arrays change, in the returned copy.
        loss: ``loss(model, *batch)``, a number, or a pair of it and a dict of further numbers to report. If it has an
            argument ``key`` it is given a random key of its own at each step.
        data: batches, gone through once an epoch: `noria.data.batches`, or any list (or other re-iterable) of tuples of
            arrays. A tuple of arrays is one batch of everything.
        optimiser: an Optax transformation.
        epochs: times to go through the data, at most.
        key: random key for the order of batches and for ``loss``.
        valid: data of the same form; its loss is taken after each epoch, in inference mode.
        patience: stop after so many epochs without a lower validation loss, and return the model with the lowest one.
        clip_norm: scale the gradient down to this global norm where it is above.
        on_epoch: called as ``on_epoch(model, history)`` after each epoch; if it returns ``True`` the run stops.
        progress: show a progress bar; default only where the output is a terminal.

    Returns:
        ``(model, history)``: the model after the last step, or with ``patience`` the best one, in the mode in which it
        came; and a `History`.

    If the loss or a gradient is not finite the run stops with a `RuntimeWarning` that names the step, the loss and the
    first offending parameter, and returns the last model whose loss was finite (with ``patience`` the best one).

    Raises:
        ValueError: for arguments that contradict each other, or data without a batch.
        TypeError: if ``loss`` returns no number.

    Batches of one shape are traced and compiled once.

    >>> import jax, jax.numpy as jnp, optax, noria as nr
    >>> k1, k2 = jax.random.split(jax.random.key(0))
    >>> model = nr.Chain(nr.GRU(1, 4, key=k1), nr.Dense(4, 1, key=k2))
    >>> xs = jnp.ones((8, 5, 1))
    >>> loss = lambda model, xs, ys: nr.mse(model(xs), ys)
    >>> model, history = nr.fit(model, loss, (xs, xs), optimiser=optax.adam(0.05), epochs=3, key=k1)
    >>> history.loss[-1] < history.loss[0]
    True
    """
    check_key("fit", key)
    check_sizes("fit", epochs=epochs)
    if patience is not None:
        check_sizes("fit", patience=patience)
        if valid is None:
            raise ValueError("fit(patience=...): there is no validation loss to wait for; pass valid=.")
    if clip_norm is not None:
        if not clip_norm > 0:
            raise ValueError(f"fit(clip_norm={clip_norm}): expected a norm above 0.")
        optimiser = optax.chain(optax.clip_by_global_norm(clip_norm), optimiser)

    run = _Run(training(model), setup(optimiser, model), _Step(loss))
    history = History()
    best, best_loss, waited = run.model, math.inf, 0
    with Progress(epochs, _length(data), progress) as bar:
        for epoch in range(epochs):
            started = time.perf_counter()
            epoch_key = jax.random.fold_in(key, epoch)
            metrics = run.epoch(data, epoch_key, epoch, bar)
            if run.bad is not None:
                history.stopped = run.bad
                warnings.warn(f"fit stopped: {run.bad}", RuntimeWarning, stacklevel=2)
                break
            if valid is not None:
                held_out = run.evaluate(valid, epoch_key)
                if not math.isfinite(held_out["loss"]):
                    history.stopped = f"after epoch {epoch}: the validation loss is {held_out['loss']}"
                    warnings.warn(f"fit stopped: {history.stopped}", RuntimeWarning, stacklevel=2)
                    break
                metrics |= {f"valid_{name}": value for name, value in held_out.items()}
                if held_out["loss"] < best_loss:
                    best, best_loss, history.best_epoch, waited = run.model, held_out["loss"], epoch, 0
                else:
                    waited += 1
            history.seconds.append(time.perf_counter() - started)
            bar.epoch_done(metrics)
            _record(history, metrics)
            if on_epoch is not None and on_epoch(_like(model, run.model), history) is True:
                history.stopped = f"on_epoch asked to stop after epoch {epoch}"
            elif patience is not None and waited >= patience and epoch + 1 < epochs:
                history.stopped = f"no lower validation loss for {patience} epochs, best in epoch {history.best_epoch}"
            if history.stopped is not None:
                break
    keep_best = patience is not None and history.best_epoch is not None
    return _like(model, best if keep_best else run.model), history


def _record(history: History, metrics: dict[str, float]) -> None:
    history.loss.append(metrics.pop("loss"))
    if "valid_loss" in metrics:
        history.valid.append(metrics.pop("valid_loss"))
    for name, value in metrics.items():
        history.metrics.setdefault(name, []).append(value)


def _like(model: M, trained: Any) -> M:
    """``model``, modes included, with the arrays of ``trained``."""
    leaves, treedef = jtu.tree_flatten(model)
    pairs = zip(leaves, jtu.tree_leaves(trained), strict=True)
    return jtu.tree_unflatten(treedef, [new if is_inexact(new) else old for old, new in pairs])


class _Step:
    """The loss, and the compiled training and evaluation steps made of it."""

    def __init__(self, loss: Callable[..., Any]):
        self._loss = loss
        self._takes_key = "key" in inspect.signature(loss).parameters
        self.train = eqx.filter_jit(self._train)
        self.evaluate = eqx.filter_jit(self._objective)

    def _objective(self, model: Any, batch: tuple[Any, ...], key: Key) -> tuple[jax.Array, dict[str, jax.Array]]:
        result = self._loss(model, *batch, key=key) if self._takes_key else self._loss(model, *batch)
        value, metrics = result if isinstance(result, tuple) else (result, {})
        numbers = isinstance(metrics, dict) and all(jnp.shape(metric) == () for metric in metrics.values())
        if jnp.shape(value) != () or not numbers:
            raise TypeError(
                f"fit: loss returned {jnp.shape(value)} and {type(metrics).__name__}; expected a number, or a pair of a "
                "number and a dict of numbers."
            )
        if taken := [name for name in metrics if name == "loss" or name.startswith("valid_")]:
            raise ValueError(
                f"fit: the loss reports {taken[0]!r}, a name that the history keeps for itself; rename it."
            )
        return value, metrics

    def _train(self, model: Any, opt_state: OptimiserState, batch: tuple[Any, ...], key: Key) -> Any:
        (value, metrics), gradient = value_and_grad(self._objective, has_aux=True)(model, batch, key)
        new_model, new_state = update(opt_state, model, gradient, value=value)
        # A parameter is to blame if its gradient is not finite, or what the optimiser made of it.
        pairs = zip(jtu.tree_leaves(gradient), jtu.tree_leaves(partition(new_model)[0]), strict=True)
        finite = [jnp.isfinite(g).all() & jnp.isfinite(new).all() for g, new in pairs]
        return new_model, new_state, value, metrics, jnp.stack(finite)


class _Run:
    """The model on its way: one epoch, one evaluation, and the reason if something is not finite."""

    def __init__(self, model: Any, opt_state: OptimiserState, step: _Step):
        self.model, self.opt_state = model, opt_state
        self.bad: str | None = None
        self._good, self._step, self._steps = model, step, 0

    def epoch(self, data: Iterable[Any], key: Key, epoch: int, bar: Progress) -> dict[str, float]:
        means = _Means()
        for batch in _batches(data, key):
            step_key = jax.random.fold_in(key, self._steps)
            model, state, loss, metrics, finite = self._step.train(self.model, self.opt_state, batch, step_key)
            if not (math.isfinite(loss) and np.asarray(finite).all()):
                self.bad = self._explain(epoch, float(loss), np.asarray(finite))
                self.model = self.model if math.isfinite(loss) else self._good
                break
            self._good, self.model, self.opt_state = self.model, model, state
            self._steps += 1
            means.add({"loss": loss, **metrics}, batch)
            bar.step_done(float(loss))
        else:
            if not means.examples:
                again = " It was an iterator, used up by the epoch before." if epoch else ""
                raise ValueError(
                    f"fit: epoch {epoch} found no batch in data; expected something to iterate over.{again}"
                )
        return means.result()

    def evaluate(self, data: Iterable[Any], key: Key) -> dict[str, float]:
        means, model = _Means(), inference(self.model)
        for n, batch in enumerate(_batches(data, None)):
            loss, metrics = self._step.evaluate(model, batch, jax.random.fold_in(key, n))
            means.add({"loss": loss, **metrics}, batch)
        if not means.examples:
            raise ValueError("fit: there is no batch in valid; expected a list of batches, not an iterator.")
        return means.result()

    def _explain(self, epoch: int, loss: float, finite: np.ndarray) -> str:
        parameters = named_leaves(partition(self.model)[0])
        where = f"step {self._steps} (epoch {epoch}): the loss is {loss}"
        for name, array in parameters:
            if not bool(jnp.isfinite(array).all()):
                return f"{where}; first offending parameter: {name}, which is not finite itself"
        if not finite.all():
            return (
                f"{where}; first offending parameter: {parameters[int(finite.argmin())][0]}, by its gradient or update"
            )
        return f"{where}; no parameter is to blame: all of them and their gradients are finite"


class _Means:
    """Means over examples: each batch counts by its first axis."""

    def __init__(self) -> None:
        self.examples = 0
        self._sums: dict[str, float] = {}

    def add(self, values: dict[str, Any], batch: tuple[Any, ...]) -> None:
        shape = np.shape(jtu.tree_leaves(batch)[0]) if jtu.tree_leaves(batch) else ()
        weight = max(shape[0], 1) if shape else 1
        self.examples += weight
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + weight * float(value)

    def result(self) -> dict[str, float]:
        return {name: total / self.examples for name, total in self._sums.items()}


def _whole(data: Any) -> bool:
    """Whether ``data`` is one batch of everything: a tuple of arrays."""
    return isinstance(data, tuple) and any(hasattr(column, "shape") for column in data)


def _batches(data: Iterable[Any], key: Key | None) -> Iterator[tuple[Any, ...]]:
    if hasattr(data, "shape") or isinstance(data, dict):
        raise TypeError(
            f"fit: data is a {type(data).__name__}; expected noria.data.batches(...), a list of batches, or a tuple of arrays "
            "as one batch of everything: (xs, ys), or (xs,)."
        )
    if _whole(data):
        data = [data]
    for batch in data.epoch(key) if isinstance(data, Batches) and data.shuffled else data:
        yield tuple(batch) if isinstance(batch, tuple | list) else (batch,)


def _length(data: Any) -> int | None:
    if _whole(data):
        return 1
    return len(data) if hasattr(data, "__len__") else None
