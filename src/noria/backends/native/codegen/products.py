"""The product of a few rows with a panel: by vectors, or by the matrix unit."""

import math
from dataclasses import dataclass, replace

from llvmlite import ir

from noria._integers import ceil_div
from noria.backends.native.codegen import matrix_unit, unit_parts
from noria.backends.native.codegen.addresses import panel_align, panel_vector
from noria.backends.native.codegen.llvm import advance, for_tiles, i64
from noria.backends.native.codegen.microkernels import GemmSizes, gemm_microkernel
from noria.backends.native.plan.matrix_unit import DEPTH
from noria.backends.native.plan.panels import Panel, StageTiling
from noria.backends.native.plan.tiling import KernelPlan


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows at an address, with the distance from row to row in bytes.

    For the matrix unit they are the parts of rows (`unit_parts`), and ``large`` is the address of
    the flag that one of their numbers is large.
    """

    first: ir.Value
    stride: ir.Value
    large: ir.Value | None = None

    def address(self, b: ir.IRBuilder, row: ir.Value) -> ir.Value:
        """The address of a row."""
        return advance(b, self.first, b.mul(row, self.stride))

    def at(self, b: ir.IRBuilder, row: ir.Value) -> "Rows":
        """The rows from ``row`` on."""
        return replace(self, first=self.address(b, row))


def multiply(
    b: ir.IRBuilder,
    plan: KernelPlan,
    tiling: StageTiling,
    panel: Panel,
    width: int,
    rows: Rows,
    count: ir.Value,
    packed: ir.Value,
    tile: ir.Value,
) -> None:
    """Leave the products of ``count`` rows in a tile.

    Of the panel, which is at ``packed``, the first ``width`` vectors count.
    """
    stride, depth = i64(tiling.row_stride), panel.dot.depth
    if panel.by_unit:
        function = matrix_unit.unit_product(b.module, width, plan.prefetch_bytes)
        blocks = i64(ceil_div(depth, DEPTH))
        b.call(function, [count, rows.first, rows.stride, rows.large, packed, blocks, tile, stride])
        return
    vector, most = panel_vector(plan, panel), plan.register_rows(width)
    align, together = panel_align(plan, vector), math.gcd(depth, plan.depth_steps)
    sizes = GemmSizes(width, most, align, plan.prefetch_bytes, together)
    function = gemm_microkernel(b.module, vector, sizes)

    def multiply_some(row: ir.Value, target: ir.Value, some: ir.Value) -> None:
        b.call(function, [some, row, rows.stride, packed, target, stride, i64(depth)])

    if not tiling.by_unit:
        multiply_some(rows.first, tile, count)
        return
    with for_tiles(b, count, most) as (start, stop):  # a tile of the unit has more rows
        row = advance(b, rows.first, b.mul(start, rows.stride))
        multiply_some(row, advance(b, tile, b.mul(start, stride)), b.sub(stop, start))


def split(b: ir.IRBuilder, panel: Panel, rows: Rows, count: ir.Value, parts: Rows) -> None:
    """Compute the parts of rows that the panel is multiplied with."""
    function = unit_parts.split_rows(b.module, panel.dot.depth)
    source, target = (rows.first, rows.stride), (parts.first, parts.stride)
    b.call(function, [count, *source, *target, parts.large])
