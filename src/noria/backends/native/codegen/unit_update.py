"""Rank updates by the matrix unit: sums of outer products over the rows of a time block.

A rank update is a product of two matrices, of which the first is transposed::

    out[m, n] += sum over k of left[k, m] * right[k, n]

Vectors of the right operand become panels, and a vector of the left one becomes the parts of 16
rows. Some panels stay in cache for all vectors of the left operand::

    for each 512 rows, and each group of panels of the right operand:
        split the panels
        for each vector of the left operand:
            split it
            for each panel:   tile = products;  add it to ``out``
"""

from collections.abc import Sequence
from typing import NamedTuple

from llvmlite import ir

from noria.backends.native.codegen import matrix_unit, unit_parts
from noria.backends.native.codegen.llvm import (
    I1,
    I64,
    POINTER,
    advance,
    for_groups,
    for_share,
    for_tiles,
    i64,
    internal_function,
    load_lanes,
    loop,
    stack,
    store_lanes,
    zeros,
)
from noria.backends.native.plan.matrix_unit import LANES, LINE, PARTS, ROWS
from noria.backends.native.plan.panels import ALIGN, counts_of
from noria.backends.native.plan.tiling import KernelPlan

_VECTOR = ir.VectorType(ir.FloatType(), LANES)


class Operand(NamedTuple):
    """An operand: its first vector for the first row, the bytes to the next, and the features."""

    first: ir.Value
    stride: ir.Value
    features: int


class Target(NamedTuple):
    """The part of an accumulator that is added to, and the bytes from row to row.

    It counts as zero if ``fresh``.
    """

    first: ir.Value
    stride: int
    fresh: ir.Value


def add_outer_products(
    b: ir.IRBuilder,
    plan: KernelPlan,
    operands: tuple[Operand, Operand],
    target: Target,
    depth: ir.Value,
    memory: ir.Value,
    share: tuple[ir.Value, ir.Value],
) -> None:
    """Add the outer products of ``depth`` rows for a share of the left operand.

    ``memory`` has `UpdateTiling.bytes`.
    """
    left, right = operands
    parts, large = advance(b, memory, plan.update.parts), unit_parts.new_flag(b)
    full, complete, rest = counts_of(right.features, plan.update.width, LANES)
    matrix_unit.begin(b, i64(ROWS))
    with for_tiles(b, depth, plan.update.depth) as (start, stop):
        count, skip = b.sub(stop, start), b.mul(start, i64(LINE))
        blocks = unit_parts.blocks_of(b, count)
        fresh = b.and_(target.fresh, b.icmp_signed("==", start, i64(0)))
        for panels, counts in for_groups(b, full, plan.update.panels, complete, rest):
            width = sum(map(bool, counts))
            of_panel = i64(plan.update.panel)
            with loop(b, *panels) as j:
                column = b.mul(j, i64(plan.update.width))
                source = advance(b, right.first, b.add(b.mul(column, right.stride), skip))
                panel = advance(b, memory, b.mul(b.sub(j, panels[0]), of_panel))
                split = unit_parts.split_operand(b.module, width)
                b.call(split, [source, right.stride, count, panel])
            whole, left_over = divmod(left.features, LANES)
            for n, lanes in for_share(b, whole, LANES, left_over, *share):
                unit_parts.clear(b, large)
                source = advance(b, left.first, b.add(b.mul(n, left.stride), skip))
                b.call(unit_parts.split_transposed(b.module), [source, count, parts, large])
                row = advance(b, target.first, b.mul(n, i64(LANES * target.stride)))
                with loop(b, *panels) as j:
                    panel = advance(b, memory, b.mul(b.sub(j, panels[0]), of_panel))
                    out = advance(b, row, b.mul(j, i64(plan.update.width * LINE)))
                    function = _add_product(b.module, tuple(counts), lanes, plan.prefetch_bytes)
                    arguments = [parts, large, panel, blocks, out, i64(target.stride), fresh]
                    b.call(function, arguments)
    matrix_unit.end(b)


def _add_product(module: ir.Module, counts: Sequence[int], lanes: int, ahead: int) -> ir.Function:
    """``void f(parts, large, panel, blocks, out, out_stride, fresh)``.

    Adds the product of ``lanes`` rows and a panel, whose vectors have these numbers of columns.
    """
    numbers = [n for n in counts if n]

    def emit(b: ir.IRBuilder, *args: ir.Value) -> None:
        parts, large, panel, blocks, out, out_stride, fresh = args
        width, nothing = len(numbers), zeros(b, _VECTOR)
        tile, stride = stack(b, ROWS * width * LINE, ALIGN), i64(width * LINE)
        function = matrix_unit.unit_product(module, width, ahead)
        of_row = b.mul(unit_parts.part_bytes_of(b, blocks), i64(PARTS))
        b.call(function, [i64(ROWS), parts, of_row, large, panel, blocks, tile, stride])
        with loop(b, i64(0), i64(lanes)) as row:
            found = advance(b, tile, b.mul(row, stride))
            there = advance(b, out, b.mul(row, out_stride))
            for v, n in enumerate(numbers):
                value = b.load(advance(b, found, v * LINE), typ=_VECTOR, align=LINE)
                address = advance(b, there, v * LINE)
                before = load_lanes(b, b.select(fresh, nothing, address), _VECTOR, n, 4)
                store_lanes(b, b.fadd(before, value), address, n, 4)
        b.ret_void()

    name = f"add_product.{lanes}.{'.'.join(map(str, numbers))}"
    return internal_function(module, name, [POINTER] * 3 + [I64, POINTER, I64, I1], emit)
