"""Trace a cell: the graph of one step of one example, including lengths and resets."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import describe
from noria._jax import is_known
from noria._types import State
from noria.backends.base import Problem
from noria.cells.base import Keywords, emit, next_state
from noria.compiler.canonicalize import canonicalize
from noria.compiler.constant_positions import READS, with_known_positions
from noria.compiler.constant_scatters import SCATTERS
from noria.compiler.levels import CONSTANT, CONTEXT, INPUT, STATE, reads_parameter
from noria.compiler.own_rules import check_rules
from noria.compiler.peel import Peeled, Transition, plan_of, separate, without
from noria.ir.build import graph_of
from noria.ir.evaluate import of_one
from noria.ir.graph import Equation, Graph, Value, changes, is_literal, values_in, values_of
from noria.ir.passes import dependence
from noria.ir.primitives import is_heavy


class Steps(NamedTuple):
    """The inputs of one step, or of all: ``(time, ...)`` or ``(batch, time, ...)`` arrays.

    ``valid`` is false past the end of an example. ``reset`` is true where the initial state is put
    back before the step is taken. ``keywords`` are further arguments of the cell by name. The
    ``context`` has no axis of time. All but ``x`` may be ``None``.
    """

    x: Any
    valid: Any
    reset: Any
    keywords: Keywords = None
    context: Any = None

    def of_one(self, axes: int) -> "Steps":
        """Shapes and dtypes of one step of one example; arrays have ``axes`` in front."""
        one: Steps = of_one(self._replace(context=None), axes)
        return one._replace(context=of_one(self.context, axes - 1))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the cell by name, at a step that may be padding."""
        found = dict(self.keywords or {})
        if self.valid is not None and "dt" in found:
            found["dt"] = jnp.where(self.valid, found["dt"], jnp.zeros_like(found["dt"]))
        return found if self.context is None else found | {"context": self.context}


@dataclass(frozen=True, eq=False)
class Traced:
    """One step of one example: a canonical graph from parameters, state, input to state and output.

    ``parameters`` are the arrays for the first inputs of the graph: arrays that the cell closes
    over, its fields, and the initial state. ``levels`` has the level of each input. The last inputs
    belong to the context, if there is one; they have the level `CONTEXT`. ``peeled`` are the arrays
    of the state that have left the step, or ``None``. ``state`` has the others, and ``steps`` ends
    with the arrays that the step reads instead. ``again`` traces the step
    with other options; it is ``None`` if the step is as written, or in pairs. If the step runs
    ``once`` only, it is not worth a copy of a weight. ``fixed`` are the parameters that the cell
    closes over whose values are known: nothing is differentiated with respect to them.
    """

    graph: Graph
    parameters: tuple[Any, ...]
    state: tuple[Value, ...]
    steps: tuple[Value, ...]
    levels: dict[Value, int]
    emission_tree: Any
    peeled: Peeled | None
    again: "Callable[..., Traced] | None"
    once: bool
    fixed: frozenset[Value] = field(default=frozenset(), kw_only=True)

    def written(self) -> "Traced":
        """The step with its contractions as the cell has them: no axes are merged."""
        return self if self.again is None else self.again(contractions=False)

    def with_delays(self) -> "Traced | None":
        """The step with its delays in the loop; ``None`` if there are none."""
        has_any = self.peeled is not None and self.peeled.stages
        return self.again(delays=False) if self.again and has_any else None

    def products_of_state(self) -> int:
        """The number of products that depend on the state and read a parameter."""
        levels = dependence(self.graph.equations, self.levels)
        return sum(
            is_heavy(e) and levels[e.outputs[0]] == STATE and reads_parameter(levels, e)
            for e in self.graph.equations
        )

    @property
    def next_state(self) -> tuple[Value, ...]:
        return values_in(self.graph.outputs[: len(self.state)])

    @property
    def changing(self) -> tuple[Value, ...]:
        """The arrays of the state that the step changes."""
        return tuple(itertools.compress(self.state, changes(self.state, self.graph.outputs)))

    @property
    def emitted(self) -> tuple[Value, ...]:
        return values_in(self.graph.outputs[len(self.state) :])

    @property
    def kept(self) -> tuple[Value, ...]:
        """The outputs that were in the state."""
        places = () if self.peeled is None else self.peeled.outputs.values()
        return tuple(self.emitted[n] for n in places)

    @property
    def reads_constants(self) -> bool:
        """Whether all parameters that the step reads are constants of the program."""
        read = {v for e in self.graph.equations for v in values_of(e.inputs)}
        pairs = zip(self.parameter_values, self.parameters, strict=True)
        return all(is_known(array) for value, array in pairs if value in read)

    @property
    def parameter_values(self) -> tuple[Value, ...]:
        return self.graph.inputs[: len(self.parameters)]


