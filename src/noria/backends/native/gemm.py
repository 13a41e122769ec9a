"""Products of a few rows with a packed matrix: an outer product of registers at each step along the depth.

A *panel* holds, for one block of columns, ``depth`` times ``width`` vectors: what one step along the depth reads is contiguous.
`product` keeps rows times width sums in registers; a row's number is read as a broadcast operand::

    for k:  for c < width:  p_c = panel[k][c];   for r < rows:  sum_rc += row_r[k] * p_c

Sums are left in a *tile*, a piece of the stack, where the element-wise part finds them.
"""

from collections.abc import Callable, Sequence

from llvmlite import ir

from noria.backends.native.instructions import I32, I64, POINTER, VOID, at, constant, i64, intrinsic, loop, splat

#: Rows that are multiplied at a time, at most.
MOST_ROWS = 8


def most_rows(registers: int, width: int) -> int:
    """Rows of which all sums, one step of the panel and one broadcast fit the registers."""
    return max(1, min(MOST_ROWS, (registers - width - 1) // width))


def product(module: ir.Module, vector: ir.VectorType, width: int, rows: int) -> ir.Function:
    """``void f(count, row, stride, panel, tile, pitch, depth)``: the products of ``count`` rows, at most ``rows``.

    ``stride`` is the distance in bytes from row to row, ``pitch`` that in the tile.
    """
    name = f"product.{width}.{rows}.{vector.element}"
    if name in module.globals:
        return module.globals[name]
    kind = ir.FunctionType(VOID, [I64, POINTER, I64, POINTER, POINTER, I64, I64])
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    for i in (1, 3, 4):
        function.args[i].add_attribute("noalias")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    cases = [function.append_basic_block(f"rows{n}") for n in range(1, rows + 1)]
    switch = b.switch(function.args[0], cases[-1])
    for n, block in enumerate(cases, 1):
        if n < rows:
            switch.add_case(i64(n), block)
        b.position_at_end(block)
        _outer_products(b, function.args[1:], vector, width, n)
        b.ret_void()
    return function


def _outer_products(b: ir.IRBuilder, args: Sequence[ir.Value], vector: ir.VectorType, width: int, rows: int) -> None:
    row, stride, panel, tile, pitch, depth = args
    size = _bytes(vector)
    pointers = [at(b, row, b.mul(stride, i64(r))) for r in range(rows)]
    before, body, done = b.block, b.append_basic_block("body"), b.append_basic_block("done")
    b.branch(body)  # the depth is at least one
    b.position_at_end(body)
    k = b.phi(I64)
    k.add_incoming(i64(0), before)
    sums = [[b.phi(vector) for _ in range(width)] for _ in range(rows)]
    base = at(b, panel, b.mul(k, i64(width * size)))
    columns = [b.load(at(b, base, c * size), typ=vector, align=size) for c in range(width)]
    for r in range(rows):
        number = b.load(b.gep(pointers[r], [k], source_etype=vector.element), typ=vector.element)
        spread = splat(b, number, vector.count)
        for c in range(width):
            new = intrinsic(b, "fmuladd", spread, columns[c], sums[r][c])
            sums[r][c].add_incoming(constant(vector, 0), before)
            sums[r][c].add_incoming(new, body)
            sums[r][c] = new
    following = b.add(k, i64(1))
    k.add_incoming(following, body)
    b.cbranch(b.icmp_signed("<", following, depth), body, done)
    b.position_at_end(done)
    for r in range(rows):
        line = at(b, tile, b.mul(pitch, i64(r)))
        for c in range(width):
            b.store(sums[r][c], at(b, line, c * size), align=size)


def _bytes(vector: ir.VectorType) -> int:
    return vector.count * (4 if isinstance(vector.element, ir.FloatType) else 8)


def pack(
    b: ir.IRBuilder,
    vector: ir.VectorType,
    panel: ir.Value,
    shapes: Sequence[tuple[int, int]],
    along: Sequence[int],
    lines: Callable[[ir.Value], Sequence[tuple[ir.Value, ir.Value]]],
    full: int,
    rest: Sequence[int],
) -> None:
    """Fill the panels of some blocks.

    Args:
        b: where the code goes.
        vector: the type of a vector.
        panel: where the panels go, one after the other.
        shapes: of the matrix of each vector of a panel.
        along: the axis of each matrix that is the depth.
        lines: for a block, of each vector the matrix and the first column.
        full: how many blocks there are.
        rest: how many numbers each vector of one more block has, if there is one; the others are zero.
    """
    size, width, depth = _bytes(vector), len(shapes), shapes[0][along[0]]

    def fill(block: ir.Value, counts: Sequence[int]) -> None:
        found = lines(block)
        with loop(b, i64(0), i64(depth)) as k:
            target = at(b, panel, b.mul(b.add(b.mul(block, i64(depth)), k), i64(width * size)))
            for c, ((weight, first), count) in enumerate(zip(found, counts, strict=True)):
                line = _line(b, vector, weight, shapes[c], along[c], k, first, count)
                b.store(line, at(b, target, c * size), align=size)

    with loop(b, i64(0), i64(full)) as block:
        fill(block, [vector.count] * width)
    if rest:
        fill(i64(full), rest)


def _line(
    b: ir.IRBuilder,
    vector: ir.VectorType,
    weight: ir.Value,
    shape: tuple[int, int],
    along: int,
    k: ir.Value,
    first: ir.Value,
    count: int,
) -> ir.Value:
    """``count`` numbers of the columns from ``first`` on, at depth ``k``."""
    one = vector.element
    if along == 0 and count == vector.count:
        start = b.add(b.mul(k, i64(shape[1])), first)
        return b.load(b.gep(weight, [start], source_etype=one), typ=vector, align=_bytes(vector) // vector.count)
    line: ir.Value = constant(vector, 0)
    for lane in range(count):
        column = b.add(first, i64(lane))
        index = b.add(b.mul(k, i64(shape[1])), column) if along == 0 else b.add(b.mul(column, i64(shape[1])), k)
        number = b.load(b.gep(weight, [index], source_etype=one), typ=one)
        line = b.insert_element(line, number, ir.Constant(I32, lane))
    return line
