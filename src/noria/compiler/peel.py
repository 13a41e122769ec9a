"""Arrays of the state that need no loop: delays, counters and outputs leave the step.

============ ====================================== ============================================
kind         the next array                         its replacement
============ ====================================== ============================================
``delay``    needs no state                         the next arrays of all steps, a step later
``delay``    is a window of the last entries        the entries of all steps, some steps later
``counter``  is the array plus a constant           a multiple of the number of steps
``output``   is emitted, and no next state reads    an output of the step; the last one of them
             the array
============ ====================================== ============================================

A delay may read counters and other delays. The rest of the step reads both as parts of its input.
So their products are hoisted, and the other arrays may have a linear recurrence. Lengths and resets
stay equations of the step. `noria.compiler.peeled` computes the arrays.
"""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from noria.compiler.levels import CONSTANT, level_of
from noria.compiler.windows import Makers, Window, entry_of, window_of
from noria.ir.build import build
from noria.ir.graph import (
    Atom,
    Equation,
    Graph,
    Value,
    is_inexact,
    is_literal,
    size,
    values_in,
    values_of,
)
from noria.ir.passes import extract, producers
from noria.ir.primitives import is_heavy

#: A larger array stays in the loop, because outside of it each step has a copy: a training step of
#: element-wise work on the scan then takes 1.4 times as long, and 1.15 times up to this size. That
#: is the price of products that leave with it (``python benchmarks/tuning.py MOST_ELEMENTS``). An
#: array that is no larger than the input of a step leaves the loop in any case.
MOST_ELEMENTS = 4096


class Transition(NamedTuple):
    """One step of one example as it was traced, with a value for each array of the state.

    Attributes:
        graph: from parameters, state and input to ``carried`` and ``emission``.
        state: the state.
        before: the state that the cell reads, after a reset.
        after: the state that the cell returns.
        carried: the next state: ``after``, or ``state`` past the end of an example.
        emission: the outputs of the step.
        own: the initial state, which a reset puts back.
        steps: the input of a step.
        valid: the part of it that is false past the end; ``None`` without lengths.
        reset: the part of it that is true at a reset; ``None`` without resets.
    """

    graph: Graph
    state: tuple[Value, ...]
    before: tuple[Value, ...]
    after: tuple[Atom, ...]
    carried: tuple[Atom, ...]
    emission: tuple[Atom, ...]
    own: tuple[Value, ...]
    steps: tuple[Value, ...]
    valid: Value | None
    reset: Value | None


@dataclass(frozen=True, eq=False)
class Delay:
    """An array that is ``entry`` of the step before, or of several steps for a window.

    ``own`` is the initial state, which a reset puts back.
    """

    state: Value
    own: Value
    entry: Atom
    window: Window | None = None


@dataclass(frozen=True, eq=False)
class Counter:
    """An array that grows by the output of the graph ``by`` in each step.

    ``known`` is the largest absolute value of that output, for a floating-point array.
    """

    state: Value
    own: Value
    by: Graph
    known: float = 0.0


@dataclass(frozen=True, eq=False)
class Stage:
    """Delays, and the graph of their entries: it may read counters and delays of earlier stages.

    The outputs of the graph are the entries, then products that the rest of the step reads too.
    """

    graph: Graph
    delays: tuple[Delay, ...]

    @property
    def products(self) -> tuple[Value, ...]:
        return values_in(self.graph.outputs[len(self.delays) :])


@dataclass(frozen=True, eq=False)
class Peeled:
    """The arrays of the state that have left the loop.

    Attributes:
        state: the whole state.
        looped: the arrays that are left.
        counters: the counters.
        stages: the delays, in the order in which they are computed.
        outputs: the arrays that are outputs of the step, and their places among these.
        emitted: the number of outputs that the cell emits; the others are before a selection.
        valid: the input that is false past the end of an example; ``None`` without lengths.
        reset: the input that is true at a reset; ``None`` without resets.
    """

    state: tuple[Value, ...]
    looped: tuple[Value, ...]
    counters: tuple[Counter, ...]
    stages: tuple[Stage, ...]
    outputs: dict[Value, int]
    emitted: int
    valid: Value | None
    reset: Value | None

    @property
    def kinds(self) -> tuple[str, ...]:
        """For each array of the state, where it is computed."""
        kinds = dict.fromkeys(self.looped, "loop") | dict.fromkeys(self.outputs, "output")
        kinds |= {counter.state: "counter" for counter in self.counters}
        return tuple(kinds.get(v, "delay") for v in self.state)

    @property
    def inputs(self) -> set[Value]:
        """The values that delays and counters are computed from, parameters among them."""
        delays = [delay for stage in self.stages for delay in stage.delays]
        own = {delay.own for delay in delays} | {counter.own for counter in self.counters}
        return own.union(*(graph.inputs for graph in self.graphs))

    @property
    def graphs(self) -> list[Graph]:
        """The equations of delays, and of the numbers that counters add."""
        return [*(stage.graph for stage in self.stages), *(c.by for c in self.counters)]


