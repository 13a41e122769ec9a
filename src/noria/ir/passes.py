"""Graph passes: dead-code and common-subexpression elimination, subgraphs, data dependence."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from noria.ir.graph import Atom, Equation, Graph, Value, is_literal, size, values_of


def dce(graph: Graph) -> Graph:
    """Dead-code elimination: the graph without the equations that no output needs."""
    return extract(graph.equations, graph.outputs, graph.inputs, keep_inputs=True)


def extract(
    equations: Sequence[Equation],
    outputs: Sequence[Atom],
    inputs: Iterable[Value],
    *,
    keep_inputs: bool = False,
) -> Graph:
    """The subgraph from ``inputs`` to ``outputs``; ``keep_inputs`` keeps the unused inputs."""
    available = dict.fromkeys(inputs)
    needed = set(values_of(outputs))
    kept = []
    for equation in reversed(equations):
        wanted = [v for v in equation.outputs if v in needed]
        if wanted and not all(v in available for v in wanted):
            kept.append(equation)
            needed.update(values_of(equation.inputs))
    used = tuple(v for v in available if keep_inputs or v in needed)
    graph = Graph(used, tuple(outputs), tuple(reversed(kept)))
    made = {v for equation in graph.equations for v in equation.outputs} | set(graph.inputs)
    missing = [v for v in needed if v not in made]
    assert not missing, missing
    return graph


def producers(equations: Iterable[Equation]) -> dict[Any, Equation]:
    """The equation that computes each value."""
    return {v: equation for equation in equations for v in equation.outputs}


def is_zero(atom: Atom, maker: Mapping[Any, Equation]) -> bool:
    """Whether a value is a constant zero: a literal zero, or a broadcast or a cast of one."""
    while not is_literal(atom):
        equation = maker.get(atom)
        if equation is None or equation.name not in ("broadcast_in_dim", "convert_element_type"):
            return False
        atom = equation.inputs[0]
    return not np.any(atom.val)


def toposort(equations: Sequence[Equation]) -> list[Equation]:
    """A stable topological sort: each equation follows the equations that define its inputs."""
    maker = producers(equations)
    done: dict[Equation, None] = {}
    todo = [*reversed(equations)]
    while todo:
        makers = [maker[v] for v in values_of(todo[-1].inputs) if v in maker]
        waits_for = [equation for equation in makers if equation not in done]
        if todo[-1] in done or not waits_for:
            done.setdefault(todo.pop())
        else:
            todo += reversed(waits_for)
    return list(done)


def substitute(graph: Graph, instead: dict[Value, Atom]) -> Graph:
    """The graph with each use of a key of ``instead`` replaced by its value, transitively."""

    def get(atom: Atom) -> Atom:
        while not is_literal(atom) and atom in instead:
            atom = instead[atom]
        return atom

    equations = [
        Equation(e.primitive, tuple(map(get, e.inputs)), e.outputs, e.params, e.source)
        for e in graph.equations
    ]
    return Graph(graph.inputs, tuple(map(get, graph.outputs)), tuple(equations))


#: The equations that replace an equation, and its outputs among their values.
Replacement = tuple[list[Equation], list[Atom]]


def rewrite(graph: Graph, replace: Callable[[Equation], Replacement | None]) -> Graph:
    """Replace equations by others that give the same outputs; ``None`` leaves one as it is."""
    equations: list[Equation] = []
    instead: dict[Value, Atom] = {}
    for equation in graph.equations:
        found = replace(equation)
        if found is None:
            equations.append(equation)
        else:
            equations += found[0]
            instead.update(zip(equation.outputs, found[1], strict=True))
    return substitute(Graph(graph.inputs, graph.outputs, tuple(equations)), instead)


def without_empty_parts(graph: Graph) -> Graph:
    """Concatenations only of arrays with elements, as of ``window[1:]`` of a window of one."""

    def shorter(equation: Equation) -> Replacement | None:
        if equation.name != "concatenate":
            return None
        parts = tuple(a for a in equation.inputs if size(a))
        if len(parts) == len(equation.inputs) or not parts:
            return None
        if len(parts) == 1:
            return [], [*parts]
        output = Value(equation.outputs[0].aval)
        return [replace(equation, inputs=parts, outputs=(output,))], [output]

    return rewrite(graph, shorter)


def inlined(
    graph: Graph, names: dict[Value, Atom], source: Any
) -> tuple[list[Equation], list[Atom]]:
    """The equations of ``graph`` with new outputs; ``names`` maps some inputs to new ones."""
    names = dict(names)
    equations = []
    for e in graph.equations:
        outputs = tuple(Value(v.aval) for v in e.outputs)
        inputs = tuple(a if is_literal(a) else names.get(a, a) for a in e.inputs)
        equations.append(Equation(e.primitive, inputs, outputs, e.params, source))
        names.update(zip(e.outputs, outputs, strict=True))
    return equations, [a if is_literal(a) else names.get(a, a) for a in graph.outputs]


def cse(graph: Graph, kinds: frozenset[str]) -> Graph:
    """Common-subexpression elimination among the primitives named in ``kinds``."""
    seen: dict[Any, Equation] = {}
    instead: dict[Value, Atom] = {}
    equations = []
    for equation in graph.equations:
        inputs = tuple(
            atom if is_literal(atom) else instead.get(atom, atom) for atom in equation.inputs
        )
        equation = Equation(
            equation.primitive, inputs, equation.outputs, equation.params, equation.source
        )
        if equation.name in kinds:
            names = tuple(
                str(atom.val) + str(atom.aval) if is_literal(atom) else atom for atom in inputs
            )
            first = seen.setdefault(
                (equation.name, names, str(sorted(equation.params.items()))), equation
            )
            if first is not equation:
                instead.update(zip(equation.outputs, first.outputs, strict=True))
                continue
        equations.append(equation)
    return substitute(Graph(graph.inputs, graph.outputs, tuple(equations)), instead)


def slices(equation: Equation) -> list[tuple[int, int]] | None:
    """Start and end of each output along the last axis; ``None`` if the equation is no slice."""
    if equation.name not in ("split", "slice") or not equation.inputs[0].aval.ndim:
        return None
    shape, params = equation.inputs[0].aval.shape, equation.params
    if equation.name == "split":
        ends = [sum(map(int, params["sizes"][: i + 1])) for i in range(len(params["sizes"]))]
        return (
            list(zip([0, *ends], ends, strict=False)) if params["axis"] == len(shape) - 1 else None
        )
    whole = params["strides"] is None and equation.outputs[0].aval.shape[:-1] == shape[:-1]
    return [(params["start_indices"][-1], params["limit_indices"][-1])] if whole else None


def users(
    equations: Sequence[Equation], outputs: Sequence[Atom] = ()
) -> dict[Any, list[Equation | None]]:
    """The equations that use each value; ``None`` marks a use as an output."""
    found: dict[Any, list[Equation | None]] = {}
    for equation in equations:
        for value in values_of(equation.inputs):
            found.setdefault(value, []).append(equation)
    for value in values_of(outputs):
        found.setdefault(value, []).append(None)
    return found


def dependence(equations: Sequence[Equation], sources: dict[Value, int]) -> dict[Value, int]:
    """The largest level among the ``sources`` that each value depends on, 0 for none.

    The output of an equation may be a source.
    """
    found = dict(sources)
    for equation in equations:
        level = max((found.get(v, 0) for v in values_of(equation.inputs)), default=0)
        found.update((v, level) for v in equation.outputs if v not in sources)
    return found


def backward_slice(equations: Sequence[Equation], outputs: Iterable[Atom]) -> set[Equation]:
    """The equations that at least one of ``outputs`` depends on; outputs may be free values."""
    wanted = tuple(values_of(outputs))
    return set(extract(equations, wanted, inputs_of(equations, wanted)).equations)


def inputs_of(equations: Sequence[Equation], outputs: Iterable[Atom] = ()) -> list[Value]:
    """The free values: used by ``equations`` or ``outputs``, defined by no equation, each once."""
    made = {v for equation in equations for v in equation.outputs}
    used = values_of([*(v for equation in equations for v in equation.inputs), *outputs])
    return [v for v in used if v not in made]
