"""``fit``: epochs of one compiled step, validation, early stopping, and a stop at bad numbers."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import jax
import jax.tree_util as jtu
import optax
import optax.contrib

from noria._errors import check_key, check_sizes
from noria._types import Key
from noria.module import is_inexact, training
from noria.optimise import OptimiserState, as_transformation, holds_state, setup
from noria.train.curve import html_of
from noria.train.forms import check_data, length
from noria.train.progress import Progress
from noria.train.steps import Run, Step

M = TypeVar("M")


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
    """Trains a model on batches, with optional validation and early stopping.

    ::

        model, opt_state = update(opt_state, model, grad(loss)(model, *batch))      for each batch

    Args:
        model: the model to train. Its trained arrays change in the returned copy only.
        loss: ``loss(model, *batch)`` returns a number, or a pair of a number and a dict of further
            numbers to report. An argument ``key`` gets a random key of its own at each step.
        data: the batches of one epoch: `noria.data.batches`, or any list (or other re-iterable,
            such as a loader of PyTorch) of tuples of arrays. A tuple of arrays is one batch of
            everything. Arrays of other libraries are converted to NumPy; a batch may hold dicts.
        optimiser: an Optax transformation, or `optax.MultiSteps`. It also gets ``value``, ``grad``
            and ``value_fn``, which line searches and some others use.
        epochs: largest number of passes over the data.
        key: random key for the order of batches and for ``loss``.
        valid: data of the same form. Its loss is computed after each epoch, in inference mode.
        patience: stop after so many epochs without a lower validation loss, and return the model
            with the lowest one.
        clip_norm: scale the gradient down to this global norm where it is larger.
        on_epoch: called as ``on_epoch(model, history)`` after each epoch; a true result stops the
            run.
        progress: show a progress bar; by default only if the output is a terminal. The bar needs
            rich.

    Returns:
        ``(model, history)``: a model in the mode in which it was passed, and a `History`. The model
        is the one after the last step, or with ``patience`` the best one.

    If the loss or a gradient is not finite, the run stops with a `RuntimeWarning`. It names the
    step, the loss and the first parameter concerned. It returns the last model with a finite loss,
    or with ``patience`` the best one. So `optax.apply_if_finite` has nothing to skip.

    A `KeyboardInterrupt` (Ctrl-C) ends the run like early stopping: model and history are returned.
    Any other error from the data, the loss, the validation or ``on_epoch`` is raised again. It
    carries model and history as ``error.model`` and ``error.history``, unless its class takes no
    attributes.

    Batches of one shape are traced and compiled once.

    Raises:
        ValueError: for arguments that contradict each other, data without a batch, a batch without
            examples, or a generator with more than one epoch.
        TypeError: if ``loss`` returns no number, or a batch holds something else than arrays of
            numbers. Also for an optimiser with parameters of its own (`optax.lookahead`), or one
            whose loss sees other parameters than it trains (`optax.contrib.schedule_free`).

    Keras' ``fit`` belongs to the model and changes it in place; here a trained copy is returned.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, noria as nr
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> model = nr.Chain(nr.GRU(1, 4, key=k1), nr.Dense(4, 1, key=k2))
        >>> xs = jnp.ones((8, 5, 1))
        >>> loss = lambda model, xs, ys: nr.mse(model(xs), ys)
        >>> adam = optax.adam(0.05)
        >>> model, history = nr.fit(model, loss, (xs, xs), optimiser=adam, epochs=3, key=k1)
        >>> history.loss[-1] < history.loss[0]
        True
    """
    _check(epochs, key, valid is not None, patience, clip_norm)
    for what, given in (("data", data), ("valid", () if valid is None else valid)):
        check_data(what, given, epochs)
    optimiser = as_transformation(optimiser)
    if clip_norm is not None:
        optimiser = optax.chain(optax.clip_by_global_norm(clip_norm), optimiser)
    course = _Course(model, Run(training(model), _set_up(optimiser, model), Step(loss)), patience)
    try:
        with Progress(epochs, length(data), progress) as bar:
            for epoch in range(epochs):
                course.take(epoch, data, valid, jax.random.fold_in(key, epoch), bar)
                if (
                    course.history.stopped is None
                    and on_epoch is not None
                    and on_epoch(*course.latest())
                ):
                    course.history.stopped = f"on_epoch asked to stop after epoch {epoch}"
                if course.history.stopped is None and epoch + 1 < epochs:
                    course.history.stopped = course.out_of_patience()
                if course.history.stopped is not None:
                    break
    except KeyboardInterrupt:
        course.history.stopped = course.history.stopped or f"interrupted in epoch {course.epoch}"
    except BaseException as error:
        course.history.stopped = f"{type(error).__name__} in epoch {course.epoch}"
        course.hand_over(error)
        raise
    return course.result()


def _check(
    epochs: int, key: Key, has_valid: bool, patience: int | None, clip_norm: float | None
) -> None:
    check_key("fit", key)
    check_sizes("fit", epochs=epochs)
    if patience is not None:
        check_sizes("fit", patience=patience)
        if not has_valid:
            raise ValueError(
                "fit(patience=...): there is no validation loss to wait for; pass valid=."
            )
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"fit(clip_norm={clip_norm}): expected a norm above 0.")


def _set_up(optimiser: optax.GradientTransformation, model: Any) -> OptimiserState:
    opt_state = setup(optimiser, model)
    if holds_state(opt_state.state, optax.contrib.ScheduleFreeState):
        raise TypeError(
            "fit: the optimiser is schedule-free, whose trained parameters are not those to "
            "evaluate; train with noria.setup and noria.update, "
            "and evaluate with optax.contrib.schedule_free_eval_params."
        )
    return opt_state


class _Course(Generic[M]):
    """The course of a run of `fit`: history, best model, and the result, however it ends."""

    def __init__(self, model: M, run: Run, patience: int | None):
        self.history, self.epoch = History(), 0
        self._given, self._run, self._patience = model, run, patience
        self._best, self._best_loss, self._waited = run.model, math.inf, 0

    def take(self, epoch: int, data: Any, valid: Any, key: Key, bar: Progress) -> None:
        """One epoch and its validation; sets ``history.stopped`` if a number is not finite."""
        self.epoch, started = epoch, time.perf_counter()
        metrics = self._run.epoch(data, key, epoch, bar)
        if self._run.bad is not None:
            return self._stop(self._run.bad)
        if valid is not None:
            held_out = self._run.evaluate(valid, key)
            if not math.isfinite(held_out["loss"]):
                return self._stop(f"after epoch {epoch}: the validation loss is {held_out['loss']}")
            metrics |= {f"valid_{name}": value for name, value in held_out.items()}
            self._waited += 1
            if held_out["loss"] < self._best_loss:
                self._best, self._best_loss, self._waited = self._run.model, held_out["loss"], 0
                self.history.best_epoch = epoch
        self.history.seconds.append(time.perf_counter() - started)
        bar.epoch_done(metrics)
        _record(self.history, metrics)

    def _stop(self, reason: str) -> None:
        self.history.stopped = reason
        warnings.warn(f"fit stopped: {reason}", RuntimeWarning, stacklevel=4)

    def out_of_patience(self) -> str | None:
        if self._patience is None or self._waited < self._patience:
            return None
        best = self.history.best_epoch
        return f"no lower validation loss for {self._patience} epochs, best in epoch {best}"

    def latest(self) -> tuple[M, History]:
        return _like(self._given, self._run.model), self.history

    def result(self) -> tuple[M, History]:
        keep_best = self._patience is not None and self.history.best_epoch is not None
        return _like(self._given, self._best if keep_best else self._run.model), self.history

    def hand_over(self, error: BaseException) -> None:
        """Attach the result to ``error``; a class that takes no attributes is raised without it."""
        with contextlib.suppress(Exception):
            error.model, error.history = self.result()  # type: ignore[attr-defined]
            note = (
                "noria.fit: this error carries the model and the history so far, "
                "as error.model and error.history."
            )
            if self._run.steps and note not in getattr(error, "__notes__", ()):
                error.add_note(note)


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
    merged = [new if is_inexact(new) else old for old, new in pairs]
    copy: M = jtu.tree_unflatten(treedef, merged)
    return copy
