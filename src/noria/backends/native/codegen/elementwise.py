"""Element-wise primitives as vector code: one rule for each, by JAX's name of it.

Numbers are vectors of their own type, booleans vectors of single bits. Rules cover the differences
between JAX and LLVM. A maximum propagates NaN, a conversion to integers saturates, and a remainder
has the sign of its first operand. Integers may be divided by zero, and shifted by any number of
bits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from noria.backends.native.codegen.llvm import I1, I8, constant, intrinsic, is_float
from noria.backends.native.codegen.maths import BINARY_FUNCTIONS, FUNCTIONS
from noria.backends.native.lower.supported import kind_of
from noria.ir.graph import Equation

Rule = Callable[[ir.IRBuilder, Equation, list[ir.Value]], ir.Value]

_ELEMENTS = {
    "float32": ir.FloatType(),
    "float64": ir.DoubleType(),
    "bool": I1,
    **{f"{sign}int{bits}": ir.IntType(bits) for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def element(dtype: Any) -> ir.Type:
    """The type of one number in a register."""
    return _ELEMENTS[np.dtype(dtype).name]


def in_memory(dtype: Any) -> ir.Type:
    """The type of one number in memory, where a boolean is a byte."""
    return I8 if np.dtype(dtype) == bool else element(dtype)


def _kind(equation: Equation) -> str:
    return kind_of(equation.inputs[-1].aval.dtype)


def _arithmetic(of_floats: str, of_integers: str) -> Rule:
    def rule(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
        return getattr(b, of_floats if _kind(equation) == "f" else of_integers)(*args)

    return rule


def _comparison(sign: str) -> Rule:
    def rule(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
        kind = _kind(equation)
        if kind == "f":
            return (b.fcmp_unordered if sign == "!=" else b.fcmp_ordered)(sign, *args)
        return (b.icmp_signed if kind == "i" else b.icmp_unsigned)(sign, *args)

    return rule


def _extreme(sign: str) -> Rule:
    def rule(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
        x, y = args
        if _kind(equation) != "f":
            compare = b.icmp_signed if _kind(equation) == "i" else b.icmp_unsigned
            return b.select(compare(sign, x, y), x, y)
        # NaN in either operand gives NaN. Of two zeros, the one without a sign is the larger. So
        # the sign bit of a maximum is the conjunction of both sign bits; for a minimum it is the
        # disjunction.
        whole = ir.VectorType(
            ir.IntType(32 if x.type.element == ir.FloatType() else 64), x.type.count
        )
        bits = (b.and_ if sign == ">" else b.or_)(b.bitcast(x, whole), b.bitcast(y, whole))
        other = b.select(b.fcmp_ordered("==", x, y), b.bitcast(bits, x.type), y)
        return b.select(b.or_(b.fcmp_ordered(sign, x, y), b.fcmp_unordered("uno", x, x)), x, other)

    return rule


def _divide(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    """As XLA divides integers: ``x / 0`` is -1 in all bits, and ``min / -1`` is ``min``."""
    (x, y), kind = args, _kind(equation)
    if kind == "f":
        return b.fdiv(x, y)
    is_zero, divisor = b.icmp_unsigned("==", y, constant(y.type, 0)), _divisor(b, kind, y)
    found = (b.sdiv if kind == "i" else b.udiv)(x, divisor)
    if kind == "i":
        found = b.select(b.icmp_signed("==", y, constant(y.type, -1)), b.neg(x), found)
    return b.select(is_zero, b.not_(constant(x.type, 0)), found)


def _remainder(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    """As XLA divides integers: ``x rem 0`` is ``x``."""
    (x, y), kind = args, _kind(equation)
    if kind == "f":
        return b.frem(x, y)
    found = (b.srem if kind == "i" else b.urem)(x, _divisor(b, kind, y))
    return b.select(b.icmp_unsigned("==", y, constant(y.type, 0)), x, found)


def _divisor(b: ir.IRBuilder, kind: str, y: ir.Value) -> ir.Value:
    """``y``, or 1 where the processor would stop the program: for 0, and for -1 below zero."""
    stops = b.icmp_unsigned("==", y, constant(y.type, 0))
    if kind == "i":
        stops = b.or_(stops, b.icmp_signed("==", y, constant(y.type, -1)))
    return b.select(stops, constant(y.type, 1), y)


def _shift(name: str) -> Rule:
    """A shift by all bits or more gives 0, or the sign in all bits; so does a negative one."""

    def rule(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
        x, count = args
        bits = x.type.element.width
        inside = b.icmp_unsigned("<", count, constant(x.type, bits))
        last = bits - 1 if name == "ashr" else 0
        found = getattr(b, name)(x, b.select(inside, count, constant(x.type, last)))
        return found if name == "ashr" else b.select(inside, found, constant(x.type, 0))

    return rule


def _negate(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    return b.fneg(args[0]) if _kind(equation) == "f" else b.neg(args[0])


def _absolute(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    if _kind(equation) == "f":
        return intrinsic(b, "fabs", args[0])
    if _kind(equation) == "u":
        return args[0]
    return b.select(b.icmp_signed("<", args[0], constant(args[0].type, 0)), b.neg(args[0]), args[0])


def _sign(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    (x,) = args
    zero, one = constant(x.type, 0), constant(x.type, 1)
    if _kind(equation) != "f":
        positive = b.select(b.icmp_unsigned("!=", x, zero), one, zero)
        if _kind(equation) == "u":
            return positive
        return b.select(b.icmp_signed("<", x, zero), constant(x.type, -1), positive)
    signed = b.select(b.fcmp_ordered(">", x, zero), one, x)  # zeros and NaN as they are
    return b.select(b.fcmp_ordered("<", x, zero), constant(x.type, -1), signed)


def _power(b: ir.IRBuilder, x: ir.Value, exponent: int) -> ir.Value:
    """By squaring, in the same order as XLA."""
    multiply = b.fmul if is_float(x.type) else b.mul
    result, base, left = None, x, abs(exponent)
    while left:
        if left & 1:
            result = base if result is None else multiply(result, base)
        left >>= 1
        base = multiply(base, base) if left else base
    one = constant(x.type, 1)
    result = one if result is None else result
    return b.fdiv(one, result) if exponent < 0 else result


def _select(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    which, if_false, if_true = args
    return b.select(which, if_true, if_false)


def _clamp(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    low, x, high = args
    return _extreme("<")(b, equation, [_extreme(">")(b, equation, [x, low]), high])


def _is_finite(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    return b.fcmp_ordered("<", intrinsic(b, "fabs", args[0]), constant(args[0].type, float("inf")))


def _convert(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    (x,), given, wanted = args, equation.inputs[0].aval.dtype, equation.outputs[0].aval.dtype
    target = ir.VectorType(element(wanted), x.type.count)
    if given == wanted:
        return x
    if wanted.kind == "b":
        zero = constant(x.type, 0)
        return (
            b.fcmp_unordered("!=", x, zero) if given.kind == "f" else b.icmp_unsigned("!=", x, zero)
        )
    if given.kind == "f" and wanted.kind == "f":
        return b.fpext(x, target) if wanted.itemsize > given.itemsize else b.fptrunc(x, target)
    if given.kind == "f":
        # As in XLA the result saturates, and NaN becomes zero.
        name = "fptosi.sat" if wanted.kind == "i" else "fptoui.sat"
        return intrinsic(b, name, x, result=target, of=(target, x.type))
    if wanted.kind == "f":
        return b.sitofp(x, target) if given.kind == "i" else b.uitofp(x, target)
    bits = 1 if given.kind == "b" else 8 * given.itemsize
    if 8 * wanted.itemsize > bits:
        return b.sext(x, target) if given.kind == "i" else b.zext(x, target)
    return b.trunc(x, target) if 8 * wanted.itemsize < bits else x


def _bitcast(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    (x,), dtype = args, equation.outputs[0].aval.dtype
    target = ir.VectorType(element(dtype), x.type.count)
    return x if x.type == target else b.bitcast(x, target)


def _one_minus_square(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    """``(1 + x) (1 - x)``, as in JAX: exact to rounding even where ``x`` is close to 1."""
    (x,) = args
    one = constant(x.type, 1)
    if _kind(equation) == "f":
        return b.fmul(b.fadd(one, x), b.fsub(one, x))
    return b.mul(b.add(one, x), b.sub(one, x))


def _of_library(function: Callable[..., ir.Value]) -> Rule:
    return lambda b, equation, args: function(b, *args)


def _intrinsic(name: str) -> Rule:
    return lambda b, equation, args: intrinsic(b, name, *args)


def _round(b: ir.IRBuilder, equation: Equation, args: list[ir.Value]) -> ir.Value:
    return intrinsic(
        b, "round" if int(equation.params["rounding_method"]) == 0 else "roundeven", *args
    )


#: The emitter of each primitive that `noria.ir.primitives` calls element-wise.
EMITTERS: dict[str, Rule] = {
    "add": _arithmetic("fadd", "add"),
    "add_any": _arithmetic("fadd", "add"),
    "sub": _arithmetic("fsub", "sub"),
    "mul": _arithmetic("fmul", "mul"),
    "div": _divide,
    "rem": _remainder,
    "neg": _negate,
    "abs": _absolute,
    "sign": _sign,
    "square": lambda b, equation, args: _power(b, args[0], 2),
    "one_minus_square": _one_minus_square,
    "integer_pow": lambda b, equation, args: _power(b, args[0], equation.params["y"]),
    "max": _extreme(">"),
    "min": _extreme("<"),
    "clamp": _clamp,
    "select_n": _select,
    "convert_element_type": _convert,
    "bitcast_convert_type": _bitcast,
    "is_finite": _is_finite,
    "floor": _intrinsic("floor"),
    "ceil": _intrinsic("ceil"),
    "round": _round,
    "and": lambda b, equation, args: b.and_(*args),
    "or": lambda b, equation, args: b.or_(*args),
    "xor": lambda b, equation, args: b.xor(*args),
    "shift_left": _shift("shl"),
    "shift_right_arithmetic": _shift("ashr"),
    "shift_right_logical": _shift("lshr"),
    "not": lambda b, equation, args: b.not_(args[0]),
    "eq": _comparison("=="),
    "ne": _comparison("!="),
    "lt": _comparison("<"),
    "le": _comparison("<="),
    "gt": _comparison(">"),
    "ge": _comparison(">="),
    **{name: _of_library(function) for name, function in (FUNCTIONS | BINARY_FUNCTIONS).items()},
}
