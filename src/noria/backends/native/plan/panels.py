"""Panels: the columns of weights in the order in which a kernel reads them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from noria._integers import ceil_div
from noria.backends.native.plan import matrix_unit
from noria.backends.native.plan.matrices import MatrixStage
from noria.backends.native.plan.stages import Dot, DotColumns, SolveStage, Stage
from noria.ir.graph import Atom, Equation

#: Panels and arrays begin at multiples of so many bytes: a cache line, and the widest vector.
ALIGN = 64


def aligned(number: int) -> int:
    """The next multiple of `ALIGN`."""
    return ceil_div(number, ALIGN) * ALIGN


def item_of(value: Atom) -> int:
    """Bytes of one number of a value."""
    return int(np.dtype(value.aval.dtype).itemsize)


@dataclass(frozen=True)
class Panel:
    """Columns that are multiplied with the same row.

    Attributes:
        dot: the product of the first column.
        columns: for each vector of the panel a product, and the number of a vector of the block.
        tile_offset: the first byte of the products in a row of the tile.
        offset: the first byte of the packed panels, of all packed weights. Panels of the same
            columns in the same blocks have the same, unless a thread packs its own for each stage.
        bytes: of the panel of one block.
        by_unit: whether the matrix unit multiplies.
        parts: the first byte of the parts of the row, of all parts that the stage needs; for the
            matrix unit.
    """

    dot: Dot
    columns: tuple[tuple[DotColumns, int], ...]
    tile_offset: int
    offset: int
    bytes: int
    by_unit: bool
    parts: int

    @property
    def products(self) -> list[DotColumns]:
        """The products whose columns the panel has."""
        return list(dict.fromkeys(product for product, _ in self.columns))


class PanelSegment(NamedTuple):
    """Columns of one product that are neighbours in a vector of a panel.

    Attributes:
        product: the product.
        first: the feature of the block that the first column belongs to.
        width: how many columns there are.
    """

    product: DotColumns
    first: int
    width: int


@dataclass
class PanelMemory:
    """The memory of packed panels. Panels with the same content share a place.

    Attributes:
        bytes: of all panels.
        places: the first byte of each content.
    """

    bytes: int = 0
    places: dict[Any, int] = field(default_factory=dict)

    def place(self, content: Any, bytes_: int) -> int:
        """The place of panels with a content; a new one, of so many bytes, if they have none."""
        if content not in self.places:
            self.places[content] = self.bytes
            self.bytes += aligned(bytes_)
        return self.places[content]


def content_of(
    columns: Sequence[tuple[DotColumns, int]], dots: Mapping[Equation, Dot]
) -> tuple[Any, ...]:
    """What decides the content of a panel: the columns of weights, not what they multiply."""
    products = list(dict.fromkeys(product for product, _ in columns))
    return tuple(
        (products.index(product), product.offset, v, *dots[product.equation][1:])
        for product, v in columns
    )


@dataclass(frozen=True)
class StageTiling:
    """A stage in blocks.

    Attributes:
        stage: the stage.
        vectors: vectors of a block.
        panels: the products of a block.
        row_stride: bytes from row to row of the tile.
    """

    stage: Stage
    vectors: int
    panels: tuple[Panel, ...]
    row_stride: int

    @property
    def by_unit(self) -> bool:
        """Whether the matrix unit multiplies with some of the panels."""
        return any(panel.by_unit for panel in self.panels)

    @property
    def part_bytes(self) -> int:
        """Bytes of the parts of the rows of an example, for the matrix unit."""
        of_unit = [panel for panel in self.panels if panel.by_unit]
        ends = (panel.parts + matrix_unit.row_bytes(panel.dot.depth) for panel in of_unit)
        return max(ends, default=0)


@dataclass(frozen=True)
class MatrixTiling:
    """A stage on matrices in blocks of ``vectors`` vectors of features.

    With a ``tiled_axis`` it is a product, and takes several points of this dimension at a time.
    """

    stage: MatrixStage
    vectors: int
    tiled_axis: int | None = None
    panels: tuple[Panel, ...] = ()
    row_stride: int = 0

    def counts(self, lanes: int) -> tuple[int, list[int], list[int]]:
        """As `KernelPlan.counts`."""
        return counts_of(self.stage.domain[-1], self.vectors, lanes)


@dataclass(frozen=True)
class SolveTiling:
    """A stage of systems of linear equations; the rows of a matrix have ``vectors`` vectors."""

    stage: SolveStage
    vectors: int
    panels: tuple[Panel, ...] = ()
    row_stride: int = 0


AnyTiling: TypeAlias = StageTiling | MatrixTiling | SolveTiling


def equal_parts(things: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """Divide ``things`` into as few nearly equal parts as possible, of at most ``most``."""
    width = ceil_div(len(things), ceil_div(len(things), most))
    for start in range(0, len(things), width):
        yield things[start : start + width]


def counts_of(extent: int, vectors: int, lanes: int) -> tuple[int, list[int], list[int]]:
    """The number of full blocks, the features of each of their vectors, and of the last block."""
    full, left = divmod(extent, vectors * lanes)
    rest = [max(0, min(lanes, left - v * lanes)) for v in range(vectors)]
    return full, [lanes] * vectors, rest if left else []
