"""Packing: the function ``pack`` fills the panels of a share of all weights, once for each call.

The depth of a weight is contiguous in memory if its contracted axis is the last. Then packing
transposes tiles of a vector of columns by a vector of depth. Everything else is copied vector by
vector, or number by number if a vector holds columns of several weights.
"""

from collections.abc import Sequence
from functools import partial

from llvmlite import ir

from noria.backends.native.codegen.addresses import (
    Buffers,
    Columns,
    columns_of,
    panel_at,
    panel_vector,
)
from noria.backends.native.codegen.llvm import (
    I64,
    POINTER,
    VOID,
    advance,
    begin_function,
    bytes_of,
    constant,
    for_share,
    i64,
    internal_function,
    load_each,
    load_lanes,
    loop,
    transposed,
)
from noria.backends.native.codegen.unit_parts import pack_tiles
from noria.backends.native.plan.panels import Panel, StageTiling
from noria.backends.native.plan.tiling import KernelPlan


def emit_pack(plan: KernelPlan, module: ir.Module) -> None:
    """Add to a module ``void pack(void** buffers, int64 share, int64 shares)``."""
    b, (table, share, shares) = begin_function(module, "pack", VOID, POINTER, I64, I64)
    buffers = Buffers(b, table, plan.schedule)
    of_blocks = [tiling for _, tiling in (*plan.prologue, *plan.epilogue)]
    of_steps = [tiling for tiling in plan.tilings if isinstance(tiling, StageTiling)]
    packs = not plan.unpacked and not plan.packs_blocks
    filled: set[int] = set()
    for tiling in (*of_steps, *of_blocks) if packs else ():
        for panel in tiling.panels:
            if panel.offset in filled:
                continue
            filled.add(panel.offset)
            for j, counts in for_share(b, *plan.counts(tiling), share, shares):
                target = panel_at(b, buffers, plan, panel, j)
                pack_block(b, buffers, plan, tiling, panel, j, counts, target)
    b.ret_void()


def pack_block(
    b: ir.IRBuilder,
    buffers: Buffers,
    plan: KernelPlan,
    tiling: StageTiling,
    panel: Panel,
    j: ir.Value,
    counts: Sequence[int],
    target: ir.Value,
) -> None:
    """Fill ``target``, a panel of block ``j``, whose vectors have these numbers of features."""
    vectors = [
        [columns_of(b, buffers, plan, tiling, j, segment) for segment in segments]
        for segments in plan.segments(panel, counts)
    ]
    vector = panel_vector(plan, panel)
    if panel.by_unit:
        fill = partial(pack_steps, b, vector, vectors)
        pack_tiles(b, target, len(vectors), panel.dot.depth, fill)
    else:
        pack_steps(b, vector, vectors, target, i64(0), panel.dot.depth)


def pack_steps(
    b: ir.IRBuilder,
    vector: ir.VectorType,
    columns: Sequence[Sequence[Columns]],
    panel: ir.Value,
    begin: ir.Value,
    depth: int,
) -> None:
    """Fill a panel with ``depth`` steps along the depth, from ``begin`` on.

    Each vector holds columns of one weight, or of several side by side; its other lanes are zero.
    Panels whose columns have the same layout are filled by the same function.
    """
    given = list(dict.fromkeys(v for some in columns for c in some for v in (c.weight, c.first)))
    numbers = {value: n for n, value in enumerate(given)}
    layout = [
        [c._replace(weight=numbers[c.weight], first=numbers[c.first])[:] for c in some]
        for some in columns
    ]

    def emit(b: ir.IRBuilder, panel: ir.Value, begin: ir.Value, *args: ir.Value) -> None:
        known = dict(zip(given, args, strict=True))
        inside = [
            [c._replace(weight=known[c.weight], first=known[c.first]) for c in some]
            for some in columns
        ]
        _emit_pack_steps(b, vector, inside, panel, begin, depth)

    name = f"pack_steps.{vector}.{depth}.{layout}"
    kinds = [POINTER, I64, *(value.type for value in given)]
    b.call(internal_function(b.module, name, kinds, emit), [panel, begin, *given])


