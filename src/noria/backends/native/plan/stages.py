"""What programs consist of: places in memory, what a value is at some features, products, totals and stages."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from noria.ir.graph import Equation


class Slot(NamedTuple):
    """Where a value stands: a buffer, and the first of its elements there."""

    kind: str  # as in `schedule.Schedule.values`
    number: int
    offset: int = 0

    def moved(self, offset: int) -> "Slot":
        return Slot(self.kind, self.number, self.offset + offset)


# --- what a value is at some features -------------------------------------------------------------------------------


class Constant(NamedTuple):
    """The same number everywhere."""

    value: Any
    dtype: Any


class Load(NamedTuple):
    """Read from memory: ``extent`` elements of ``value`` from ``offset`` on; one is one number for all features."""

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
    operands: tuple[tuple[Any, int], ...]


Node = Constant | Load | DotColumns | Elementwise


class Dot(NamedTuple):
    """A product of a row vector and a matrix that is the same for all steps and examples.

    ``row`` is where the row vector stands, ``weight`` the index of the array among what is shared in which the matrix begins at element
    ``offset``, ``contracted_axis`` the axis of it that is summed over; it has ``depth`` numbers, and the other axis ``width``.
    """

    row: Load
    weight: int
    offset: int
    depth: int
    width: int
    contracted_axis: int

    @property
    def shape(self) -> tuple[int, int]:
        """That of the matrix."""
        return (self.width, self.depth) if self.contracted_axis else (self.depth, self.width)


class BlockDot(NamedTuple):
    """A product that is made for all steps of a stretch at once: before its steps, of the input, or after them, of what was kept.

    Rows of ``source`` are multiplied; the results go to ``target``.
    """

    equation: Equation
    source: Slot
    target: Slot


class RankUpdate(NamedTuple):
    """A part of a total: the outer product of two recorded values, or one recorded value.

    ``left`` and ``right`` are indices of records. The part begins at element ``start`` of the total; its rows are ``row_stride`` elements apart.
    """

    accumulator: int
    left: int
    right: int | None
    start: int
    row_stride: int


@dataclass
class Stage:
    """A pass over ``extent`` features.

    Attributes:
        stores: what is stored, and where.
        reductions: reductions of values of this extent, and where their results go.
        columns: the products that it needs, each from an offset on.
        local: the values that are stored at these same features, so that they need not be read again.
    """

    extent: int
    stores: list[tuple[Any, tuple[Slot, ...]]] = field(default_factory=list)
    reductions: list[tuple[Equation, tuple[Slot, ...]]] = field(default_factory=list)
    columns: list[DotColumns] = field(default_factory=list)
    local: set[Any] = field(default_factory=set)
