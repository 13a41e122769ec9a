"""Microkernels: sums of outer products that stay in registers.

A *panel* holds, for one block of columns, ``depth`` times ``width`` vectors: one step along the
depth reads contiguous memory. `gemm_microkernel` keeps ``rows`` times ``width`` accumulators in
registers. A number of a row is broadcast to all lanes by the load itself::

    for k:  for c < width:  p_c = panel[k][c];   for r < rows:  sum_rc += row_r[k] * p_c

It leaves the sums in a *tile*, a piece of the stack, where the element-wise part finds them.
`rank_k_update` has the same inner loop. It adds its sums to a matrix in memory.

`noria.backends.native.codegen.packing` fills panels. Without them
`noria.backends.native.codegen.gemv` multiplies.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from llvmlite import ir

from noria.backends.native.codegen.llvm import (
    I1,
    I64,
    POINTER,
    advance,
    bytes_of,
    carry_loop,
    constant,
    i64,
    internal_function,
    intrinsic,
    load_lanes,
    prefetch,
    splat,
    store_lanes,
    zeros,
)
from noria.backends.native.plan.panels import ALIGN


class GemmSizes(NamedTuple):
    """What the code of a `gemm_microkernel` depends on, beside the type of a vector.

    Attributes:
        width: vectors of the panel.
        rows: the most rows.
        align: the panel is at a multiple of so many bytes.
        ahead: bytes from what is read of the panel to what is fetched for later; 0 for nothing.
        together: steps along the depth in one pass of the loop; the depth is a multiple.
    """

    width: int
    rows: int
    align: int
    ahead: int
    together: int


def gemm_microkernel(module: ir.Module, vector: ir.VectorType, sizes: GemmSizes) -> ir.Function:
    """``void f(count, row, row_stride, panel, tile, tile_stride, depth)``.

    The products of ``count`` rows with a panel. Strides are the distances in bytes from row to row.
    """
    name = f"gemm.{sizes.width}.{sizes.rows}.{sizes.together}.{vector.element}"
    kinds = [I64, POINTER, I64, POINTER, POINTER, I64, I64]
    return internal_function(module, name, kinds, partial(_emit_gemm, vector, sizes))


def _emit_gemm(vector: ir.VectorType, sizes: GemmSizes, b: ir.IRBuilder, *args: ir.Value) -> None:
    """A copy of the loop for each number of rows, so that all accumulators are registers."""
    (number, row, row_stride, panel, tile, tile_stride, depth), size = args, bytes_of(vector)
    width, rows, align, ahead, together = sizes

    def body(count: int) -> None:
        lines = [advance(b, row, b.mul(row_stride, i64(r))) for r in range(count)]

        def step(k: ir.Value, n: int) -> tuple[list[ir.Value], list[ir.Value]]:
            base = advance(b, advance(b, panel, b.mul(k, i64(width * size))), n * width * size)
            columns = [
                b.load(advance(b, base, c * size), typ=vector, align=align) for c in range(width)
            ]
            for line in range(0, width * size if ahead else 0, ALIGN):
                prefetch(b, advance(b, base, ahead + line))
            numbers = [b.gep(line, [k], source_etype=vector.element) for line in lines]
            return [advance(b, number, n * (size // vector.count)) for number in numbers], columns

        start = [[constant(vector, 0)] * width] * count
        sums = _outer_products(b, depth, start, step, together)
        for r, line in enumerate(sums):
            target = advance(b, tile, b.mul(tile_stride, i64(r)))
            for c, value in enumerate(line):
                b.store(value, advance(b, target, c * size), align=size)

    cases = [b.append_basic_block(f"rows{n}") for n in range(1, rows + 1)]
    switch = b.switch(number, cases[-1])
    for n, block in enumerate(cases, 1):
        if n < rows:
            switch.add_case(i64(n), block)
        b.position_at_end(block)
        body(n)
        b.ret_void()


def rank_k_update(
    module: ir.Module, vector: ir.VectorType, rows: int, width: int, last: int
) -> ir.Function:
    """``void f(left, right, vector_stride, out, out_stride, depth, fresh)``.

    Adds outer products of ``rows`` numbers of ``left`` and ``width`` vectors of ``right`` to
    ``out``, summed over k < ``depth``. Of the last vector only ``last`` numbers count. ``out``
    counts as zero if ``fresh``.

    Both operands have one vector for each k, contiguous in k. ``vector_stride`` is the distance in
    bytes from vector to vector of ``right``, ``out_stride`` from row to row of ``out``.
    """
    name = f"rank_k_update.{rows}.{width}.{last}.{vector.element}"
    kinds = [POINTER, POINTER, I64, POINTER, I64, I64, I1]
    emit = partial(_emit_rank_k_update, vector, rows, width, last)
    return internal_function(module, name, kinds, emit)


def _emit_rank_k_update(
    vector: ir.VectorType, rows: int, width: int, last: int, b: ir.IRBuilder, *args: ir.Value
) -> None:
    left, right, vector_stride, out, out_stride, depth, fresh = args
    size, nothing = bytes_of(vector), zeros(b, vector)
    item, counts = size // vector.count, [*[vector.count] * (width - 1), last]
    columns = [advance(b, right, b.mul(vector_stride, i64(c))) for c in range(width)]
    cells = [
        [advance(b, out, b.add(b.mul(out_stride, i64(r)), i64(c * size))) for c in range(width)]
        for r in range(rows)
    ]
    before = [
        [
            load_lanes(b, b.select(fresh, nothing, cell), vector, n, item)
            for cell, n in zip(line, counts, strict=True)
        ]
        for line in cells
    ]

    def step(k: ir.Value, n: int) -> tuple[list[ir.Value], list[ir.Value]]:
        shift = b.mul(k, i64(size))
        line = advance(b, left, shift)
        vectors = [b.load(advance(b, column, shift), typ=vector, align=item) for column in columns]
        return [advance(b, line, r * item) for r in range(rows)], vectors

    for line, found in zip(cells, _outer_products(b, depth, before, step), strict=True):
        for cell, value, n in zip(line, found, counts, strict=True):
            store_lanes(b, value, cell, n, item)
    b.ret_void()


def _outer_products(
    b: ir.IRBuilder,
    depth: ir.Value,
    start: Sequence[Sequence[ir.Value]],
    step: Callable[[ir.Value, int], tuple[list[ir.Value], list[ir.Value]]],
    together: int = 1,
) -> list[list[ir.Value]]:
    """The sum of ``start`` and of outer products over the depth, a multiple of ``together``.

    The depth is at least one. ``step(k, n)`` gives the addresses of the numbers of column k + n,
    and the vectors of that row. A pass of the loop takes so many steps ``together``, from k on.
    """
    width = len(start[0])

    def add(k: ir.Value, n: int, sums: Sequence[ir.Value]) -> list[ir.Value]:
        found: list[ir.Value] = []
        numbers, columns = step(k, n)
        for number in numbers:
            spread = splat(b, b.load(number, typ=columns[0].type.element), columns[0].type.count)
            old = sums[len(found) : len(found) + width]
            found += [
                intrinsic(b, "fmuladd", spread, *pair) for pair in zip(columns, old, strict=True)
            ]
        return found

    def add_some(number: ir.Value, sums: Sequence[ir.Value]) -> Sequence[ir.Value]:
        k = b.mul(number, i64(together))
        for n in range(together):
            sums = add(k, n, sums)
        return sums

    passes = b.udiv(depth, i64(together))
    sums = carry_loop(b, passes, [value for line in start for value in line], add_some)
    return [sums[n : n + width] for n in range(0, len(sums), width)]
