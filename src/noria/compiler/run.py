"""The parts of a step put together over a whole sequence, at once or in chunks of steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._types import Key, State
from noria.backends import LOOPS, WHOLE
from noria.compiler.chunks import Chunks, checkpointed
from noria.compiler.frontier import is_heavy
from noria.compiler.gradient import Loop, Recurrent
from noria.compiler.graph import Equation, Known, evaluate, named
from noria.compiler.split import Split, split
from noria.compiler.trace import Steps, Traced, trace
from noria.masking import valid_steps


@dataclass(frozen=True)
class Options:
    """How a layer wants its loop: the fields of `noria.Recurrence` of the same names."""

    backend: str = "auto"
    reverse: bool = False
    save: str = "gates"
    checkpoint: int | str | None = None


@dataclass(frozen=True, eq=False)
class Program:
    """A step taken apart, and how to run it: ``loop`` is the backend's, ``training`` and ``inference`` may differ in what is lifted."""

    traced: Traced
    training: Split
    inference: Split
    loop: Callable[..., Any]
    options: Options

    def __call__(self, state: list[Any], steps: list[Any], axes: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
        """Final state and outputs of a sequence.

        ``axes`` are the sizes of the batch, if there is one, and of time. Arrays of ``steps`` have them in front; outputs
        have time in front, then the batch.
        """
        traced, parts = self.traced, self.training
        known = named(traced.parameter_values, traced.parameters)
        known |= named(parts.constant.outputs, evaluate(parts.constant, known, {}, ()))
        used = tuple(v for v in known if v in parts.parameters or v in parts.after.inputs)

        def segment(parameters: list[Any], steps: list[Any], state: list[Any], time: int) -> Any:
            return self._segment(named(used, parameters), steps, state, (*axes[:-1], time))

        chunks = Chunks(axes[-1], self._checkpoint(axes[-1]), len(axes) - 1, self.options.reverse)
        arguments = [known[v] for v in used], steps, state
        return (
            segment(*arguments, chunks.time)
            if chunks.size >= chunks.time
            else checkpointed(segment, chunks)(*arguments)
        )

    def _segment(self, known: Known, steps: list[Any], state: list[Any], axes: tuple[int, ...]) -> Any:
        parts, axes = self.training, axes[::-1]
        varying = named(self.traced.steps, [time_first(a) if len(axes) == 2 else a for a in steps])
        run = Recurrent(parts, self.inference, Loop(self.loop, axes, self.options.reverse), self.options.save)
        final, emitted = run([known[v] for v in parts.parameters], [varying[v] for v in parts.steps], state)
        varying |= named(parts.emitted, emitted)
        return final, evaluate(parts.after, known, varying, axes)

    def _checkpoint(self, time: int) -> int:
        """Steps from one stored state to the next."""
        given = self.options.checkpoint
        if given is None or not time:
            return time
        return math.isqrt(time - 1) + 1 if given == "sqrt" else int(given)


def time_first(a: jax.Array) -> jax.Array:
    """Exchanges the first two axes, batch and time."""
    return jnp.swapaxes(a, 0, 1)


def compile_step(
    cell: Callable[..., Any], own: State, step: Steps, batch: int, loop: Callable[..., Any], options: Options
) -> Program:
    """The program of a cell; ``step`` holds the shapes and dtypes of what enters at one step of one example."""
    traced = trace(cell, own, step)
    return Program(traced, split(traced), split(traced, lambda e: pays(e, batch)), loop, options)


def pays(equation: Equation, batch: int) -> bool:
    """Whether to lift an equation of the input when no derivative is taken.

    Measured on CPUs: from about a hundred examples on, a product of some depth runs as fast inside of the loop as outside,
    and outside its result goes through memory twice. (In training it still pays: its gradient is then one product as well.)
    """
    if not is_heavy(equation) or equation.name != "dot_general" or batch < 96 or jax.default_backend() != "cpu":
        return is_heavy(equation)
    contracted, _ = equation.params["dimension_numbers"][0]
    return math.prod(equation.inputs[0].aval.shape[axis] for axis in contracted) < 128


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
) -> tuple[State, Any]:
    """Final state and outputs; arguments as in `noria.backends`."""
    if options.backend in WHOLE:
        return WHOLE[options.backend](cell, start, own, xs, lengths, resets, keys, batched, options.reverse)
    axes = jtu.tree_leaves(xs)[0].shape[: 2 if batched else 1]
    valid = None if lengths is None else valid_steps(lengths, axes[-1])
    steps = Steps(xs, valid, resets, keys)
    one = jtu.tree_map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[len(axes) :], leaf.dtype), steps)
    program = compile_step(cell, own, one, axes[0] if batched else 1, LOOPS["scan"], options)
    final, ys = program(jtu.tree_leaves(start), jtu.tree_leaves(steps), axes)
    ys = jtu.tree_unflatten(program.traced.emission_tree, [time_first(y) if batched else y for y in ys])
    return jtu.tree_unflatten(jtu.tree_structure(own), final), ys