# --- peeled arrays ------------------------------------------------------------------------------


class Plan(NamedTuple):
    """The arrays that leave the loop.

    Attributes:
        counters: the counters.
        groups: the delays; each group reads counters and delays of earlier groups only.
        outputs: the outputs, and their places in the emission.
        emission: the outputs of the step, then arrays of the state that are no outputs yet.
        equations: the equations that make the entries of windows.
    """

    counters: tuple[Counter, ...]
    groups: tuple[tuple[Delay, ...], ...]
    outputs: dict[Value, int]
    emission: tuple[Atom, ...]
    equations: tuple[Equation, ...]

    @property
    def delays(self) -> tuple[Delay, ...]:
        return tuple(delay for group in self.groups for delay in group)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The arrays that the step reads as parts of its input from now on."""
        counters = (counter.state for counter in self.counters)
        return (*counters, *(delay.state for delay in self.delays))


def plan_of(step: Transition, levels: dict[Value, int], delays: bool = True) -> Plan | None:
    """The arrays of the state that need no loop, or ``None`` if all of them do.

    One pass over the equations finds the arrays that each next array reads. In an LSTM or GRU each
    reads itself, and is neither a sum nor a window of it: nothing else is looked at. ``levels`` has
    the level of each value. Without ``delays`` these stay in the loop.
    """
    masks: dict[Value, int] = {atom: 1 << k for k, atom in enumerate(step.before)}
    for equation in step.graph.equations:
        mask = functools.reduce(operator.or_, (_mask(masks, a) for a in equation.inputs), 0)
        for value in equation.outputs if mask else ():
            masks.setdefault(value, mask)
    reads = [_mask(masks, atom) for atom in step.after]
    makers: Makers = producers(step.graph.equations)
    counters = {}
    for k, mask in enumerate(reads):
        counter = _counter(step, k, makers, levels) if mask == 1 << k else None
        if counter is not None:
            counters[k] = counter
    groups, equations = _delays(step, masks, makers, {*counters}) if delays else ([], [])
    peeled = {*counters, *(k for group in groups for k in group)}
    read = functools.reduce(operator.or_, reads, 0)
    unread = [k for k in range(len(reads)) if k not in peeled and not read >> k & 1]
    outputs, emission = _outputs(step, unread) if unread else ({}, step.emission)
    if not peeled and not outputs:
        return None
    found = tuple(tuple(group.values()) for group in groups)
    return Plan(tuple(counters.values()), found, outputs, emission, tuple(equations))


def _mask(masks: dict[Value, int], atom: Atom) -> int:
    """A bit for each array of the state that a value reads."""
    return 0 if is_literal(atom) else masks.get(atom, 0)


def _counter(step: Transition, k: int, makers: Makers, levels: dict[Value, int]) -> Counter | None:
    """Array ``k`` as a counter. The increment of a floating-point counter is known and whole."""
    after, before, state = step.after[k], step.before[k], step.state[k]
    equation = None if is_literal(after) else makers.get(after)
    if equation is None or equation.name not in ("add", "sub") or size(state) > MOST_ELEMENTS:
        return None
    left, right = equation.inputs
    if right is before and equation.name == "add":
        left, right = right, left
    level = level_of(levels, right)
    kinds = (jnp.integer, jnp.floating)
    if (
        left is not before
        or level > CONSTANT
        or not any(jnp.issubdtype(state.aval.dtype, kind) for kind in kinds)
    ):
        return None
    made: list[Equation] = []
    if equation.name == "sub":
        made, (right,) = build(lambda by: [0 - by], [right], equation.source)
    by = extract((*step.graph.equations, *made), (right,), step.graph.inputs)
    if not is_inexact(state):
        return Counter(state, step.own[k], by)
    if by.inputs:
        return None
    with jax.ensure_compile_time_eval():
        number = np.abs(np.asarray(by([])[0], np.float64))
    whole = bool((np.isfinite(number) & (number == np.round(number))).all())
    return Counter(state, step.own[k], by, float(number.max(initial=0.0))) if whole else None


def _delays(
    step: Transition, masks: dict[Value, int], makers: Makers, counters: set[int]
) -> tuple[list[dict[int, Delay]], list[Equation]]:
    """Groups of delays by their places in the state, and equations of new entries of windows."""
    groups: list[dict[int, Delay]] = []
    equations: list[Equation] = []
    known = sum(1 << k for k in counters)

    def delay(k: int) -> Delay | None:
        """Array ``k`` as a delay that reads ``known`` arrays only."""
        state, own, after = step.state[k], step.own[k], step.after[k]
        most, reads = max(MOST_ELEMENTS, sum(map(size, step.steps))), _mask(masks, after) & ~known
        if not reads and size(state) <= most:
            return None if _is_key(state) else Delay(state, own, after)
        if is_literal(after) or reads != 1 << k:
            return None
        found = window_of(step.before[k], after, makers)
        if found is None:
            return None
        window, pieces = found
        values = [piece.value for piece in pieces]
        if size(state) > most * window.entries or any(_mask(masks, v) & ~known for v in values):
            return None
        made, (entry,) = build(entry_of(pieces, window.axis), values, makers[after].source)
        equations.extend(made)
        return Delay(state, own, entry, window)

    left = [k for k in range(len(step.state)) if k not in counters]
    while group := {k: found for k in left if (found := delay(k)) is not None}:
        groups.append(group)
        left = [k for k in left if k not in group]
        known |= sum(1 << k for k in group)
    return groups, equations


def _outputs(step: Transition, unread: Sequence[int]) -> tuple[dict[Value, int], tuple[Atom, ...]]:
    """The arrays that are emitted, their places in the emission, and the emission with them."""
    places, emission = {}, [*step.emission]
    needed = extract(step.graph.equations, emission, step.graph.inputs).equations
    shown = {v for equation in needed for v in equation.outputs}
    most = sum(map(size, emission))
    for k in unread:
        state, after = step.state[k], step.after[k]
        if not is_literal(after) and after in shown and size(state) <= most:
            same = (n for n, atom in enumerate(emission) if atom is after)
            places[state] = next(same, len(emission))
            emission += [after] if places[state] == len(emission) else []
    return places, tuple(emission)


def _is_key(value: Value) -> bool:
    """Whether a value holds random keys, which cannot be put together with others."""
    return bool(jnp.issubdtype(value.aval.dtype, jax.dtypes.extended))


# --- the step without it ------------------------------------------------------------------------


def without(step: Transition, plan: Plan | None) -> tuple[Graph, tuple[Value, ...]]:
    """The step without the arrays of a plan, and the state that is left.

    The outputs are the next state, the emission of the plan, and the entries of delays.
    """
    graph = step.graph
    if plan is None:
        return Graph(graph.inputs, (*step.carried, *step.emission), graph.equations), step.state
    peeled = {*plan.inputs, *plan.outputs}
    looped = [k for k, value in enumerate(step.state) if value not in peeled]
    outputs = (
        *(step.carried[k] for k in looped),
        *plan.emission,
        *(delay.entry for delay in plan.delays),
    )
    equations = (*graph.equations, *plan.equations)
    return Graph(graph.inputs, outputs, equations), tuple(step.state[k] for k in looped)


def separate(
    graph: Graph, step: Transition, plan: Plan, looped: tuple[Value, ...]
) -> tuple[Graph, tuple[Value, ...], Peeled]:
    """Divide a step `without` peeled arrays, now canonical, from the graphs of their entries.

    Returns:
        The graph of the rest, its inputs besides the input of the step, and the peeled arrays.
        Products that both need are computed once, for the entries.
    """
    end = len(graph.outputs) - len(plan.delays)
    rest, entries = graph.outputs[:end], iter(graph.outputs[end:])
    available: list[Value] = [v for v in graph.inputs if v not in {*step.state}]
    available += [counter.state for counter in plan.counters]
    stages = []
    for group in plan.groups:
        wanted = [next(entries) for _ in group]
        found = extract(graph.equations, wanted, available)
        products = [v for e in found.equations if is_heavy(e) for v in e.outputs if v not in wanted]
        found = extract(graph.equations, (*wanted, *products), available)
        stages.append(Stage(found, group))
        available += [*values_of(wanted), *products, *(delay.state for delay in group)]
    parameters = graph.inputs[: graph.inputs.index(step.state[0])]
    more = [v for v in available if v not in graph.inputs] + [*plan.inputs]
    kept = extract(graph.equations, rest, (*available, *looped))
    steps = tuple(v for v in dict.fromkeys(more) if v in kept.inputs)
    inputs = (*parameters, *looped, *step.steps, *steps)
    peeled = Peeled(
        step.state,
        looped,
        plan.counters,
        tuple(stages),
        plan.outputs,
        len(step.emission),
        step.valid,
        step.reset,
    )
    return Graph(inputs, kept.outputs, kept.equations), steps, peeled
