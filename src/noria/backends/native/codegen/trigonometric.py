"""sin, cos and tan of vectors in single precision: x = n π/2 + r, and polynomials in r²."""

import math
from collections.abc import Callable

from llvmlite import ir

from noria.backends.native.codegen.coefficients import COS, DOUBLE, SIN
from noria.backends.native.codegen.vector import Vector

#: Below it, n · π/2 subtracted in double precision leaves r with all digits of float32. The first
#: part of `HALF_PI` has 33 bits and n up to 16 bits, so their product is exact.
LARGE_ANGLE = 1e5

#: π/2 in two parts; the first has trailing zero bits.
HALF_PI = (1.57079632673412561417, 6.07710050650619224932e-11)


def sin(x: Vector) -> Vector:
    return _periodic(x, "sin", lambda x: _wave(x, 0))


def cos(x: Vector) -> Vector:
    return _periodic(x, "cos", lambda x: _wave(x, 1))


def tan(x: Vector) -> Vector:
    return _periodic(x, "tan", _tangent)


def _periodic(x: Vector, name: str, wave: Callable[[Vector], Vector]) -> Vector:
    """The C library's function in double precision, or if `_waves` cannot reduce some lane."""
    if x.format is DOUBLE:
        return x.by_lane(name)
    builder, lanes = x.builder, x.value.type.count
    beyond = x.intrinsic("fabs").compare(">", LARGE_ANGLE)
    any_beyond = builder.icmp_unsigned(
        "!=", builder.bitcast(beyond.value, ir.IntType(lanes)), ir.IntType(lanes)(0)
    )
    with builder.if_else(any_beyond, likely=False) as (rare, usual):
        with rare:
            slow, here = x.by_lane(name), builder.block
        with usual:
            fast, there = wave(x), builder.block
    y = builder.phi(x.value.type)
    y.add_incoming(slow.value, here)
    y.add_incoming(fast.value, there)
    return Vector(builder, y)


def _waves(x: Vector) -> tuple[Vector, Vector, Vector]:
    """(sin r, cos r, n) where x = n π/2 + r; n and r are computed in double precision."""
    wide = x.cast("fpext", ir.DoubleType())
    t = wide.fma(2 / math.pi, DOUBLE.round)
    n = t - DOUBLE.round
    r = n.fma(-HALF_PI[1], n.fma(-HALF_PI[0], wide)).cast("fptrunc", ir.FloatType())
    z = r * r
    return r * z.polynomial(SIN), z.polynomial(COS), t.bits.cast("trunc", ir.IntType(32))


def _wave(x: Vector, quarter: int) -> Vector:
    sin, cos, n = _waves(x)
    n = n + quarter
    y = sin.where((n & 1).compare("==", 0), cos)
    return (y.bits ^ ((n & 2) << 30)).number


def _tangent(x: Vector) -> Vector:
    sin, cos, n = _waves(x)
    even = (n & 1).compare("==", 0)
    return sin.where(even, -cos) / cos.where(even, sin)
