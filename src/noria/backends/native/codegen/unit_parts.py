"""Parts: float32 numbers as sums of three bfloat16 numbers, for `matrix_unit`.

Rows are split into parts one after the other. A panel has its parts in tiles, in the order in which
the unit reads them. A tile holds two steps along the depth side by side::

    for each 32 steps of the depth, each vector of the panel, each part: a tile
    tile:   w[0, 0] w[1, 0]   w[0, 1] w[1, 1]   ...   w[0, 15] w[1, 15]
            w[2, 0] w[3, 0]   w[2, 1] w[3, 1]   ...
            ...

The parts of a row are truncated, those of a panel rounded: then the products that are left out have
both signs. Numbers from 2**63 on are *large*: products of their parts may be infinite, with
both signs. A flag beside the parts says that there is one.
"""

from collections.abc import Callable, Sequence
from functools import partial

from llvmlite import ir

from noria.backends.native.codegen.llvm import (
    I32,
    I64,
    POINTER,
    advance,
    carry_loop,
    constant,
    i64,
    internal_function,
    intrinsic,
    load_lanes,
    loop,
    stack,
    transposed,
)
from noria.backends.native.plan.matrix_unit import (
    DEPTH,
    LANES,
    LINE,
    PARTS,
    TILE,
    block_bytes,
    part_bytes,
)

I16 = ir.IntType(16)
VECTOR = ir.VectorType(ir.FloatType(), LANES)
BITS = ir.VectorType(I32, LANES)
_HALVES = ir.VectorType(I16, LANES)

#: Bits of a float32 number: those of a bfloat16 number, and all but the sign.
UPPER, _UNSIGNED = 0xFFFF0000, 0x7FFFFFFF

#: The bits of 2**63, of infinity, and of NaN.
_LARGE, _INFINITY, _QUIET_NAN = 0x5F000000, 0x7F800000, 0x7FC00000


def new_flag(b: ir.IRBuilder) -> ir.Value:
    """A line of the stack that says whether numbers are large: one number, or one a lane."""
    return stack(b, LINE, LINE)


def clear(b: ir.IRBuilder, large: ir.Value) -> None:
    """No number was large so far."""
    b.store(ir.Constant(I32, 0), large, align=4)


