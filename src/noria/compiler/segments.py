"""Gradients that compute residuals again, segment by segment.

A memory makes a matrix in each step from a few vectors, and the reverse loop reads it. To store the
matrices of all steps takes many times the memory of the inputs, and more time than the steps
themselves. So the forward pass stores the state before each segment only. The backward pass takes
the last segment first. It runs the forward loop again, with residuals, then the reverse loop, while
the residuals are in cache.

The prologue runs once, for all steps: its values are inputs of the segments.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.tree_util as jtu

from noria._jax import is_symbolic
from noria.backends.base import Sizes
from noria.compiler.chunks import Chunks, with_pull_back
from noria.compiler.own_rules import have_own_rules
from noria.compiler.save_policies import STORE_ALL
from noria.ir.cotangents import Cotangents, Ends, PullPrologue, add, or_zeros
from noria.ir.graph import EMPTY, env_of, is_inexact, size_in_bytes

if TYPE_CHECKING:  # executors run segments
    from noria.compiler.executors import LoopExecutor, Outputs


def segment_steps(executor: "LoopExecutor", sizes: Sizes) -> int:
    """The steps of a segment; all steps if the residuals are stored."""
    split, backend = executor.split, executor.backend
    if not executor.save.may_recompute or is_symbolic(*sizes.axes) or not sizes.time:
        return sizes.time
    if split.has_products:
        return sizes.time
    examples = math.prod(sizes.state_axes)
    stored = examples * executor.residual_bytes
    passed = examples * sum(map(size_in_bytes, (*split.hoisted, *split.emitted)))
    return backend.segment_steps(stored, passed, sizes.time) if stored else sizes.time


def in_segments(
    executor: "LoopExecutor",
    size: int,
    moved: Any,
    sizes: Sizes,
    parameters: list[jax.Array],
    steps: list[jax.Array],
    state: list[jax.Array],
) -> tuple["Outputs", jtu.Partial]:
    """The results, and their pull-back, in segments of ``size`` steps.

    ``moved`` has truth values: the parameters and the steps that have a derivative.
    """
    split, loop = executor.split, _loop_of(executor)
    env = env_of(split.parameters, parameters) | executor.gradient.vjp.constants
    values = executor.with_prologue(split.prologue, sizes, env, steps, moved)
    _, pull_prologue = executor.prologue_vjp(sizes, env, steps)

    def segment(parameters: list[Any], steps: list[Any], state: list[Any], time: int) -> "Outputs":
        return loop(sizes._replace(time=time), parameters, steps, state)

    flags = moved[0], [*map(is_inexact, loop.split.steps)]
    chunks = Chunks(sizes.time, size, sizes.time_axis, executor.reverse, sizes.mapped_axis)
    given = [values[v] for v in loop.split.steps]
    found, pull_loop = with_pull_back(
        segment,
        chunks,
        have_own_rules(split.loop),
        split.changes,
        flags,
        parameters,
        given,
        state,
    )

    types = [jax.typeof(values[v]) for v in split.hoisted]

    def pull(pull_loop: jtu.Partial, pull_prologue: PullPrologue, cotangents: Ends) -> Cotangents:
        of_parameters, of_given, of_state = pull_loop(cotangents)
        of_values = env_of(loop.split.steps, of_given)
        of_hoisted = [of_values[v] for v in split.hoisted]
        of_earlier, of_steps = pull_prologue([*map(or_zeros, of_hoisted, types)])
        if executor.gradient.vjp.accumulates_prologue:
            of_earlier = [None] * len(of_earlier)
        totals = [add(g, h) for g, h in zip(of_earlier, of_parameters, strict=True)]
        return totals, [add(g, None) for g in of_steps], of_state

    return found, jtu.Partial(pull, pull_loop, pull_prologue)


def _loop_of(executor: "LoopExecutor") -> "LoopExecutor":
    """The executor of the loop alone: the hoisted values are steps, the gradient is the same."""
    split, vjp = executor.split, executor.gradient.vjp
    given = tuple(dict.fromkeys((*split.steps, *split.hoisted)))
    alone = replace(split, invariant=EMPTY, prologue=EMPTY, epilogue=EMPTY, steps=given)
    return replace(executor, split=alone, save=STORE_ALL, vjp=replace(vjp, split=alone))
