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
    MOVES,
    REDUCTIONS,
    TooLong,
    check_dtype,
    first_of,
    legalized,
    pieces_of,
    size,
)
from noria.backends.native.machine import tuning
from noria.backends.native.plan.stages import (
    BlockDot,
    Constant,
    Dot,
    DotColumns,
    Elementwise,
    Load,
    Node,
    RankUpdate,
    Slot,
    Stage,
)
from noria.ir.graph import Equation, Graph, Value, is_literal, size_in_bytes, values_of
from noria.ir.passes import users

#: The kinds of buffers that a kernel reads, and of those that it fills, in the order in which it is given them.
INPUTS, RESULTS = ("shared", "step", "boundary", "state"), ("next", "emitted", "accumulator")


class Schedule:
    """A graph in stages.

    Args:
        graph: equations of one example and one step; its first outputs are the next state, the others are emitted.
        shared: inputs that are the same for all steps and examples.
        steps: inputs that are not.
        state: inputs that the first outputs replace.
        previous: those of the ``steps`` of which a step reads what the loop takes next.
        accumulators: the last outputs are summed over steps and examples, one by one (1), or the outer product of two (2).
        prefer_block: whether a product with a weight of so many bytes is made for a block of steps at once, if it can be.

    Raises:
        UnsupportedEquation: if there is no code for an equation.
    """

    def __init__(
        self,
        graph: Graph,
        shared: Sequence[Any],
        steps: Sequence[Any],
        state: Sequence[Any],
        accumulators: Sequence[int] = (),
        previous: Sequence[Any] = (),
        prefer_block: Callable[[int], bool] = lambda weight: False,
    ):
        graph = legalized(graph, shared)
        if len(graph.equations) > (most := tuning().equations):
            raise TooLong(len(graph.equations), most)
        self.shared, self.steps, self.state = tuple(shared), tuple(steps), tuple(state)
        self.previous = tuple(previous)
        self.outputs = graph.outputs[: len(graph.outputs) - sum(accumulators)]
        operands = grouped(graph.outputs[len(self.outputs) :], accumulators)
        self.accumulators = tuple(Value(aval_of_total(some)) for some in operands)
        self.equations = graph.equations
        self.producer = {v: e for e in self.equations for v in e.outputs}
        self.slots: dict[Any, Slot] = {}
        for kind, values in (("shared", shared), ("step", steps), ("state", state)):
            self.slots |= {v: Slot(kind, i) for i, v in enumerate(values)}
        for value in (*self.slots, *graph.outputs, *self.producer):
            check_dtype(value)
        self.scratch: list[Any] = []
        self.update_operands: list[Any] = []
        self.time_block: list[Any] = []
        self.extra_stores: dict[Any, list[Slot]] = {}  # where else a value goes
        self.constants: list[
            tuple[Any, Slot]
        ] = []  # where numbers go that are written in the graph
        self.dots: dict[Equation, Dot] = {}
        self.prologue: list[BlockDot] = []
        self.epilogue: list[BlockDot] = []
        self.leaves = frozenset(self.slots)
        self._hoist_to_block(prefer_block, users(graph.equations, graph.outputs))
        self._destinations()
        self.updates = [
            update for n, some in enumerate(operands) for update in self._updates(n, some)
        ]
        self.stages: list[Stage] = []
        while not self._plan():
            pass

    def values(self, kind: str) -> Sequence[Any]:
        """What stands in the buffers of a kind."""
        width = len(self.state)
        return {
            "shared": self.shared,
            "step": self.steps,
            "boundary": self.previous,  # what they read at the last step
            "state": self.state,
            "next": self.outputs[:width],
            "emitted": self.outputs[width:],
            "accumulator": self.accumulators,
            "scratch": self.scratch,
            "time_block": self.time_block,
            "operand": self.update_operands,
        }[kind]

    def buffers(self, kinds: Sequence[str]) -> list[Slot]:
        """All buffers of some kinds, in the order in which a kernel is given them."""
        return [Slot(kind, number) for kind in kinds for number in range(len(self.values(kind)))]

    # --- products of many steps -------------------------------------------------------------------------------------

    def _hoist_to_block(
        self, prefer_block: Callable[[int], bool], uses: dict[Any, list[Any]]
    ) -> None:
        """Take the products out of the steps that can be made before them, of the input, or after them, if they are only emitted."""
        emitted = self.outputs[len(self.state) :]
        for equation in [e for e in self.equations if e.name == "dot_general"]:
            row, weight, _ = self._factors(equation)
            (value,) = equation.outputs
            if not prefer_block(size_in_bytes(weight)):
                continue
            place, given = Slot("time_block", len(self.time_block)), self._given(row)
            if given is not None:
                self.slots[value] = place
                self.leaves |= {value}
                self.time_block.append(value)
                self.prologue.append(
                    BlockDot(equation, self.slots[given.value].moved(given.offset), place)
                )
            elif uses.get(value) == [None] and value in emitted and not is_literal(row):
                self._add_store(row, place)
                self.time_block.append(row)
                self.epilogue.append(
                    BlockDot(equation, place, Slot("emitted", emitted.index(value)))
                )
                given = Load(row, 0, size(row))
            else:
                continue
            self.dots[equation] = self._dot(equation, given)
            del self.producer[value]
        self.equations = tuple(e for e in self.equations if e not in self.dots)

    def _given(self, row: Any) -> Load | None:
        """Where a row stands in the input of a step, if it does."""
        try:
            read = self.node_at(row, 0, size(row))
        except _Spread:
            return None
        if (
            not isinstance(read, Load)
            or read.value not in self.steps
            or read.value in self.previous
        ):
            return None
        return read if size(read.value) >= size(row) else None

    # --- places -----------------------------------------------------------------------------------------------------

    def _destinations(self) -> None:
        width = len(self.state)
        wanted = [
            Slot("next", i) if i < width else Slot("emitted", i - width)
            for i in range(len(self.outputs))
        ]
        apart = {block_dot.target for block_dot in self.epilogue}
        for atom, place in zip(self.outputs, wanted, strict=True):
            if place in apart:
                continue
            if is_literal(atom) or atom in self.slots:
                self._add_store(atom, place)
            else:
                self.slots[atom] = place

    def _add_store(self, atom: Any, place: Slot) -> None:
        """Send a value to one more place."""
        if is_literal(atom):
            self.constants.append((atom, place))
        else:
            self.extra_stores.setdefault(atom, []).append(place)

    def _store(self, value: Any) -> None:
        """Give a value a place of its own."""
        if value not in self.slots:
            self.slots[value] = Slot("scratch", len(self.scratch))
            self.scratch.append(value)

    def _updates(self, accumulator: int, operands: Sequence[Any]) -> Iterator[RankUpdate]:
        """A total in terms of records: the pieces of a concatenation are recorded one by one."""
        left, *more = map(self._pieces, operands)
        for value, row in left:
            if not more:
                yield RankUpdate(accumulator, self._keep_operand(value), None, row, 0)
            pitch = size(operands[-1])
            for other, column in more[0] if more else ():
                one, two = (
                    (other, value) if pitch == 1 else (value, other)
                )  # one column is the same as one row
                yield RankUpdate(
                    accumulator,
                    self._keep_operand(one),
                    self._keep_operand(two),
                    row * pitch + column,
                    pitch,
                )

    def _pieces(self, atom: Any) -> list[tuple[Any, int]]:
        """The values that a value consists of, and where each begins."""
        found, todo = [], [(atom, 0)]
        while todo:
            atom, start = todo.pop()
            equation = None if is_literal(atom) else self.producer.get(atom)
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

    def _keep_operand(self, atom: Any) -> int:
        """Have a value recorded at each step."""
        for number, other in enumerate(self.update_operands):
            if other is atom:
                return number
        self.update_operands.append(atom)
        self._add_store(atom, Slot("operand", len(self.update_operands) - 1))
        return len(self.update_operands) - 1

    # --- looking ----------------------------------------------------------------------------------------------------

    def node_at(
        self,
        atom: Any,
        offset: int,
        extent: int,
        inlined: Callable[[Any], bool] = lambda value: False,
    ) -> Node:
        """What ``atom`` is at ``extent`` features from ``offset`` on; ``inlined`` values as computed, though they are stored."""
        while not is_literal(atom):
            extent = min(extent, size(atom))  # one number is the same for all features
            if atom in self.slots and not (
                self._in_one_pass(atom, offset, extent) and inlined(atom)
            ):
                return Load(atom, offset, extent)
            equation = self.producer[atom]
            if equation.name in MOVES:
                operand = equation.inputs[0]
                offset = 0 if size(operand) == 1 else offset + first_of(equation, atom)
                atom = operand
            elif equation.name == "concatenate":
                atom, offset = _piece(equation, offset, extent)
            elif equation.name == "dot_general":
                return DotColumns(equation, offset)
            else:
                return Elementwise(
                    equation,
                    tuple((a, offset if size(a) == size(atom) else 0) for a in equation.inputs),
                )
        return Constant(atom.val, atom.aval.dtype)

    def _in_one_pass(self, atom: Any, offset: int, extent: int) -> bool:
        """Whether a stored value is computed, element by element, by a pass over these features."""
        alike = atom not in self.leaves and offset == 0 and size(atom) == extent
        return alike and self.producer[atom].name not in ("concatenate", *REDUCTIONS)

    def nodes(
        self, atom: Any, extent: int, inlined: Callable[[Any], bool]
    ) -> Iterator[tuple[Any, int, Node]]:
        """All that is needed for ``atom``, each once, down to what is read."""
        seen, todo = set(), [(atom, 0)]
        while todo:
            atom, offset = todo.pop()
            if is_literal(atom) or (atom, offset) in seen:
                continue
            seen.add((atom, offset))
            node = self.node_at(atom, offset, extent, inlined)
            yield atom, offset, node
            if isinstance(node, Elementwise):
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
                    if value in self.slots or value in self.extra_stores:
                        levels[value] = self._schedule(value, stages, levels)
            for atom, places in self.extra_stores.items():
                if atom in self.leaves:
                    _at(stages, 0, size(atom)).stores.append((atom, tuple(places)))
            for atom, place in self.constants:
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
        return isinstance(self.node_at(value, 0, size(value)), Load | Constant)

    def _factors(self, equation: Equation) -> tuple[Any, Any, int]:
        """The row of a product, the matrix, and the axis of that which is summed over."""
        ((one,), (other,)), _ = equation.params["dimension_numbers"]
        left, right = equation.inputs
        return (right, left, one) if left.aval.ndim == 2 else (left, right, other)

    def _row(self, equation: Equation) -> Load:
        """Where the row of a product stands; it is stored if it is not there yet, or if it is one number in many places."""
        row, _, _ = self._factors(equation)
        read = self.node_at(row, 0, size(row))
        if isinstance(read, Load) and size(read.value) >= size(row):
            return read
        self._store(row)
        return Load(row, 0, size(row))

    def _dot(self, equation: Equation, row: Load) -> Dot:
        _, matrix, contracted_axis = self._factors(equation)
        weight = self.node_at(matrix, 0, size(matrix))
        assert isinstance(weight, Load)
        depth, width = matrix.aval.shape[contracted_axis], matrix.aval.shape[1 - contracted_axis]
        return Dot(
            row, self.shared.index(weight.value), weight.offset, depth, width, contracted_axis
        )

    def _schedule(
        self, value: Any, stages: dict[tuple[int, int], Stage], levels: dict[Any, int]
    ) -> int:
        """Put the stores of a value into stages; the level from which on it can be read."""
        own = (self.slots[value],) if value in self.slots else ()
        equation, places = self.producer[value], (*own, *self.extra_stores.get(value, ()))
        if equation.name in REDUCTIONS:
            operand = equation.inputs[0]
            level = self._level(operand, levels)
            _at(stages, level, size(operand)).reductions.append((equation, places))
            return level
        if equation.name != "concatenate":
            level = self._level(value, levels)
            stage = _at(stages, level, size(value))
            stage.stores.append((value, places))
            stage.local.add(value)
            return level
        highest = 0
        for piece, start in pieces_of(equation):
            level = self._level(piece, levels)
            stored = tuple(place.moved(start) for place in places)
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
            elif isinstance(node, DotColumns) and self.dots[node.equation].row.value in levels:
                highest = max(highest, levels[self.dots[node.equation].row.value] + 1)
        return highest

    def _fill(self, stages: dict[tuple[int, int], Stage]) -> list[Any]:
        """Give each stage its products; the values that more than one stage would compute at some cost."""
        users: dict[tuple[Any, int], set[tuple[int, int]]] = {}
        for key, stage in stages.items():
            columns: dict[DotColumns, None] = {}
            for atom in (
                *(a for a, _ in stage.stores),
                *(e.inputs[0] for e, _ in stage.reductions),
            ):
                for value, offset, node in self.nodes(atom, stage.extent, stage.local.__contains__):
                    if isinstance(node, DotColumns):
                        columns[node] = None
                        users.setdefault((node.equation.outputs[0], node.offset), set()).add(key)
                    elif (
                        isinstance(node, Elementwise)
                        and node.equation.name in HEAVY
                        and size(value) > 1
                    ):
                        users.setdefault((value, offset), set()).add(key)
            stage.columns = list(columns)
        return [
            value for (value, _), keys in users.items() if len(keys) > 1 and value not in self.slots
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
