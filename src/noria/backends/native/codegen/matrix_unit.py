"""Products by the matrix unit of a processor (Intel's AMX), with the accuracy of float32.

The unit multiplies bfloat16 numbers, of 8 significant bits, and adds in float32. A float32 number
has 24 bits, and is the sum of three bfloat16 numbers, its *parts*. A product of two numbers is then
the sum of nine products of parts. Three of them are below the last bit of the result, so six are
computed::

    x = x0 + x1 + x2,  w = w0 + w1 + w2      |x1| < 2**-7 |x|,  |x2| < 2**-15 |x|,  ...
    x w = x0 w0 + (x0 w1 + x1 w0) + (x0 w2 + x1 w1 + x2 w0) + ...

That is faster than multiply-adds of vectors from a few rows on. The sums are as exact, or more so:
the unit adds two products at a time. Parts smaller than 1e-38 count as zero.

A tile register has 16 lines of 64 bytes. In a panel a tile holds two steps along the depth side by
side, as the unit reads them::

    for each 32 steps of the depth, each vector of the panel, each part: a tile
    tile:   w[0, 0] w[1, 0]   w[0, 1] w[1, 1]   ...   w[0, 15] w[1, 15]
            w[2, 0] w[3, 0]   w[2, 1] w[3, 1]   ...
            ...

Products of parts of numbers from 2**63 on may be infinite, with both signs. Rows or panels with
such *large* numbers are multiplied by vectors.
"""

from collections.abc import Callable, Sequence
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
    load_lanes,
    loop,
    prefetch,
    splat,
    stack,
)
from noria.backends.native.plan.matrix_unit import (
    DEPTH,
    LINE,
    PARTS,
    ROWS,
    TILE,
    block_bytes,
    part_bytes,
)

I16 = ir.IntType(16)
_LANES = 16
_VECTOR = ir.VectorType(ir.FloatType(), _LANES)
_BITS = ir.VectorType(I32, _LANES)
_HALVES = ir.VectorType(I16, _LANES)

#: Bits of a float32 number: those of a bfloat16 number, and all but the sign.
_UPPER, _UNSIGNED = 0xFFFF0000, 0x7FFFFFFF

#: The bits of 2**63, of infinity, and of NaN.
_LARGE, _INFINITY, _QUIET_NAN = 0x5F000000, 0x7F800000, 0x7FC00000

#: The palette of tile registers with 16 lines of 64 bytes.
_PALETTE = 1

#: Registers of the sums, one for each vector of a panel; then the parts of rows; then a weight.
_SUMS, _ROW_PARTS, _WEIGHT = range(4), (4, 5, 6), 7


# --- tile registers -------------------------------------------------------------------------------


def begin(b: ir.IRBuilder, rows: ir.Value) -> None:
    """Make the unit ready for products of ``rows`` rows in tiles of nearly equal size.

    A smaller tile is computed with one row too many. To change the size takes 100 nanoseconds.
    """
    tiles = b.udiv(b.add(rows, i64(ROWS - 1)), i64(ROWS))
    tiles = b.select(b.icmp_signed("==", tiles, i64(0)), i64(1), tiles)
    lines = b.trunc(b.udiv(b.add(rows, b.sub(tiles, i64(1))), tiles), I8)
    lines = b.select(b.icmp_signed("==", lines, ir.Constant(I8, 0)), ir.Constant(I8, 1), lines)
    layout = stack(b, LINE, LINE)
    b.store(constant(_BITS, 0), layout, align=LINE)
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


# --- rows -----------------------------------------------------------------------------------------


def split_rows(module: ir.Module, depth: int) -> ir.Function:
    """``void f(count, rows, row_stride, parts, part_stride, large)``.

    The parts of rows of ``depth`` numbers: for each row its first parts, its second ones, its last
    ones. Strides are the distances in bytes from row to row. The 32-bit number ``large``
    becomes nonzero if a number is large.
    """
    kinds = [I64, POINTER, I64, POINTER, I64, POINTER]
    return internal_function(module, f"split_rows.{depth}", kinds, partial(_emit_split, depth))


