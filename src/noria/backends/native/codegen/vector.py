"""Vectors whose operators emit LLVM's instructions, and the polynomials that suffice for their formats."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from noria.backends.native.codegen.llvm import constant, intrinsic


def numbers(text: str) -> tuple[float, ...]:
    """Coefficients, from a string of them: one literal a line would fill pages."""
    return tuple(map(float, text.split()))


@dataclass(frozen=True)
class Format:
    """A floating-point format, and the polynomials that suffice for it, from the lowest power on.

    Attributes:
        mantissa: bits after the point.
        bias: of the exponent.
        ln2: ln 2 in two parts (Cody and Waite 1980), whose first has so few digits that n times it is exact.
        exp: (eʳ - 1)/r on [0, ln 2], with the least error of eʳ.
        exp_nearest: the same on ±½ ln 2.
        expm1: (eʳ - 1)/r on ±½ ln 2, with the least error of its own.
        log: (2 artanh(s)/s - 2)/s² in powers of s², for |s| to (√2 - 1)/(√2 + 1).
        sinh: the power at which the Taylor series for [-1, 1] ends.
    """

    mantissa: int
    bias: int
    ln2: tuple[float, ...]
    exp: tuple[float, ...]
    exp_nearest: tuple[float, ...]
    expm1: tuple[float, ...]
    log: tuple[float, ...]
    sinh: int

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return 2.0 ** (1 - self.bias)

    @property
    def round(self) -> float:
        """Added to a moderate number it leaves the nearest integer in the low bits."""
        return 1.5 * 2.0**self.mantissa


# By Remez's exchange in 40 digits or more.
FLOAT = Format(
    mantissa=23,
    bias=127,
    ln2=numbers("0.693359375 -2.1219444005469e-4"),
    exp=numbers("1.00000596 0.4998708315 0.1675549311 0.03906259082 0.0116694055"),
    exp_nearest=numbers("0.9999997054 0.4999914615 0.1666764005 0.04189838992 0.008290229859"),
    expm1=numbers(
        "1.000000011 0.4999999811 0.1666650558 0.04166713807 0.008369140006 0.001388887428"
    ),
    log=numbers("0.666667786 0.3997603383 0.2992685358"),
    sinh=12,
)
_NEAREST = numbers(
    "1.0 0.5 0.1666666666666668 0.04166666666666649 0.00833333333331959 0.001388888888896574 0.00019841269890106942"
    " 2.4801587171724564e-05 2.7557240826713927e-06 2.7557400210834503e-07 2.51100798185777e-08 2.0876750907197876e-09"
)
DOUBLE = Format(
    mantissa=52,
    bias=1023,
    ln2=numbers("0.693145751953125 1.42860682030941723212e-6"),
    exp=numbers(
        "1.0000000000000009 0.4999999999999221 0.16666666666901098 0.04166666663167151 0.00833333363530501"
        " 0.001388887258256934 0.00019841843859432512 2.478822563462895e-05 2.7760730553011204e-06"
        " 2.5622261320123317e-07 3.529684827077218e-08"
    ),
    exp_nearest=_NEAREST,
    expm1=_NEAREST,
    log=numbers(
        "0.666666666666671 0.3999999999951718 0.285714287300112 0.22222199005406681"
        " 0.18183576430198528 0.15313030195915803 0.14811936070983317"
    ),
    sinh=20,
)


def _operator(
    floating: str, whole: str = ""
) -> Callable[["Vector", "Vector | float | int"], "Vector"]:
    """The builder's method of the name, or that of the second name for integers."""

    def operate(self: "Vector", other: "Vector | float | int") -> "Vector":
        integers = isinstance(self.value.type.element, ir.IntType)
        method = getattr(self.builder, (integers and whole) or floating)
        return Vector(self.builder, method(self.value, self.like(other)))

    return operate


class Vector:
    """A vector of floating-point numbers, or of integers as wide, whose operators emit instructions."""

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def format(self) -> Format:
        return FLOAT if self.value.type.element in (ir.FloatType(), ir.IntType(32)) else DOUBLE

    def like(self, number: "Vector | float | int") -> Any:
        """``number`` as a value: a constant in every lane."""
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
        """These lanes where the condition holds, else the others."""
        return Vector(
            self.builder, self.builder.select(condition.value, self.value, self.like(other))
        )

    def clamp(self, low: float, high: float) -> "Vector":
        """Between the two; NaN stays."""
        x = self.constant(low).where(self.compare("<", low), self)
        return self.constant(high).where(x.compare(">", high), x)

    def intrinsic(self, name: str, *others: "Vector | float | int") -> "Vector":
        return Vector(
            self.builder, intrinsic(self.builder, name, self.value, *map(self.like, others))
        )

    def fma(self, factor: "Vector | float | int", term: "Vector | float | int") -> "Vector":
        """The product with the factor plus the term, in one rounding where the machine has that."""
        return self.intrinsic("fmuladd", factor, term)

    def polynomial(self, coefficients: Iterable[float]) -> "Vector":
        """Horner's rule."""
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
        """What these bits stand for."""
        return self.cast("bitcast", ir.FloatType() if self.format is FLOAT else ir.DoubleType())
