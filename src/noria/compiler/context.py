"""The context of a call: values that depend on it alone are computed once per example.

A step reads a frontier: the values that depend on the context and on parameters only::

    frontier   keys = memory W_k            once per example, before the loop
    step       w = softmax(keys q(h))       reads the frontier

A frontier of numbers and vectors is broadcast over time. It becomes an input of the step, so every
backend runs the loop over the batch. Matrices would be copied for each step. Machine code has them
in the state, where they never change. Elsewhere they are parameters, and the program of one example
is mapped over the batch. So are those that the input is multiplied with: the prologue does that for
all steps at once.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria.backends.base import Sizes
from noria.compiler.levels import CONSTANT, CONTEXT, INPUT, NUMBER, STATE
from noria.compiler.trace import Traced
from noria.ir.evaluate import evaluate, widened
from noria.ir.graph import Env, Equation, Graph, Value, env_of, struct, values_of
from noria.ir.passes import dependence, extract
from noria.ir.primitives import is_heavy
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
        level: of the frontier in the step: an input, a part of the state, or a parameter.
        products: the products of the input and of a matrix in the frontier.
    """

    inputs: tuple[Value, ...]
    graph: Graph
    parameters: tuple[Value, ...]
    arrays: tuple[Any, ...]
    level: int
    products: tuple[Equation, ...]

    @property
    def obstacles(self) -> tuple[str, ...]:
        """The reasons, with lines, for a frontier that is no part of the state."""
        return tuple(dict.fromkeys(Reason.CONTEXT(where=where(e.source)) for e in self.products))

    def evaluated(self, context: Any, sizes: Sizes) -> list[Any]:
        """The arrays of the frontier; with an axis of time, batch first, if it is an input."""
        env, given = env_of(self.parameters, self.arrays), jtu.tree_leaves(context)
        varying = env_of(self.inputs, given)
        known: Env = env if sizes.batch is not None else env | varying
        varying = {} if sizes.batch is None else varying
        arrays = evaluate(self.graph, known, varying, sizes.state_axes)
        return [_over_time(a, sizes) for a in arrays] if self.level == INPUT else arrays


def _over_time(array: jax.Array, sizes: Sizes) -> jax.Array:
    """``(batch, ...)`` broadcast to ``(batch, time, ...)``; the cotangent is summed in 32 bits."""
    wide = widened(array)[:, None]
    return jnp.broadcast_to(wide, (*sizes.axes, *array.shape[1:])).astype(array.dtype)


def split_context(
    traced: Traced, sizes: Sizes, in_state: bool = False
) -> tuple[Traced, Frontier | None, Sizes]:
    """Take the equations of the frontier out of a step that has a context.

    With ``in_state`` the matrices of a batch become parts of the state. Otherwise the step is that
    of one example, and so are its sizes.
    """
    context = tuple(v for v, level in traced.levels.items() if level == CONTEXT)
    if not context:
        return traced, None, sizes
    step, outputs = traced.graph, {*traced.graph.outputs}
    levels = dependence(step.equations, traced.levels)
    rest = [
        e
        for e in step.equations
        if any(levels.get(v, NUMBER) != CONTEXT or v in outputs for v in e.outputs)
    ]
    read = values_of((*(v for e in rest for v in e.inputs), *step.outputs))
    made = {v for e in rest for v in e.outputs}
    frontier = tuple(v for v in read if levels.get(v, NUMBER) == CONTEXT and v not in made)
    graph = extract(step.equations, frontier, (*traced.parameter_values, *context))
    matrices = {v for v in frontier if not _is_vector(v)}
    products = tuple(
        e
        for e in rest
        if is_heavy(e)
        and levels.get(e.outputs[0], NUMBER) == INPUT
        and matrices.intersection(values_of(e.inputs))
    )
    level = CONSTANT
    if sizes.batch is not None and not matrices:
        level = INPUT
    elif sizes.batch is not None and in_state and not products:
        level = STATE
    if level == CONSTANT:
        sizes = sizes._replace(batch=None)
    given = traced.parameter_values, traced.parameters
    found = Frontier(context, graph, *given, level, products)
    return _reading(traced, frontier, level), found, sizes


def _reading(traced: Traced, frontier: tuple[Value, ...], level: int) -> Traced:
    """The step from the frontier to its outputs."""
    before, state, steps = traced.parameter_values, traced.state, traced.steps
    parameters, outputs = traced.parameters, traced.graph.outputs
    if level == INPUT:
        steps = (*steps, *frontier)
    elif level == STATE:
        state, width = (*state, *frontier), len(state)
        outputs = (*outputs[:width], *frontier, *outputs[width:])
    else:
        before = (*before, *frontier)
        parameters = (*parameters, *map(struct, frontier))
    inputs = (*before, *state, *steps)
    graph = replace(extract(traced.graph.equations, outputs, inputs), inputs=inputs)
    levels = {v: n for v, n in traced.levels.items() if n != CONTEXT}
    levels |= dict.fromkeys(frontier, level)
    return replace(
        traced, graph=graph, parameters=parameters, state=state, steps=steps, levels=levels
    )


def _is_vector(value: Value) -> bool:
    return sum(size != 1 for size in value.aval.shape) <= 1
