"""Products of a few rows with a packed matrix: an outer product of registers at each step along the depth.

A *panel* holds, for one block of columns, ``depth`` times ``width`` vectors: what one step along the depth reads is contiguous.
`product` keeps rows times width sums in registers; a row's number is read as a broadcast operand::

    for k:  for c < width:  p_c = panel[k][c];   for r < rows:  sum_rc += row_r[k] * p_c

Sums are left in a *tile*, a piece of the stack, where the element-wise part finds them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

I64 = ir.IntType(64)
I32 = ir.IntType(32)
I8 = ir.IntType(8)
POINTER = ir.PointerType()


def i64(number: int) -> ir.Constant:
    return ir.Constant(I64, number)


def at(b: ir.IRBuilder, pointer: ir.Value, offset: ir.Value | int) -> ir.Value:
    """The address ``offset`` bytes further."""
    return b.gep(pointer, [i64(offset) if isinstance(offset, int) else offset], source_etype=I8)


@contextmanager
def loop(b: ir.IRBuilder, start: ir.Value, stop: ir.Value) -> Iterator[ir.Value]:
    """Code repeated for each number from ``start`` to before ``stop``."""
    before = b.block
    head, body, done = (b.append_basic_block(name) for name in ("head", "body", "done"))
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(I64)
    i.add_incoming(start, before)
    b.cbranch(b.icmp_signed("<", i, stop), body, done)
    b.position_at_end(body)
    yield i
    i.add_incoming(b.add(i, i64(1)), b.block)
    b.branch(head)
    b.position_at_end(done)


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
    kind = ir.FunctionType(ir.VoidType(), [I64, POINTER, I64, POINTER, POINTER, I64, I64])
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
    multiply_add = _multiply_add(b.module, vector)
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
            new = b.call(multiply_add, [spread, columns[c], sums[r][c]])
            sums[r][c].add_incoming(ir.Constant(vector, [0.0] * vector.count), before)
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


def splat(b: ir.IRBuilder, number: ir.Value, count: int) -> ir.Value:
    """A vector with one number everywhere."""
    kind = ir.VectorType(number.type, count)
    one = b.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, count), [0] * count)
    return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _multiply_add(module: ir.Module, vector: ir.VectorType) -> ir.Function:
    bits = 32 if isinstance(vector.element, ir.FloatType) else 64
    name = f"llvm.fmuladd.v{vector.count}f{bits}"
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(vector, [vector] * 3), name)


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
    line: ir.Value = ir.Constant(vector, [0.0] * vector.count)
    for lane in range(count):
        column = b.add(first, i64(lane))
        index = b.add(b.mul(k, i64(shape[1])), column) if along == 0 else b.add(b.mul(column, i64(shape[1])), k)
        number = b.load(b.gep(weight, [index], source_etype=one), typ=one)
        line = b.insert_element(line, number, ir.Constant(I32, lane))
    return line


# --- memory: whole vectors, or as many numbers as there are ---------------------------------------------------------


def mask(lanes: int, count: int) -> ir.Constant:
    """True for the first ``count`` lanes."""
    return ir.Constant(ir.VectorType(ir.IntType(1), lanes), [lane < count for lane in range(lanes)])


def read(b: ir.IRBuilder, address: ir.Value, kind: ir.VectorType, count: int, align: int) -> ir.Value:
    """The first ``count`` numbers of a vector; the others are zero, and not touched in memory."""
    if count == kind.count:
        return b.load(address, typ=kind, align=align)
    chosen = mask(kind.count, count)
    zero = ir.Constant(kind, [0 if isinstance(kind.element, ir.IntType) else 0.0] * kind.count)
    function = _masked(b.module, "load", kind, kind, [POINTER, I32, chosen.type, kind])
    return b.call(function, [address, ir.Constant(I32, align), chosen, zero])


def write(b: ir.IRBuilder, value: ir.Value, address: ir.Value, count: int, align: int) -> None:
    """Store the first ``count`` numbers of a vector."""
    kind = value.type
    if count == kind.count:
        b.store(value, address, align=align)
        return
    chosen = mask(kind.count, count)
    function = _masked(b.module, "store", kind, ir.VoidType(), [kind, POINTER, I32, chosen.type])
    b.call(function, [value, address, ir.Constant(I32, align), chosen])


def _masked(module: ir.Module, name: str, kind: ir.VectorType, result: ir.Type, args: list[ir.Type]) -> ir.Function:
    one = kind.element
    letter = f"i{one.width}" if isinstance(one, ir.IntType) else "f32" if isinstance(one, ir.FloatType) else "f64"
    full = f"llvm.masked.{name}.v{kind.count}{letter}.p0"
    return module.globals.get(full) or ir.Function(module, ir.FunctionType(result, args), full)
