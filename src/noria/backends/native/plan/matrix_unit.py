"""The sizes of products by the matrix unit: `noria.backends.native.codegen.matrix_unit`."""

from typing import NamedTuple

from noria._integers import ceil_div

#: Rows that are multiplied at a time, and steps along the depth of one instruction.
ROWS, DEPTH = 16, 32

#: Bfloat16 numbers whose sum is a float32 number.
PARTS = 3

#: Numbers of a line of sums.
LANES = 16

#: Bytes of a line of a tile register, and of a tile in a panel.
LINE = 64
TILE = ROWS * LINE


def block_bytes(width: int) -> int:
    """Bytes of `DEPTH` steps of a panel of ``width`` vectors."""
    return PARTS * width * TILE


def panel_bytes(depth: int, width: int) -> int:
    """Bytes of a panel, and of a line that says whether a weight is large."""
    return ceil_div(depth, DEPTH) * block_bytes(width) + LINE


def part_bytes(depth: int) -> int:
    """Bytes of one part of a row: an odd number of lines, so that rows differ in their sets."""
    return (ceil_div(depth, DEPTH) | 1) * LINE


def row_bytes(depth: int) -> int:
    """Bytes of all parts of a row."""
    return PARTS * part_bytes(depth)


def fills(depth: int, width: int) -> bool:
    """Whether a product with a panel of ``width`` vectors fills most of its tiles."""
    return width > 1 and 4 * depth >= 3 * DEPTH * ceil_div(depth, DEPTH)


class UpdateTiling(NamedTuple):
    """The panels of a rank update.

    Attributes:
        depth: rows of a time block that are added at a time.
        panels: so many panels stay in cache.
        width: vectors of a panel.
    """

    depth: int
    panels: int
    width: int = 4

    @property
    def panel(self) -> int:
        """Bytes of a panel."""
        return panel_bytes(self.depth, self.width)

    @property
    def parts(self) -> int:
        """The first byte after the panels: the parts of the rows of the other operand."""
        return self.panels * self.panel

    @property
    def bytes(self) -> int:
        """Bytes of all."""
        return self.parts + ROWS * row_bytes(self.depth)


def update_tiling(depth: int, bytes_: int) -> UpdateTiling:
    """As many panels as fill some bytes."""
    return UpdateTiling(depth, max(1, bytes_ // UpdateTiling(depth, 1).panel))
