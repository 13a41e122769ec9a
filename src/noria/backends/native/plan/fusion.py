"""Fusion: the equations of a step become stages, passes over the features.

A value is stored only at a fusion barrier, when a later operation needs the whole vector. Examples
are the row vector of a product, the result of a reduction, the next state and an emitted value. A
costly value that two stages need is stored too, so that it is computed once. Stages have levels: a
stage reads only values that stages of lower levels have stored::

    LSTM, forward    level 0: h U + x W, gates, c, h       over the units; columns of four gates
    LSTM, reverse    level 0: cotangents of the gates      over the units
                     level 1: times the transposed U       over the units
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from noria.backends.native.plan.lookup import SpansPieces, pieces_of
from noria.backends.native.plan.matrices import Matrices, MatrixStage
from noria.backends.native.plan.stages import (
    Constant,
    DotColumns,
    Elementwise,
    Load,
    Slot,
    SolveStage,
    Stage,
)
from noria.backends.native.plan.storage import Storage
from noria.ir.graph import Atom, Equation, size, values_of
from noria.ir.primitives import COMBINE, SOLVES, TRANSCENDENTAL

AnyStage: TypeAlias = Stage | MatrixStage | SolveStage

#: The level and the extent of a stage.
_Key = tuple[int, int]


def fuse(storage: Storage) -> list[AnyStage]:
    """The stages of a step; further values are stored until each can be computed.

    A new slot can change the stages, so they are made again until no value lacks one.
    """
    while True:
        fusion = _Fusion(storage)
        missing = fusion.run()
        if not missing:
            return fusion.in_order()
        for value in missing:
            storage.store(value)


class _Fusion:
    """One attempt with the slots that there are.

    Attributes:
        stages: the stages by level and extent.
        solves: the systems of linear equations, each with its level.
        levels: the level at which a stored value is computed.
    """

    def __init__(self, storage: Storage):
        self.storage, self.lookup = storage, storage.lookup
        self.stages: dict[_Key, Stage] = {}
        self.levels: dict[Any, int] = {}
        self.solves: list[tuple[int, SolveStage]] = []
        self.matrices = Matrices(storage, self.levels) if storage.lookup.matrix else None

    def in_order(self) -> list[AnyStage]:
        """The stages by level."""
        found = [*((level, stage) for (level, _), stage in sorted(self.stages.items()))]
        if self.matrices is None:
            return [stage for _, stage in found]
        every: list[tuple[int, AnyStage]] = [*found, *self.matrices.stages, *self.solves]
        return [stage for _, stage in sorted(every, key=lambda pair: pair[0])]

    def run(self) -> list[Any]:
        """Make the stages; the values that must be stored first, if any."""
        storage = self.storage
        try:
            self._store_operands()
            for equation in storage.equations:
                for value in equation.outputs:
                    if value in self.lookup.slots or value in storage.extra_stores:
                        self.levels[value] = self._place(value)
            for atom, slots in storage.extra_stores.items():
                if atom in self.lookup.leaves and not self._is_stored_by_matrices(atom, slots):
                    self._stage(0, size(atom)).stores.append((atom, tuple(slots)))
            for atom, slot in storage.constants:
                self._stage(0, size(atom)).stores.append((atom, (slot,)))
            return self._assign_products()
        except SpansPieces as spans:
            return [spans.value]

    def _stage(self, level: int, extent: int) -> Stage:
        return self.stages.setdefault((level, extent), Stage(extent))

    def _store_operands(self) -> None:
        """Store rows of products, results of reductions, and numbers that many features need."""
        storage = self.storage
        for equation in storage.equations:
            if equation.name == "dot_general":
                storage.add_dot(equation, storage.row_of(equation))
            elif equation.name in COMBINE:
                storage.store(equation.outputs[0])
            elif equation.name != "concatenate":
                for value in values_of(equation.inputs):
                    if size(value) == 1 < size(equation.outputs[0]) and not self._is_read(value):
                        storage.store(value)

    def _is_read(self, value: Atom) -> bool:
        return isinstance(self.lookup.node_at(value, 0, size(value)), Load | Constant)

    def _place(self, value: Atom) -> int:
        """Put the stores of a value into stages; the level at which it is computed."""
        own = (self.lookup.slots[value],) if value in self.lookup.slots else ()
        slots = (*own, *self.storage.extra_stores.get(value, ()))
        copies = self._copies(value, slots)
        level = self._place_in(value, tuple(slot for slot in slots if slot not in copies))
        if copies:
            self._stage(level + 1, size(value)).stores.append((value, copies))
        return level

    def _place_in(self, value: Atom, slots: tuple[Slot, ...]) -> int:
        equation = self.lookup.producer[value]
        if equation.name in SOLVES:
            return self._place_solve(equation, slots)
        if self.matrices is not None and self.matrices.owns(value):
            return self.matrices.place(value, slots)
        if equation.name == "concatenate":
            return self._place_pieces(equation, slots)
        if equation.name in COMBINE:
            operand = equation.inputs[0]
            if self.matrices is not None and self.matrices.owns(operand):
                self._require(operand)
                level = self.levels[operand] + 1  # it is loaded
            else:
                level = self._level(operand)
            self._stage(level, size(operand)).reductions.append((equation, slots))
            return level
        level = self._level(value)
        stage = self._stage(level, size(value))
        stage.stores.append((value, slots))
        stage.local.add(value)
        return level

    def _place_solve(self, equation: Equation, slots: tuple[Slot, ...]) -> int:
        """The level after those of the matrices and the right sides, which are stored."""
        level = 0
        for value in equation.inputs:
            self._require(value)
            level = max(level, self.levels.get(value, -1) + 1)
        self.solves.append((level, SolveStage(equation, slots)))
        return level

    def _place_pieces(self, equation: Equation, slots: tuple[Slot, ...]) -> int:
        """The level at which the last piece of a concatenation is computed."""
        levels, along = [], 0
        for piece, start in pieces_of(equation):
            if self.matrices is not None and (
                equation in self.lookup.matrix or self.matrices.owns(piece)
            ):
                levels.append(self.matrices.place_piece(equation, along, piece, slots))
            else:
                levels.append(self._level(piece))
                moved = tuple(slot.moved(start) for slot in slots)
                self._stage(levels[-1], size(piece)).stores.append((piece, moved))
            along += piece.aval.shape[equation.params["dimension"]]
        return max(levels)

    def _copies(self, value: Atom, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
        """The operands of rank updates, whose order is their own, that are copied from a matrix."""
        if self.matrices is None:
            return ()
        is_whole = self.lookup.producer[value].name == "concatenate" or self.matrices.owns(value)
        found = tuple(slot for slot in slots if is_whole and slot.kind == "operand")
        if found:
            self._require(value)
        return found

    def _require(self, value: Atom) -> None:
        """Begin again with a slot for a value, if it has none."""
        if value not in self.lookup.slots:
            raise SpansPieces(value)

    def _is_stored_by_matrices(self, leaf: Atom, slots: Sequence[Slot]) -> bool:
        """Whether a stage on matrices that loads a value has stored it, too."""
        is_whole = all(slot.kind != "operand" for slot in slots)
        return is_whole and self.matrices is not None and self.matrices.add_leaf(leaf, slots)

    def _is_of_matrix(self, value: Atom) -> bool:
        return self.matrices is not None and self.matrices.stores(value)

    def _level(self, value: Atom) -> int:
        """The lowest level at which a value can be computed: after its operands are stored."""
        highest = 0
        for _, _, node in self.lookup.nodes([value], size(value), lambda v: v is value):
            if isinstance(node, Load):
                is_inlined = node.value in self.lookup.leaves or (
                    self.lookup.is_computed_at(*node) and not self._is_of_matrix(node.value)
                )
                highest = max(highest, self.levels.get(node.value, 0) + (not is_inlined))
            elif isinstance(node, DotColumns):
                row = self.storage.dots[node.equation].row.value
                highest = max(highest, self.levels[row] + 1 if row in self.levels else 0)
        return highest

    def _assign_products(self) -> list[Any]:
        """Give each stage its products; the costly values that more than one stage computes."""
        needed: dict[tuple[Atom, int], set[_Key]] = {}
        for key, stage in self.stages.items():
            columns: dict[DotColumns, None] = {}
            atoms = *(a for a, _ in stage.stores), *(e.inputs[0] for e, _ in stage.reductions)
            local = stage.local.__contains__
            for value, offset, node in self.lookup.nodes(atoms, stage.extent, local):
                if isinstance(node, DotColumns):
                    columns[node] = None
                    product = node.equation.outputs[0], node.offset
                    needed.setdefault(product, set()).add(key)
                elif isinstance(node, Elementwise) and _is_costly(node) and size(value) > 1:
                    needed.setdefault((value, offset), set()).add(key)
            stage.columns = list(columns)
        if self.matrices is not None:
            for number, (_, matrices) in enumerate(self.matrices.stages):
                for value in self.matrices.computed(matrices):
                    if self.lookup.producer[value].name in TRANSCENDENTAL:
                        needed.setdefault((value, 0), set()).add((-1, number))
        slots = self.lookup.slots
        return [
            value for (value, _), keys in needed.items() if len(keys) > 1 and value not in slots
        ]


def _is_costly(node: Elementwise) -> bool:
    return node.equation.name in TRANSCENDENTAL
