"""Elementary functions of vectors; most of them are code of the kernel itself.

``FUNCTIONS[name](builder, x)`` emits one for ``<N x float>`` or ``<N x double>`` with any N;
``BINARY_FUNCTIONS`` has functions of two arguments. ``tests/test_native_maths.py`` measures errors
over every binade, with and without fused multiply-add, also where sin and cos are nearly zero. The
largest relative errors, in units of 2⁻²³ and 2⁻⁵², rounded up:

    ========  =======  =======
    function  float32  float64
    ========  =======  =======
    tanh            3        2
    logistic      2.5      1.5
    exp             2      1.5
    exp2            1        1
    expm1         1.5      1.5
    log             1        1
    log1p         1.5      1.5
    sqrt          0.5      0.5
    rsqrt           1        1
    cbrt           1*       4*
    erf             3       4*
    erfc            4       6*
    sin           1.5       1*
    cos           1.5       1*
    tan             2       1*
    sinh          2.5      1.5
    cosh            2      1.5
    atan2          1*       1*
    pow             1       1*
    ========  =======  =======

    * the C library's function lane by lane, with a margin for libraries other than glibc; so are
      sin, cos and tan in float32 if any lane has |x| > 10⁵

NaN, infinities, signed zeros, overflow and underflow are as in C. A result below the smallest
normal number may be zero. log takes such an argument for zero, as XLA does. |tanh| and |erf| reach
1 and never exceed it.
"""

import math
from collections.abc import Callable

from llvmlite import ir

from noria.backends.native.codegen import exponential, trigonometric
from noria.backends.native.codegen.coefficients import DOUBLE, ERF, ERFC, FLOAT
from noria.backends.native.codegen.exponential import exp, log, rational, taylor
from noria.backends.native.codegen.llvm import declared, suffix
from noria.backends.native.codegen.vector import Vector


def _emitting(label: str, rule: Callable[..., Vector]) -> Callable[..., ir.Value]:
    """A rule as a function of the module, which LLVM may inline at each call.

    Without it, a function with a thousand calls would be emitted, and parsed, a thousand times.
    """

    def emit(builder: ir.IRBuilder, *values: ir.Value) -> ir.Value:
        kind = values[0].type
        name = f"noria.{label}.{suffix(kind)}"
        defined = name in builder.module.globals
        function = declared(builder.module, name, kind, *[kind] * len(values))
        if not defined:
            function.linkage = "internal"
            function.attributes.add("alwaysinline")
            inside = ir.IRBuilder(function.append_basic_block())
            inside.ret(rule(*(Vector(inside, argument) for argument in function.args)).value)
        return builder.call(function, values)

    return emit


def _erf(x: Vector) -> Vector:
    return rational(x, 4.0, *ERF) if x.format is FLOAT else x.by_lane("erf")


def _erfc(x: Vector) -> Vector:
    """From ½ on t P(t) e^(-x²) with t = 1 / (x + 2), and 1 - erf(x) below."""
    if x.format is DOUBLE:
        return x.by_lane("erfc")
    y = x.clamp(0.5, 12.0)
    high = (y.bits & -(1 << 12)).number  # 12 bits: its square is exact; y² = high² - low
    t = 1.0 / (y + 2.0)
    low = (high - y) * (high + y)
    tail = t * t.polynomial(ERFC) * exp(-(high * high)) * low.polynomial(taylor(range(6)))
    return (-_erf(x) + 1.0).where(x.compare("<", 0.5), tail)


def _in_double(x: Vector) -> Vector:
    """In double precision. While a kernel runs, instructions take denormal numbers for zero.

    So those are converted by their bits: the integer times 2⁻¹⁴⁹.
    """
    wide, bits = x.cast("fpext", ir.DoubleType()), x.bits
    denormal = ((bits & 0x7FFFFF).cast("sitofp", ir.DoubleType()) * 2.0**-149).intrinsic(
        "copysign", wide
    )
    return denormal.where((bits & 0x7F800000).compare("==", 0), wide)


def _pow(x: Vector, y: Vector) -> Vector:
    """e^(y log|x|) in double precision, and C's special cases."""
    if x.format is DOUBLE:
        return x.by_lane("pow", y)
    x, y = _in_double(x), _in_double(y)
    a, whole = x.intrinsic("fabs"), y.clamp(-(2.0**30), 2.0**30)  # larger floats are even

    def integer(v: Vector) -> Vector:
        return v.compare("==", v + DOUBLE.round - DOUBLE.round)

    power = exp(y * log(a))
    one = y.compare("==", 0.0) | x.compare("==", 1.0)
    one = one | a.compare("==", 1.0) & y.intrinsic("fabs").compare("==", math.inf)
    power = x.constant(1.0).where(one, power)
    no_number = x.compare("<", 0.0) & x.compare(">", -math.inf) & (integer(whole) ^ 1)
    power = x.constant(math.nan).where(no_number, power)
    odd = integer(whole) & (integer(whole * 0.5) ^ 1)
    return power.intrinsic("copysign", x).where(odd, power).cast("fptrunc", ir.FloatType())


def _without_denormals(x: Vector) -> Vector:
    """Zeros instead of denormal numbers.

    The library's function reads their bits, while its instructions take them for zero.
    """
    zero = x.constant(0.0).intrinsic("copysign", x)
    return zero.where(x.intrinsic("fabs").compare("<", 2.0 ** (1 - x.format.bias)), x)


Unary = Callable[[ir.IRBuilder, ir.Value], ir.Value]
Binary = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]

_UNARY: dict[str, Callable[[Vector], Vector]] = {
    "tanh": exponential.tanh,
    "logistic": exponential.logistic,
    "exp": exponential.exp,
    "exp2": exponential.exp2,
    "expm1": exponential.expm1,
    "log": exponential.log,
    "log1p": exponential.log1p,
    "sinh": exponential.sinh,
    "cosh": exponential.cosh,
    "sin": trigonometric.sin,
    "cos": trigonometric.cos,
    "tan": trigonometric.tan,
    "erf": _erf,
    "erfc": _erfc,
    "cbrt": lambda x: _without_denormals(x).by_lane("cbrt"),
    "sqrt": lambda x: x.intrinsic("sqrt"),
    "rsqrt": lambda x: 1.0 / x.intrinsic("sqrt"),
}

#: The functions of one argument, by JAX's names of the primitives.
FUNCTIONS: dict[str, Unary] = {name: _emitting(name, rule) for name, rule in _UNARY.items()}

#: The functions of two arguments.
BINARY_FUNCTIONS: dict[str, Binary] = {
    "atan2": _emitting("atan2", lambda y, x: y.by_lane("atan2", x)),
    "pow": _emitting("pow", _pow),
}
