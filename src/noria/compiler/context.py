"""The context of a call: values that depend on it alone are computed once per example.

A step reads a frontier: the values that depend on the context and on parameters only::

    frontier   keys = memory W_k            once per example, before the loop
    step       w = softmax(keys q(h))       reads the frontier

A frontier of numbers and vectors is broadcast over time. It becomes an input of the step, so every
backend runs the loop over the batch. Matrices would be copied for each step. They are parameters
instead, and the program of one example is mapped over the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria.backends.base import Sizes
from noria.compiler.levels import CONSTANT, CONTEXT, INPUT, NUMBER
from noria.compiler.trace import Traced
from noria.ir.evaluate import evaluate, widened
from noria.ir.graph import Env, Graph, Value, env_of, struct, values_of
from noria.ir.passes import dependence, extract
from noria.ir.reasons import Reason
from noria.ir.source import where


@dataclass(frozen=True, eq=False)
class Frontier:
    """The values of a step that depend on the context.

    Attributes:
        inputs: the arrays of the context.
        graph: from parameters and context to the frontier.
        parameters: the parameters of the step without the frontier.
        arrays: the arrays of these parameters.
        as_steps: whether the frontier is an input of the step, and not a parameter.
    """

    inputs: tuple[Value, ...]
    graph: Graph
    parameters: tuple[Value, ...]
    arrays: tuple[Any, ...]
    as_steps: bool

    def evaluated(self, context: Any, sizes: Sizes) -> list[Any]:
        """The arrays of the frontier; with an axis of time, batch first, if it is an input."""
        env, given = env_of(self.parameters, self.arrays), jtu.tree_leaves(context)
        varying = env_of(self.inputs, given)
        known: Env = env if sizes.batch is not None else env | varying
        varying = {} if sizes.batch is None else varying
        arrays = evaluate(self.graph, known, varying, sizes.state_axes)
        return [_over_time(a, sizes) for a in arrays] if self.as_steps else arrays

    def obstacles(self) -> list[str]:
        """The messages on values that are matrices of each example, with their lines."""
        sources = {v: e.source for e in self.graph.equations for v in e.outputs}
        matrices = (v for v in values_of(self.graph.outputs) if not _is_vector(v))
        return list(dict.fromkeys(Reason.CONTEXT(where=where(sources.get(v))) for v in matrices))


def _over_time(array: jax.Array, sizes: Sizes) -> jax.Array:
    """``(batch, ...)`` broadcast to ``(batch, time, ...)``; the cotangent is summed in 32 bits."""
    wide = widened(array)[:, None]
    return jnp.broadcast_to(wide, (*sizes.axes, *array.shape[1:])).astype(array.dtype)


def split_context(traced: Traced, sizes: Sizes) -> tuple[Traced, Frontier | None]:
    """Take the equations of the frontier out of a step that has a context."""
    context = tuple(v for v, level in traced.levels.items() if level == CONTEXT)
    if not context:
        return traced, None
    step, outputs = traced.graph, {*traced.graph.outputs}
    levels = dependence(step.equations, traced.levels)
    rest = [
        e
        for e in step.equations
        if any(levels.get(v, NUMBER) != CONTEXT or v in outputs for v in e.outputs)
    ]
    read = values_of((*(v for e in rest for v in e.inputs), *step.outputs))
    made = {v for e in rest for v in e.outputs}
    frontier = [v for v in read if levels.get(v, NUMBER) == CONTEXT and v not in made]
    graph = extract(step.equations, frontier, (*traced.parameter_values, *context))
    as_steps = sizes.batch is not None and all(map(_is_vector, frontier))
    found = Frontier(context, graph, traced.parameter_values, traced.parameters, as_steps)
    return _reading(traced, frontier, as_steps), found


def _reading(traced: Traced, frontier: Sequence[Value], as_steps: bool) -> Traced:
    """The step from the frontier to its outputs."""
    before, steps = list(traced.parameter_values), traced.steps
    level = INPUT if as_steps else CONSTANT
    parameters = traced.parameters
    if as_steps:
        steps = (*steps, *frontier)
    else:
        before += frontier
        parameters = (*parameters, *map(struct, frontier))
    inputs = (*before, *traced.state, *steps)
    part = extract(traced.graph.equations, traced.graph.outputs, inputs)
    graph = Graph(inputs, part.outputs, part.equations)
    levels = {v: n for v, n in traced.levels.items() if n != CONTEXT}
    levels |= dict.fromkeys(frontier, level)
    return replace(traced, graph=graph, parameters=parameters, steps=steps, levels=levels)


def _is_vector(value: Value) -> bool:
    return sum(size != 1 for size in value.aval.shape) <= 1
