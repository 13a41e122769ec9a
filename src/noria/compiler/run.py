"""The parts of a step put together over a whole sequence, at once or in chunks of steps."""

import contextvars
import functools
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._jax import is_symbolic
from noria._types import Key, State
from noria.backends import CELL_BACKENDS, LOOP_BACKENDS
from noria.backends.base import LoopBackend
from noria.backends.native import tuning, unsupported_reason
from noria.cells.base import advance
from noria.compiler.canonicalize import STATE, without_transposes
from noria.compiler.chunks import Chunks, checkpointed
from noria.compiler.gradient import Loop, Recurrent
from noria.compiler.linear import Affine, NotLinear, affine
from noria.compiler.min_cut import is_heavy
from noria.compiler.sharding import local
from noria.compiler.split import Split, split
from noria.compiler.trace import Steps, Traced, trace
from noria.compiler.vjp import Derivative
from noria.ir.build import Unsupported
from noria.ir.evaluate import evaluate, of_one
from noria.ir.graph import Env, env_of
from noria.ir.passes import dependence
from noria.masking import valid_steps

log = logging.getLogger("noria")


@dataclass(frozen=True)
class Options:
    """How a layer wants its loop: the fields of `noria.Recurrence` of the same names."""

    backend: str = "auto"
    reverse: bool = False
    save: str = "gates"
    checkpoint: int | str | None = None


