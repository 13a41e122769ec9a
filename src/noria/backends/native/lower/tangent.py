"""The loop of tangents: its step is the derivative of the step.

It carries the state and the tangent of the state, and emits tangents only::

    h_t  = f(h_(t-1), x_t, p)
    dh_t = f_h dh_(t-1) + f_x dx_t + f_p dp

A parameter is the same at all steps, and so is its tangent. The tangent of an accumulator of
``a bᵀ`` is the sum of two accumulators, of ``da bᵀ`` and of ``a dbᵀ``.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from noria._flags import scatter
from noria.backends.base import LoopCall, grouped
from noria.backends.native.lower.legalize import legal_step
from noria.ir.derivative import derivative
from noria.ir.graph import Atom, Value, is_inexact, is_literal
from noria.ir.passes import dependence, extract


@dataclass(frozen=True, eq=False)
class TangentLoop:
    """The loop of the tangents of a loop.

    Attributes:
        call: the loop.
        tangent_of: for each input that moves, the input that is its tangent.
        parts: for each inexact result of the loop, the numbers of the results of ``call`` whose sum
            is its tangent.
    """

    call: LoopCall
    tangent_of: dict[Value, Value]
    parts: list[list[int]]


def tangent_loop(call: LoopCall, moving: Collection[Value]) -> TangentLoop:
    """The loop of the tangents, for tangents of the ``moving`` inputs and of the state.

    Raises:
        UnsupportedEquation: if there is no native code for it.
        Unsupported: if the derivative of a step is no graph.
    """
    inputs = [*dict.fromkeys((*call.graph.inputs, *call.state))]
    wrt = [v for v in inputs if is_inexact(v) and (v in moving or v in call.state)]
    tangent_of = {v: Value(v.aval) for v in wrt}
    graph = derivative(call.graph, inputs, tangent_of)
    count = len(call.graph.outputs)
    primals = graph.outputs[:count]
    levels = dependence(graph.equations, dict.fromkeys(tangent_of.values(), 1))
    tangents = scatter(graph.outputs[count:], [*map(is_inexact, call.graph.outputs)])
    moves = [t is not None and not is_literal(t) and bool(levels.get(t)) for t in tangents]
    one, two, three = call.ends
    state = [*primals[:one], *(t for t in tangents[:one] if t is not None)]
    outputs, parts = [*state], [[n] for n in range(one, len(state))]

    def put(*atoms: Atom) -> int:
        outputs.extend(atoms)
        return len(outputs) - len(atoms)

    numbers = range(one, three)
    parts += [[put(tangents[n])] if moves[n] else [] for n in numbers if tangents[n] is not None]
    counts: list[int] = []
    first_sum = len(outputs)
    for places in grouped(range(three, count), call.accumulators):
        terms = [
            [tangents[n] if n == m else primals[n] for n in places] for m in places if moves[m]
        ]
        for term in terms:
            put(*term)
        parts.append([first_sum + len(counts) + n for n in range(len(terms))])
        counts += [len(places)] * len(terms)
    shared = (*call.shared, *(tangent_of[v] for v in call.shared if v in tangent_of))
    known = (*inputs, *tangent_of.values())
    step = extract(graph.equations, outputs, known)
    legal_step(step, shared)
    carried = (*call.state, *(tangent_of[v] for v in call.state if v in tangent_of))
    residuals = sum(moves[two:three])
    made = replace(
        call,
        graph=step,
        shared=shared,
        state=carried,
        residuals=residuals,
        accumulators=tuple(counts),
    )
    return TangentLoop(made, tangent_of, parts)
