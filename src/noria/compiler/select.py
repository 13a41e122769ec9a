"""The choice of a backend: made once, run as it is, and printed by `noria.explain`."""

import contextvars
import functools
import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._jax import is_symbolic
from noria._types import State
from noria.backends import CELL_BACKENDS, LOOP_BACKENDS, loop_backend
from noria.backends.base import Problem, Sizes
from noria.backends.environment import environment
from noria.cells.base import advance
from noria.compiler.chunkwise import chunkwise_executor
from noria.compiler.complex_pairs import in_pairs
from noria.compiler.context import split_context
from noria.compiler.executors import LoopExecutor
from noria.compiler.linear import linear_executor
from noria.compiler.linear_forms import NotLinear
from noria.compiler.matrix_analysis import candidates
from noria.compiler.matrix_form import NotChunkwise
from noria.compiler.program import Executor, Program, split_step
from noria.compiler.save_policies import SAVE_POLICIES
from noria.compiler.sharding import local
from noria.compiler.trace import Steps, Traced, check_transition, trace
from noria.ir.build import Unsupported
from noria.ir.evaluate import of_one, spread
from noria.ir.reasons import Reason
from noria.masking import valid_steps

log = logging.getLogger("noria")


@dataclass(frozen=True)
class Options:
    """The options of a layer for its loop: fields of `noria.Recurrence` with the same names."""

    backend: str = "auto"
    save: str = "gates"
    checkpoint: int | str | None = None


@dataclass(frozen=True, eq=False)
class Decision:
    """The choice for one layer: the run executes it, and an explanation prints it.

    Attributes:
        label: the layer in messages.
        sizes: of time and batch.
        backend: the name of the backend.
        reason: the reason for this backend.
        program: the program that runs; ``None`` for a backend that runs the cell as it is.
        obstacles: all that keeps the layer from a backend that would be better.
    """

    label: str
    sizes: Sizes
    backend: str
    reason: str
    program: Program | None
    obstacles: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.label}: backend {self.backend}: {self.reason}"


def run(options: Options, problem: Problem) -> tuple[State, Any]:
    """Final state and outputs of a sequence."""
    axes = 2 if problem.batched else 1
    shape = jtu.tree_leaves(problem.xs)[0].shape[:axes]
    sizes = Sizes(shape[-1], shape[0] if problem.batched else None)
    if problem.carry is None:  # made here, to be sharded as the batch is
        carry = jtu.tree_map(lambda a: spread(a, sizes.state_axes), problem.initial_state)
        problem = replace(problem, carry=carry)
    valid = None if problem.lengths is None else valid_steps(problem.lengths, sizes.time)
    steps = Steps(problem.xs, valid, problem.resets, problem.keywords, problem.context)
    decision = decide(options, problem, steps, sizes)
    report(decision)
    if decision.program is None:
        return CELL_BACKENDS[decision.backend](problem)
    return decision.program.run_trees(problem.carry, steps, sizes)


#: `run` where the types of arrays carry no sharding; see `noria.compiler.sharding`.
run_locally = local(run)


@local
def run_single_step(options: Options, problem: Problem) -> tuple[State, Any]:
    """Next state and output of one step.

    For a few examples it is a loop of one step, if a backend prefers that; else the cell as it is.
    """
    batched, keywords, context = problem.batched, problem.keywords, problem.context
    batch = jtu.tree_leaves(problem.xs)[0].shape[0] if batched else None
    sizes, step = Sizes(1, batch), Steps(problem.xs, None, None, keywords)
    if _may_be_a_loop(options, sizes):
        steps = jtu.tree_map(lambda leaf: jnp.expand_dims(leaf, int(batched)), step)
        steps = steps._replace(context=context)
        decision = decide(Options(), problem, steps, sizes, once=True)
        if (program := _as_loop(decision, sizes)) is not None:
            final, ys = replace(program, single_step=True).run_trees(problem.carry, steps, sizes)
            return final, jtu.tree_map(lambda y: jnp.squeeze(y, int(batched)), ys)
    check_transition(problem, of_one(step._replace(context=context), int(batched)))
    advanced = functools.partial(advance, problem.cell)
    one = jax.vmap(advanced) if batched else advanced
    return one(problem.carry, problem.xs, step._replace(context=context).arguments)


def _as_loop(decision: Decision, sizes: Sizes) -> Program | None:
    """The program of a step that is faster as a loop."""
    program = decision.program
    if program is None or not _prefers_single_step(decision.backend, sizes):
        return None
    return None if program.is_one_fusion(sizes) else program


