"""The node of a value at some features: loaded from memory, computed, or a constant.

Slices, concatenations, reshapes and other views need no code: here they become offsets.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from noria.backends.native.plan.stages import (
    Constant,
    DotColumns,
    Elementwise,
    Load,
    Node,
    Slot,
)
from noria.ir.graph import Atom, Equation, Value, is_literal, size
from noria.ir.primitives import COMBINE, VIEWS


class SpansPieces(Exception):
    """A stage needs features of several pieces of a concatenation at once, so it must be stored."""

    def __init__(self, value: Atom):
        self.value = value


def _never(value: Value) -> bool:
    return False


@dataclass(frozen=True, eq=False)
class Lookup:
    """The producers and the slots of values.

    Attributes:
        producer: the equation that computes a value.
        slots: the slot of a stored value.
        leaves: the stored values that no stage computes.
        matrix: the equations that need a stage on matrices (`matrices`).
    """

    producer: dict[Any, Equation]
    slots: dict[Value, Slot]
    leaves: set[Value]
    matrix: frozenset[Equation] = frozenset()

    def node_at(
        self, atom: Atom, offset: int, extent: int, inlined: Callable[[Value], bool] = _never
    ) -> Node:
        """The node of ``atom`` at ``extent`` features from ``offset`` on.

        Args:
            atom: a value or a literal.
            offset: its first element.
            extent: the number of features; a value of one element is the same for all.
            inlined: stored values that the pass computes itself, if it has all their elements.
        """
        while not is_literal(atom):
            extent = min(extent, size(atom))
            if atom in self.slots and not (
                inlined(atom) and self.is_computed_at(atom, offset, extent)
            ):
                return Load(atom, offset, extent)
            equation = self.producer[atom]
            if equation in self.matrix:
                raise SpansPieces(atom)
            if equation.name in VIEWS:
                operand = equation.inputs[0]
                offset = 0 if size(operand) == 1 else offset + _first_of(equation, atom)
                atom = operand
            elif equation.name == "concatenate":
                atom, offset = _piece(equation, offset, extent)
            elif equation.name == "dot_general":
                return DotColumns(equation, offset)
            else:
                count = size(atom)
                operands = ((a, offset if size(a) == count else 0) for a in equation.inputs)
                return Elementwise(equation, tuple(operands))
        return Constant(atom.val, atom.aval.dtype)

    def is_computed_at(self, atom: Atom, offset: int, extent: int) -> bool:
        """Whether a stage computes a stored value element by element at these features."""
        if atom in self.leaves or offset or size(atom) != extent:
            return False
        equation = self.producer[atom]
        name = equation.name
        return equation not in self.matrix and name != "concatenate" and name not in COMBINE

    def nodes(
        self, atoms: Iterable[Atom], extent: int, inlined: Callable[[Value], bool]
    ) -> Iterator[tuple[Atom, int, Node]]:
        """Everything that a stage computes or loads for ``atoms``, each value once."""
        seen: set[tuple[Atom, int]] = set()
        for root in atoms:
            todo = [(root, 0)]
            while todo:
                key = atom, offset = todo.pop()
                if is_literal(atom) or key in seen:
                    continue
                seen.add(key)
                node = self.node_at(atom, offset, extent, inlined)
                yield atom, offset, node
                if isinstance(node, Elementwise):
                    todo += node.operands


def pieces_of(equation: Equation) -> Iterator[tuple[Atom, int]]:
    """The operands of a concatenation, and the first element of each in the result."""
    start = 0
    for operand in equation.inputs:
        yield operand, start
        start += size(operand)


def _piece(equation: Equation, offset: int, extent: int) -> tuple[Atom, int]:
    """The operand of a concatenation that has all these features, and the first of them in it."""
    for piece, start in pieces_of(equation):
        if start <= offset and offset + extent <= start + size(piece):
            return piece, offset - start
    raise SpansPieces(equation.outputs[0])


def _first_of(equation: Equation, value: Value) -> int:
    """The first element of a view in its operand."""
    if equation.name == "slice":
        shape = equation.inputs[0].aval.shape
        return int(np.ravel_multi_index(equation.params["start_indices"], shape))
    if equation.name == "split":
        return sum(size(v) for v in equation.outputs[: equation.outputs.index(value)])
    return 0
