"""A builder of LLVM's code that leaves out what is known when the code is written."""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
}


class Builder(ir.IRBuilder):  # type: ignore[misc]  # llvmlite has no annotations
    """Folds sums, products and comparisons of whole numbers, and makes none twice in a block.

    Most of the code of a kernel is the arithmetic of addresses, much of it with numbers that the
    plan knows. LLVM would find the same, after all of it has been written, printed and parsed.
    Vectors and floating-point numbers are left to LLVM.
    """

    def __init__(self, block: ir.Block | None = None):
        super().__init__(block)
        self._known: dict[tuple[Any, ...], ir.Value] = {}

    def add(self, lhs: ir.Value, rhs: ir.Value) -> ir.Value:
        if _is(lhs, 0):
            return rhs
        return lhs if _is(rhs, 0) else self._whole(int.__add__, "add", lhs, rhs)

    def sub(self, lhs: ir.Value, rhs: ir.Value, name: str = "") -> ir.Value:  # for `neg`
        return lhs if _is(rhs, 0) else self._whole(int.__sub__, "sub", lhs, rhs)

    def mul(self, lhs: ir.Value, rhs: ir.Value) -> ir.Value:
        for one, other in ((lhs, rhs), (rhs, lhs)):
            if _is(one, 1):
                return other
            if _is(one, 0):
                return one
        return self._whole(int.__mul__, "mul", lhs, rhs)

    def udiv(self, lhs: ir.Value, rhs: ir.Value) -> ir.Value:
        if _is(rhs, 1):
            return lhs
        # Whole numbers that are known, and divided, are sizes, which are not negative.
        return self._whole(int.__floordiv__, "udiv", lhs, rhs)

    def gep(self, ptr: ir.Value, indices: Sequence[ir.Value], source_etype: ir.Type) -> ir.Value:
        (index,) = indices
        if _is(index, 0):
            return ptr
        make = super().gep
        key = "gep", _key(ptr), _key(index), source_etype
        return self._once(key, lambda: make(ptr, [index], source_etype=source_etype))

    def and_(self, lhs: ir.Value, rhs: ir.Value) -> ir.Value:
        return self._whole(int.__and__, "and_", lhs, rhs)

    def select(self, cond: ir.Value, lhs: ir.Value, rhs: ir.Value) -> ir.Value:
        if isinstance(lhs.type, ir.IntType):
            if _key(lhs) == _key(rhs):
                return lhs
            if isinstance(cond, ir.Constant):
                return lhs if cond.constant else rhs
        return super().select(cond, lhs, rhs)

    def icmp_signed(self, cmpop: str, lhs: ir.Value, rhs: ir.Value) -> ir.Value:
        make = super().icmp_signed
        if not isinstance(lhs.type, ir.IntType):
            return make(cmpop, lhs, rhs)
        if isinstance(lhs, ir.Constant) and isinstance(rhs, ir.Constant):
            return ir.Constant(ir.IntType(1), _COMPARE[cmpop](lhs.constant, rhs.constant))
        return self._once((cmpop, _key(lhs), _key(rhs)), lambda: make(cmpop, lhs, rhs))

    @contextmanager
    def if_then(self, pred: ir.Value) -> Iterator[None]:
        """No branch if the condition is known to hold. Then the code inside must not return."""
        if isinstance(pred, ir.Constant) and pred.constant:
            yield
        else:
            with super().if_then(pred):
                yield

    def _whole(
        self, fold: Callable[[int, int], int], name: str, lhs: ir.Value, rhs: ir.Value
    ) -> ir.Value:
        if not isinstance(lhs.type, ir.IntType):
            return getattr(super(), name)(lhs, rhs)
        if isinstance(lhs, ir.Constant) and isinstance(rhs, ir.Constant):
            return ir.Constant(lhs.type, fold(lhs.constant, rhs.constant))
        make = getattr(super(), name)
        return self._once((name, _key(lhs), _key(rhs)), lambda: make(lhs, rhs))

    def _once(self, key: tuple[Any, ...], make: Callable[[], ir.Value]) -> ir.Value:
        """A value that this block has made already, or a new one."""
        if self._anchor < len(self._block.instructions):
            return make()
        key = self._block, *key
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _is(value: ir.Value, number: int) -> bool:
    return (
        isinstance(value, ir.Constant)
        and isinstance(value.type, ir.IntType)
        and value.constant == number
    )


def _key(value: ir.Value) -> Any:
    """Constants are equal if their numbers are."""
    return value.constant if isinstance(value, ir.Constant) else value
