"""LLVM for all code generators: types, loops, functions, and memory of whole or partial vectors."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from noria._integers import ceil_div
from noria.backends.native.codegen.builder import Builder

I64 = ir.IntType(64)
I32 = ir.IntType(32)
I8 = ir.IntType(8)
I1 = ir.IntType(1)
POINTER = ir.PointerType()
VOID = ir.VoidType()


def i64(number: int) -> ir.Constant:
    return ir.Constant(I64, number)


def is_float(kind: ir.Type) -> bool:
    """Whether a type is a floating-point number, or a vector of them."""
    return isinstance(getattr(kind, "element", kind), ir.FloatType | ir.DoubleType)


class _Splat(ir.Constant):  # type: ignore[misc]
    """One number in all lanes, in LLVM's short form: llvmlite repeats it for each lane."""

    def _get_reference(self) -> str:
        return f"splat ({self.type.element} {self.constant[0].get_reference().strip()})"


class Undefined(ir.Constant):  # type: ignore[misc]
    """A vector whose lanes are filled later, in LLVM's short form."""

    def __init__(self, kind: ir.VectorType):
        super().__init__(kind, ir.Undefined)

    def _get_reference(self) -> str:
        return "undef"


def constant(kind: ir.Type, number: Any) -> ir.Constant:
    """``number`` as a constant; for a vector type, in all lanes."""
    if isinstance(kind, ir.VectorType):
        return _Splat(kind, [constant(kind.element, number)] * kind.count)
    return ir.Constant(kind, float(number) if is_float(kind) else int(number))


def splat(b: ir.IRBuilder, number: ir.Value, count: int) -> ir.Value:
    """A vector with one number in all lanes."""
    kind = ir.VectorType(number.type, count)
    one = b.insert_element(Undefined(kind), number, ir.Constant(I32, 0))
    return b.shuffle_vector(one, Undefined(kind), constant(ir.VectorType(I32, count), 0))


@contextmanager
def loop(b: ir.IRBuilder, start: ir.Value, stop: ir.Value) -> Iterator[ir.Value]:
    """A loop for each number from ``start`` to before ``stop``.

    There is none for one number, and no test before the first one if that is known to be below.
    """
    before, count = b.block, _known_count(start, stop)
    if count == 1:
        yield start
        return
    if count > 1:
        with _repeated(b, start, stop) as i:
            yield i
        return
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


@contextmanager
def _repeated(b: ir.IRBuilder, start: ir.Value, stop: ir.Value) -> Iterator[ir.Value]:
    """A loop without a test before the first number, which is below ``stop``."""
    before, body, done = b.block, b.append_basic_block("body"), b.append_basic_block("done")
    b.branch(body)
    b.position_at_end(body)
    i = b.phi(I64)
    i.add_incoming(start, before)
    yield i
    following = b.add(i, i64(1))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, stop), body, done)
    b.position_at_end(done)


def _known_count(start: ir.Value, stop: ir.Value) -> int:
    """How many numbers there are, or 0 if that is not known."""
    are_known = isinstance(start, ir.Constant) and isinstance(stop, ir.Constant)
    return max(0, stop.constant - start.constant) if are_known else 0


