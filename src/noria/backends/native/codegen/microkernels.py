"""Products of a few rows with a packed matrix: an outer product of registers at each step along the depth.

A *panel* holds, for one block of columns, ``depth`` times ``width`` vectors: what one step along the depth reads is contiguous.
`product` keeps rows times width sums in registers; a row's number is read as a broadcast operand::

    for k:  for c < width:  p_c = panel[k][c];   for r < rows:  sum_rc += row_r[k] * p_c

Sums are left in a *tile*, a piece of the stack, where the element-wise part finds them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from llvmlite import ir

from noria.backends.native.codegen.llvm import (
    I1,
    I32,
    I64,
    POINTER,
    VOID,
    at,
    constant,
    fold,
    i64,
    intrinsic,
    loop,
    read,
    splat,
    write,
)


def product(module: ir.Module, vector: ir.VectorType, width: int, rows: int) -> ir.Function:
    """``void f(count, row, stride, panel, tile, pitch, depth)``: the products of ``count`` rows, at most ``rows``.

    ``stride`` is the distance in bytes from row to row, ``pitch`` that in the tile.
    """
    name = f"product.{width}.{rows}.{vector.element}"
    kinds = [I64, POINTER, I64, POINTER, POINTER, I64, I64]
    return _function(module, name, kinds, partial(_emit_product, vector, width, rows))


def _emit_product(
    vector: ir.VectorType, width: int, rows: int, b: ir.IRBuilder, *args: ir.Value
) -> None:
    (number, row, stride, panel, tile, pitch, depth), size = args, bytes_of(vector)

    def body(count: int) -> None:
        lines = [at(b, row, b.mul(stride, i64(r))) for r in range(count)]

        def step(k: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
            base = at(b, panel, b.mul(k, i64(width * size)))
            columns = [b.load(at(b, base, c * size), typ=vector, align=size) for c in range(width)]
            return [b.gep(line, [k], source_etype=vector.element) for line in lines], columns

        sums = _outer_products(b, depth, [[constant(vector, 0)] * width] * count, step)
        for r, line in enumerate(sums):
            target = at(b, tile, b.mul(pitch, i64(r)))
            for c, value in enumerate(line):
                b.store(value, at(b, target, c * size), align=size)

    cases = [b.append_basic_block(f"rows{n}") for n in range(1, rows + 1)]
    switch = b.switch(number, cases[-1])
    for n, block in enumerate(cases, 1):
        if n < rows:
            switch.add_case(i64(n), block)
        b.position_at_end(block)
        body(n)
        b.ret_void()


def direct(
    b: ir.IRBuilder, vector: ir.VectorType, columns: "Columns", row: ir.Value, target: ir.Value
) -> None:
    """Some columns of the product of one row, into a vector of the tile, with the weight where it is."""
    item, depth = bytes_of(vector) // vector.count, columns.shape[columns.along]
    pitch = columns.shape[1] * item  # from row to row of the matrix
    start = at(b, columns.weight, b.mul(columns.first, i64(pitch if columns.along else item)))
    emit = partial(_emit_along if columns.along else _emit_across, vector, depth, columns.width)
    name = f"direct.{depth}.{columns.along}.{columns.width}.{vector.element}"
    b.call(
        _function(b.module, name, [POINTER, I64, POINTER, POINTER], emit),
        [start, i64(pitch), row, target],
    )


def _emit_along(
    vector: ir.VectorType, depth: int, count: int, b: ir.IRBuilder, *args: ir.Value
) -> None:
    """Along the rows of the matrix: a sum of vectors for each of them, whose numbers are summed up at the end."""
    weight, pitch, row, target = args
    size, lanes, zero = bytes_of(vector), vector.count, constant(vector, 0)
    lines = [at(b, weight, b.mul(pitch, i64(n))) for n in range(count)]

    def step(k: ir.Value, sums: Sequence[ir.Value], numbers: int = lanes) -> list[ir.Value]:
        shift = b.mul(k, i64(size))
        x, *found = (
            read(b, at(b, line, shift), vector, numbers, size // lanes) for line in (row, *lines)
        )
        return [intrinsic(b, "fmuladd", x, *pair) for pair in zip(found, sums, strict=True)]

    whole, left = divmod(depth, lanes)
    sums = fold(b, i64(whole), [zero] * count, step) if whole else [zero] * count
    sums = step(i64(whole), sums, left) if left else sums
    b.store(_sums_of_each(b, sums + [zero] * (lanes - count)), target, align=size)
    b.ret_void()


def _emit_across(
    vector: ir.VectorType, depth: int, count: int, b: ir.IRBuilder, *args: ir.Value
) -> None:
    """Across them: each row of the matrix times a number; in four sums, since each has to wait for the one before."""
    weight, pitch, row, target = args
    size, lanes, zero = bytes_of(vector), vector.count, constant(vector, 0)

    def step(k: ir.Value, sums: Sequence[ir.Value], steps: int = 4) -> list[ir.Value]:
        found = list(sums)
        for n in range(steps):
            index = b.add(b.mul(k, i64(4)), i64(n))
            x = splat(
                b,
                b.load(b.gep(row, [index], source_etype=vector.element), typ=vector.element),
                lanes,
            )
            line = read(b, at(b, weight, b.mul(index, pitch)), vector, count, size // lanes)
            found[n] = intrinsic(b, "fmuladd", x, line, sums[n])
        return found

    whole, left = divmod(depth, 4)
    sums = fold(b, i64(whole), [zero] * 4, step) if whole else [zero] * 4
    sums = step(i64(whole), sums, left)
    b.store(b.fadd(b.fadd(sums[0], sums[1]), b.fadd(sums[2], sums[3])), target, align=size)
    b.ret_void()


def _sums_of_each(b: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """As many vectors as they have numbers: the sum of the numbers of each. Each round adds halves, and puts the sums of two vectors into one."""
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
        vectors = [
            b.fadd(b.shuffle_vector(u, v, low), b.shuffle_vector(u, v, high)) for u, v in pairs
        ]
        block //= 2
    return vectors[0]


def accumulate(
    module: ir.Module, vector: ir.VectorType, rows: int, width: int, last: int
) -> ir.Function:
    """``void f(left, right, distance, out, pitch, depth, fresh)``: ``out`` plus a sum of outer products.

    Of ``left``, ``rows`` numbers of a vector at each step along the depth; of ``right``, ``width`` vectors that are
    ``distance`` bytes apart, of the last of them only ``last`` numbers. Both have one vector after the other along the depth.
    ``pitch`` is the distance in bytes from row to row of ``out``, which counts as zero if ``fresh``.
    """
    name = f"accumulate.{rows}.{width}.{last}.{vector.element}"
    kinds = [POINTER, POINTER, I64, POINTER, I64, I64, I1]
    return _function(module, name, kinds, partial(_emit_accumulate, vector, rows, width, last))


def _emit_accumulate(
    vector: ir.VectorType, rows: int, width: int, last: int, b: ir.IRBuilder, *args: ir.Value
) -> None:
    left, right, distance, out, pitch, depth, fresh = args
    size, zero = bytes_of(vector), constant(vector, 0)
    item, counts = size // vector.count, [*[vector.count] * (width - 1), last]
    columns = [at(b, right, b.mul(distance, i64(c))) for c in range(width)]
    cells = [
        [at(b, out, b.add(b.mul(pitch, i64(r)), i64(c * size))) for c in range(width)]
        for r in range(rows)
    ]
    before = [
        [
            b.select(fresh, zero, read(b, cell, vector, n, item))
            for cell, n in zip(line, counts, strict=True)
        ]
        for line in cells
    ]

    def step(k: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
        shift = b.mul(k, i64(size))
        line = at(b, left, shift)
        vectors = [b.load(at(b, column, shift), typ=vector, align=item) for column in columns]
        return [at(b, line, r * item) for r in range(rows)], vectors

    for line, found in zip(cells, _outer_products(b, depth, before, step), strict=True):
        for cell, value, n in zip(line, found, counts, strict=True):
            write(b, value, cell, n, item)
    b.ret_void()


def _function(
    module: ir.Module, name: str, kinds: Sequence[ir.Type], emit: Callable[..., None]
) -> ir.Function:
    """The module's own function of the name, whose pointers lead to different memory; made by ``emit(b, *args)`` if it is not there."""
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(VOID, kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    for argument in function.args:
        if argument.type == POINTER:
            argument.add_attribute("noalias")
    emit(ir.IRBuilder(function.append_basic_block("entry")), *function.args)
    return function


def _outer_products(
    b: ir.IRBuilder,
    depth: ir.Value,
    start: Sequence[Sequence[ir.Value]],
    step: Callable[[ir.Value], tuple[list[ir.Value], list[ir.Value]]],
) -> list[list[ir.Value]]:
    """Sums over the depth, which is at least one, of outer products; ``step`` gives addresses of numbers, and vectors."""
    width = len(start[0])

    def add(k: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
        found: list[ir.Value] = []
        numbers, columns = step(k)
        for number in numbers:
            spread = splat(b, b.load(number, typ=columns[0].type.element), columns[0].type.count)
            old = sums[len(found) : len(found) + width]
            found += [
                intrinsic(b, "fmuladd", spread, *pair) for pair in zip(columns, old, strict=True)
            ]
        return found

    sums = fold(b, depth, [value for line in start for value in line], add)
    return [sums[n : n + width] for n in range(0, len(sums), width)]


def bytes_of(vector: ir.VectorType) -> int:
    """The size of a vector in memory."""
    return vector.count * (4 if isinstance(vector.element, ir.FloatType) else 8)


class Columns(NamedTuple):
    """Columns of a matrix, ``width`` of them from ``first`` on; the axis ``along`` of the matrix is the depth."""

    weight: ir.Value
    shape: tuple[int, ...]
    along: int
    first: ir.Value
    width: int


def pack(
    b: ir.IRBuilder, vector: ir.VectorType, panel: ir.Value, columns: Sequence[Sequence[Columns]]
) -> None:
    """Fill the panel of a block. Each vector holds columns of one matrix or of several, side by side; what is left of it is zero."""
    size, width, lanes = bytes_of(vector), len(columns), vector.count
    depth = columns[0][0].shape[columns[0][0].along]
    turned = [len(some) == 1 and some[0].along == 1 for some in columns]

    def fill(start: int, which: bool) -> None:
        """Some steps along the depth, one by one."""
        with loop(b, i64(start), i64(depth)) as k:
            target = at(b, panel, b.mul(k, i64(width * size)))
            for c, some in enumerate(columns):
                if turned[c] == which:
                    b.store(_line(b, vector, some, k), at(b, target, c * size), align=size)

    if not all(turned):
        fill(0, False)
    whole = depth // lanes * lanes
    for c, (weight, shape, _, first, count) in [
        (c, some[0]) for c, some in enumerate(columns) if turned[c]
    ]:
        start = b.gep(weight, [b.mul(first, i64(shape[1]))], source_etype=vector.element)
        pitch, step = i64(shape[1] * size // lanes), i64(width * size)
        with loop(b, i64(0), i64(whole // lanes)) as block:
            source = at(b, start, b.mul(block, i64(size)))
            target = at(b, panel, b.add(b.mul(b.mul(block, i64(lanes)), step), i64(c * size)))
            b.call(_turn(b.module, vector, count), [source, pitch, target, step])
    if any(turned) and whole < depth:
        fill(whole, True)


def _turn(module: ir.Module, vector: ir.VectorType, count: int) -> ir.Function:
    """``void f(source, pitch, target, step)``: ``count`` rows of a vector each become columns; the other columns are zero.

    ``pitch`` is the distance in bytes from row to row, ``step`` that from one vector of the result to the next.
    """
    kinds = [POINTER, I64, POINTER, I64]
    return _function(
        module,
        f"turn.{count}.{vector.count}.{vector.element}",
        kinds,
        partial(_emit_turn, vector, count),
    )


def _emit_turn(vector: ir.VectorType, count: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    source, pitch, target, step = args
    align = bytes_of(vector) // vector.count
    found = [
        b.load(at(b, source, b.mul(pitch, i64(n))), typ=vector, align=align) for n in range(count)
    ]
    found += [constant(vector, 0)] * (vector.count - count)
    for n, line in enumerate(_transposed(b, found)):
        b.store(line, at(b, target, b.mul(step, i64(n))), align=bytes_of(vector))
    b.ret_void()


def _transposed(b: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    """As many vectors as they have numbers, rows as columns: each round puts what is half the vectors apart side by side."""
    count = len(vectors)
    low, high = (
        ir.Constant(
            ir.VectorType(I32, count),
            [half + lane // 2 + lane % 2 * count for lane in range(count)],
        )
        for half in (0, count // 2)
    )
    for _ in range(count.bit_length() - 1):
        pairs = zip(vectors[: count // 2], vectors[count // 2 :], strict=True)
        vectors = [b.shuffle_vector(one, two, order) for one, two in pairs for order in (low, high)]
    return vectors


def _line(
    b: ir.IRBuilder, vector: ir.VectorType, columns: Sequence[Columns], k: ir.Value
) -> ir.Value:
    """A vector of columns at depth ``k``."""
    one = vector.element
    if len(columns) == 1 and columns[0].along == 0:
        weight, shape, _, first, count = columns[0]
        start = b.gep(weight, [b.add(b.mul(k, i64(shape[1])), first)], source_etype=one)
        return read(b, start, vector, count, bytes_of(vector) // vector.count)
    line: ir.Value = constant(vector, 0)
    lanes = iter(range(vector.count))
    for weight, shape, along, first, count in columns:
        for n in range(count):
            column = b.add(first, i64(n))
            row, last = (k, column) if along == 0 else (column, k)
            number = b.load(
                b.gep(weight, [b.add(b.mul(row, i64(shape[1])), last)], source_etype=one), typ=one
            )
            line = b.insert_element(line, number, ir.Constant(I32, next(lanes)))
    return line
