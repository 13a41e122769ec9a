"""The parts of a step put together over a whole sequence, at once or in chunks of steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._types import Key, State
from noria.backends import LOOPS, WHOLE
from noria.compiler.gradient import Loop, recurrent
from noria.compiler.graph import Known, evaluate
from noria.compiler.split import Split, split
from noria.compiler.trace import Steps, Traced, trace
from noria.masking import valid_steps


@dataclass(frozen=True, eq=False)
class Program:
    """A step taken apart, and how to run it.

    ``loop`` is a backend's loop, ``save`` and ``checkpoint`` are those of `noria.Recurrence`.
    """

    traced: Traced
    training: Split
    inference: Split
    loop: Callable[..., Any]
    reverse: bool
    save: str

    def __call__(self, state: list[Any], steps: list[Any], axes: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
        """Final state and outputs for all steps, arrays with the axes time and batch in front."""
        parts = self.training
        known: Known = dict(zip(self.traced.parameter_values, self.traced.parameters, strict=True))
        known |= dict(zip(parts.constant.outputs, evaluate(parts.constant, known, {}, ()), strict=True))
        varying: Known = dict(zip(self.traced.steps, steps, strict=True))
        run = recurrent(parts, self.inference, Loop(self.loop, axes, self.reverse), self.save)
        final, emitted = run([known[v] for v in parts.parameters], [varying[v] for v in parts.steps], state)
        varying |= dict(zip(parts.emitted, emitted, strict=True))
        return final, evaluate(parts.after, known, varying, axes)


def compile_step(
    cell: Callable[..., Any], own: State, step: Steps, loop: Callable[..., Any], reverse: bool, save: str
) -> Program:
    """The program of a cell; ``step`` holds the shapes and dtypes of what enters at one step of one example."""
    traced = trace(cell, own, step)
    training = split(traced)
    return Program(traced, training, training, loop, reverse, save)


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
