"""Gradients of parameters as accumulators of the reverse loop.

The pull-back of one step gives an outer product of two vectors, or a value. The loop sums it over
all steps and examples, so that no cotangent is stacked and contracted afterwards.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from noria.compiler.param_use import pull_back_of_a_step
from noria.compiler.residuals import StepVJP
from noria.ir.graph import Atom, Equation, Graph, Value, is_literal, values_of
from noria.ir.passes import extract, inputs_of, producers, substitute, toposort

#: The largest number of elements of a summand that is no outer product. Each example may have a sum
#: of its own, and they need less memory than all summands (``python benchmarks/tuning.py WIDEST``).
WIDEST = 2**20


def accumulate_in_loop(vjp: StepVJP, can_accumulate: Callable[[Equation], bool]) -> StepVJP:
    """Have the reverse loop sum gradients of parameters, where the backend can.

    ``can_accumulate`` says whether an equation may compute an operand of an accumulator.
    """
    split = vjp.split
    equations = [*dict.fromkeys((*vjp.reverse.equations, *vjp.rematerialize.equations))]
    accumulators: list[tuple[Value, int]] = []
    operands: list[Atom] = []
    available = {v for e in equations for v in e.outputs}.union(
        (*vjp.cotangents, *vjp.constants, *vjp.hoisted, *split.parameters, *split.steps),
        (*vjp.reverse.inputs, *vjp.rematerialize.inputs),
    )

    def add(parameters: Sequence[Value], step: Graph | None) -> bool:
        found = None if step is None else _summands(step, can_accumulate)
        if found is not None and not available.issuperset(
            inputs_of(found[1], [v for some in found[0] for v in some])
        ):
            found = None  # a constant zero cotangent is not kept
        if found is not None:
            equations.extend(found[1])
            accumulators.extend(
                (v, len(some)) for v, some in zip(parameters, found[0], strict=True)
            )
            operands.extend(atom for some in found[0] for atom in some)
        return found is not None

    uses = [
        use
        for use in vjp.uses
        if any(g is None or is_literal(g) for g in use.cotangents)
        or not add(use.parameters, use.step)
    ]
    of_hoisted, prologue_pull = vjp.of_hoisted, _pull_back_of_prologue(vjp)
    accumulates_prologue = prologue_pull is not None and add(*prologue_pull)
    if accumulates_prologue and not split.differentiable.intersection(split.steps):
        of_hoisted = (None,) * len(of_hoisted)
    # The other outputs serve the other uses, and the hoisted values.
    asked = {
        *values_of(v for use in uses for v in (*use.operands, *use.cotangents) if v is not None)
    }
    asked |= {*values_of(g for g in of_hoisted if g is not None)}
    stacked = tuple(v for v in vjp.stacked if v in asked)
    of_state = vjp.reverse.outputs[: len(vjp.reverse.outputs) - len(vjp.stacked)]
    outputs = (*of_state, *stacked, *operands)
    rematerialized = tuple(v for v in vjp.rematerialize.outputs if v in asked)
    return replace(
        vjp,
        reverse=extract(toposort(equations), outputs, inputs_of(equations, outputs)),
        rematerialize=extract(
            vjp.rematerialize.equations, rematerialized, vjp.rematerialize.inputs
        ),
        stacked=stacked,
        uses=tuple(uses),
        of_hoisted=of_hoisted,
        accumulators=tuple(accumulators),
        accumulates_prologue=accumulates_prologue,
    )


def _pull_back_of_prologue(vjp: StepVJP) -> tuple[list[Value], Graph | None] | None:
    """The parameters of the prologue, and its pull-back in one step; ``None`` without any."""
    prologue, split = vjp.split.prologue, vjp.split
    pairs = zip(split.hoisted, vjp.of_hoisted, strict=True)
    of = {v: g for v, g in pairs if v in prologue.outputs and g is not None}
    graph = extract(prologue.equations, list(of), prologue.inputs)
    differentiable = split.differentiable.intersection(split.parameters)
    parameters = [v for v in graph.inputs if v in differentiable]
    if not parameters or not of:
        return None
    step = None if any(map(is_literal, of.values())) else pull_back_of_a_step(graph, parameters)
    if step is not None:
        cotangents = step.inputs[len(graph.inputs) :]
        step = substitute(step, dict(zip(cotangents, of.values(), strict=True)))
    return parameters, step


def _summands(
    graph: Graph, can_accumulate: Callable[[Equation], bool]
) -> tuple[list[tuple[Atom, ...]], tuple[Equation, ...]] | None:
    """For each output the operands of its outer product, or itself, and the equations for them.

    ``None`` if the backend cannot accumulate one of them.
    """
    maker = producers(graph.equations)
    found = [_factors(atom, maker) for atom in graph.outputs]
    wanted = [atom for some in found for atom in some]
    needed = extract(graph.equations, wanted, inputs_of(graph.equations, wanted)).equations
    wide = any(math.prod(some[0].aval.shape) > WIDEST for some in found if len(some) == 1)
    return None if wide or not all(map(can_accumulate, needed)) else (found, needed)


def _factors(atom: Atom, maker: dict[Value, Equation]) -> tuple[Atom, ...]:
    """The two vectors whose outer product a value is, or the value."""
    equation, turned = maker.get(atom) if not is_literal(atom) else None, False
    while (
        equation is not None
        and equation.name == "transpose"
        and equation.params["permutation"] == (1, 0)
    ):
        turned = not turned
        equation = next((maker.get(v) for v in values_of(equation.inputs)), None)
    if (
        equation is None
        or equation.name != "dot_general"
        or any(v.aval.ndim != 1 for v in equation.inputs)
    ):
        return (atom,)
    if any(equation.params["dimension_numbers"][0]) or any(equation.params["dimension_numbers"][1]):
        return (atom,)
    return equation.inputs[::-1] if turned else equation.inputs
