"""What the code generators share: LLVM's types, loops, memory, and intrinsic functions by their names."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

I64 = ir.IntType(64)
I32 = ir.IntType(32)
I8 = ir.IntType(8)
I1 = ir.IntType(1)
POINTER = ir.PointerType()
VOID = ir.VoidType()


def i64(number: int) -> ir.Constant:
    return ir.Constant(I64, number)


def is_float(kind: ir.Type) -> bool:
    """Whether a type is of floating-point numbers, alone or in a vector."""
    return isinstance(getattr(kind, "element", kind), ir.FloatType | ir.DoubleType)


def constant(kind: ir.Type, number: Any) -> ir.Constant:
    """A vector, or a single number, of ``number`` everywhere."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [constant(kind.element, number)] * kind.count)
    return ir.Constant(kind, float(number) if is_float(kind) else int(number))


def splat(b: ir.IRBuilder, number: ir.Value, count: int) -> ir.Value:
    """A vector with one number everywhere."""
    kind = ir.VectorType(number.type, count)
    one = b.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(I32, 0))
    return b.shuffle_vector(
        one, ir.Constant(kind, ir.Undefined), constant(ir.VectorType(I32, count), 0)
    )


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


def fold(
    b: ir.IRBuilder,
    count: ir.Value,
    start: Sequence[ir.Value],
    step: Callable[[ir.Value, Sequence[ir.Value]], Sequence[ir.Value]],
) -> list[ir.Value]:
    """Values that ``step(k, values)`` replaces, for each k from 0 to before ``count``, which is at least one."""
    before, body, done = b.block, b.append_basic_block("body"), b.append_basic_block("done")
    b.branch(body)
    b.position_at_end(body)
    k, values = b.phi(I64), [b.phi(value.type) for value in start]
    after = step(k, values)
    following = b.add(k, i64(1))
    for phi, first, new in zip((k, *values), (i64(0), *start), (following, *after), strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(new, b.block)
    b.cbranch(b.icmp_signed("<", following, count), body, done)
    b.position_at_end(done)
    return list(after)


def share_of(
    b: ir.IRBuilder, count: ir.Value, share: ir.Value, shares: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """The first of a share of ``count`` things, and the end of it.

    None is larger than the first, which is that of a call's own thread: it begins before others have come.
    """
    first = b.mul(share, count)
    over = b.sub(shares, i64(1))
    return b.udiv(b.add(first, over), shares), b.udiv(b.add(b.add(first, count), over), shares)


@contextmanager
def in_tiles(b: ir.IRBuilder, rows: ir.Value, most: int) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Code repeated for at most so many rows at a time, which are as equal in number as can be: the first of them, and the end."""
    tiles = b.udiv(b.add(rows, i64(most - 1)), i64(most))
    with loop(b, i64(0), tiles) as n:
        yield share_of(b, rows, n, tiles)


def least(b: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """The smaller of two numbers."""
    return b.select(b.icmp_signed("<", one, other), one, other)


def in_share(
    b: ir.IRBuilder, full: int, complete: Any, rest: Any, share: ir.Value, shares: ir.Value
) -> Iterator[tuple[ir.Value, Any]]:
    """Code for the blocks of a share: a loop over ``full`` ones, which are ``complete``; the last share has the ``rest``, if any."""
    if full:
        with loop(b, *share_of(b, i64(full), share, shares)) as block:
            yield block, complete
    if rest:
        with b.if_then(b.icmp_signed("==", b.add(share, i64(1)), shares)):
            yield i64(full), rest


# --- functions ------------------------------------------------------------------------------


def begin_function(
    module: ir.Module, name: str, result: ir.Type, *kinds: ir.Type
) -> tuple[ir.IRBuilder, Sequence[ir.Value]]:
    """Add a function to a module: a builder at its entry, and its arguments."""
    function = ir.Function(module, ir.FunctionType(result, kinds), name)
    return ir.IRBuilder(function.append_basic_block("entry")), function.args


def declared(module: ir.Module, name: str, result: ir.Type, *args: ir.Type) -> ir.Function:
    """The function of the module, declared if it is not there."""
    found = module.globals.get(name)
    return ir.Function(module, ir.FunctionType(result, args), name) if found is None else found


class _Callee:
    """What llvmlite's ``call`` asks of a callee, as its own ``InlineAsm`` answers it.

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
    """What LLVM adds to the name of an intrinsic function: ``v8f32``."""
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
    """Call an intrinsic function of LLVM, whose full name ends in the types ``of``, by default that of its first operand.

    ``result`` is what it gives, by default the same type.
    """
    first = values[0].type
    full = ".".join(["llvm", name, *map(suffix, of or (first,))])
    return b.call(declared(b.module, full, result or first, *(v.type for v in values)), values)


# --- memory: whole vectors, or as many numbers as there are ---------------------------------------------------------


def at(b: ir.IRBuilder, pointer: ir.Value, offset: ir.Value | int) -> ir.Value:
    """The address ``offset`` bytes further."""
    return b.gep(pointer, [i64(offset) if isinstance(offset, int) else offset], source_etype=I8)


def stack(b: ir.IRBuilder, size: int, align: int) -> ir.Value:
    """The address of ``size`` bytes of the stack."""
    with b.goto_entry_block():
        slot = b.alloca(I8, size)
    slot.align, slot.type = (
        align,
        POINTER,
    )  # llvmlite would give it the type of a pointer to bytes, which LLVM no longer has
    return slot


def mask(lanes: int, count: int) -> ir.Constant:
    """True for the first ``count`` lanes."""
    return ir.Constant(ir.VectorType(I1, lanes), [lane < count for lane in range(lanes)])


def read(
    b: ir.IRBuilder, address: ir.Value, kind: ir.VectorType, count: int, align: int
) -> ir.Value:
    """The first ``count`` numbers of a vector; the others are zero, and not touched in memory."""
    if count == kind.count:
        return b.load(address, typ=kind, align=align)
    operands = address, ir.Constant(I32, align), mask(kind.count, count), constant(kind, 0)
    return intrinsic(b, "masked.load", *operands, result=kind, of=(kind, POINTER))


def write(b: ir.IRBuilder, value: ir.Value, address: ir.Value, count: int, align: int) -> None:
    """Store the first ``count`` numbers of a vector."""
    kind = value.type
    if count == kind.count:
        b.store(value, address, align=align)
        return
    operands = value, address, ir.Constant(I32, align), mask(kind.count, count)
    intrinsic(b, "masked.store", *operands, result=VOID, of=(kind, POINTER))