def _emit_split(depth: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    count, rows, row_stride, parts, part_stride, large = args
    whole, left = divmod(depth, DEPTH)

    def pieces(line: ir.Value, target: ir.Value, block: ir.Value, numbers: int) -> ir.Value:
        """Split a piece of a row, two vectors; whether a number is large, lane by lane."""
        source, found = advance(b, line, b.mul(block, i64(4 * DEPTH))), constant(_BITS, 0)
        for half in range(DEPTH // _LANES):
            some = max(0, min(_LANES, numbers - half * _LANES))
            vector: ir.Value = constant(_VECTOR, 0)
            if some:
                vector = load_lanes(b, advance(b, source, 4 * _LANES * half), _VECTOR, some, 4)
            found = b.or_(found, b.sext(_is_large(b, vector), _BITS))
            for part in range(PARTS):
                bits = b.bitcast(vector, _BITS)
                upper = b.trunc(b.lshr(bits, constant(_BITS, 16)), _HALVES)
                place = advance(b, target, b.mul(block, i64(2 * DEPTH)))
                shift = part * part_bytes(depth) + 2 * _LANES * half
                b.store(upper, advance(b, place, shift), align=2)
                vector = _without(b, vector, b.and_(bits, constant(_BITS, _UPPER)))
        return found

    with loop(b, i64(0), count) as row:
        line = advance(b, rows, b.mul(row, row_stride))
        target = advance(b, parts, b.mul(row, part_stride))
        found: ir.Value = constant(_BITS, 0)
        if whole:

            def step(k: ir.Value, seen: Sequence[ir.Value]) -> list[ir.Value]:
                return [b.or_(seen[0], pieces(line, target, k, DEPTH))]

            (found,) = carry_loop(b, i64(whole), [found], step)
        if left:
            found = b.or_(found, pieces(line, target, i64(whole), left))
        b.store(b.or_(b.load(large, typ=I32, align=4), _any(b, found)), large, align=4)
    b.ret_void()


def _without(b: ir.IRBuilder, vector: ir.Value, part: ir.Value) -> ir.Value:
    """What is left of numbers without a part, given by its bits; nothing of an infinite number."""
    part = b.bitcast(part, _VECTOR)
    is_all = b.fcmp_ordered("==", vector, part)
    return b.select(is_all, constant(_VECTOR, 0), b.fsub(vector, part))


def _is_finite(b: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Lane by lane."""
    size = b.and_(b.bitcast(vector, _BITS), constant(_BITS, _UNSIGNED))
    return b.icmp_unsigned("<", size, constant(_BITS, _INFINITY))


def _is_large(b: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Lane by lane, whether a number is so large that products of parts may be infinite."""
    size = b.and_(b.bitcast(vector, _BITS), constant(_BITS, _UNSIGNED))
    above = b.sub(size, constant(_BITS, _LARGE))
    return b.icmp_unsigned("<=", above, constant(_BITS, _INFINITY - _LARGE))


def _any(b: ir.IRBuilder, lanes: ir.Value) -> ir.Value:
    """Nonzero if a lane is."""
    return b.call(declared(b.module, "llvm.vector.reduce.or.v16i32", I32, _BITS), [lanes])


# --- panels ---------------------------------------------------------------------------------------


def pack_tiles(
    b: ir.IRBuilder, panel: ir.Value, width: int, depth: int, fill: Callable[..., None]
) -> None:
    """Fill a panel of ``width`` vectors.

    ``fill(vectors, begin, count)`` stores ``count`` steps along the depth as vectors, from step
    ``begin`` on. Behind the tiles there is a line that says whether a weight is large.
    """
    vectors = stack(b, DEPTH * width * LINE, LINE)
    large = stack(b, LINE, LINE)
    b.store(constant(_BITS, 0), large, align=LINE)

    def piece(block: ir.Value, steps: int) -> None:
        """So many steps along the depth, the others are zero."""
        with loop(b, i64(steps * width), i64(DEPTH * width)) as n:
            b.store(constant(_VECTOR, 0), advance(b, vectors, b.mul(n, i64(LINE))), align=LINE)
        fill(vectors, b.mul(block, i64(DEPTH)), steps)
        tiles = advance(b, panel, b.mul(block, i64(block_bytes(width))))
        b.call(_split_panel(b.module, width), [vectors, tiles, large])

    whole, left = divmod(depth, DEPTH)
    if whole:
        with loop(b, i64(0), i64(whole)) as block:
            piece(block, DEPTH)
    if left:
        piece(i64(whole), left)
    flags = b.load(large, typ=_BITS, align=LINE)
    b.store(flags, advance(b, panel, (whole + bool(left)) * block_bytes(width)), align=4)


def _split_panel(module: ir.Module, width: int) -> ir.Function:
    """``void f(vectors, tiles, large)``: tiles of a panel, from vectors step by step."""
    name, kinds = f"split_panel.{width}", [POINTER, POINTER, POINTER]
    return internal_function(module, name, kinds, partial(_emit_split_panel, width))


def _emit_split_panel(width: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    vectors, tiles, large = args
    with loop(b, i64(0), i64(DEPTH // 2)) as pair:
        for c in range(width):
            numbers = [
                b.load(
                    advance(b, vectors, b.add(b.mul(pair, i64(2 * width * LINE)), i64(shift))),
                    typ=_VECTOR,
                    align=LINE,
                )
                for shift in (c * LINE, (width + c) * LINE)
            ]
            for vector in numbers:
                seen = b.load(large, typ=_BITS, align=LINE)
                b.store(b.or_(seen, b.sext(_is_large(b, vector), _BITS)), large, align=LINE)
            for part in range(PARTS):
                even, odd = (_rounded(b, vector) for vector in numbers)
                line = b.or_(b.lshr(even, constant(_BITS, 16)), odd)
                shift = b.add(b.mul(pair, i64(LINE)), i64((c * PARTS + part) * TILE))
                b.store(line, advance(b, tiles, shift), align=4)
                numbers = [
                    _without(b, vector, kept)
                    for vector, kept in zip(numbers, (even, odd), strict=True)
                ]
    b.ret_void()


def _rounded(b: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """The bits of numbers, rounded to the nearest bfloat16 numbers, but never up to infinity."""
    bits, upper = b.bitcast(vector, _BITS), constant(_BITS, _UPPER)
    last = b.and_(b.lshr(bits, constant(_BITS, 16)), constant(_BITS, 1))
    rounded = b.and_(b.add(bits, b.add(last, constant(_BITS, 0x7FFF))), upper)
    is_finite = _is_finite(b, b.bitcast(rounded, _VECTOR))
    found = b.select(is_finite, rounded, b.and_(bits, upper))
    is_number = b.fcmp_ordered("ord", vector, vector)
    return b.select(is_number, found, constant(_BITS, _QUIET_NAN))


# --- products -------------------------------------------------------------------------------------


def unit_product(module: ir.Module, width: int, depth: int, ahead: int) -> ir.Function:
    """``void f(count, parts, part_stride, large, panel, tile, tile_stride)``.

    As `microkernels.gemm_microkernel`, for the ``parts`` of rows. ``large`` is the number that
    `split_rows` has set. The panel is fetched so many bytes ``ahead``.
    """
    kinds = [I64, POINTER, I64, POINTER, POINTER, POINTER, I64]
    name = f"unit_product.{width}.{depth}"
    return internal_function(module, name, kinds, partial(_emit_product, width, depth, ahead))


def _emit_product(width: int, depth: int, ahead: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    count, parts, part_stride, large, panel, tile, tile_stride = args
    blocks = -(-depth // DEPTH)
    flags = b.load(advance(b, panel, blocks * block_bytes(width)), typ=_BITS, align=4)
    seen = b.or_(_any(b, flags), b.load(large, typ=I32, align=4))
    with b.if_then(b.icmp_signed("!=", seen, ir.Constant(I32, 0))):
        exact = _product_of_vectors(b.module, width, depth)
        b.call(exact, [count, parts, part_stride, panel, tile, tile_stride])
        b.ret_void()
    for column in range(width):
        _unit(b, "tilezero", _SUMS[column])
    line = i64(LINE)
    with loop(b, i64(0), i64(blocks)) as k:
        piece = advance(b, parts, b.mul(k, i64(2 * DEPTH)))
        weights = advance(b, panel, b.mul(k, i64(block_bytes(width))))
        for part, register in enumerate(_ROW_PARTS):
            place = advance(b, piece, part * part_bytes(depth))
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


def _product_of_vectors(module: ir.Module, width: int, depth: int) -> ir.Function:
    """``void f(count, parts, part_stride, panel, tile, tile_stride)``, row by row."""
    kinds = [I64, POINTER, I64, POINTER, POINTER, I64]
    name = f"product_of_vectors.{width}.{depth}"
    return internal_function(module, name, kinds, partial(_emit_by_vectors, width, depth))


def _emit_by_vectors(width: int, depth: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """The sum of the parts of a number is the number, without an error."""
    count, parts, part_stride, panel, tile, tile_stride = args

    with loop(b, i64(0), count) as row:
        line = advance(b, parts, b.mul(row, part_stride))
        target = advance(b, tile, b.mul(row, tile_stride))

        def step(k: ir.Value, sums: Sequence[ir.Value], line: ir.Value = line) -> list[ir.Value]:
            number = _number_of_row(b, line, k, depth)
            found = []
            for column, before in enumerate(sums):
                weight = _weights_of_panel(b, panel, k, width, column)
                fused = declared(b.module, "llvm.fma.v16f32", _VECTOR, _VECTOR, _VECTOR, _VECTOR)
                found.append(b.call(fused, [splat(b, number, _LANES), weight, before]))
            return found

        zeros = [constant(_VECTOR, 0)] * width
        for column, value in enumerate(carry_loop(b, i64(depth), zeros, step)):
            b.store(value, advance(b, target, column * LINE), align=4)
    b.ret_void()


def _number_of_row(b: ir.IRBuilder, line: ir.Value, k: ir.Value, depth: int) -> ir.Value:
    """Number ``k`` of a row, from its parts."""
    found = []
    for part in range(PARTS):
        address = advance(b, line, b.add(b.mul(k, i64(2)), i64(part * part_bytes(depth))))
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
        both = b.load(advance(b, panel, shift), typ=_BITS, align=4)
        odd, even = b.and_(both, constant(_BITS, _UPPER)), b.shl(both, constant(_BITS, 16))
        found.append(b.bitcast(b.select(is_odd, odd, even), _VECTOR))
    return _total(b, found)


def _total(b: ir.IRBuilder, parts: Sequence[ir.Value]) -> ir.Value:
    """The sum of the parts; the last ones first, or else the largest number became infinite."""
    first, second, third = parts
    return b.fadd(first, b.fadd(second, third))