def _may_be_a_loop(options: Options, sizes: Sizes) -> bool:
    """Whether some loop backend that the layer may run on prefers a single step of these sizes."""
    names = _loop_backends(options)
    return not is_symbolic(*sizes.axes) and any(_prefers_single_step(n, sizes) for n in names)


def _loop_backends(options: Options) -> Collection[str]:
    """The loop backends that the layer may run on, the fastest first."""
    return LOOP_BACKENDS if options.backend == "auto" else {options.backend} & {*LOOP_BACKENDS}


def _prefers_single_step(name: str, sizes: Sizes) -> bool:
    return name in LOOP_BACKENDS and loop_backend(name).prefers_single_step(math.prod(sizes.axes))


# --- decisions ----------------------------------------------------------------------------------


def decide(
    options: Options, problem: Problem, steps: Steps, sizes: Sizes, *, once: bool = False
) -> Decision:
    """Choose the backend, and make the program that it runs, for one step only if ``once``."""
    label, given, frontier = problem.label, sizes, None

    def decided(
        backend: str, reason: str, program: Program | None = None, obstacles: Sequence[str] = ()
    ) -> Decision:
        if program is not None:
            program = replace(program, frontier=frontier)
        decision = Decision(label, given, backend, reason, program, tuple(obstacles))
        if log.isEnabledFor(logging.DEBUG):  # a record of its text does not hold the weights
            log.debug("%s", str(decision))
        return decision

    one = steps.of_one(len(sizes.axes))
    if options.backend in CELL_BACKENDS:
        check_transition(problem, one)
        return decided(options.backend, Reason.AS_ASKED())
    try:
        given_step = problem.cell, problem.initial_state, one, label
        traced = trace(*given_step, contractions=options.backend != "chunkwise", once=once)
    except Unsupported as found:
        check_transition(problem, one)
        if options != Options():
            raise ValueError(
                f"{label}: {found}, so it cannot be split; "
                'expected backend="plain", without save= and checkpoint=.'
            ) from found
        return decided("plain", f"{found}, so it cannot be split", obstacles=found.obstacles)
    whole = traced
    traced, frontier, sizes = split_context(whole, given)
    if kept := _with_delays(traced, problem, sizes, options):
        return decided(*kept)
    if traced.peeled is not None and not traced.state:
        name = "scan" if options.backend == "auto" else options.backend
        reason = Reason.NO_LOOP()
        return decided(name, reason, _loop("scan", traced, problem, sizes, options)[0])
    if options.backend in FORMS:
        return decided(options.backend, Reason.AS_ASKED(), _asked(traced, problem, sizes, options))
    if frontier is None and (form := _preferred_form(traced, problem, sizes, options)):
        return decided(*form)
    if environment().backend == "scan" != options.backend:
        reason, traced = Reason.VARIABLE(), in_pairs(traced)[0]
        return decided("scan", reason, _loop("scan", traced, problem, sizes, options)[0])
    first, obstacles = list[str](), list[str]()
    for name in LOOP_BACKENDS if options.backend == "auto" else [options.backend]:
        traced, frontier, sizes = split_context(whole, given, loop_backend(name).carries_context)
        traced, no_pairs = in_pairs(traced)
        program, missing = _loop(name, traced, problem, sizes, options)
        if frontier is not None and loop_backend(name).carries_context and sizes != given:
            missing = (*frontier.obstacles, *missing)
        if not missing:
            merits = [*first, loop_backend(name).merit]
            reason = "; ".join(merits) if options.backend == "auto" else Reason.AS_ASKED()
            return decided(name, reason, program, obstacles)
        missing += no_pairs
        first.append("; ".join((missing[0], *no_pairs[:1])))
        obstacles += missing
    raise ValueError(
        f'{label}: backend="{options.backend}" cannot run this step: {first[-1]}; '
        'expected backend="auto" or backend="scan".'
    )


def _with_delays(
    traced: Traced, problem: Problem, sizes: Sizes, options: Options
) -> tuple[str, str, Program] | None:
    """The loop with its delays in it, on a backend that prefers that and can run it.

    The backend, the reason for it, and the program; ``None`` if there is no such loop.

    Even where no loop is needed: arrays of all steps go through memory, and a window is as many
    times as large as it has entries (``python benchmarks/delays.py``).
    """
    for name in _loop_backends(options) if environment().backend != "scan" else ():
        backend = loop_backend(name)
        kept = traced.with_delays() if backend.keeps_delays else None
        if kept is not None and not (
            backend.recomputes(traced.changing)
            and kept.products_of_state() > traced.products_of_state()
        ):
            program, missing = _loop(name, in_pairs(kept)[0], problem, sizes, options)
            if not missing:
                is_asked = options.backend != "auto"
                reason = Reason.AS_ASKED() if is_asked else backend.merit
                return name, reason, program
    return None


