"""``fit``: epochs of one compiled step, validation, early stopping, checkpoints and meshes."""

import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax.numpy as jnp
import jax.tree_util as jtu
import optax
import optax.contrib
from jax.sharding import Mesh

from noria._errors import check_key, check_sizes
from noria._types import Key
from noria.module import training
from noria.optimise import OptimiserState, as_transformation, holds_state, setup
from noria.train.checkpoint import Checkpoint, Keeper
from noria.train.course import Course, Plan
from noria.train.facts import facts_of
from noria.train.forms import check_data, length
from noria.train.history import History
from noria.train.position import Position, State
from noria.train.progress import Progress
from noria.train.signals import Termination
from noria.train.spread import Places, as_auto
from noria.train.steps import Settings, Step

M = TypeVar("M")


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
    carry: bool = False,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    mesh: Mesh | None = None,
    accumulate: int = 1,
    compute_dtype: Any = None,
    on_step: Callable[[M, int, dict[str, float]], Any] | None = None,
    every: int = 1,
) -> tuple[M, History]:
    """Trains a model on batches: validation, early stopping, checkpoints, many devices.

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
        carry: pass a state from batch to batch, for truncated backpropagation through time:
            ``loss(model, carry, *batch)`` returns ``(value, carry)`` or ``((value, metrics),
            carry)``. An epoch begins with ``model.initial_state()`` for each row. Gradients stop
            at the border of two batches. `noria.data.streams` makes such batches.
        checkpoint: a folder, or a `Checkpoint`. The same call continues a run that was stopped, in
            any way, with the same numbers. SIGTERM then saves, and ends the run.
        mesh: devices that share each batch, from `jax.make_mesh`: along the axis ``data``, or along
            all axes if there is no such one. Parameters are on each device, except those that are
            placed on this mesh already. In a run of several processes each passes the same
            arguments.
        accumulate: batches of which the gradients are averaged for one update, each with the same
            weight. The count goes on in the next epoch; batches left over at the end are not used.
        compute_dtype: dtype in which the model computes, such as ``jnp.bfloat16``. The loss gets a
            model of this dtype, and converts the input of the model. Parameters, gradients and the
            optimiser keep theirs.
        on_step: called as ``on_step(model, step, numbers)`` after steps, with the loss and the
            metrics of the batch; a true result stops the run.
        every: call ``on_step`` after so many steps.

    Returns:
        ``(model, history)``: a model in the mode in which it was passed, and a `History`. The model
        is the one after the last step, or with ``patience`` the best one.

    If the loss or a gradient is not finite, the run stops with a `RuntimeWarning`. It names the
    step, the loss and the first parameter concerned. It returns the last model with a finite loss,
    or with ``patience`` the best one. So `optax.apply_if_finite` has nothing to skip.

    A `KeyboardInterrupt` (Ctrl-C) ends the run like early stopping: model and history are returned.
    Any other error from the data, the loss, the validation or a callback is raised again. It
    carries model and history as ``error.model`` and ``error.history``, unless its class takes no
    attributes.

    Batches of one shape are traced and compiled once.

    Raises:
        ValueError: for arguments that contradict each other, data without a batch, a batch without
            examples, a generator with more than one epoch, fewer batches than ``accumulate``, or a
            checkpoint of another run.
        TypeError: if ``loss`` is no function or returns no number, or a batch holds more than
            numbers and arrays of them. Also for an optimiser with parameters of its own
            (`optax.lookahead`), or one whose loss sees other parameters than it trains
            (`optax.contrib.schedule_free`).
        OSError: if a checkpoint cannot be written. The checkpoints from before are kept.
        SystemExit: after SIGTERM, with status 143, if there is a checkpoint. A handler of your own
            is called instead, and `fit` returns.

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
    check_sizes("fit", accumulate=accumulate, every=every)
    for what, given in (("data", data), ("valid", () if valid is None else valid)):
        check_data(what, given, epochs)
    _check_updates(accumulate, epochs, length(data))
    _check_kinds(loss, compute_dtype, mesh)
    optimiser = as_transformation(optimiser)
    if not isinstance(optimiser, optax.GradientTransformation):
        raise TypeError(
            f"fit: optimiser is a {type(optimiser).__name__}; expected an Optax transformation "
            "such as optax.adam(1e-3)."
        )
    if clip_norm is not None:
        optimiser = optax.chain(optax.clip_by_global_norm(clip_norm), optimiser)
    if accumulate > 1:
        optimiser = as_transformation(optax.MultiSteps(optimiser, accumulate))
    place = Places(as_auto(mesh))
    prepared = training(model)
    opt_state = _set_up(optimiser, prepared)
    step = Step(loss, prepared, opt_state, Settings(carry, compute_dtype), place)
    arrays = place.everywhere((step.model.arrays(prepared), step.opt_state.arrays(opt_state)))
    state = State(Position(), *arrays, (), arrays[0])
    plan = Plan(data, valid, epochs, key, patience, on_epoch, on_step, every)
    keeper = None
    if checkpoint is not None:
        settings = {
            "clip_norm": clip_norm,
            "accumulate": accumulate,
            "carry": carry,
            "compute_dtype": None if compute_dtype is None else jnp.dtype(compute_dtype).name,
        }
        facts = facts_of(data, valid, key, settings)
        keeper = Keeper(checkpoint, step, facts, patience is not None, state, place)
    course = Course(model, step, state, plan, place, keeper)
    return _whole(course, Progress(epochs, length(data), progress), keeper)


def _whole(course: Course[M], progress: Progress, keeper: Keeper | None) -> tuple[M, History]:
    """The run to its end, however it ends. Warnings name the line of the call of `fit`."""
    term = Termination(keeper is not None)
    try:
        with progress as bar, term:
            try:
                course.go(bar, term)
            except KeyboardInterrupt:
                course.interrupted()
        if course.bad:
            warnings.warn(f"fit stopped: {course.history.stopped}", RuntimeWarning, stacklevel=3)
    except BaseException as error:
        course.failed(error)
        raise
    if keeper is not None and (course.terminated or term.received):
        course.obey(keeper, term)
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


def _check_updates(accumulate: int, epochs: int, batches: int | None) -> None:
    if batches is not None and 0 < epochs * batches < accumulate:
        raise ValueError(
            f"fit(accumulate={accumulate}): the run has {epochs * batches} batches, so nothing "
            "would be updated; expected fewer batches for an update, or more epochs."
        )


def _check_kinds(loss: Any, compute_dtype: Any, mesh: Any) -> None:
    if not callable(loss):
        raise TypeError(
            f"fit: loss is a {type(loss).__name__}; expected a function of the model and the "
            "columns of a batch, such as lambda model, xs, ys: noria.mse(model(xs), ys)."
        )
    try:
        narrow = compute_dtype is None or jnp.issubdtype(jnp.dtype(compute_dtype), jnp.floating)
    except TypeError:  # not the name of a dtype
        narrow = False
    if not narrow:
        raise TypeError(
            f"fit: compute_dtype is {compute_dtype!r}; expected a floating dtype such as "
            "jnp.bfloat16."
        )
    if not isinstance(mesh, Mesh | None):
        raise TypeError(
            f"fit: mesh is a {type(mesh).__name__}; expected devices, from jax.make_mesh."
        )


def _set_up(optimiser: optax.GradientTransformation, model: Any) -> OptimiserState:
    opt_state = setup(optimiser, model)
    if holds_state(opt_state.state, optax.contrib.ScheduleFreeState):
        raise TypeError(
            "fit: the optimiser is schedule-free, whose trained parameters are not those to "
            "evaluate; train with noria.setup and noria.update, "
            "and evaluate with optax.contrib.schedule_free_eval_params."
        )
    arrays = jtu.tree_map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, bool | int | float) else leaf,
        opt_state.state,
    )
    return OptimiserState(opt_state.optimiser, arrays, opt_state._structure)
