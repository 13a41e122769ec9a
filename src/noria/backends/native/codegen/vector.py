"""Vectors whose operators emit LLVM's instructions."""

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir

from noria.backends.native.codegen.coefficients import DOUBLE, FLOAT, Format
from noria.backends.native.codegen.llvm import Undefined, constant, declared, intrinsic


def _operator(
    floating: str, whole: str = ""
) -> Callable[["Vector", "Vector | float | int"], "Vector"]:
    """An operator that calls a method of the builder: ``floating``, or ``whole`` for integers."""

    def operate(self: "Vector", other: "Vector | float | int") -> "Vector":
        integers = isinstance(self.value.type.element, ir.IntType)
        method = getattr(self.builder, (integers and whole) or floating)
        return Vector(self.builder, method(self.value, self.like(other)))

    return operate


class Vector:
    """A vector whose operators emit instructions: of floats, or of integers of the same width."""

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def format(self) -> Format:
        return FLOAT if self.value.type.element in (ir.FloatType(), ir.IntType(32)) else DOUBLE

    def like(self, number: "Vector | float | int") -> Any:
        """``number`` as a value of LLVM; a Python number becomes a constant in every lane."""
        if isinstance(number, Vector):
            return number.value
        return constant(self.value.type, number)

    def constant(self, number: float) -> "Vector":
        return Vector(self.builder, self.like(number))

    __add__ = _operator("fadd", "add")
    __sub__ = _operator("fsub", "sub")
    __mul__ = _operator("fmul", "mul")
    __truediv__ = _operator("fdiv")
    __and__ = _operator("and_")
    __or__ = _operator("or_")
    __xor__ = _operator("xor")
    __lshift__ = _operator("shl")
    __rshift__ = _operator("lshr")

    def __rtruediv__(self, other: float) -> "Vector":
        return self.constant(other) / self

    def __neg__(self) -> "Vector":
        return Vector(self.builder, self.builder.fneg(self.value))

    def compare(self, sign: str, other: "Vector | float | int") -> "Vector":
        """One bit a lane; false where either is NaN."""
        integers = isinstance(self.value.type.element, ir.IntType)
        compare = self.builder.icmp_signed if integers else self.builder.fcmp_ordered
        return Vector(self.builder, compare(sign, self.value, self.like(other)))

    def where(self, condition: "Vector", other: "Vector | float | int") -> "Vector":
        """``self`` in the lanes where the condition holds, ``other`` elsewhere."""
        return Vector(
            self.builder, self.builder.select(condition.value, self.value, self.like(other))
        )

    def clamp(self, low: float, high: float) -> "Vector":
        """``self`` limited to an interval; NaN stays."""
        x = self.constant(low).where(self.compare("<", low), self)
        return self.constant(high).where(x.compare(">", high), x)

    def intrinsic(self, name: str, *others: "Vector | float | int") -> "Vector":
        return Vector(
            self.builder, intrinsic(self.builder, name, self.value, *map(self.like, others))
        )

    def by_lane(self, name: str, *others: "Vector") -> "Vector":
        """A function of the C library, called for each lane."""
        b, kind = self.builder, self.value.type
        vectors, full = (self, *others), name + ("f" if self.format is FLOAT else "")
        function = declared(b.module, full, kind.element, *[kind.element] * len(vectors))
        y: ir.Value = Undefined(kind)
        for lane in map(ir.IntType(32), range(kind.count)):
            number = b.call(function, [b.extract_element(v.value, lane) for v in vectors])
            y = b.insert_element(y, number, lane)
        return Vector(b, y)

    def fma(self, factor: "Vector | float | int", term: "Vector | float | int") -> "Vector":
        """``self * factor + term``, with one rounding where the machine has that instruction."""
        return self.intrinsic("fmuladd", factor, term)

    def polynomial(self, coefficients: Iterable[float]) -> "Vector":
        """A polynomial of ``self``, by Horner's rule, from the lowest power on."""
        *rest, second, last = coefficients
        y = self.constant(last).fma(self, second)
        for c in reversed(rest):
            y = y.fma(self, c)
        return y

    def cast(self, operation: str, element: ir.Type) -> "Vector":
        kind = ir.VectorType(element, self.value.type.count)
        return Vector(self.builder, getattr(self.builder, operation)(self.value, kind))

    @property
    def bits(self) -> "Vector":
        return self.cast("bitcast", ir.IntType(32 if self.format is FLOAT else 64))

    @property
    def number(self) -> "Vector":
        """The floating-point number with these bits."""
        return self.cast("bitcast", ir.FloatType() if self.format is FLOAT else ir.DoubleType())
