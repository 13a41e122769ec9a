"""Stages on matrices: the equations whose features are not one run of elements.

Such a stage computes values with a broadcast along rows or features, a transpose, a part of each
row, or a reduction over one axis. The stage goes over a *domain*, in which the last dimension is
the features and the one before them the rows. Outer products and broadcasts are never stored: each
point of the domain reads the numbers that it needs.

    S' = γ S + k vᵀ, y = q S'      domain (heads, rows, features)
                                   store S', reduce q S' over the rows
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from noria.backends.native.plan.access import (
    Access,
    AffineMap,
    Domain,
    Misaligned,
    Unreachable,
    affine,
    composed,
    cut,
    identity,
    merged,
)
from noria.backends.native.plan.lookup import Lookup, SpansPieces
from noria.backends.native.plan.maps import map_of_piece, map_of_reduction
from noria.backends.native.plan.matrix_lookup import (
    ElementwiseAt,
    LoadAt,
    MatrixLookup,
    MatrixNode,
)
from noria.backends.native.plan.stages import Slot
from noria.backends.native.plan.storage import Storage
from noria.ir.graph import Atom, Equation, is_literal, size
from noria.ir.primitives import COMBINE


@dataclass(frozen=True)
class Target:
    """A slot, and where in it each element of a value goes, or each element of an operand adds."""

    slot: Slot
    place: AffineMap


@dataclass
class MatrixStage:
    """A pass over a domain.

    Attributes:
        domain: the sizes of the dimensions.
        stores: values, and where each goes.
        reductions: reductions over one axis of a value of the domain, and where each goes.
        local: the stored values that are computed at these points; they are not loaded again.
    """

    domain: Domain
    stores: list[tuple[Atom, tuple[Target, ...]]] = field(default_factory=list)
    reductions: list[tuple[Equation, tuple[Target, ...]]] = field(default_factory=list)
    local: set[Any] = field(default_factory=set)

    def rows(self) -> int | None:
        """The dimension of the rows: the axis of the sum, else the last axis but one.

        Raises:
            Unreachable: if there is no such dimension.
        """
        last = len(self.domain) - 1
        summed = {n for e, _ in self.reductions for n in reduced_dimensions(self.domain, e)}
        several = any(len(reduced_dimensions(self.domain, e)) > 1 for e, _ in self.reductions)
        found = summed - {last}
        if several or len(found) > 1:
            raise Unreachable
        return found.pop() if found else last - 1 if last else None

    def tiled_axis(self, lookup: Lookup) -> int | None:
        """The last dimension along which a product reads the same rows of an operand.

        ``None`` if the stage stores values point by point, or sums over features.
        """
        last = len(self.domain) - 1
        summed = {n for e, _ in self.reductions for n in reduced_dimensions(self.domain, e)}
        if self.stores or not summed or last in summed:
            return None
        roots = [e.inputs[0] for e, _ in self.reductions]
        nodes = MatrixLookup(lookup).nodes(roots, self.domain, self.local.__contains__)
        read = [node.access.strides for _, _, node in nodes if isinstance(node, LoadAt)]
        shared = [n for n in range(last) if any(some[last] and not some[n] for some in read)]
        return max((n for n in shared if n not in summed), default=None)


def reduced_dimensions(domain: Domain, equation: Equation) -> list[int]:
    """The dimensions of a domain that a reduction sums over."""
    access = composed(domain, identity(domain), map_of_reduction(equation))
    return [n for n, stride in enumerate(access.strides) if not stride and domain[n] > 1]


class Matrices:
    """The stages on matrices of one attempt of the planner, by level.

    Args:
        storage: the slots of values.
        levels: the level at which each stored value is computed.
    """

    def __init__(self, storage: Storage, levels: dict[Any, int]):
        self.storage, self.levels = storage, levels
        self.nodes = MatrixLookup(storage.lookup)
        self.stages: list[tuple[int, MatrixStage]] = []
        self._stage_of: dict[Any, tuple[int, MatrixStage]] = {}
        self._known: dict[Any, bool] = {}

    def owns(self, value: Atom) -> bool:
        """Whether a value is computed in a stage on matrices."""
        if is_literal(value):
            return False
        if value not in self._known:
            self._known[value] = self._owns(value)
        return self._known[value]

    def stores(self, value: Any) -> bool:
        """Whether a stage on matrices stores a value that it computes point by point."""
        return value in self._stage_of

    def _owns(self, value: Atom) -> bool:
        """Whether such a stage makes a value, or stores one that gives it without a product."""
        lookup, follows, multiplies = self.storage.lookup, False, False
        todo, seen = [value], set()
        while todo:
            atom = todo.pop()
            if is_literal(atom) or atom in lookup.leaves or atom in seen:
                continue
            seen.add(atom)
            equation = lookup.producer[atom]
            if atom is not value and atom in lookup.slots:
                follows |= atom in self._stage_of and size(atom) == size(value)
            elif equation in lookup.matrix:
                return atom is not value or equation.name != "concatenate"
            elif equation.name == "dot_general":
                multiplies = True
            elif equation.name not in ("concatenate", *COMBINE):
                todo += [v for v in equation.inputs if not is_literal(v) and size(v) > 1]
        return follows and not multiplies

    # --- placement --------------------------------------------------------------------------------

    def place(self, value: Any, slots: Sequence[Slot]) -> int:
        """Put the stores of a value into a stage; the level at which it is computed."""
        equation = self.storage.lookup.producer[value]
        if equation.name in COMBINE:
            targets = tuple(Target(slot, map_of_reduction(equation)) for slot in slots)
            operand = equation.inputs[0]
            level, _ = self._place(
                operand,
                self._cut_for(map_of_reduction(equation), operand),
                lambda stage: stage.reductions.append((equation, targets)),
            )
            return level
        whole = affine(0, (size(value), 1))
        targets = tuple(Target(slot, whole) for slot in slots)
        level, stage = self._place(
            value, (size(value),), lambda stage: stage.stores.append((value, targets)), value
        )
        stage.local.add(value)
        self._stage_of[value] = level, stage
        return level

    def place_piece(self, equation: Equation, first: int, piece: Any, slots: Sequence[Slot]) -> int:
        """Put the stores of a piece of a concatenation into a stage."""
        place = map_of_piece(equation, first, piece)
        targets = tuple(Target(slot, place) for slot in slots)
        level, _ = self._place(
            piece,
            self._cut_for(place, piece),
            lambda stage: stage.stores.append((piece, targets)),
        )
        return level

    def add_leaf(self, leaf: Any, slots: Sequence[Slot]) -> bool:
        """Store a value in more slots, in a stage that loads all of it; false if there is none."""
        whole = affine(0, (size(leaf), 1))
        for _, stage in self.stages:
            load = LoadAt(leaf, identity(stage.domain))
            if any(node == load for _, _, node in self._nodes_of(stage)):
                stage.stores.append((leaf, tuple(Target(slot, whole) for slot in slots)))
                return True
        return False

    def _cut_for(self, place: AffineMap, value: Any) -> Domain:
        """The coarsest domain of a value in which a map is affine."""
        domain: Domain = (size(value),)
        while True:
            try:
                composed(domain, identity(domain), place)
            except Misaligned as where:
                domain = cut(domain, where)
            else:
                return domain

    def _place(
        self,
        root: Any,
        domain: Domain,
        add: Callable[[MatrixStage], None],
        stored: Any = None,
    ) -> tuple[int, MatrixStage]:
        """Add the computation of ``root`` to the lowest stage that can have it.

        A stage reads values that stages of lower levels have stored. It computes a value of its
        own level only if that is stored by the stage itself, at the same points.
        """
        domain = self.nodes.domain_of(root, domain, stored)
        level, needed = 0, []
        for _, _, node in self.nodes.nodes([root], domain, lambda v: v is stored):
            if isinstance(node, LoadAt) and node.value in self.levels:
                found = self._stage_of.get(node.value)
                if found and self.nodes.is_computed_at(node.value, domain, node.access):
                    needed.append(found)
                    level = max(level, found[0])
                else:
                    level = max(level, self.levels[node.value] + 1)
        same = [stage for n, stage in needed if n == level]
        if any(stage is not same[0] for stage in same):
            same, level = [], level + 1
        options = same or [stage for n, stage in self.stages if n == level]
        for stage in options:
            if self._joins(stage, domain, add):
                return level, stage
        if same:
            level += 1
            for stage in [stage for n, stage in self.stages if n == level]:
                if self._joins(stage, domain, add):
                    return level, stage
        stage = MatrixStage(domain)
        add(stage)
        try:
            stage.rows()
        except Unreachable:
            raise SpansPieces(root) from None
        self.stages.append((level, stage))
        return level, stage

    def _joins(
        self, stage: MatrixStage, domain: Domain, add: Callable[[MatrixStage], None]
    ) -> bool:
        """Add a computation to a stage, if its loops can have it."""
        both = merged(stage.domain, domain)
        if both is None:
            return False
        trial = MatrixStage(both, list(stage.stores), list(stage.reductions))
        add(trial)
        try:
            trial.rows()
        except Unreachable:
            return False
        stage.domain, stage.stores, stage.reductions = both, trial.stores, trial.reductions
        return True

    # --- what stages compute ----------------------------------------------------------------------

    def computed(self, stage: MatrixStage) -> list[Any]:
        """The values that a stage computes."""
        nodes = self._nodes_of(stage)
        return [value for value, _, node in nodes if isinstance(node, ElementwiseAt)]

    def _nodes_of(self, stage: MatrixStage) -> Iterator[tuple[Any, Access, MatrixNode]]:
        roots = [*(a for a, _ in stage.stores), *(e.inputs[0] for e, _ in stage.reductions)]
        return self.nodes.nodes(roots, stage.domain, stage.local.__contains__)
