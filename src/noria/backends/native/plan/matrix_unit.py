"""The sizes of products by the matrix unit: `noria.backends.native.codegen.matrix_unit`."""

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


def suits(depth: int, width: int) -> bool:
    """Whether a product is large enough: sums are independent, and little of a tile is empty."""
    padded = ceil_div(depth, DEPTH) * DEPTH
    return width > 1 and 4 * depth >= 3 * padded
