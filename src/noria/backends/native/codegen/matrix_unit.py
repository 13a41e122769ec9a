"""Products by the matrix unit of a processor (Intel's AMX), with the accuracy of float32.

The unit multiplies bfloat16 numbers, of 8 significant bits, and adds in float32. A float32 number
has 24 bits, and is the sum of three bfloat16 numbers, its *parts*. A product of two numbers is then
the sum of nine products of parts. Three of them are below the last bit of the result, so six are
computed::

    x = x0 + x1 + x2,  w = w0 + w1 + w2      |x1| < 2**-7 |x|,  |x2| < 2**-15 |x|,  ...
    x w = x0 w0 + (x0 w1 + x1 w0) + (x0 w2 + x1 w1 + x2 w0) + ...

That is faster than multiply-adds of vectors from a few rows on. The sums are as exact, or more so:
the unit adds two products at a time. Parts smaller than 1e-38 count as zero.

A tile register has 16 lines of 64 bytes; `unit_parts` describes its contents.

Products of parts of numbers from 2**63 on may be infinite, with both signs. Rows or panels with
such *large* numbers are multiplied by vectors.
"""

from collections.abc import Sequence
from functools import partial

from llvmlite import ir

from noria.backends.native.codegen.llvm import (
    I1,
    I8,
    I32,
    I64,
    POINTER,
    VOID,
    advance,
    carry_loop,
    constant,
    declared,
    i64,
    internal_function,
    intrinsic,
    loop,
    prefetch,
    splat,
    stack,
)
from noria.backends.native.codegen.unit_parts import (
    BITS,
    I16,
    UPPER,
    VECTOR,
    any_lane,
    part_bytes_of,
)
from noria.backends.native.plan.matrix_unit import (
    DEPTH,
    LANES,
    LINE,
    PARTS,
    ROWS,
    TILE,
    block_bytes,
)

#: The palette of tile registers with 16 lines of 64 bytes.
_PALETTE = 1

#: Registers of the sums, one for each vector of a panel; then the parts of rows; then a weight.
_SUMS, _ROW_PARTS, _WEIGHT = range(4), (4, 5, 6), 7


# --- tile registers -------------------------------------------------------------------------------


def begin(b: ir.IRBuilder, rows: ir.Value) -> None:
    """Make the unit ready for products of ``rows`` rows in tiles of nearly equal size.

    A smaller tile is computed with one row too many. To change the size takes 100 nanoseconds.
    """
    rows = b.select(b.icmp_signed("==", rows, i64(0)), i64(1), rows)
    tiles = b.udiv(b.add(rows, i64(ROWS - 1)), i64(ROWS))
    lines = b.trunc(b.udiv(b.add(rows, b.sub(tiles, i64(1))), tiles), I8)
    layout = stack(b, LINE, LINE)
    b.store(constant(BITS, 0), layout, align=LINE)
    b.store(ir.Constant(I8, _PALETTE), layout, align=1)
    for register in range(8):
        b.store(ir.Constant(I16, LINE), advance(b, layout, 16 + 2 * register), align=2)
        of_register = ir.Constant(I8, ROWS) if register == _WEIGHT else lines
        b.store(of_register, advance(b, layout, 48 + register), align=1)
    _unit(b, "ldtilecfg", layout)


def end(b: ir.IRBuilder) -> None:
    """Give the unit back: a thread that holds its registers is slower to interrupt."""
    _unit(b, "tilerelease")


def _unit(b: ir.IRBuilder, name: str, *operands: ir.Value | int) -> None:
    """An instruction of the unit. Registers are numbers."""
    values = [ir.Constant(I8, n) if isinstance(n, int) else n for n in operands]
    kinds = [value.type for value in values]
    b.call(declared(b.module, f"llvm.x86.{name}", VOID, *kinds), values)


# --- products -------------------------------------------------------------------------------------


def unit_product(module: ir.Module, width: int, ahead: int) -> ir.Function:
    """``void f(count, parts, part_stride, large, panel, blocks, tile, tile_stride)``.

    As `microkernels.gemm_microkernel`, for the ``parts`` of rows of ``blocks`` pieces. ``large`` is
    the number that `split_rows` has set. The panel is fetched so many bytes ``ahead``.
    """
    kinds = [I64, POINTER, I64, POINTER, POINTER, I64, POINTER, I64]
    return internal_function(
        module, f"unit_product.{width}", kinds, partial(_emit_product, width, ahead)
    )


