"""One step taken apart: constant, before, loop and after."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from noria.compiler.canonicalize import CONSTANT, INPUT, NUMBER, STATE
from noria.compiler.min_cut import is_heavy, min_cut
from noria.compiler.trace import Traced
from noria.ir.build import build
from noria.ir.graph import Equation, Graph, is_inexact, is_literal, values_of
from noria.ir.passes import backward_slice, dependence, extract, slices, substitute, users


@dataclass(frozen=True, eq=False)
class Split:
    """The parts of a step. The inputs of each are parameters, parts of the step's input, and outputs of the others.

    ============ ============================================ =======================================================
    ``constant`` parameters                                   what depends on parameters only
    ``before``   those, and the input of a step               what is lifted out of the loop
    ``loop``     those, what is lifted, the input, the state  the next state, then what is emitted
    ``after``    parameters, the input, what is emitted       the outputs of the layer
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
    def moving(self) -> frozenset[Any]:
        """The parameters and parts of the input that have a derivative."""
        return frozenset(filter(is_inexact, (*self.parameters, *self.steps)))

    @property
    def passed_on(self) -> list[bool]:
        """Which of the emitted values reach the caller without a product, which has an order of its own in memory."""
        heavy = {v for e in self.after.equations if is_heavy(e) for v in values_of(e.inputs)}
        return [not is_literal(v) and v not in heavy for v in self.emitted]

    @property
    def next_state(self) -> tuple[Any, ...]:
        return self.loop.outputs[: len(self.state)]

    @property
    def emitted(self) -> tuple[Any, ...]:
        return self.loop.outputs[len(self.state) :]


def split(traced: Traced, lift: Callable[[Equation], bool] = lambda equation: True) -> Split:
    """Assign each equation of a normalised step to a part; ``lift`` says which products of the input leave the loop."""
    everything, next_state, emission = traced.graph.equations, traced.next_state, traced.emitted
    counted = dict.fromkeys(
        (v for e in everything if e.name == "iota" for v in e.outputs), CONSTANT
    )  # so, made once
    levels = dependence(everything, traced.levels | counted)

    def level(value: Any) -> int:
        return levels.get(value, NUMBER)

    constants = [v for v in levels if level(v) == CONSTANT and v not in next_state]
    stateful = _at(everything, levels, STATE)
    fed_back = backward_slice(everything, next_state)

    # What leaves the loop: what the outputs need of it, at the cheapest place. Products that feed nothing back are outside.
    emitted = min_cut(
        stateful,
        early=[e for e in stateful if e in fed_back],
        late=[e for e in stateful if e not in fed_back and is_heavy(e)],
        wanted=emission,
        free=lambda v: level(v) < STATE,
        latest=False,
    )
    # What enters it: products of the input, and element-wise work on the input where that makes nothing larger.
    needed = extract(
        everything, (*next_state, *emitted), (*constants, *traced.steps, *traced.state)
    ).equations
    inputs = _at(needed, levels, INPUT)
    lifted = min_cut(
        needed,
        early=[e for e in inputs if is_heavy(e) and lift(e)],
        late=_at(needed, levels, STATE) + [e for e in inputs if is_heavy(e) and not lift(e)],
        wanted=(*next_state, *emitted),
        free=lambda v: level(v) != INPUT,
        latest=True,
    )
    loop = extract(
        everything, (*next_state, *emitted), (*constants, *lifted, *traced.steps, *traced.state)
    )
    after = extract(everything, emission, (*constants, *traced.steps, *emitted))
    made = [v for v in lifted if v not in traced.steps]
    before = extract(everything, made, (*constants, *traced.steps))
    used = dict.fromkeys(
        v for part in (before, loop, after) for v in part.inputs if level(v) == CONSTANT
    )
    constant = extract(
        everything, [v for v in used if v not in traced.parameter_values], traced.parameter_values
    )
    return Split(
        constant,
        before,
        loop,
        after,
        traced.state,
        tuple(v for v in loop.inputs if level(v) == CONSTANT),
        tuple(v for v in loop.inputs if level(v) == INPUT),
        parameters=tuple(
            values_of(v for v in (*before.inputs, *loop.inputs) if level(v) == CONSTANT)
        ),
        steps=tuple(v for v in traced.steps if v in before.inputs or v in loop.inputs),
    )


#: Operations one after the other that a slice is moved through: what the gates of cells have is far less.
_DEEPEST = 64


def narrow(before: Graph, loop: Graph, constants: Sequence[Any]) -> tuple[Graph, Graph]:
    """The same two parts, where what the loop only takes slices of is lifted in slices.

    A slice of a product becomes a product with a slice of its weights. Each step then reads whole arrays from memory, which
    compilers turn into better code than slices of a larger one.
    """
    uses, inner = users(loop.equations, loop.outputs), users(before.equations)
    maker = {v: equation for equation in before.equations for v in equation.outputs}
    more: list[Equation] = []
    taken: dict[Any, Any] = {}

    parts: dict[tuple[int, int, int], Any] = {}

    def part(atom: Any, start: int, stop: int, depth: int = 0) -> Any:
        """The value that holds ``atom[..., start:stop]``, made once; what is needed whole as well is not made twice."""
        key = id(atom), start, stop
        if key not in parts:
            parts[key] = _part(atom, start, stop, depth)
        return parts[key]

    def _part(atom: Any, start: int, stop: int, depth: int) -> Any:
        if is_literal(atom) or not atom.aval.ndim:
            return atom
        whole = atom in constants or len(inner.get(atom, ())) > (atom not in before.outputs)
        equation = None if whole or depth == _DEEPEST else maker.get(atom)
        if equation is not None and equation.name in ("add", "sub", "mul"):
            return _again(
                equation, [part(operand, start, stop, depth + 1) for operand in equation.inputs]
            )
        if equation is not None and equation.name == "dot_general":
            (operand, weight), ((_, wc), (batch, _)) = (
                equation.inputs,
                equation.params["dimension_numbers"],
            )
            if weight in constants and not batch and weight.aval.ndim == len(wc) + 1:
                free = next(axis for axis in range(weight.aval.ndim) if axis not in wc)
                return _again(equation, [operand, _slice(weight, start, stop, free)])
        return _slice(atom, start, stop, atom.aval.ndim - 1)

    def _again(equation: Equation, inputs: list[Any]) -> Any:
        made, (value,) = build(equation.bind, inputs, equation.source)
        more.extend(made)
        return value

    def _slice(atom: Any, start: int, stop: int, axis: int) -> Any:
        made, (value,) = build(
            lambda a: jax.lax.slice_in_dim(a, start, stop, axis=axis), [atom], None
        )
        more.extend(made)
        return value

    for value in before.outputs:
        equations = [e for e in uses.get(value, [None]) if e and slices(e)]
        if len(equations) == len(uses.get(value, [None])):
            for equation in equations:
                for output, (start, stop) in zip(
                    equation.outputs, slices(equation) or [], strict=True
                ):
                    taken[output] = part(value, start, stop)
    if not taken:
        return before, loop
    loop = substitute(Graph(loop.inputs, loop.outputs, loop.equations), taken)
    known = (*loop.inputs, *taken.values())
    loop = extract(loop.equations, loop.outputs, known)
    outputs = tuple(v for v in (*before.outputs, *taken.values()) if v in loop.inputs)
    return extract((*before.equations, *more), outputs, before.inputs), loop


def _at(equations: Sequence[Equation], levels: dict[Any, int], level: int) -> list[Equation]:
    return [
        e
        for e in equations
        if max((levels.get(v, NUMBER) for v in values_of(e.outputs)), default=NUMBER) == level
    ]
