"""The loop of tangents of a loop whose residuals are stored.

The reverse loop needs the derivatives of the gates, and so do tangents. The loop of tangents reads
them from the residuals of the reverse loop. It carries tangents only::

    dh_t = f_h(r_t) dh_(t-1) + f_x(r_t) dx_t + f_p(r_t) dp        r_t the residuals
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from noria.backends.base import LoopCall, Sizes, in_order
from noria.compiler.loops import ChosenLoop, choose_loop
from noria.compiler.segments import segment_steps
from noria.compiler.split import Split
from noria.ir.build import Unsupported
from noria.ir.derivative import derivative
from noria.ir.graph import Env, Graph, Value, env_of, is_inexact
from noria.ir.passes import cse, extract

if TYPE_CHECKING:  # executors call `pushed`
    from noria.compiler.executors import LoopExecutor

#: Tangents of parameters, steps and state, ``None`` for zero.
Tangents = tuple[list[Any], list[Any], list[Any]]
#: Tangents of the results, if there is a rule for them.
Pushed = list[jax.Array] | None

#: The loop in messages.
_NAME = "loop of tangents"


def pushed(
    executor: "LoopExecutor", sizes: Sizes, env: Env, steps: Env, stored: Env, tangents: Tangents
) -> list[jax.Array] | None:
    """The tangents of the inexact final states and emitted values.

    ``None`` if they cannot be computed from the arrays that are ``stored`` for the gradient.
    """
    split = executor.split
    of_parameters, of_steps, of_state = tangents
    moving = {v: t for v, t in zip(split.parameters, of_parameters, strict=True) if t is not None}
    moving_steps = {v: t for v, t in zip(split.steps, of_steps, strict=True) if t is not None}
    hoisted, of_hoisted = _hoisted(executor, sizes, env, steps, moving | moving_steps)
    inputs = [*dict.fromkeys((*split.loop.inputs, *split.state))]
    state = [v for v in split.state if is_inexact(v)]
    wrt = [v for v in inputs if v in moving or v in of_hoisted or v in state]
    tangent_of = {v: Value(v.aval) for v in wrt}
    call = _from_residuals(executor, sizes, inputs, tangent_of, stored)
    if call is None:
        return None
    loop = choose_loop(executor.backend, call, _NAME, executor.label)
    env = env | {tangent_of[v]: moving[v] for v in split.shared if v in tangent_of}
    values = steps | hoisted
    width = len(state)
    carried = [stored[v].array for v in call.state[width:]]
    changing = {v: a for v, a in stored.items() if v not in split.unchanged}
    values |= {v: in_order(a, sizes, not executor.reverse) for v, a in changing.items()}
    values |= {tangent_of[v]: t for v, t in of_hoisted.items() if v in tangent_of}
    given = dict(zip(split.state, of_state, strict=True))
    zeros = {v: jnp.zeros((*sizes.state_axes, *v.aval.shape), v.aval.dtype) for v in state}
    moved = [zeros[v] if given[v] is None else given[v] for v in state]
    found = loop(sizes, env, values, [*moved, *carried])
    return [*found.carry[:width], *found.emitted]


def planned(executor: "LoopExecutor") -> ChosenLoop:
    """The loop of the tangents of everything, for an explanation.

    If it cannot be computed from the residuals, it carries the state too.

    Raises:
        Unsupported: if the derivative of a step is no graph.
    """
    executor = executor.for_gradient(executor.sizes)
    split, vjp = executor.split, executor.gradient.vjp
    inputs = [*dict.fromkeys((*split.loop.inputs, *split.state))]
    tangent_of = {v: Value(v.aval) for v in inputs if is_inexact(v)}
    stored = dict.fromkeys((*vjp.residuals, *split.unchanged, *vjp.hoisted))
    sizes = executor.sizes
    is_whole = segment_steps(executor, sizes) == sizes.time and not executor.runs_again
    keeps = executor.save.keeps_residuals and is_whole
    call = _from_residuals(executor, sizes, inputs, tangent_of, stored) if keeps else None
    if call is None:
        both = derivative(split.loop, inputs, tangent_of)
        shared, state = (
            (*some, *(tangent_of[v] for v in some if v in tangent_of))
            for some in (split.shared, split.state)
        )
        width, count = len(split.state), len(split.loop.outputs)
        end = count + len(state) - width
        outputs = both.outputs
        following = (*outputs[:width], *outputs[count:end], *outputs[width:count], *outputs[end:])
        step = extract(both.equations, following, (*inputs, *tangent_of.values()))
        call = LoopCall(step, shared, state, sizes, executor.reverse)
    return choose_loop(executor.backend, call, _NAME, executor.label)


def _from_residuals(
    executor: "LoopExecutor",
    sizes: Sizes,
    inputs: Sequence[Value],
    tangent_of: dict[Value, Value],
    stored: Collection[Value],
) -> LoopCall | None:
    """The loop that carries tangents only, or ``None`` if it would read other values."""
    split, vjp = executor.split, executor.gradient.vjp
    known = (*split.shared, *vjp.constants, *split.hoisted, *stored)
    step = _tangent_step(split, vjp.forward, inputs, tangent_of, known)
    if step is None:
        return None
    return LoopCall(
        step,
        (*split.shared, *vjp.constants, *(tangent_of[v] for v in split.shared if v in tangent_of)),
        tuple(tangent_of[v] for v in split.state if v in tangent_of),
        sizes,
        executor.reverse,
        derive=executor.derive,
    ).carrying(split.unchanged)


def _hoisted(
    executor: "LoopExecutor", sizes: Sizes, env: Env, steps: Env, moving: Env
) -> tuple[Env, Env]:
    """Arrays for the hoisted values, and the tangents of those that move."""
    split = executor.split

    def hoist(some: list[Any]) -> list[Any]:
        now = env_of(moving, some)
        arrays = [now[v] if v in now else steps[v] for v in split.steps]
        values = executor.with_prologue(split.prologue, sizes, env | now, arrays)
        return [values[v] for v in split.hoisted]

    reads = {*split.prologue.inputs, *split.hoisted}
    moving = {v: t for v, t in moving.items() if v in reads}
    primals = [steps[v] if v in steps else env[v] for v in moving]
    if not moving:
        return env_of(split.hoisted, hoist(primals)), {}
    arrays, tangents = jax.jvp(hoist, (primals,), ([*moving.values()],))
    pairs = zip(split.hoisted, tangents, strict=True)
    return env_of(split.hoisted, arrays), {v: t for v, t in pairs if is_inexact(v)}


def _tangent_step(
    split: Split,
    forward: Graph,
    inputs: Sequence[Value],
    tangent_of: dict[Value, Value],
    known: Sequence[Value],
) -> Graph | None:
    """The step of the tangents, from ``known`` values and tangents; ``None`` if it reads others."""
    try:
        both = derivative(split.loop, inputs, tangent_of)
    except Unsupported:
        return None
    # A value that the derivative computes again gets its name in the forward loop.
    equations = (*forward.equations, *both.equations)
    names = frozenset(e.name for e in equations)
    outputs = both.outputs[len(split.loop.outputs) :]
    merged = cse(Graph((), outputs, equations), names)
    given = (*known, *tangent_of.values())
    step = extract(merged.equations, merged.outputs, (*given, *split.state))
    return None if {*step.inputs}.intersection(split.state).difference(known) else step