def _loop(
    name: str, traced: Traced, problem: Problem, sizes: Sizes, options: Options
) -> tuple[Program, tuple[str, ...]]:
    """The program on a loop backend, and all obstacles if the backend cannot run it.

    An obstacle may be a product that reads the state out. Then the product leaves the loop.
    """
    backend = loop_backend(name)
    batch = 1 if sizes.batch is None else sizes.batch
    order = sizes._replace(time_major=backend.time_major)
    save = SAVE_POLICIES[options.save]

    def attempt(products_leave: bool) -> tuple[Program, tuple[str, ...]]:
        step, parts = split_step(traced, batch, backend, products_leave=products_leave)
        given = backend, order, problem.reverse, save, problem.label
        training = None
        recomputes = not step.once and save.may_recompute and backend.recomputes(step.changing)
        if recomputes and parts.has_products and not step.products_of_state():
            _, light = split_step(
                traced, batch, backend, products_leave=products_leave, hoists_all=True
            )
            training = LoopExecutor(light.with_names_of(parts), *given)
        executor = LoopExecutor(parts, *given, training)
        program = Program(step, executor, problem.reverse, options.checkpoint)
        return program, backend.obstacles(executor.inference.call)

    program, obstacles = attempt(False)
    if obstacles and traced.once:
        return _loop(name, replace(traced, once=False), problem, sizes, options)
    if obstacles and program.split.reads_out:
        other, remaining = attempt(True)
        if not remaining:
            return other, ()
    return program, obstacles


# --- all steps at once --------------------------------------------------------------------------

#: Forms without a loop over single steps, and what they need, by the names of their backends.
FORMS = {
    "associative": "a next state that is affine and element-wise in the state",
    "chunkwise": "a state of matrices S with a next state D * S + sum u (w S + v)",
}


def _form(name: str, traced: Traced, problem: Problem, sizes: Sizes, options: Options) -> Program:
    """The program in one of the `FORMS`.

    Raises:
        NotLinear: if the step is no linear recurrence.
        NotChunkwise: if its matrices have no chunkwise form.
    """
    executor: Executor
    if name == "associative":
        batch = 1 if sizes.batch is None else sizes.batch
        traced, parts = split_step(traced, batch, loop_backend("scan"))
        executor = linear_executor(parts, problem.reverse)
    else:
        executor = chunkwise_executor(traced, problem.reverse)
        if is_symbolic(*sizes.axes):
            raise NotChunkwise(Reason.FREE_SIZES())
    return Program(traced, executor, problem.reverse, options.checkpoint)


def _asked(traced: Traced, problem: Problem, sizes: Sizes, options: Options) -> Program:
    """The program in the form that ``backend=`` asks for."""
    name = options.backend
    try:
        return _form(name, traced, problem, sizes, options)
    except (NotLinear, NotChunkwise) as reason:
        raise ValueError(
            f'{problem.label}: backend="{name}" needs {FORMS[name]}; {reason}.'
        ) from reason


def _preferred_form(
    traced: Traced, problem: Problem, sizes: Sizes, options: Options
) -> tuple[str, str, Program] | None:
    """The form that ``backend="auto"`` prefers on accelerators, the reason, and the program.

    Machine code is faster on CPUs. Elsewhere each step of a loop waits for several launches.
    """
    device = jax.default_backend()
    may_be = options.backend == "auto" and options.save == "gates" and sizes.time != 1
    if device == "cpu" or not may_be or environment().backend == "scan":
        return None
    # A parallel scan would store a matrix memory for each step, so chunks come first.
    written = [("chunkwise", traced.written())] if candidates(traced) else []
    for name, step in (*written, ("associative", traced)):
        with suppress(NotLinear, NotChunkwise):
            program = _form(name, step, problem, sizes, options)
            return name, Reason.WITHOUT_LOOP(device=device), program
    return None


# --- listeners ----------------------------------------------------------------------------------

#: Called with each decision.
Listener = Callable[[Decision], None]
_listeners: contextvars.ContextVar[tuple[Listener, ...]] = contextvars.ContextVar(
    "_listeners", default=()
)


def report(decision: Decision) -> None:
    """Pass a decision to all listeners."""
    for listener in _listeners.get():
        listener(decision)


def is_listening() -> bool:
    return bool(_listeners.get())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener`` for each layer that is traced in this block."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
