"""The parts of a schedule: slots in memory, nodes, products, rank updates and stages."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from noria.ir.graph import Atom, Equation, size


class Slot(NamedTuple):
    """A buffer, by kind and number, and the first element that a value has there.

    `schedule.Schedule.values` has the kinds.
    """

    kind: str
    number: int
    offset: int = 0

    def moved(self, offset: int) -> "Slot":
        """The slot ``offset`` elements further."""
        return Slot(self.kind, self.number, self.offset + offset)


# --- nodes: what a value is at some features ------------------------------------------------------


class Constant(NamedTuple):
    """One number for all features."""

    value: Any
    dtype: Any


class Load(NamedTuple):
    """Read ``extent`` elements of a stored value, from ``offset`` on.

    With an extent of one, all features read the same number.
    """

    value: Any
    offset: int
    extent: int


class DotColumns(NamedTuple):
    """Columns of a product, from ``offset`` on."""

    equation: Equation
    offset: int


class Elementwise(NamedTuple):
    """An element-wise operation on values, each from an offset on."""

    equation: Equation
    operands: tuple[tuple[Atom, int], ...]


Node = Constant | Load | DotColumns | Elementwise


# --- products -------------------------------------------------------------------------------------


class Dot(NamedTuple):
    """A product of a row vector and a weight, a matrix that all steps and examples share.

    Attributes:
        row: the row vector.
        weight: the number of the shared array that holds the matrix.
        offset: the first element of the matrix in that array.
        depth: the size of the contracted axis.
        width: the size of the other axis.
        contracted_axis: the axis of the matrix that is contracted.
    """

    row: Load
    weight: int
    offset: int
    depth: int
    width: int
    contracted_axis: int

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix."""
        return (self.width, self.depth) if self.contracted_axis else (self.depth, self.width)


class BlockDot(NamedTuple):
    """A product that is computed for all steps of a time block at once.

    The rows are in ``source``, the results go to ``target``. In the prologue of the block, the
    source is an input. In the epilogue, the target is an emitted array.
    """

    equation: Equation
    source: Slot
    target: Slot


class RankUpdate(NamedTuple):
    """The outer product of two operands is added to a part of an accumulator.

    Summed over the rows of a time block it is an update of that rank. Without a right operand, the
    rows of the left one are added.

    Attributes:
        accumulator: the number of the accumulator.
        left: the number of the operand along the rows of the accumulator.
        right: the number of the operand along its columns.
        offset: the first element of the part.
        row_stride: elements from row to row of the part.
    """

    accumulator: int
    left: int
    right: int | None
    offset: int
    row_stride: int


@dataclass
class Stage:
    """A pass over ``extent`` features.

    Attributes:
        extent: the number of features.
        stores: values, and the slots that each goes to.
        reductions: reductions of values of this extent, and the slots of their results.
        columns: the products that the stage needs.
        local: the stored values that are computed at these features; they are not loaded again.
    """

    extent: int
    stores: list[tuple[Atom, tuple[Slot, ...]]] = field(default_factory=list)
    reductions: list[tuple[Equation, tuple[Slot, ...]]] = field(default_factory=list)
    columns: list[DotColumns] = field(default_factory=list)
    local: set[Any] = field(default_factory=set)


@dataclass(frozen=True)
class SolveStage:
    """The solutions of systems of linear equations, and the slots that they go to.

    Matrices and right sides are stored values. A system has several right sides, its columns.
    """

    equation: Equation
    slots: tuple[Slot, ...]

    @property
    def unknowns(self) -> int:
        """The unknowns of a system."""
        return int(self.equation.outputs[0].aval.shape[-1])

    @property
    def columns(self) -> int:
        """The columns of a system."""
        return int(self.equation.outputs[0].aval.shape[-2])

    @property
    def systems(self) -> int:
        """The systems of an example."""
        return size(self.equation.outputs[0]) // (self.columns * self.unknowns)