@dataclass(frozen=True, eq=False)
class Program:
    """A step taken apart, and how to run it.

    ``loop`` is the backend's. A program that runs ``once``, for a single step, has the derivatives of its operations, forward mode too, and no rule of its own.
    """

    traced: Traced
    parts: Split
    loop: LoopBackend
    options: Options
    linear: Affine | None = None
    once: bool = False

    def __call__(
        self, state: list[Any], steps: list[Any], axes: tuple[int, ...]
    ) -> tuple[list[Any], list[Any]]:
        """Final state and outputs of a sequence.

        ``axes`` are the sizes of the batch, if there is one, and of time. Arrays of ``steps`` have them in front; outputs
        have time in front, then the batch.
        """
        traced, parts = self.traced, self.parts
        known = env_of(traced.parameter_values, traced.parameters)
        known |= env_of(parts.constant.outputs, evaluate(parts.constant, known, {}, ()))
        used = tuple(v for v in known if v in parts.parameters or v in parts.after.inputs)

        def segment(parameters: list[Any], steps: list[Any], state: list[Any], time: int) -> Any:
            return self._segment(env_of(used, parameters), steps, state, (*axes[:-1], time))

        chunks = Chunks(axes[-1], self._checkpoint(axes[-1]), len(axes) - 1, self.options.reverse)
        arguments = [known[v] for v in used], steps, state
        return (
            segment(*arguments, chunks.time)
            if chunks.is_one
            else checkpointed(segment, chunks)(*arguments)
        )

    def _segment(
        self, known: Env, steps: list[Any], state: list[Any], axes: tuple[int, ...]
    ) -> Any:
        parts, axes = self.parts, axes[::-1]
        varying = env_of(self.traced.steps, [time_first(a) if len(axes) == 2 else a for a in steps])
        arguments = [known[v] for v in parts.parameters], [varying[v] for v in parts.steps], state
        if self.linear is not None:
            final, emitted = self.linear(*arguments, axes, self.options.reverse)
        else:
            loop = Loop(self.loop, axes, self.options.reverse)
            recurrent = Recurrent(parts, loop, self.options.save)
            final, emitted = (recurrent.infer if self.once else recurrent)(*arguments)
        varying |= env_of(parts.emitted, emitted)
        return final, evaluate(parts.after, known, varying, axes)

    def saved(self, derivative: Derivative, axes: tuple[int, ...]) -> tuple[tuple[Any, ...], int]:
        """What is stored for the gradient besides inputs and outputs: the values, and how many of each."""
        *batch, time = axes
        size = self._checkpoint(time)
        if size < time:
            return self.parts.state, math.prod(batch) * -(-time // size)
        if self.linear is not None:
            return (*self.parts.state, *self.parts.state), math.prod(
                axes
            )  # the scales, and the states
        lifted = tuple(v for v in derivative.lifted if v not in self.traced.steps)
        stored = derivative.sources(self.loop.shifts)[0]
        names = (*stored, *lifted) if self.options.save == "gates" else derivative.states
        return names, math.prod(axes)

    def _checkpoint(self, time: int) -> int:
        """Steps from one stored state to the next."""
        given = self.options.checkpoint
        if given is None or is_symbolic(time) or not time:
            return time
        return math.isqrt(time - 1) + 1 if given == "sqrt" else int(given)


def time_first(a: jax.Array) -> jax.Array:
    """Exchanges the first two axes, batch and time."""
    return jnp.swapaxes(a, 0, 1)


def take_apart(traced: Traced, batch: int, loop: LoopBackend, options: Options) -> Program:
    """The program of a step, for this way to run its loop."""
    if loop.packs:
        traced = replace(traced, graph=without_transposes(traced.graph))
    levels = dependence(traced.graph.equations, traced.levels)
    light = not any(is_heavy(e) and levels[e.outputs[0]] == STATE for e in traced.graph.equations)
    return Program(
        traced,
        split(traced, lambda e: loop.should_hoist(e, traced.steps, batch, light)),
        loop,
        options,
    )


def run(
    options: Options,
    cell: Callable[..., Any],
    start: State,
    own: State,
    xs: Any,
    lengths: jax.Array | None,
    resets: jax.Array | None,
    keys: Key | None,
    batched: bool,
    *,
    label: str = "Recurrence",
) -> tuple[State, Any]:
    """Final state and outputs; arguments as in `noria.backends`."""
    axes = jtu.tree_leaves(xs)[0].shape[: 2 if batched else 1]
    valid = None if lengths is None else valid_steps(lengths, axes[-1])
    steps = Steps(xs, valid, resets, keys)
    program, choice = _choose(options, cell, own, steps, axes, label)
    report(program, choice, label, axes)
    if program is None:
        return CELL_BACKENDS[choice.backend](
            cell, start, own, xs, lengths, resets, keys, batched, options.reverse
        )
    return _over(program, start, own, steps, axes)


def _over(
    program: Program, start: State, own: State, steps: Steps, axes: tuple[int, ...]
) -> tuple[State, Any]:
    """Final state and outputs of a program, as the trees that they are, with the batch in front."""
    final, ys = program(jtu.tree_leaves(start), jtu.tree_leaves(steps), axes)
    ys = jtu.tree_unflatten(
        program.traced.emission_tree, [time_first(y) if len(axes) == 2 else y for y in ys]
    )
    return jtu.tree_unflatten(jtu.tree_structure(own), final), ys


@local("x")
def run_once(
    backend: str,
    cell: Callable[..., Any],
    state: State,
    own: State,
    x: Any,
    keys: Key | None,
    batched: bool,
    label: str,
) -> tuple[State, Any]:
    """Next state and output of a single step: of a few examples as machine code, if there is any, else of the cell as it is."""
    axes = (jtu.tree_leaves(x)[0].shape[0], 1) if batched else (1,)
    if (
        backend in ("auto", "native")
        and not is_symbolic(*axes)
        and math.prod(axes) <= tuning().unpacked_rows
    ):
        steps = jtu.tree_map(
            lambda leaf: jnp.expand_dims(leaf, int(batched)), Steps(x, None, None, keys)
        )
        program, choice = _choose(Options(), cell, own, steps, axes, label)
        if program is not None and choice.backend == "native":
            final, ys = _over(replace(program, once=True), state, own, steps, axes)
            return final, jtu.tree_map(lambda y: jnp.squeeze(y, int(batched)), ys)
    step = functools.partial(advance, cell)
    return (jax.vmap(step, in_axes=(0, 0, None if keys is None else 0)) if batched else step)(
        state, x, keys
    )


class Choice(NamedTuple):
    """The backend that runs, and why that one."""

    backend: str
    reason: str


def _choose(
    options: Options,
    cell: Callable[..., Any],
    own: State,
    steps: Steps,
    axes: tuple[int, ...],
    label: str,
) -> tuple[Program | None, Choice]:
    """The program to run, ``None`` for a backend that takes the cell as it is; and the choice."""
    if options.backend in CELL_BACKENDS:
        return None, Choice(options.backend, "as asked for")
    one = of_one(steps, len(axes))
    try:
        traced = trace(cell, own, one)
    except Unsupported as reason:
        if options != Options(reverse=options.reverse):
            raise ValueError(
                f'{label}: {reason}, so that it cannot be taken apart; expected backend="plain", without save= and '
                "checkpoint=."
            ) from reason
        log.debug("%s: backend plain, since %s", label, reason)
        return None, Choice("plain", f"{reason}, so that it cannot be taken apart")

    def program(backend: str) -> Program:
        return take_apart(traced, axes[0] if len(axes) == 2 else 1, LOOP_BACKENDS[backend], options)

    if options.backend == "associative":
        return linear_program(program("scan"), label), Choice("associative", "as asked for")
    if options.backend == "scan":
        return program("scan"), Choice("scan", "as asked for")
    if os.environ.get("NORIA_BACKEND") == "scan":
        return program("scan"), Choice("scan", "as the environment variable NORIA_BACKEND asks for")
    against: str | None = f"machine code needs sizes that are numbers, and there is {axes}"
    if not is_symbolic(*axes):
        native = program("native")
        against = unsupported_reason(native.parts.loop, native.parts.shared, native.parts.state)
    if against is None:
        return native, Choice(
            "native", "as asked for" if options.backend == "native" else "the fastest one on CPUs"
        )
    if options.backend == "native":
        raise ValueError(
            f'{label}: backend="native" cannot run this step: {against}; expected backend="auto" or backend="scan".'
        )
    log.debug("%s: backend scan, since %s", label, against)
    return program("scan"), Choice("scan", f"{against}; this one runs any cell on any device")


def linear_program(program: Program, label: str) -> Program:
    """The program with its loop as a linear recurrence."""
    try:
        return replace(program, linear=affine(program.parts))
    except NotLinear as reason:
        raise ValueError(
            f'{label}: backend="associative" needs a next state that is affine and element-wise in the state; {reason}.'
        ) from reason


# --- what explanations are made of ----------------------------------------------------------------------------------

#: Called with the program (or ``None``), the choice, the layer's label and the sizes of batch and time.
Listener = Callable[["Program | None", Choice, str, tuple[int, ...]], None]
_listeners: contextvars.ContextVar[tuple[Listener, ...]] = contextvars.ContextVar(
    "_listeners", default=()
)


def report(*facts: Any) -> None:
    """Tell who listens how a layer is run."""
    for listener in _listeners.get():
        listener(*facts)


def is_listening() -> bool:
    return bool(_listeners.get())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have ``listener`` called for each layer that is traced meanwhile."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