def _emit_product(width: int, ahead: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    count, parts, part_stride, large, panel, blocks, tile, tile_stride = args
    flags = b.load(advance(b, panel, b.mul(blocks, i64(block_bytes(width)))), typ=BITS, align=4)
    seen = b.or_(any_lane(b, flags), b.load(large, typ=I32, align=4))
    with b.if_then(b.icmp_signed("!=", seen, ir.Constant(I32, 0))):
        exact = _product_of_vectors(b.module, width)
        b.call(exact, [count, parts, part_stride, panel, blocks, tile, tile_stride])
        b.ret_void()
    for column in range(width):
        _unit(b, "tilezero", _SUMS[column])
    line, of_part = i64(LINE), part_bytes_of(b, blocks)
    with loop(b, i64(0), blocks) as k:
        piece = advance(b, parts, b.mul(k, i64(2 * DEPTH)))
        weights = advance(b, panel, b.mul(k, i64(block_bytes(width))))
        for part, register in enumerate(_ROW_PARTS):
            place = advance(b, piece, b.mul(of_part, i64(part)))
            _unit(b, "tileloadd64", register, place, part_stride)
        for column in range(width):
            for part in range(PARTS):
                weight = advance(b, weights, (column * PARTS + part) * TILE)
                _unit(b, "tileloadd64", _WEIGHT, weight, line)
                for n in range(0, TILE, LINE):
                    prefetch(b, advance(b, weight, ahead + n))
                for other in _ROW_PARTS[: PARTS - part]:
                    _unit(b, "tdpbf16ps", _SUMS[column], other, _WEIGHT)
    for column in range(width):
        _unit(b, "tilestored64", _SUMS[column], advance(b, tile, column * LINE), tile_stride)
    b.ret_void()


def _product_of_vectors(module: ir.Module, width: int) -> ir.Function:
    """``void f(count, parts, part_stride, panel, blocks, tile, tile_stride)``, row by row."""
    kinds = [I64, POINTER, I64, POINTER, I64, POINTER, I64]
    emit = partial(_emit_by_vectors, width)
    return internal_function(module, f"product_of_vectors.{width}", kinds, emit)


def _emit_by_vectors(width: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """The sum of the parts of a number is the number, without an error."""
    count, parts, part_stride, panel, blocks, tile, tile_stride = args
    of_part = part_bytes_of(b, blocks)
    with loop(b, i64(0), count) as row:
        line = advance(b, parts, b.mul(row, part_stride))
        target = advance(b, tile, b.mul(row, tile_stride))

        def step(k: ir.Value, sums: Sequence[ir.Value], line: ir.Value = line) -> list[ir.Value]:
            number = _number_of_row(b, line, k, of_part)
            found = []
            for column, before in enumerate(sums):
                weight = _weights_of_panel(b, panel, k, width, column)
                found.append(intrinsic(b, "fma", splat(b, number, LANES), weight, before))
            return found

        zeros = [constant(VECTOR, 0)] * width
        sums = carry_loop(b, b.mul(blocks, i64(DEPTH)), zeros, step)
        for column, value in enumerate(sums):
            b.store(value, advance(b, target, column * LINE), align=4)
    b.ret_void()


def _number_of_row(b: ir.IRBuilder, line: ir.Value, k: ir.Value, of_part: ir.Value) -> ir.Value:
    """Number ``k`` of a row, from its parts."""
    found = []
    for part in range(PARTS):
        address = advance(b, line, b.add(b.mul(k, i64(2)), b.mul(of_part, i64(part))))
        bits = b.zext(b.load(address, typ=I16, align=2), I32)
        found.append(b.bitcast(b.shl(bits, ir.Constant(I32, 16)), ir.FloatType()))
    return _total(b, found)


def _weights_of_panel(
    b: ir.IRBuilder, panel: ir.Value, k: ir.Value, width: int, column: int
) -> ir.Value:
    """A vector of a panel at depth ``k``, from its parts."""
    block, pair = b.udiv(k, i64(DEPTH)), b.lshr(b.urem(k, i64(DEPTH)), i64(1))
    start = b.add(b.mul(block, i64(block_bytes(width))), b.mul(pair, i64(LINE)))
    is_odd, found = b.trunc(k, I1), []
    for part in range(PARTS):
        shift = b.add(start, i64((column * PARTS + part) * TILE))
        both = b.load(advance(b, panel, shift), typ=BITS, align=4)
        odd, even = b.and_(both, constant(BITS, UPPER)), b.shl(both, constant(BITS, 16))
        found.append(b.bitcast(b.select(is_odd, odd, even), VECTOR))
    return _total(b, found)


def _total(b: ir.IRBuilder, parts: Sequence[ir.Value]) -> ir.Value:
    """The sum of the parts; the last ones first, or else the largest number became infinite."""
    first, second, third = parts
    return b.fadd(first, b.fadd(second, third))
