"""Accumulators, the gradients of parameters that the reverse loop sums up, as rank updates."""

from collections.abc import Iterator, Sequence
from typing import Any

from noria.backends.native.plan.lookup import pieces_of
from noria.backends.native.plan.stages import RankUpdate, Slot
from noria.backends.native.plan.storage import Storage
from noria.ir.graph import Atom, is_literal, size
from noria.ir.primitives import VIEWS


def rank_updates(storage: Storage, operands: Sequence[Sequence[Atom]]) -> Iterator[RankUpdate]:
    """The updates of each accumulator; their operands are stored for each step of a time block.

    A concatenation is not stored: its pieces are operands one by one, each for a part of the
    accumulator.
    """
    for number, (left, *more) in enumerate(operands):
        columns = _pieces(storage, more[0]) if more else []
        row_stride = size(more[0]) if more else 0
        for value, row in _pieces(storage, left):
            if not more:
                yield RankUpdate(number, _operand(storage, value), None, row, 0)
            for other, column in columns:
                # The outer product with one number is a row, not a column.
                one, two = (other, value) if row_stride == 1 else (value, other)
                left_number, right_number = _operand(storage, one), _operand(storage, two)
                offset = row * row_stride + column
                yield RankUpdate(number, left_number, right_number, offset, row_stride)


def _pieces(storage: Storage, atom: Atom) -> list[tuple[Any, int]]:
    """The values that a value consists of, and the first element of each in it."""
    found, todo = [], [(atom, 0)]
    while todo:
        atom, start = todo.pop()
        equation = None if is_literal(atom) else storage.lookup.producer.get(atom)
        if equation in storage.lookup.matrix:
            equation = None  # its elements are in another order
        if equation is not None and equation.name == "concatenate":
            todo += reversed([(piece, start + first) for piece, first in pieces_of(equation)])
        elif (
            equation is not None
            and equation.name in VIEWS
            and size(equation.inputs[0]) == size(atom)
        ):
            todo.append((equation.inputs[0], start))
        else:
            found.append((atom, start))
    return found


def _operand(storage: Storage, atom: Atom) -> int:
    """The number of an operand; the same atom is stored once."""
    for number, other in enumerate(storage.update_operands):
        if other is atom:
            return number
    storage.update_operands.append(atom)
    storage.add_store(atom, Slot("operand", len(storage.update_operands) - 1))
    return len(storage.update_operands) - 1