def carry_loop(
    b: ir.IRBuilder,
    count: ir.Value,
    start: Sequence[ir.Value],
    step: Callable[[ir.Value, Sequence[ir.Value]], Sequence[ir.Value]],
) -> list[ir.Value]:
    """A loop that carries values: ``step(k, values)`` replaces them for each k below ``count``.

    The count is at least one, so that the loop needs no test before it. There is no loop if it is
    known to be one.
    """
    if _known_count(i64(0), count) == 1:
        return list(step(i64(0), start))
    before = b.block
    with _repeated(b, i64(0), count) as k:
        values = [b.phi(value.type) for value in start]
        after = step(k, values)
        for phi, first, new in zip(values, start, after, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(new, b.block)
    return list(after)


def share_of(
    b: ir.IRBuilder, count: ir.Value, share: ir.Value, shares: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Cut ``count`` things into nearly equal shares: the first thing of a share, and its end.

    No share is larger than the first, the share of the calling thread: it starts while the
    other threads still have to wake up.
    """
    first = b.mul(share, count)
    over = b.sub(shares, i64(1))
    return b.udiv(b.add(first, over), shares), b.udiv(b.add(b.add(first, count), over), shares)


@contextmanager
def for_tiles(b: ir.IRBuilder, rows: ir.Value, most: int) -> Iterator[tuple[ir.Value, ir.Value]]:
    """A loop over tiles of nearly equal size, of at most ``most`` rows: first row and end of each.

    With 9 rows and at most 8, two tiles of 4 and 5 rows are faster than tiles of 8 and 1.
    """
    tiles = b.udiv(b.add(rows, i64(most - 1)), i64(most))
    with loop(b, i64(0), tiles) as n:
        yield share_of(b, rows, n, tiles)


def minimum(b: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """The smaller of two numbers."""
    return b.select(b.icmp_signed("<", one, other), one, other)


def for_share(
    b: ir.IRBuilder,
    full: int,
    complete: Any,
    rest: Any,
    share: ir.Value,
    shares: ir.Value,
    backwards: ir.Value | None = None,
) -> Iterator[tuple[ir.Value, Any]]:
    """Code for the blocks of a share: the number and the size of each.

    Yields first inside a loop over the share of ``full`` blocks, of size ``complete``, which goes
    ``backwards`` if that is true. If there is a smaller last block, yields again in the code of the
    last share, with size ``rest``.
    """
    if full:
        first, end = share_of(b, i64(full), share, shares)
        with loop(b, first, end) as block:
            if backwards is not None:
                other = b.sub(b.add(first, b.sub(end, i64(1))), block)
                block = b.select(backwards, other, block)
            yield block, complete
    if rest:
        with b.if_then(b.icmp_signed("==", b.add(share, i64(1)), shares)):
            yield i64(full), rest


def for_groups(
    b: ir.IRBuilder, full: int, most: int, complete: Any, rest: Any
) -> Iterator[tuple[tuple[ir.Value, ir.Value], Any]]:
    """Code for blocks in groups: the first and the end of each group, and the size of its blocks.

    As `for_share`, it yields once for all groups of ``most`` full blocks, and once for a
    smaller last block.
    """
    if full:
        with loop(b, i64(0), i64(ceil_div(full, most))) as group:
            first = b.mul(group, i64(most))
            yield (first, minimum(b, b.add(first, i64(most)), i64(full))), complete
    if rest:
        yield (i64(full), i64(full + 1)), rest


# --- functions ------------------------------------------------------------------------------


def begin_function(
    module: ir.Module, name: str, result: ir.Type, *kinds: ir.Type
) -> tuple[ir.IRBuilder, Sequence[ir.Value]]:
    """Add a function to a module: a builder at its entry, and its arguments."""
    function = ir.Function(module, ir.FunctionType(result, kinds), name)
    return Builder(function.append_basic_block("entry")), function.args


def declared(module: ir.Module, name: str, result: ir.Type, *args: ir.Type) -> ir.Function:
    """A function of the module, declared if the module does not have it."""
    found = module.globals.get(name)
    return ir.Function(module, ir.FunctionType(result, args), name) if found is None else found


def prefetch(b: ir.IRBuilder, address: ir.Value) -> None:
    """Fetch a cache line that is read soon into the first-level cache. Any address may be given."""
    function = declared(b.module, "llvm.prefetch.p0", VOID, POINTER, I32, I32, I32)
    is_read, keep, is_data = (ir.Constant(I32, n) for n in (0, 3, 1))
    b.call(function, [address, is_read, keep, is_data])


def internal_function(
    module: ir.Module,
    name: str,
    kinds: Sequence[ir.Type],
    emit: Callable[..., None],
    result: ir.Type = VOID,
) -> ir.Function:
    """A function of the module that is not inlined; ``emit(b, *args)`` makes it once.

    Its pointers are to different memory, so that LLVM need not load a value again after a store.
    """
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(result, kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    for argument in function.args:
        if argument.type == POINTER:
            argument.add_attribute("noalias")
    emit(Builder(function.append_basic_block("entry")), *function.args)
    return function


class _Callee:
    """The attributes that llvmlite's ``call`` reads of a callee, as in its own ``InlineAsm``.

    A pointer that was loaded from memory has no function type, and llvmlite knows no other way.
    """

    def __init__(self, pointer: ir.Value, signature: ir.FunctionType):
        self.function_type = self.type = signature
        self.get_reference = pointer.get_reference


def call_pointer(
    b: ir.IRBuilder, pointer: ir.Value, signature: ir.FunctionType, arguments: Sequence[ir.Value]
) -> ir.Value:
    """Call the function at an address."""
    return b.call(_Callee(pointer, signature), arguments)


def suffix(kind: ir.Type) -> str:
    """The suffix of a type in the name of an intrinsic function, such as ``v8f32``."""
    if isinstance(kind, ir.PointerType):
        return "p0"
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix(kind.element)}"
    return (
        f"i{kind.width}"
        if isinstance(kind, ir.IntType)
        else "f32"
        if kind == ir.FloatType()
        else "f64"
    )


def intrinsic(
    b: ir.IRBuilder,
    name: str,
    *values: ir.Value,
    result: ir.Type | None = None,
    of: tuple[ir.Type, ...] = (),
) -> ir.Value:
    """Call an intrinsic function of LLVM.

    Its full name ends in the types ``of``, by default the type of the first operand, which is also
    the default of the type ``result``.
    """
    first = values[0].type
    full = ".".join(["llvm", name, *map(suffix, of or (first,))])
    return b.call(declared(b.module, full, result or first, *(v.type for v in values)), values)


# --- memory -----------------------------------------------------------------------------------


def advance(b: ir.IRBuilder, pointer: ir.Value, count: ir.Value | int) -> ir.Value:
    """The address ``count`` bytes after a pointer."""
    return b.gep(pointer, [i64(count) if isinstance(count, int) else count], source_etype=I8)


def bytes_of(vector: ir.VectorType) -> int:
    """The size of a vector in memory."""
    return int(vector.count) * (4 if isinstance(vector.element, ir.FloatType) else 8)


def stack(b: ir.IRBuilder, size: int, align: int) -> ir.Value:
    """Allocate ``size`` bytes of the stack."""
    with b.goto_entry_block():
        slot = b.alloca(I8, size)
    # llvmlite gives it the type of a pointer to bytes, which LLVM no longer has.
    slot.align, slot.type = align, POINTER
    return slot


def zeros(b: ir.IRBuilder, kind: ir.VectorType) -> ir.Value:
    """The address of a vector of zeros.

    A sum that begins reads it in place of the memory of the result. Memory that is new from the
    system would be mapped twice, for this read and for the write after it, and at the second time
    the system interrupts all other threads of the process.
    """
    name = f"zeros.{bytes_of(kind)}"
    found = b.module.globals.get(name)
    if found is None:
        found = ir.GlobalVariable(b.module, ir.ArrayType(I8, bytes_of(kind)), name)
        found.linkage, found.global_constant, found.align = "internal", True, bytes_of(kind)
        found.initializer = ir.Constant(found.value_type, bytearray(bytes_of(kind)))
    # llvmlite gives it the type of a pointer to bytes, which LLVM no longer has.
    found.type = POINTER
    return found


def mask(lanes: int, count: int) -> ir.Constant:
    """True for the first ``count`` lanes."""
    return ir.Constant(ir.VectorType(I1, lanes), [lane < count for lane in range(lanes)])


def load_lanes(
    b: ir.IRBuilder, address: ir.Value, kind: ir.VectorType, count: int, align: int
) -> ir.Value:
    """Load the first ``count`` numbers of a vector; the others are zero, and not read."""
    if count == kind.count:
        return b.load(address, typ=kind, align=align)
    operands = address, ir.Constant(I32, align), mask(kind.count, count), constant(kind, 0)
    return intrinsic(b, "masked.load", *operands, result=kind, of=(kind, POINTER))


def load_each(
    b: ir.IRBuilder, addresses: Iterable[ir.Value], kind: ir.VectorType, align: int
) -> ir.Value:
    """A vector of numbers that are anywhere in memory; the other lanes are zero."""
    found: ir.Value = constant(kind, 0)
    for lane, address in enumerate(addresses):
        number = b.load(address, typ=kind.element, align=align)
        found = b.insert_element(found, number, ir.Constant(I32, lane))
    return found


def store_lanes(
    b: ir.IRBuilder, value: ir.Value, address: ir.Value, count: int, align: int
) -> None:
    """Store the first ``count`` numbers of a vector."""
    kind = value.type
    if count == kind.count:
        b.store(value, address, align=align)
        return
    operands = value, address, ir.Constant(I32, align), mask(kind.count, count)
    intrinsic(b, "masked.store", *operands, result=VOID, of=(kind, POINTER))


def transposed(b: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    """Transpose n vectors of n lanes.

    Each round interleaves the lanes of two vectors that are n / 2 apart: the low halves make one
    vector, the high halves the next. After log2(n) rounds rows are columns. With four lanes::

        a0 a1 a2 a3      a0 c0 a1 c1      a0 b0 c0 d0
        b0 b1 b2 b3  ->  a2 c2 a3 c3  ->  a1 b1 c1 d1
        c0 c1 c2 c3      b0 d0 b1 d1      a2 b2 c2 d2
        d0 d1 d2 d3      b2 d2 b3 d3      a3 b3 c3 d3
    """
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
