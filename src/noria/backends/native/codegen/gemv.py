"""The product of one row with a weight in place, for calls that are too short to pack weights.

Each function makes one vector of products, up to as many columns of the weight as it has lanes.
"""

from collections.abc import Callable, Sequence
from functools import partial

from llvmlite import ir

from noria.backends.native.codegen.addresses import Columns
from noria.backends.native.codegen.llvm import (
    I32,
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
    splat,
)

#: Independent sums over the depth: a multiply-add takes four cycles on current cores, and each has
#: to wait for the one before in its sum.
_SUMS = 4


def gemv(
    b: ir.IRBuilder, vector: ir.VectorType, columns: Columns, row: ir.Value, target: ir.Value
) -> None:
    """Multiply one row with columns of a weight, and store the products as a vector."""
    item, depth = bytes_of(vector) // vector.count, columns.depth
    row_stride = columns.shape[1] * item
    is_transposed = columns.contracted_axis == 1
    first = b.mul(columns.first, i64(row_stride if is_transposed else item))
    start = advance(b, columns.weight, first)
    emit = partial(_emit_dots if is_transposed else _emit_axpys, vector, depth, columns.width)
    name = f"gemv.{depth}.{columns.contracted_axis}.{columns.width}.{vector.element}"
    function = internal_function(b.module, name, [POINTER, I64, POINTER, POINTER], emit)
    b.call(function, [start, i64(row_stride), row, target])


def _emit_dots(
    vector: ir.VectorType, depth: int, count: int, b: ir.IRBuilder, *args: ir.Value
) -> None:
    """The depth is contiguous: a dot product with each row of the matrix, in vectors."""
    weight, row_stride, row, target = args
    size, lanes, zero = bytes_of(vector), vector.count, constant(vector, 0)
    lines = [advance(b, weight, b.mul(row_stride, i64(n))) for n in range(count)]

    def step(k: ir.Value, sums: Sequence[ir.Value], numbers: int = lanes) -> list[ir.Value]:
        shift = b.mul(k, i64(size))
        x, *found = (
            load_lanes(b, advance(b, line, shift), vector, numbers, size // lanes)
            for line in (row, *lines)
        )
        return [intrinsic(b, "fmuladd", x, *pair) for pair in zip(found, sums, strict=True)]

    whole, left = divmod(depth, lanes)
    sums = carry_loop(b, i64(whole), [zero] * count, step) if whole else [zero] * count
    sums = step(i64(whole), sums, left) if left else sums
    total = horizontal(b, sums + [zero] * (lanes - count), b.fadd)
    b.store(total, target, align=size)
    b.ret_void()


def _emit_axpys(
    vector: ir.VectorType, depth: int, count: int, b: ir.IRBuilder, *args: ir.Value
) -> None:
    """The columns are contiguous: the sum of the rows of the matrix, each times a number."""
    weight, row_stride, row, target = args
    size, lanes, zero = bytes_of(vector), vector.count, constant(vector, 0)

    def step(k: ir.Value, sums: Sequence[ir.Value], steps: int = _SUMS) -> list[ir.Value]:
        found = list(sums)
        for n in range(steps):
            index = b.add(b.mul(k, i64(_SUMS)), i64(n))
            number = b.load(b.gep(row, [index], source_etype=vector.element), typ=vector.element)
            x = splat(b, number, lanes)
            address = advance(b, weight, b.mul(index, row_stride))
            line = load_lanes(b, address, vector, count, size // lanes)
            found[n] = intrinsic(b, "fmuladd", x, line, sums[n])
        return found

    whole, left = divmod(depth, _SUMS)
    sums = carry_loop(b, i64(whole), [zero] * _SUMS, step) if whole else [zero] * _SUMS
    sums = step(i64(whole), sums, left)
    b.store(b.fadd(b.fadd(sums[0], sums[1]), b.fadd(sums[2], sums[3])), target, align=size)
    b.ret_void()


def horizontal(
    b: ir.IRBuilder, vectors: list[ir.Value], add: Callable[[ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    """The sum of the lanes of each of n vectors of n lanes, as one vector.

    Each round halves the number of vectors. It adds the halves of blocks of lanes, and puts the
    sums of two vectors side by side, block by block. With four lanes::

        a0 a1 a2 a3    b0 b1 b2 b3    c0 c1 c2 c3    d0 d1 d2 d3

    round 1, blocks of 4 lanes, pairs (a, c) and (b, d), with a02 = a0 + a2::

        a02 a13 c02 c13               b02 b13 d02 d13

    round 2, blocks of 2 lanes::

        a0123 b0123 c0123 d0123
    """
    lanes = len(vectors)
    block = lanes
    while len(vectors) > 1:
        low, high = (
            ir.Constant(
                ir.VectorType(I32, lanes),
                [
                    source + group + half + n
                    for group in range(0, lanes, block)
                    for source in (0, lanes)
                    for n in range(block // 2)
                ],
            )
            for half in (0, block // 2)
        )
        pairs = zip(vectors[: len(vectors) // 2], vectors[len(vectors) // 2 :], strict=True)
        vectors = [add(b.shuffle_vector(u, v, low), b.shuffle_vector(u, v, high)) for u, v in pairs]
        block //= 2
    return vectors[0]


def across_lanes(
    b: ir.IRBuilder, vector: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    """All lanes of a vector combined: its halves, then quarters, and so on."""
    width = vector.type.count
    while width > 1:
        width //= 2
        kind = ir.VectorType(I32, width)
        halves = [
            b.shuffle_vector(vector, vector, ir.Constant(kind, [*range(start, start + width)]))
            for start in (0, width)
        ]
        vector = combine(*halves)
    return b.extract_element(vector, ir.Constant(I32, 0))
