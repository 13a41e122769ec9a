"""The parts of a step put together over a whole sequence, at once or in chunks of steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._types import Key, State
from noria.backends import LOOPS, WHOLE
from noria.compiler.gradient import Loop, keeping_gates, keeping_states
from noria.compiler.graph import Known, evaluate
from noria.compiler.split import Split, split
from noria.compiler.trace import Steps, Traced, trace
from noria.masking import valid_steps


@dataclass(frozen=True, eq=False)
class Program:
    """A traced and split step, and how to run it.

    ``loop`` is a backend's loop, ``save`` and ``checkpoint`` are those of `noria.Recurrence`, ``batched`` says whether a batch
    axis stands before the time axis.
    """

    traced: Traced
    split: Split
    loop: Callable[..., Any]
    reverse: bool
    save: str

    def segment(self, known: Known, state: list[Any], steps: list[Any], axes: tuple[int, ...]) -> Any:
        """Final state and outputs of a stretch of steps, arrays with the axes time and batch in front."""
        parts = self.split
        varying = dict(zip(self.traced.steps, steps, strict=True))
        varying |= dict(zip(parts.before.outputs, evaluate(parts.before, known, varying, axes), strict=True))
        recurrent, shared, given = (
            (keeping_gates, parts.shared, parts.lifted)
            if self.save == "gates"
            else (keeping_states, parts.parameters, parts.steps)
        )
        run = recurrent(parts, Loop(self.loop, axes, self.reverse))
        final, emitted = run([known[v] for v in shared], [varying[v] for v in given], state)
        varying |= dict(zip(parts.emitted, emitted, strict=True))
        return final, evaluate(parts.after, known, varying, axes)

    def __call__(self, state: list[Any], steps: list[Any], axes: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
        known = dict(zip(self.traced.parameter_values, self.traced.parameters, strict=True))
        known |= dict(zip(self.split.constant.outputs, evaluate(self.split.constant, known, {}, ()), strict=True))
        return self.segment(known, state, steps, axes)


def compile_step(
    cell: Callable[..., Any], own: State, step: Steps, loop: Callable[..., Any], reverse: bool, save: str
) -> Program:
    """The program of a cell; ``step`` holds the shapes and dtypes of what enters at one step of one example."""
    traced = trace(cell, own, step)
    return Program(traced, split(traced), loop, reverse, save)


def run(
    backend: str,
    cell: Callable[..., Any],
    start: State,
    own: State,
    xs: Any,
    lengths: jax.Array | None,
    resets: jax.Array | None,
    keys: Key | None,
    batched: bool,
    reverse: bool,
    *,
    save: str = "gates",
) -> tuple[State, Any]:
    """See `noria.backends`."""
    if backend in WHOLE:
        return WHOLE[backend](cell, start, own, xs, lengths, resets, keys, batched, reverse)
    lead = 2 if batched else 1
    axes = jtu.tree_leaves(xs)[0].shape[:lead]
    valid = None if lengths is None else valid_steps(lengths, axes[-1])
    steps = Steps(xs, valid, resets, keys)
    one = jtu.tree_map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[lead:], leaf.dtype), steps)
    program = compile_step(cell, own, one, LOOPS["scan"], reverse, save)

    def time_first(tree: Any) -> Any:
        return jtu.tree_map(lambda leaf: jnp.moveaxis(leaf, 1, 0), tree) if batched else tree

    final, ys = program(jtu.tree_leaves(start), time_first(jtu.tree_leaves(steps)), axes[::-1])
    ys = jtu.tree_unflatten(program.traced.emission_tree, time_first(ys))
    return jtu.tree_unflatten(jtu.tree_structure(own), final), ys
