"""From the equations of one step to stages: passes over the features, between which values are stored.

A *stage* runs over blocks of consecutive features, and computes in registers whatever its stores need at those features.
Slices, concatenations and reshapes become offsets. A value is stored (has a *place*) if something needs all of it: the other
operand of a product, a sum over features, the next state, what is emitted; and if two stages would compute it twice.
Stages are numbered so that each reads only what stages of lower numbers have stored::

    LSTM, forward    stage 0: h U + x W, gates, c, h          over the units; columns of four gates side by side
    LSTM, reverse    stage 0: cotangents of the gates         over the units
                     stage 1: times the transposed U          over the units
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from noria.backends.base import aval_of_total, grouped
from noria.backends.native.codegen.elementwise import HEAVY
from noria.backends.native.lower.legalize import (
    MOST_EQUATIONS,
    MOVES,
    REDUCTIONS,
    TooLong,
    check_dtype,
    first_of,
    legalized,
    pieces_of,
    size,
)
from noria.backends.native.plan.stages import (
    Apply,
    Dot,
    Load,
    Node,
    Number,
    Product,
    Projection,
    Slot,
    Stage,
    Term,
)
from noria.ir.graph import Equation, Graph, Value, is_literal, size_in_bytes, values_of
from noria.ir.passes import users

#: The kinds of buffers that a kernel reads, and of those that it fills, in the order in which it is given them.
INPUTS, RESULTS = ("shared", "step", "first", "state"), ("next", "emitted", "total")


class Schedule:
    """A graph in stages.

    Args:
        graph: equations of one example and one step; its first outputs are the next state, the others are emitted.
        shared: inputs that are the same for all steps and examples.
        steps: inputs that are not.
        state: inputs that the first outputs replace.
        shifted: those of the ``steps`` of which a step reads what the loop takes next.
        totals: the last outputs are summed over steps and examples, one by one (1), or the outer product of two (2).
        apart: whether a product with a weight of so many bytes is made for a stretch of steps at once, if it can be.

    Raises:
        UnsupportedEquation: if there is no code for an equation.
    """

    def __init__(
        self,
        graph: Graph,
        shared: Sequence[Any],
        steps: Sequence[Any],
        state: Sequence[Any],
        totals: Sequence[int] = (),
        shifted: Sequence[Any] = (),
        apart: Callable[[int], bool] = lambda weight: False,
    ):
        graph = legalized(graph, shared)
        if len(graph.equations) > MOST_EQUATIONS:
            raise TooLong(len(graph.equations))
        self.shared, self.steps, self.state = tuple(shared), tuple(steps), tuple(state)
        self.shifted = tuple(shifted)
        self.outputs = graph.outputs[: len(graph.outputs) - sum(totals)]
        operands = grouped(graph.outputs[len(self.outputs) :], totals)
        self.totals = tuple(Value(aval_of_total(some)) for some in operands)
        self.equations = graph.equations
        self.maker = {v: e for e in self.equations for v in e.outputs}
        self.places: dict[Any, Slot] = {}
        for kind, values in (("shared", shared), ("step", steps), ("state", state)):
            self.places |= {v: Slot(kind, i) for i, v in enumerate(values)}
        for value in (*self.places, *graph.outputs, *self.maker):
            check_dtype(value)
        self.scratch: list[Any] = []
        self.records: list[Any] = []
        self.stretch: list[Any] = []
        self.also: dict[Any, list[Slot]] = {}  # where else a value goes
        self.numbers: list[tuple[Any, Slot]] = []  # where numbers go that are written in the graph
        self.dots: dict[Equation, Dot] = {}
        self.before: list[Projection] = []
        self.after: list[Projection] = []
        self.leaves = frozenset(self.places)
        self._set_apart(apart, users(graph.equations, graph.outputs))
        self._destinations()
        self.terms = [term for n, some in enumerate(operands) for term in self._terms(n, some)]
        self.stages: list[Stage] = []
        while not self._plan():
            pass

    def values(self, kind: str) -> Sequence[Any]:
        """What stands in the buffers of a kind."""
        width = len(self.state)
        return {
            "shared": self.shared,
            "step": self.steps,
            "first": self.shifted,  # what they read at the last step
            "state": self.state,
            "next": self.outputs[:width],
            "emitted": self.outputs[width:],
            "total": self.totals,
            "scratch": self.scratch,
            "stretch": self.stretch,
            "record": self.records,
        }[kind]

    def buffers(self, kinds: Sequence[str]) -> list[Slot]:
        """All buffers of some kinds, in the order in which a kernel is given them."""
        return [Slot(kind, number) for kind in kinds for number in range(len(self.values(kind)))]

    # --- products of many steps -------------------------------------------------------------------------------------

    def _set_apart(self, apart: Callable[[int], bool], uses: dict[Any, list[Any]]) -> None:
        """Take the products out of the steps that can be made before them, of the input, or after them, if they are only emitted."""
        emitted = self.outputs[len(self.state) :]
        for equation in [e for e in self.equations if e.name == "dot_general"]:
            row, weight, _ = self._factors(equation)
            (value,) = equation.outputs
            if not apart(size_in_bytes(weight)):
                continue
            place, given = Slot("stretch", len(self.stretch)), self._given(row)
            if given is not None:
                self.places[value] = place
                self.leaves |= {value}
                self.stretch.append(value)
                self.before.append(
                    Projection(equation, self.places[given.value].shifted(given.offset), place)
                )
            elif uses.get(value) == [None] and value in emitted and not is_literal(row):
                self._also(row, place)
                self.stretch.append(row)
                self.after.append(
                    Projection(equation, place, Slot("emitted", emitted.index(value)))
                )
                given = Load(row, 0, size(row))
            else:
                continue
            self.dots[equation] = self._dot(equation, given)
            del self.maker[value]
        self.equations = tuple(e for e in self.equations if e not in self.dots)

    def _given(self, row: Any) -> Load | None:
        """Where a row stands in the input of a step, if it does."""
        try:
            read = self.look(row, 0, size(row))
        except _Spread:
            return None
        if not isinstance(read, Load) or read.value not in self.steps or read.value in self.shifted:
            return None
        return read if size(read.value) >= size(row) else None

    # --- places -----------------------------------------------------------------------------------------------------

    def _destinations(self) -> None:
        width = len(self.state)
        wanted = [
            Slot("next", i) if i < width else Slot("emitted", i - width)
            for i in range(len(self.outputs))
        ]
        apart = {projection.target for projection in self.after}
        for atom, place in zip(self.outputs, wanted, strict=True):
            if place in apart:
                continue
            if is_literal(atom) or atom in self.places:
                self._also(atom, place)
            else:
                self.places[atom] = place

    def _also(self, atom: Any, place: Slot) -> None:
        """Send a value to one more place."""
        if is_literal(atom):
            self.numbers.append((atom, place))
        else:
            self.also.setdefault(atom, []).append(place)

    def _store(self, value: Any) -> None:
        """Give a value a place of its own."""
        if value not in self.places:
            self.places[value] = Slot("scratch", len(self.scratch))
            self.scratch.append(value)

    def _terms(self, total: int, operands: Sequence[Any]) -> Iterator[Term]:
        """A total in terms of records: the pieces of a concatenation are recorded one by one."""
        left, *more = map(self._pieces, operands)
        for value, row in left:
            if not more:
                yield Term(total, self._record(value), None, row, 0)
            pitch = size(operands[-1])
            for other, column in more[0] if more else ():
                one, two = (
                    (other, value) if pitch == 1 else (value, other)
                )  # one column is the same as one row
                yield Term(total, self._record(one), self._record(two), row * pitch + column, pitch)

    def _pieces(self, atom: Any) -> list[tuple[Any, int]]:
        """The values that a value consists of, and where each begins."""
        found, todo = [], [(atom, 0)]
        while todo:
            atom, start = todo.pop()
            equation = None if is_literal(atom) else self.maker.get(atom)
            if equation is not None and equation.name == "concatenate":
                todo += reversed([(piece, start + first) for piece, first in pieces_of(equation)])
            elif (
                equation is not None
                and equation.name in MOVES
                and size(equation.inputs[0]) == size(atom)
            ):
                todo.append((equation.inputs[0], start))
            else:
                found.append((atom, start))
        return found

    def _record(self, atom: Any) -> int:
        """Have a value recorded at each step."""
        for number, other in enumerate(self.records):
            if other is atom:
                return number
        self.records.append(atom)
        self._also(atom, Slot("record", len(self.records) - 1))
        return len(self.records) - 1

    # --- looking ----------------------------------------------------------------------------------------------------

    def look(
        self,
        atom: Any,
        offset: int,
        extent: int,
        opened: Callable[[Any], bool] = lambda value: False,
    ) -> Node:
        """What ``atom`` is at ``extent`` features from ``offset`` on; ``opened`` values as computed, though they are stored."""
        while not is_literal(atom):
            extent = min(extent, size(atom))  # one number is the same for all features
            if atom in self.places and not (
                self._in_one_pass(atom, offset, extent) and opened(atom)
            ):
                return Load(atom, offset, extent)
            equation = self.maker[atom]
            if equation.name in MOVES:
                operand = equation.inputs[0]
                offset = 0 if size(operand) == 1 else offset + first_of(equation, atom)
                atom = operand
            elif equation.name == "concatenate":
                atom, offset = _piece(equation, offset, extent)
            elif equation.name == "dot_general":
                return Product(equation, offset)
            else:
                return Apply(
                    equation,
                    tuple((a, offset if size(a) == size(atom) else 0) for a in equation.inputs),
                )
        return Number(atom.val, atom.aval.dtype)

    def _in_one_pass(self, atom: Any, offset: int, extent: int) -> bool:
        """Whether a stored value is computed, element by element, by a pass over these features."""
        alike = atom not in self.leaves and offset == 0 and size(atom) == extent
        return alike and self.maker[atom].name not in ("concatenate", *REDUCTIONS)

    def nodes(
        self, atom: Any, extent: int, opened: Callable[[Any], bool]
    ) -> Iterator[tuple[Any, int, Node]]:
        """All that is needed for ``atom``, each once, down to what is read."""
        seen, todo = set(), [(atom, 0)]
        while todo:
            atom, offset = todo.pop()
            if is_literal(atom) or (atom, offset) in seen:
                continue
            seen.add((atom, offset))
            node = self.look(atom, offset, extent, opened)
            yield atom, offset, node
            if isinstance(node, Apply):
                todo += node.operands

    # --- planning ---------------------------------------------------------------------------------------------------

    def _plan(self) -> bool:
        """Make the stages; false if some value turned out to need a place, so that they must be made again."""
        stages: dict[tuple[int, int], Stage] = {}
        levels: dict[Any, int] = {}
        try:
            self._prepare()
            for equation in self.equations:
                for value in equation.outputs:
                    if value in self.places or value in self.also:
                        levels[value] = self._schedule(value, stages, levels)
            for atom, places in self.also.items():
                if atom in self.leaves:
                    _at(stages, 0, size(atom)).stores.append((atom, tuple(places)))
            for atom, place in self.numbers:
                _at(stages, 0, size(atom)).stores.append((atom, (place,)))
            twice = self._fill(stages)
        except _Spread as spread:
            twice = [spread.value]
        for value in twice:
            self._store(value)
        self.stages = [stages[key] for key in sorted(stages)]
        return not twice

    def _prepare(self) -> None:
        """Places for the rows of products, for sums, and for single numbers that many features use."""
        for equation in self.equations:
            if equation.name == "dot_general":
                self.dots[equation] = self._dot(equation, self._row(equation))
            elif equation.name in REDUCTIONS:
                self._store(equation.outputs[0])
            elif equation.name != "concatenate":
                for value in values_of(equation.inputs):
                    if size(value) == 1 < size(equation.outputs[0]) and not self._is_read(value):
                        self._store(value)

    def _is_read(self, value: Any) -> bool:
        return isinstance(self.look(value, 0, size(value)), Load | Number)

    def _factors(self, equation: Equation) -> tuple[Any, Any, int]:
        """The row of a product, the matrix, and the axis of that which is summed over."""
        ((one,), (other,)), _ = equation.params["dimension_numbers"]
        left, right = equation.inputs
        return (right, left, one) if left.aval.ndim == 2 else (left, right, other)

    def _row(self, equation: Equation) -> Load:
        """Where the row of a product stands; it is stored if it is not there yet, or if it is one number in many places."""
        row, _, _ = self._factors(equation)
        read = self.look(row, 0, size(row))
        if isinstance(read, Load) and size(read.value) >= size(row):
            return read
        self._store(row)
        return Load(row, 0, size(row))

    def _dot(self, equation: Equation, row: Load) -> Dot:
        _, matrix, along = self._factors(equation)
        weight = self.look(matrix, 0, size(matrix))
        assert isinstance(weight, Load)
        depth, width = matrix.aval.shape[along], matrix.aval.shape[1 - along]
        return Dot(row, self.shared.index(weight.value), weight.offset, depth, width, along)

    def _schedule(
        self, value: Any, stages: dict[tuple[int, int], Stage], levels: dict[Any, int]
    ) -> int:
        """Put the stores of a value into stages; the level from which on it can be read."""
        own = (self.places[value],) if value in self.places else ()
        equation, places = self.maker[value], (*own, *self.also.get(value, ()))
        if equation.name in REDUCTIONS:
            operand = equation.inputs[0]
            level = self._level(operand, levels)
            _at(stages, level, size(operand)).sums.append((equation, places))
            return level
        if equation.name != "concatenate":
            level = self._level(value, levels)
            stage = _at(stages, level, size(value))
            stage.stores.append((value, places))
            stage.own.add(value)
            return level
        highest = 0
        for piece, start in pieces_of(equation):
            level = self._level(piece, levels)
            stored = tuple(place.shifted(start) for place in places)
            _at(stages, level, size(piece)).stores.append((piece, stored))
            highest = max(highest, level)
        return highest

    def _level(self, value: Any, levels: dict[Any, int]) -> int:
        """The first level at which a value can be computed: after what it reads has been stored."""
        extent, highest = size(value), 0
        for _, _, node in self.nodes(value, extent, lambda v: v is value):
            if isinstance(node, Load):
                stored = node.value not in self.leaves and not self._in_one_pass(*node)
                highest = max(highest, levels.get(node.value, 0) + stored)
            elif isinstance(node, Product) and self.dots[node.equation].row.value in levels:
                highest = max(highest, levels[self.dots[node.equation].row.value] + 1)
        return highest

    def _fill(self, stages: dict[tuple[int, int], Stage]) -> list[Any]:
        """Give each stage its products; the values that more than one stage would compute at some cost."""
        users: dict[tuple[Any, int], set[tuple[int, int]]] = {}
        for key, stage in stages.items():
            columns: dict[Product, None] = {}
            for atom in (*(a for a, _ in stage.stores), *(e.inputs[0] for e, _ in stage.sums)):
                for value, offset, node in self.nodes(atom, stage.extent, stage.own.__contains__):
                    if isinstance(node, Product):
                        columns[node] = None
                        users.setdefault((node.equation.outputs[0], node.offset), set()).add(key)
                    elif (
                        isinstance(node, Apply) and node.equation.name in HEAVY and size(value) > 1
                    ):
                        users.setdefault((value, offset), set()).add(key)
            stage.columns = list(columns)
        return [
            value
            for (value, _), keys in users.items()
            if len(keys) > 1 and value not in self.places
        ]


def _at(stages: dict[tuple[int, int], Stage], level: int, extent: int) -> Stage:
    return stages.setdefault((level, extent), Stage(extent))


def _piece(equation: Equation, offset: int, extent: int) -> tuple[Any, int]:
    """The operand of a concatenation that has all of these features, and where they begin in it."""
    for piece, start in pieces_of(equation):
        if start <= offset and offset + extent <= start + size(piece):
            return piece, offset - start
    raise _Spread(equation.outputs[0])


class _Spread(Exception):
    """A stage needs features of several pieces of a concatenation at once."""

    def __init__(self, value: Any):
        self.value = value
