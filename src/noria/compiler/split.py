"""One step in four parts: loop-invariant code, prologue, loop and epilogue."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax

from noria.compiler.levels import (
    CONSTANT,
    INPUT,
    NUMBER,
    STATE,
    made_into_matrices,
    matrix_readers,
    reads_parameter,
)
from noria.compiler.min_cut import min_cut
from noria.compiler.trace import Traced
from noria.ir.build import build
from noria.ir.graph import (
    Atom,
    Equation,
    Graph,
    Value,
    changes,
    is_inexact,
    is_literal,
    values_in,
    values_of,
)
from noria.ir.passes import (
    backward_slice,
    dependence,
    extract,
    producers,
    slices,
    substitute,
    users,
)
from noria.ir.primitives import expands, is_contraction, is_heavy, is_small_solve


class StepLoop:
    """A ``loop`` whose outputs are the next ``state``, then emitted values."""

    loop: Graph
    state: tuple[Value, ...]

    @property
    def next_state(self) -> tuple[Value, ...]:
        return values_in(self.loop.outputs[: len(self.state)])

    @property
    def changes(self) -> list[bool]:
        """Of each array of the state, whether steps change it."""
        return changes(self.state, self.loop.outputs)

    @property
    def unchanged(self) -> tuple[Value, ...]:
        """The arrays of the state that no step changes."""
        pairs = zip(self.state, self.changes, strict=True)
        return tuple(v for v, changes in pairs if not changes)

    @property
    def emitted(self) -> tuple[Atom, ...]:
        return self.loop.outputs[len(self.state) :]


@dataclass(frozen=True, eq=False)
class Split(StepLoop):
    """The parts of a step. Each reads parameters, the input, and outputs of other parts.

    ============= ========================================== =====================================
    ``invariant`` parameters                                 loop-invariant values
    ``prologue``  these, and the input of a step             values hoisted out of the loop
    ``loop``      these, hoisted values, the input, state    the next state, then emitted values
    ``epilogue``  parameters, the input, emitted values      the outputs of the layer
    ============= ========================================== =====================================

    ``shared`` are the inputs of the loop that are the same at each step. ``hoisted`` are its other
    inputs but the state: results of the prologue, or parts of the input. Prologue and loop read
    two groups of values: loop-invariant ``parameters``, and ``steps``, parts of the input.
    ``fixed`` are the parameters that no derivative depends on.
    """

    invariant: Graph
    prologue: Graph
    loop: Graph
    epilogue: Graph
    state: tuple[Value, ...]
    shared: tuple[Value, ...]
    hoisted: tuple[Value, ...]
    parameters: tuple[Value, ...]
    steps: tuple[Value, ...]
    fixed: frozenset[Value] = frozenset()

    def with_names_of(self, other: "Split") -> "Split":
        """The same with parameters and steps in the order of ``other``, which reads the same."""
        return replace(self, parameters=other.parameters, steps=other.steps)

    @property
    def differentiable(self) -> frozenset[Value]:
        """The parameters and parts of the input that have a derivative."""
        return frozenset(filter(is_inexact, (*self.parameters, *self.steps))) - self.fixed

    @property
    def has_products(self) -> bool:
        """Whether the loop has products with parameters, of the input or of the state."""
        return any(
            is_heavy(e) and any(v in self.shared for v in values_of(e.inputs))
            for e in self.loop.equations
        )

    @property
    def reads_out(self) -> bool:
        """Whether the loop has products that do not feed the state."""
        fed_back = backward_slice(self.loop.equations, self.next_state)
        return any(is_contraction(e) and e not in fed_back for e in self.loop.equations)


def split(
    traced: Traced,
    should_hoist: Callable[[Equation], bool] = lambda equation: True,
    should_keep: Callable[[Equation], bool] = lambda equation: False,
    *,
    should_repeat: Callable[[Equation], bool] = lambda equation: False,
    products_leave: bool = False,
) -> Split:
    """Assign each equation of a canonical step to a part.

    Args:
        traced: the step.
        should_hoist: whether a product of the input leaves the loop.
        should_keep: whether a product with a parameter may stay in the loop, though it does not
            feed the state.
        should_repeat: whether the loop computes what depends on parameters alone, in each step and
            for each example; operands of products with a parameter are computed before it.
        products_leave: whether all products that do not feed the state leave the loop. By default a
            product that may stay leaves the loop only if fewer bytes are then emitted.
    """
    everything, next_state, emission = traced.graph.equations, traced.next_state, traced.emitted
    # Counters are made once, before the loop.
    counted = dict.fromkeys(
        (v for e in everything if e.name == "iota" for v in e.outputs), CONSTANT
    )
    levels = dependence(everything, traced.levels | counted)
    inside = {*next_state, *_repeated(everything, levels, should_repeat)}
    constants = [v for v in levels if levels[v] == CONSTANT and v not in inside]
    # The loop computes peeled outputs, as if they were in the state. After the loop, the products
    # of the input that they read would be computed again.
    kept = (*next_state, *traced.kept)
    keep = (lambda equation: False) if products_leave else should_keep
    # A single step has its output in the loop, too.
    first = (*kept, *emission) if traced.once and not products_leave else kept
    # After the loop, matrices that a step makes from its input would go through memory.
    parts = made_into_matrices(everything, levels)
    early = [e for e in _at(everything, levels, INPUT) if is_heavy(e) and e.outputs[0] in parts]
    if early and not (products_leave or traced.once or any(map(should_hoist, early))):
        readers = matrix_readers(everything, levels)
        first = (*first, *(v for e in readers for v in e.outputs))
    emitted = _emitted(everything, levels, first, emission, products_leave, keep)
    # Products of the input are hoisted. So is element-wise work if its result is no larger, and the
    # same holds for a product of two parts of the input, such as an outer product.
    given = (*constants, *traced.steps, *traced.state)
    needed = extract(everything, (*next_state, *emitted), given).equations
    hoisted = _hoisted(needed, levels, (*next_state, *emitted), should_hoist, once=traced.once)
    loop = extract(everything, (*next_state, *emitted), (*constants, *hoisted, *given))
    epilogue = extract(everything, emission, (*constants, *traced.steps, *emitted))
    made = [v for v in hoisted if v not in traced.steps]
    prologue = extract(everything, made, (*constants, *traced.steps))

    def invariant(*values: Value) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(v for v in values if levels.get(v, NUMBER) == CONSTANT))

    used = invariant(*prologue.inputs, *loop.inputs, *epilogue.inputs)
    computed = [v for v in used if v not in traced.parameter_values]
    before = extract(everything, computed, traced.parameter_values)
    smooth = [v for v in traced.parameter_values if is_inexact(v) and v not in traced.fixed]
    moves = dependence(before.equations, dict.fromkeys(smooth, 1))
    return Split(
        before,
        prologue,
        loop,
        epilogue,
        traced.state,
        shared=invariant(*loop.inputs),
        hoisted=tuple(v for v in loop.inputs if levels.get(v, NUMBER) == INPUT),
        parameters=invariant(*prologue.inputs, *loop.inputs),
        steps=tuple(v for v in traced.steps if v in prologue.inputs or v in loop.inputs),
        fixed=frozenset(v for v in used if not moves.get(v)),
    )


def _hoisted(
    needed: Sequence[Equation],
    levels: dict[Value, int],
    wanted: Sequence[Atom],
    should_hoist: Callable[[Equation], bool],
    *,
    once: bool,
) -> tuple[Value, ...]:
    """The values that enter the loop, of the equations that it needs."""
    heavy = [
        e
        for e in _at(needed, levels, INPUT)
        if is_heavy(e) and (reads_parameter(levels, e) or not expands(e))
    ]
    early = [e for e in heavy if should_hoist(e)]
    late = _at(needed, levels, STATE) + [e for e in heavy if not should_hoist(e)]
    if once:  # nothing gains outside of the loop but what must leave it
        before = backward_slice(needed, [v for e in early for v in e.outputs])
        late = [e for e in needed if e not in before]
    return min_cut(
        needed,
        early=early,
        late=late,
        wanted=wanted,
        free=lambda v: levels.get(v, NUMBER) != INPUT,
        prefer_early=True,
    )


def _repeated(
    everything: Sequence[Equation],
    levels: dict[Value, int],
    should_repeat: Callable[[Equation], bool],
) -> set[Value]:
    """The values that depend on parameters alone, and that the loop computes."""
    operands = {v for e in everything if is_heavy(e) for v in values_of(e.inputs)}
    equations = [e for e in _at(everything, levels, CONSTANT) if should_repeat(e)]
    return {v for e in equations for v in e.outputs} - operands


def _emitted(
    everything: Sequence[Equation],
    levels: dict[Value, int],
    next_state: Sequence[Atom],
    emission: Sequence[Atom],
    products_leave: bool,
    should_keep: Callable[[Equation], bool],
) -> tuple[Value, ...]:
    """The values that the loop emits for the outputs: the cut with the fewest bytes.

    Most products with a parameter that do not feed the state are computed after the loop: the
    parameter is then read once for all steps. A product without one, such as ``q S`` of a memory
    ``S``, gains nothing there.
    """
    stateful = _at(everything, levels, STATE)
    fed_back = backward_slice(everything, next_state)

    def leaves(equation: Equation) -> bool:
        is_movable = is_contraction(equation) or is_small_solve(equation)
        movable = is_movable and not products_leave
        stays = should_keep(equation) if reads_parameter(levels, equation) else movable
        return is_heavy(equation) and not stays

    return min_cut(
        stateful,
        early=[e for e in stateful if e in fed_back],
        late=[e for e in stateful if e not in fed_back and leaves(e)],
        wanted=emission,
        free=lambda v: levels.get(v, NUMBER) < STATE,
        prefer_early=False,
    )


#: The number of equations in a row that a slice passes. It bounds the depth of a recursion, not
#: time: the gates of cells have far fewer.
_DEEPEST = 64


def hoist_slices(prologue: Graph, loop: Graph, constants: Sequence[Value]) -> tuple[Graph, Graph]:
    """Prologue and loop with slices hoisted, for each value that the loop reads only in slices.

    A slice of a product becomes a product with a slice of its weights. Each step then reads whole
    arrays from memory, which compilers turn into better code than slices of a larger one.
    """
    uses, inner = users(loop.equations, loop.outputs), users(prologue.equations)
    maker = producers(prologue.equations)
    more: list[Equation] = []
    taken: dict[Value, Atom] = {}
    parts: dict[tuple[int, int, int], Atom] = {}

    def part(atom: Atom, start: int, stop: int, depth: int = 0) -> Atom:
        """``atom[..., start:stop]``, made once: a slice of the value if others read it too."""
        key = id(atom), start, stop
        if key not in parts:
            parts[key] = _part(atom, start, stop, depth)
        return parts[key]

    def _part(atom: Atom, start: int, stop: int, depth: int) -> Atom:
        if is_literal(atom) or not atom.aval.ndim:
            return atom
        # An output of the prologue is itself sliced. Another value has one reader on the way to it.
        expected_uses = 0 if atom in prologue.outputs else 1
        whole = atom in constants or len(inner.get(atom, ())) > expected_uses
        equation = None if whole or depth == _DEEPEST else maker.get(atom)
        if equation is not None and equation.name in ("add", "sub", "mul"):
            return _copy(
                equation, [part(operand, start, stop, depth + 1) for operand in equation.inputs]
            )
        if equation is not None and equation.name == "dot_general":
            (operand, weight), ((_, wc), (batch, _)) = (
                equation.inputs,
                equation.params["dimension_numbers"],
            )
            if weight in constants and not batch and weight.aval.ndim == len(wc) + 1:
                free = next(axis for axis in range(weight.aval.ndim) if axis not in wc)
                return _copy(equation, [operand, _slice(weight, start, stop, free)])
        return _slice(atom, start, stop, atom.aval.ndim - 1)

    def _copy(equation: Equation, inputs: list[Atom]) -> Atom:
        made, (value,) = build(equation.bind, inputs, equation.source)
        more.extend(made)
        return value

    def _slice(atom: Atom, start: int, stop: int, axis: int) -> Atom:
        made, (value,) = build(
            lambda a: jax.lax.slice_in_dim(a, start, stop, axis=axis), [atom], None
        )
        more.extend(made)
        return value

    for value in prologue.outputs:
        equations = [e for e in uses.get(value, [None]) if e and slices(e)]
        if len(equations) == len(uses.get(value, [None])):
            for equation in equations:
                cuts = zip(equation.outputs, slices(equation) or [], strict=True)
                for output, (start, stop) in cuts:
                    taken[output] = part(value, start, stop)
    if not taken:
        return prologue, loop
    loop = substitute(Graph(loop.inputs, loop.outputs, loop.equations), taken)
    known = (*loop.inputs, *values_of(taken.values()))
    loop = extract(loop.equations, loop.outputs, known)
    outputs = tuple(v for v in (*prologue.outputs, *taken.values()) if v in loop.inputs)
    return extract((*prologue.equations, *more), outputs, prologue.inputs), loop


def _at(equations: Sequence[Equation], levels: dict[Value, int], level: int) -> list[Equation]:
    return [
        e
        for e in equations
        if max((levels.get(v, NUMBER) for v in values_of(e.outputs)), default=NUMBER) == level
    ]