def trace(
    cell: Callable[..., Any],
    initial_state: State,
    step: Steps,
    label: str = "Recurrence",
    *,
    contractions: bool = True,
    delays: bool = True,
    once: bool = False,
) -> Traced:
    """Trace one step of ``cell``.

    Args:
        cell: transition and emission of one example and one step; its arrays may be traced.
        initial_state: the layer's initial state for one example.
        step: shapes and dtypes of the inputs of one step of one example.
        label: the layer in messages.
        contractions: whether contractions get their normal form.
        delays: whether delays leave the loop.
        once: whether the step runs once only, so that a copy of a weight does not pay.

    Raises:
        Unsupported: if a step has side effects, or a derivative rule that each step must apply.
        TypeError: if a step changes the structure, shapes or dtypes of the state.
    """
    arrays, rest = eqx.partition(cell, eqx.is_array)

    def one(arrays: Any, own: State, state: State, step: Steps) -> tuple[State, ...]:
        x = (
            step.x
            if step.valid is None
            else _where(step.valid, step.x, jtu.tree_map(jnp.zeros_like, step.x))
        )
        before = state if step.reset is None else _where(step.reset, own, state)
        after, y = _checked(label, eqx.combine(arrays, rest), before, x, step.arguments)
        if step.valid is None:
            return after, before, after, y
        y = _where(step.valid, y, jtu.tree_map(jnp.zeros_like, y))
        return _where(step.valid, after, state), before, after, y

    state = jtu.tree_map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), initial_state)
    graph, closed_over, tree = graph_of(one, arrays, initial_state, state, step)
    constants = dict(zip(graph.inputs, closed_over, strict=False))
    graph = with_known_positions(graph, constants, READS)
    parameters = (*closed_over, *jtu.tree_leaves((arrays, initial_state)))
    *_, emission_tree = tree.children()
    transition = _transition(graph, len(parameters), len(jtu.tree_leaves(initial_state)), step)
    levels = dict.fromkeys(graph.inputs[: len(parameters)], CONSTANT)
    levels |= dict.fromkeys(transition.state, STATE) | dict.fromkeys(transition.steps, INPUT)
    context = graph.inputs[len(graph.inputs) - len(jtu.tree_leaves(step.context)) :]
    levels |= dict.fromkeys(context, CONTEXT)
    found = dependence(graph.equations, levels)
    if not once:
        pairs = zip(graph.inputs, parameters, strict=False)
        check_rules(graph, found, fixed={v for v, a in pairs if is_known(a)})
    plan = None if context else plan_of(transition, found, delays)
    if plan is not None:
        levels |= dict.fromkeys(plan.inputs, INPUT)
        found = dependence(graph.equations, levels)
    graph, looped = without(transition, plan)
    graph = own_outputs(graph, found, looped)
    # Only now, because a window is found by its scatter.
    graph = with_known_positions(graph, constants, SCATTERS)
    graph = canonicalize(graph, levels, len(looped), contractions=contractions, once=once)
    steps, peeled = transition.steps, None
    if plan is not None:
        graph, more, peeled = separate(graph, transition, plan, looped)
        levels |= dict.fromkeys(more, INPUT)
        steps = (*steps, *more)
    again = functools.partial(trace, cell, initial_state, step, label, once=once)
    given = steps, levels, emission_tree, peeled, again if contractions else None, once
    fixed = frozenset(v for v, a in constants.items() if is_known(a))
    return Traced(graph, parameters, looped, *given, fixed=fixed)


def _transition(graph: Graph, first: int, width: int, step: Steps) -> Transition:
    """One step with ``first`` parameters and ``width`` arrays in its state."""
    inputs, outputs = graph.inputs, graph.outputs
    end = len(inputs) - len(jtu.tree_leaves(step.context))
    steps = iter(inputs[first + width + len(jtu.tree_leaves(step.x)) :])
    carried, before, after = (outputs[n * width : (n + 1) * width] for n in range(3))
    return Transition(
        graph,
        state=inputs[first : first + width],
        before=values_in(before),
        after=after,
        carried=carried,
        emission=outputs[3 * width :],
        own=inputs[first - width : first],
        steps=inputs[first + width : end],
        valid=None if step.valid is None else next(steps),
        reset=None if step.reset is None else next(steps),
    )


def check_transition(problem: Problem, step: Steps) -> None:
    """Raise the errors of `trace` about the state, for backends that do not trace the cell."""
    cell = functools.partial(_checked, problem.label, problem.cell)
    jax.eval_shape(cell, problem.initial_state, step.x, step._replace(valid=None).arguments)


def _checked(
    label: str, cell: Callable[..., Any], state: State, x: Any, keywords: Keywords
) -> tuple[State, Any]:
    """One step; its errors give the arguments of the cell."""
    try:
        after, emitted = next_state(cell, state, x, keywords)
    except Exception as error:
        error.add_note(
            f"{label}: this came from one step of the cell, called with a state of "
            f"{describe(state)} and an x of {describe(x)}."
        )
        raise
    before, now = _structs(state), _structs(after)
    if tree_spec(before) != tree_spec(now):
        raise TypeError(
            f"{label}: one step turns a state of {describe(before)} into {describe(now)}; "
            "expected the same structure, shapes and dtypes. Check the initial state and the dtype "
            "of xs."
        )
    return after, emitted[0] if emitted else emit(cell, after, x, keywords)


def _structs(tree: Any) -> Any:
    return jtu.tree_map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), tree)


def tree_spec(tree: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Structure, shapes and dtypes."""
    return jtu.tree_structure(tree), [(a.shape, a.dtype) for a in jtu.tree_leaves(tree)]


def _where(condition: Any, if_true: Any, if_false: Any) -> Any:
    return jtu.tree_map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def own_outputs(graph: Graph, found: dict[Value, int], state: Sequence[Value]) -> Graph:
    """Make each output a distinct value computed by an equation, by a copy where needed.

    An array of the state that no step changes stays as it is.
    """
    equations, outputs = list(graph.equations), list(graph.outputs)
    made = {v for equation in equations for v in equation.outputs}
    for i, atom in enumerate(outputs):
        if i < len(state) and atom is state[i]:
            continue
        if (
            is_literal(atom)
            or atom not in made
            or atom in outputs[:i]
            or found.get(atom) == CONSTANT
        ):
            outputs[i] = copied = Value(atom.aval)
            equations.append(Equation(jax.lax.copy_p, (atom,), (copied,), {}, None))
    return Graph(graph.inputs, tuple(outputs), tuple(equations))