def _emit_pack_steps(
    b: ir.IRBuilder,
    vector: ir.VectorType,
    columns: Sequence[Sequence[Columns]],
    panel: ir.Value,
    begin: ir.Value,
    depth: int,
) -> None:
    size, width, lanes = bytes_of(vector), len(columns), vector.count
    is_transposed = [len(some) == 1 and some[0].contracted_axis == 1 for some in columns]

    def fill(start: int, which: bool) -> None:
        """Copy the vectors of one kind, step by step along the depth."""
        with loop(b, i64(start), i64(depth)) as k:
            target = advance(b, panel, b.mul(k, i64(width * size)))
            for c, some in enumerate(columns):
                if is_transposed[c] == which:
                    line = _line(b, vector, some, b.add(begin, k))
                    b.store(line, advance(b, target, c * size), align=size)

    if not all(is_transposed):
        fill(0, False)
    whole = depth // lanes * lanes
    for c, (weight, shape, _, first, count) in [
        (c, some[0]) for c, some in enumerate(columns) if is_transposed[c]
    ]:
        place = b.add(b.mul(first, i64(shape[1])), begin)
        start = b.gep(weight, [place], source_etype=vector.element)
        row_stride, panel_stride = i64(shape[1] * size // lanes), i64(width * size)
        with loop(b, i64(0), i64(whole // lanes)) as block:
            source = advance(b, start, b.mul(block, i64(size)))
            shift = b.add(b.mul(b.mul(block, i64(lanes)), panel_stride), i64(c * size))
            target = advance(b, panel, shift)
            function = transpose_tile(b.module, vector, count)
            b.call(function, [source, row_stride, target, panel_stride])
    if any(is_transposed) and whole < depth:
        fill(whole, True)
    b.ret_void()


def _line(
    b: ir.IRBuilder, vector: ir.VectorType, columns: Sequence[Columns], k: ir.Value
) -> ir.Value:
    """A vector of columns at depth ``k``."""
    one = vector.element
    if len(columns) == 1:
        weight, shape, contracted_axis, first, count = columns[0]
        row, last = (k, first) if contracted_axis == 0 else (first, k)
        start = b.gep(weight, [b.add(b.mul(row, i64(shape[1])), last)], source_etype=one)
        if contracted_axis == 0:
            return load_lanes(b, start, vector, count, bytes_of(vector) // vector.count)
        return b.call(strided_line(b.module, vector, count), [start, i64(shape[1])])
    places = []
    for weight, shape, contracted_axis, first, count in columns:
        for n in range(count):
            column = b.add(first, i64(n))
            row, last = (k, column) if contracted_axis == 0 else (column, k)
            place = b.add(b.mul(row, i64(shape[1])), last)
            places.append(b.gep(weight, [place], source_etype=one))
    return load_each(b, places, vector, bytes_of(vector) // vector.count)


def strided_line(module: ir.Module, vector: ir.VectorType, count: int) -> ir.Function:
    """``vector f(source, stride)``: ``count`` numbers, ``stride`` numbers apart, and then zeros."""

    def emit(b: ir.IRBuilder, source: ir.Value, stride: ir.Value) -> None:
        item = bytes_of(vector) // vector.count
        strides = [b.mul(stride, i64(n)) for n in range(count)]
        places = [b.gep(source, [shift], source_etype=vector.element) for shift in strides]
        b.ret(load_each(b, places, vector, item))

    name = f"strided_line.{count}.{vector.count}.{vector.element}"
    return internal_function(module, name, [POINTER, I64], emit, vector)


def transpose_tile(module: ir.Module, vector: ir.VectorType, count: int) -> ir.Function:
    """``void f(source, row_stride, target, target_stride)``.

    ``count`` rows of a vector each become columns; the other columns are zero. Strides are the
    distances in bytes from row to row of the source and from vector to vector of the target.
    """
    name = f"transpose_tile.{count}.{vector.count}.{vector.element}"
    kinds = [POINTER, I64, POINTER, I64]
    return internal_function(module, name, kinds, partial(_emit_transpose_tile, vector, count))


def _emit_transpose_tile(
    vector: ir.VectorType, count: int, b: ir.IRBuilder, *args: ir.Value
) -> None:
    source, row_stride, target, target_stride = args
    item = bytes_of(vector) // vector.count
    rows = [
        b.load(advance(b, source, b.mul(row_stride, i64(n))), typ=vector, align=item)
        for n in range(count)
    ]
    rows += [constant(vector, 0)] * (vector.count - count)
    for n, line in enumerate(transposed(b, rows)):
        b.store(line, advance(b, target, b.mul(target_stride, i64(n))), align=bytes_of(vector))
    b.ret_void()
