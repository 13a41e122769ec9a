"""One step taken apart: constant, before, loop and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from noria.compiler.frontier import frontier, is_heavy
from noria.compiler.graph import Equation, Graph, cut_out, dependence, leading_to, values_of
from noria.compiler.normalise import CONSTANT, INPUT, NUMBER, STATE, normalise
from noria.compiler.trace import Traced


@dataclass(frozen=True, eq=False)
class Split:
    """The parts of a step. The inputs of each are parameters, parts of the step's input, and outputs of the others.

    ============ ============================================ =======================================================
    ``constant`` parameters                                   what depends on parameters only
    ``before``   those, and the input of a step               what is lifted out of the loop
    ``loop``     those, what is lifted, the input, the state  the next state, then what is emitted
    ``after``    all of those but the state                   the outputs of the layer
    ============ ============================================ =======================================================

    ``shared`` are the inputs of the loop that are the same at each step; ``lifted`` those that are not, be they
    made by ``before`` or parts of the step's input. ``parameters`` and ``steps`` are what ``before`` and ``loop`` need of the
    constants and of the step's input.
    """

    constant: Graph
    before: Graph
    loop: Graph
    after: Graph
    state: tuple[Any, ...]
    shared: tuple[Any, ...]
    lifted: tuple[Any, ...]
    parameters: tuple[Any, ...]
    steps: tuple[Any, ...]

    @property
    def next_state(self) -> tuple[Any, ...]:
        return self.loop.outputs[: len(self.state)]

    @property
    def emitted(self) -> tuple[Any, ...]:
        return self.loop.outputs[len(self.state) :]


def split(traced: Traced) -> Split:
    """Normalise a traced step and assign each of its equations to a part."""
    sources: dict[Any, int] = dict.fromkeys(traced.parameter_values, CONSTANT)
    sources |= dict.fromkeys(traced.steps, INPUT) | dict.fromkeys(traced.state, STATE)
    graph = normalise(traced.graph, sources, traced.next_state)
    everything = graph.equations
    next_state, emission = graph.outputs[: len(traced.state)], graph.outputs[len(traced.state) :]
    levels = dependence(everything, sources)

    def level(value: Any) -> int:
        return levels.get(value, NUMBER)

    constants = [v for v in levels if level(v) == CONSTANT]
    stateful = _at(everything, levels, STATE)
    fed_back = leading_to(everything, next_state)

    # What leaves the loop: what the outputs need of it, at the cheapest place. Products that feed nothing back are outside.
    emitted = frontier(
        stateful,
        early=[e for e in stateful if e in fed_back],
        late=[e for e in stateful if e not in fed_back and is_heavy(e)],
        wanted=emission,
        free=lambda v: level(v) < STATE,
        latest=False,
    )
    # What enters it: products of the input, and element-wise work on the input where that makes nothing larger.
    needed = cut_out(everything, (*next_state, *emitted), (*constants, *traced.steps, *traced.state)).equations
    inputs = _at(needed, levels, INPUT)
    lifted = frontier(
        needed,
        early=[e for e in inputs if is_heavy(e)],
        late=_at(needed, levels, STATE),
        wanted=(*next_state, *emitted),
        free=lambda v: level(v) != INPUT,
        latest=True,
    )
    lifted += tuple(v for e in inputs if is_heavy(e) for v in e.outputs if v in emitted and v not in lifted)
    known = (*constants, *lifted, *traced.steps)
    loop = cut_out(everything, (*next_state, *emitted), (*known, *traced.state))
    after = cut_out(everything, emission, (*known, *emitted))
    made = [v for v in lifted if v not in traced.steps]
    before = cut_out(everything, made, (*constants, *traced.steps))
    used = dict.fromkeys(v for part in (before, loop, after) for v in part.inputs if level(v) == CONSTANT)
    constant = cut_out(everything, [v for v in used if v not in traced.parameter_values], traced.parameter_values)
    return Split(
        constant,
        before,
        loop,
        after,
        traced.state,
        tuple(v for v in loop.inputs if level(v) == CONSTANT),
        tuple(v for v in loop.inputs if level(v) == INPUT),
        parameters=tuple(values_of(v for v in (*before.inputs, *loop.inputs) if level(v) == CONSTANT)),
        steps=tuple(v for v in traced.steps if v in before.inputs or v in loop.inputs),
    )


def _at(equations: Sequence[Equation], levels: dict[Any, int], level: int) -> list[Equation]:
    return [e for e in equations if max((levels.get(v, NUMBER) for v in values_of(e.outputs)), default=NUMBER) == level]