def part_bytes_of(b: ir.IRBuilder, blocks: ir.Value) -> ir.Value:
    """Code for `matrix_unit.part_bytes` of so many pieces."""
    return b.mul(b.or_(blocks, i64(1)), i64(LINE))


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
        source, found = advance(b, line, b.mul(block, i64(4 * DEPTH))), constant(BITS, 0)
        for half in range(DEPTH // LANES):
            some = max(0, min(LANES, numbers - half * LANES))
            vector: ir.Value = constant(VECTOR, 0)
            if some:
                vector = load_lanes(b, advance(b, source, 4 * LANES * half), VECTOR, some, 4)
            found = b.or_(found, b.sext(_is_large(b, vector), BITS))
            place = advance(b, target, b.mul(block, i64(2 * DEPTH)))
            for part, upper in enumerate(_parts(b, vector)):
                shift = part * part_bytes(depth) + 2 * LANES * half
                b.store(upper, advance(b, place, shift), align=2)
        return found

    with loop(b, i64(0), count) as row:
        line = advance(b, rows, b.mul(row, row_stride))
        target = advance(b, parts, b.mul(row, part_stride))
        found: ir.Value = constant(BITS, 0)
        if whole:

            def step(k: ir.Value, seen: Sequence[ir.Value]) -> list[ir.Value]:
                return [b.or_(seen[0], pieces(line, target, k, DEPTH))]

            (found,) = carry_loop(b, i64(whole), [found], step)
        if left:
            found = b.or_(found, pieces(line, target, i64(whole), left))
        b.store(b.or_(b.load(large, typ=I32, align=4), any_lane(b, found)), large, align=4)
    b.ret_void()


def _without(b: ir.IRBuilder, vector: ir.Value, part: ir.Value) -> ir.Value:
    """What is left of numbers without a part, given by its bits; nothing of an infinite number."""
    part = b.bitcast(part, VECTOR)
    is_all = b.fcmp_ordered("==", vector, part)
    return b.select(is_all, constant(VECTOR, 0), b.fsub(vector, part))


def _is_finite(b: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Lane by lane."""
    size = b.and_(b.bitcast(vector, BITS), constant(BITS, _UNSIGNED))
    return b.icmp_unsigned("<", size, constant(BITS, _INFINITY))


def _is_large(b: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Lane by lane, whether a number is so large that products of parts may be infinite."""
    size = b.and_(b.bitcast(vector, BITS), constant(BITS, _UNSIGNED))
    above = b.sub(size, constant(BITS, _LARGE))
    return b.icmp_unsigned("<=", above, constant(BITS, _INFINITY - _LARGE))


def any_lane(b: ir.IRBuilder, lanes: ir.Value) -> ir.Value:
    """Nonzero if a lane is."""
    return intrinsic(b, "vector.reduce.or", lanes, result=I32)


# --- panels ---------------------------------------------------------------------------------------


def pack_tiles(
    b: ir.IRBuilder, panel: ir.Value, width: int, depth: int, fill: Callable[..., None]
) -> None:
    """Fill a panel of ``width`` vectors.

    ``fill(vectors, begin, count)`` stores ``count`` steps along the depth as vectors, from step
    ``begin`` on. Behind the tiles there is a line that says whether a weight is large.
    """
    vectors = stack(b, DEPTH * width * LINE, LINE)
    large = new_flag(b)
    b.store(constant(BITS, 0), large, align=LINE)

    def piece(block: ir.Value, steps: int) -> None:
        fill(vectors, b.mul(block, i64(DEPTH)), steps)
        tiles = advance(b, panel, b.mul(block, i64(block_bytes(width))))
        strides = i64(width * LINE), i64(LINE)
        b.call(_split_panel(b.module, width), [vectors, *strides, i64(steps), tiles, large])

    whole, left = divmod(depth, DEPTH)
    if whole:
        with loop(b, i64(0), i64(whole)) as block:
            piece(block, DEPTH)
    if left:
        piece(i64(whole), left)
    flags = b.load(large, typ=BITS, align=LINE)
    b.store(flags, advance(b, panel, (whole + bool(left)) * block_bytes(width)), align=4)


def _split_panel(module: ir.Module, width: int) -> ir.Function:
    """``void f(vectors, of_step, of_column, steps, tiles, large)``: `DEPTH` steps of a panel.

    From vectors, with the bytes from step to step and from column to column. Those from ``steps``
    on count as zero. A lane of the vector ``large`` becomes nonzero if a number is large.
    """
    name, kinds = f"split_panel.{width}", [POINTER, I64, I64, I64, POINTER, POINTER]
    return internal_function(module, name, kinds, partial(_emit_split_panel, width))


def _emit_split_panel(width: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    vectors, of_step, of_column, steps, tiles, large = args
    with loop(b, i64(0), i64(DEPTH // 2)) as pair:
        for c in range(width):
            numbers = []
            for odd in range(2):
                step = b.add(b.mul(pair, i64(2)), i64(odd))
                shift = b.add(b.mul(step, of_step), b.mul(of_column, i64(c)))
                numbers.append(_load_below(b, advance(b, vectors, shift), step, steps))
            for vector in numbers:
                seen = b.load(large, typ=BITS, align=4)
                b.store(b.or_(seen, b.sext(_is_large(b, vector), BITS)), large, align=4)
            for part in range(PARTS):
                even, odd_ = (_rounded(b, vector) for vector in numbers)
                line = b.or_(b.lshr(even, constant(BITS, 16)), odd_)
                shift = b.add(b.mul(pair, i64(LINE)), i64((c * PARTS + part) * TILE))
                b.store(line, advance(b, tiles, shift), align=4)
                numbers = [
                    _without(b, vector, kept)
                    for vector, kept in zip(numbers, (even, odd_), strict=True)
                ]
    b.ret_void()


def _load_below(b: ir.IRBuilder, address: ir.Value, number: ir.Value, end: ir.Value) -> ir.Value:
    """A vector in memory, or zeros if its number is not below ``end``."""
    found = b.load(address, typ=VECTOR, align=4)
    return b.select(b.icmp_signed("<", number, end), found, constant(VECTOR, 0))


def _rounded(b: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """The bits of numbers, rounded to the nearest bfloat16 numbers, but never up to infinity."""
    bits, upper = b.bitcast(vector, BITS), constant(BITS, UPPER)
    last = b.and_(b.lshr(bits, constant(BITS, 16)), constant(BITS, 1))
    rounded = b.and_(b.add(bits, b.add(last, constant(BITS, 0x7FFF))), upper)
    is_finite = _is_finite(b, b.bitcast(rounded, VECTOR))
    found = b.select(is_finite, rounded, b.and_(bits, upper))
    is_number = b.fcmp_ordered("ord", vector, vector)
    return b.select(is_number, found, constant(BITS, _QUIET_NAN))


def split_operand(module: ir.Module, width: int) -> ir.Function:
    """``void f(vectors, of_column, count, panel)``: a panel, from an operand of a rank update.

    Of each of ``width`` columns of vectors, with the bytes from column to column, ``count`` rows.
    """
    kinds = [POINTER, I64, I64, POINTER]
    emit = partial(_emit_split_operand, width)
    return internal_function(module, f"split_operand.{width}", kinds, emit)


def _emit_split_operand(width: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    vectors, of_column, count, panel = args
    blocks = blocks_of(b, count)
    large = advance(b, panel, b.mul(blocks, i64(block_bytes(width))))
    b.store(constant(BITS, 0), large, align=4)
    with loop(b, i64(0), blocks) as block:
        done = b.mul(block, i64(DEPTH))
        some, left = advance(b, vectors, b.mul(done, i64(LINE))), b.sub(count, done)
        tiles = advance(b, panel, b.mul(block, i64(block_bytes(width))))
        split = _split_panel(b.module, width)
        b.call(split, [some, i64(LINE), of_column, left, tiles, large])
    b.ret_void()


def blocks_of(b: ir.IRBuilder, depth: ir.Value) -> ir.Value:
    """Code for the pieces of `DEPTH` numbers."""
    return b.udiv(b.add(depth, i64(DEPTH - 1)), i64(DEPTH))


def split_transposed(module: ir.Module) -> ir.Function:
    """``void f(vectors, count, parts, large)``: the parts of `ROWS` rows, from their columns.

    The numbers of each row are in one lane of ``count`` vectors.
    """
    kinds = [POINTER, I64, POINTER, POINTER]
    return internal_function(module, "split_transposed", kinds, _emit_split_transposed)


def _emit_split_transposed(b: ir.IRBuilder, *args: ir.Value) -> None:
    vectors, count, parts, large = args
    of_part = part_bytes_of(b, blocks_of(b, count))
    halves = b.mul(blocks_of(b, count), i64(DEPTH // LANES))
    with loop(b, i64(0), halves) as half:
        first = b.mul(half, i64(LANES))
        columns = []
        for n in range(LANES):
            number = b.add(first, i64(n))
            address = advance(b, vectors, b.mul(number, i64(LINE)))
            columns.append(_load_below(b, address, number, count))
        found: ir.Value = constant(BITS, 0)
        for row, vector in enumerate(transposed(b, columns)):
            found = b.or_(found, b.sext(_is_large(b, vector), BITS))
            start = b.add(b.mul(of_part, i64(PARTS * row)), b.mul(first, i64(2)))
            for part, upper in enumerate(_parts(b, vector)):
                shift = b.add(start, b.mul(of_part, i64(part)))
                b.store(upper, advance(b, parts, shift), align=2)
        b.store(b.or_(b.load(large, typ=I32, align=4), any_lane(b, found)), large, align=4)
    b.ret_void()


def _parts(b: ir.IRBuilder, vector: ir.Value) -> list[ir.Value]:
    """The parts of numbers, each of 16 bits."""
    found = []
    for _ in range(PARTS):
        bits = b.bitcast(vector, BITS)
        found.append(b.trunc(b.lshr(bits, constant(BITS, 16)), _HALVES))
        vector = _without(b, vector, b.and_(bits, constant(BITS, UPPER)))
    return found
