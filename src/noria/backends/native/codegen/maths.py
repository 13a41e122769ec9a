"""Elementary functions of vectors, as inline code for most functions.

``FUNCTIONS[name](builder, x)`` emits one for ``<N x float>`` or ``<N x double>`` with any N;
``BINARY_FUNCTIONS`` has those of two arguments. ``tests/test_native_maths.py`` measures errors over
every binade, with and without fused multiply-add, also where sin and cos are nearly zero. The
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
normal number may be zero, and log takes such an argument for zero, as XLA does. |tanh| and |erf|
reach 1 and never exceed it.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

from llvmlite import ir

from noria.backends.native.codegen.coefficients import (
    COS,
    DOUBLE,
    ERF,
    ERFC,
    FLOAT,
    SIN,
    TANH,
    Format,
)
from noria.backends.native.codegen.llvm import declared, suffix
from noria.backends.native.codegen.vector import Vector

LN2, LOG2E = math.log(2), 1 / math.log(2)

#: Below it, n · π/2 subtracted in double precision leaves r with all digits of float32: the first
#: part of `HALF_PI` has 33 bits, n up to 16 bits, and so their product is exact.
LARGE_ANGLE = 1e5

#: π/2 in two parts; the first has trailing zero bits.
HALF_PI = (1.57079632673412561417, 6.07710050650619224932e-11)


def _emitting(label: str, rule: Callable[..., Vector]) -> Callable[..., ir.Value]:
    """A rule as a function of the module, which LLVM inlines at each call.

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


def _by_lane(name: str, *vectors: Vector) -> Vector:
    """The C library's function, called for each lane."""
    x = vectors[0]
    kind, builder = x.value.type, x.builder
    short = "f" if x.format is FLOAT else ""
    function = declared(builder.module, name + short, kind.element, *[kind.element] * len(vectors))
    y = ir.Constant(kind, ir.Undefined)
    for lane in map(ir.IntType(32), range(kind.count)):
        number = builder.call(function, [builder.extract_element(v.value, lane) for v in vectors])
        y = builder.insert_element(y, number, lane)
    return Vector(builder, y)


def _powers(x: Vector, bias: int, floor: bool = False, sign: int = 1) -> tuple[Vector, Vector]:
    """(2ⁿ, ±r) where e^±x = 2ⁿ eʳ. A smaller ``bias`` gives a power that is as much smaller.

    n is the integer nearest to ±x / ln 2, or with ``floor`` the integer below: then r is never
    negative, and the smallest and the largest exponents need no correction.
    """
    f = x.format
    magic = f.round + bias  # rounds to an integer, whose low bits are the exponent field
    # Subtracting almost one half makes rounding a floor; the rest keeps n = 0 at x = 0.
    t = (
        x.fma(LOG2E, 2.0 ** -(f.mantissa - 1) - 0.5) + magic
        if floor
        else x.fma(sign * LOG2E, magic)
    )
    n = t - magic
    r = n.fma(-sign * f.ln2[1], n.fma(-sign * f.ln2[0], x))
    return (t.bits << f.mantissa).number, r


def _exp(x: Vector, halve: int = 0) -> Vector:
    """eˣ = 2ⁿ P(r); with ``halve`` = 1, half of it, which overflows later."""
    f = x.format
    power, r = _powers(
        x.clamp((0.5 - f.bias) * LN2, (f.bias + 1.5 + halve) * LN2), f.bias - halve, floor=True
    )
    return r.polynomial((1.0, *f.exp)) * power


def _exp2(x: Vector) -> Vector:
    """2ⁿ = 2ʰ 2ⁿ⁻ʰ with h near n/2: neither factor overflows before the product does."""
    f = x.format
    x = x.clamp(-f.bias - f.mantissa - 3.0, f.bias + 3.0)
    n = x + f.round - f.round
    half = n.fma(0.5, f.round + f.bias)
    other = n - (half - (f.round + f.bias)) + (f.round + f.bias)
    y = ((x - n) * LN2).polynomial((1.0, *f.expm1))
    return y * (half.bits << f.mantissa).number * (other.bits << f.mantissa).number


def _expm1(x: Vector) -> Vector:
    """eˣ - 1 = 2 (2ⁿ⁻¹ (eʳ - 1) + 2ⁿ⁻¹ - ½); half of each term leaves room at the top."""
    f = x.format
    half, r = _powers(x.clamp(-(f.mantissa + 2) * LN2, (f.bias + 1.4) * LN2), f.bias - 1)
    y = (r * r.polynomial(f.expm1)).fma(half, half - 0.5)
    return x.where(_small(x), y + y)


def _taylor(powers: Iterable[int]) -> list[float]:
    return [1 / math.factorial(n) for n in powers]


def _small(x: Vector) -> Vector:
    """Where x + x² rounds to x, and squares may underflow."""
    return x.intrinsic("fabs").compare("<", 2.0 ** -(x.format.mantissa + 2))


def _logistic(x: Vector) -> Vector:
    """1 / (1 + e⁻ˣ)."""
    f = x.format
    power, minus_r = _powers(x.clamp(-(f.bias + 1) * LN2, f.bias * LN2), f.bias, sign=-1)
    exp = (c * (-1) ** n for n, c in enumerate((1.0, *f.exp_nearest)))
    return 1.0 / minus_r.polynomial(exp).fma(power, 1.0)


def _rational(
    x: Vector, limit: float, above: tuple[float, ...], below: tuple[float, ...]
) -> Vector:
    """The quotient x P(x²) / Q(x²) on ±limit and constant beyond, clamped to ±1.

    The limit is a point where the quotient rounds to 1, with and without fused multiply-add.
    """
    x = x.clamp(-limit, limit)
    z = x * x
    return (x * z.polynomial(above) / z.polynomial(below)).clamp(-1.0, 1.0)


def _tanh(x: Vector) -> Vector:
    """A rational function in single precision; E / (E + 2) with E = e²ˣ - 1 in double."""
    f = x.format
    if f is FLOAT:
        return _rational(x, 9.02, *TANH)
    power, r = _powers(x.clamp(-20.0, 20.0) * 2.0, f.bias)
    e = (r * r.polynomial(f.expm1)).fma(power, power - 1.0)
    return x.where(_small(x), e / (e + 2.0))


def _mantissa(x: Vector) -> tuple[Vector, Vector]:
    """(m, k + bias) where x = 2ᵏ m and √½ ≤ m < √2; the second is an integer."""
    f = x.format
    root = _integer(math.sqrt(0.5), f)
    j = x.bits + ((f.bias << f.mantissa) - root)
    return ((j & ((1 << f.mantissa) - 1)) + root).number, j >> f.mantissa


def _integer(number: float, f: Format) -> int:
    """The bits of a positive number, rounded down."""
    m, e = math.frexp(number)
    return ((e - 1 + f.bias) << f.mantissa) + int((2 * m - 1) * 2**f.mantissa)


def _log_of(x: Vector, g: Vector, k: Vector) -> Vector:
    """The sum k ln 2 + log(1 + g); log(1 + g) = 2 artanh(s) = g - s (g - R(s²)), s = g / (2 + g).

    Zero, negative numbers, infinity and NaN in ``x`` give the results of C.
    """
    f = x.format
    top = 2.0**f.mantissa
    k = (k | _integer(top, f)).number - (top + f.bias)
    s = g / (g + 2.0)
    z = s * s
    tail = s.fma(z * z.polynomial(f.log) - g, k * f.ln2[1])
    y = k.fma(f.ln2[0], g + tail)
    edge = x.constant(math.nan).where(x.compare("<=", -f.tiny), -math.inf)
    return edge.where(x.compare("<", f.tiny), y.where(x.compare("<", math.inf), x))


def _log(x: Vector) -> Vector:
    m, k = _mantissa(x)
    return _log_of(x, m - 1.0, k)


def _log1p(x: Vector) -> Vector:
    """log(1 + x) with 1 + x = 2ᵏ (1 + f), where f includes the rounding error of the sum."""
    f = x.format
    u = x + 1.0
    m, k = _mantissa(u)
    down = ((k ^ -1) + (2 * f.bias + 1) << f.mantissa).number  # 2⁻ᵏ
    lost = ((x - (u - 1.0)) * down).where(u.compare("<", 2.0**f.mantissa), 0.0)
    return x.where(_small(x), _log_of(u, m - 1.0 + lost, k))


def _erf(x: Vector) -> Vector:
    return _rational(x, 4.0, *ERF) if x.format is FLOAT else _by_lane("erf", x)


def _erfc(x: Vector) -> Vector:
    """From ½ on t P(t) e^(-x²) with t = 1 / (x + 2), and 1 - erf(x) below."""
    if x.format is DOUBLE:
        return _by_lane("erfc", x)
    y = x.clamp(0.5, 12.0)
    high = (y.bits & -(1 << 12)).number  # 12 bits: its square is exact; y² = high² - low
    t = 1.0 / (y + 2.0)
    low = (high - y) * (high + y)
    tail = t * t.polynomial(ERFC) * _exp(-(high * high)) * low.polynomial(_taylor(range(6)))
    return (-_erf(x) + 1.0).where(x.compare("<", 0.5), tail)


def _waves(x: Vector) -> tuple[Vector, Vector, Vector]:
    """(sin r, cos r, n) where x = n π/2 + r; n and r are computed in double precision."""
    wide = x.cast("fpext", ir.DoubleType())
    t = wide.fma(2 / math.pi, DOUBLE.round)
    n = t - DOUBLE.round
    r = n.fma(-HALF_PI[1], n.fma(-HALF_PI[0], wide)).cast("fptrunc", ir.FloatType())
    z = r * r
    return r * z.polynomial(SIN), z.polynomial(COS), t.bits.cast("trunc", ir.IntType(32))


def _periodic(x: Vector, name: str, wave: Callable[[Vector], Vector]) -> Vector:
    """The C library's function in double precision, or if `_waves` cannot reduce some lane."""
    if x.format is DOUBLE:
        return _by_lane(name, x)
    builder, lanes = x.builder, x.value.type.count
    beyond = x.intrinsic("fabs").compare(">", LARGE_ANGLE)
    any_beyond = builder.icmp_unsigned(
        "!=", builder.bitcast(beyond.value, ir.IntType(lanes)), ir.IntType(lanes)(0)
    )
    with builder.if_else(any_beyond, likely=False) as (rare, usual):
        with rare:
            slow, here = _by_lane(name, x), builder.block
        with usual:
            fast, there = wave(x), builder.block
    y = builder.phi(x.value.type)
    y.add_incoming(slow.value, here)
    y.add_incoming(fast.value, there)
    return Vector(builder, y)


def _wave(x: Vector, quarter: int) -> Vector:
    sin, cos, n = _waves(x)
    n = n + quarter
    y = sin.where((n & 1).compare("==", 0), cos)
    return (y.bits ^ ((n & 2) << 30)).number


def _tangent(x: Vector) -> Vector:
    sin, cos, n = _waves(x)
    even = (n & 1).compare("==", 0)
    return sin.where(even, -cos) / cos.where(even, sin)


def _sinh(x: Vector) -> Vector:
    """e^|x|/2 - e^-|x|/2 with the sign of x; on [-1, 1] the Taylor series."""
    a, z = x.intrinsic("fabs"), x * x
    half = _exp(a, halve=1)
    series = x * z.polynomial(_taylor(range(1, x.format.sinh, 2)))
    return series.where(a.compare("<", 1.0), (half - 0.25 / half).intrinsic("copysign", x))


def _cosh(x: Vector) -> Vector:
    half = _exp(x.intrinsic("fabs"), halve=1)
    return half + 0.25 / half


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
        return _by_lane("pow", x, y)
    x, y = _in_double(x), _in_double(y)
    a, whole = x.intrinsic("fabs"), y.clamp(-(2.0**30), 2.0**30)  # larger floats are even

    def integer(v: Vector) -> Vector:
        return v.compare("==", v + DOUBLE.round - DOUBLE.round)

    power = _exp(y * _log(a))
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

_WAVES: dict[str, Callable[[Vector], Vector]] = {
    "sin": lambda x: _wave(x, 0),
    "cos": lambda x: _wave(x, 1),
    "tan": _tangent,
}
_UNARY: dict[str, Callable[[Vector], Vector]] = {
    "tanh": _tanh,
    "logistic": _logistic,
    "exp": _exp,
    "exp2": _exp2,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "sinh": _sinh,
    "cosh": _cosh,
    **{name: partial(_periodic, name=name, wave=wave) for name, wave in _WAVES.items()},
    "erf": _erf,
    "erfc": _erfc,
    "cbrt": lambda x: _by_lane("cbrt", _without_denormals(x)),
    "sqrt": lambda x: x.intrinsic("sqrt"),
    "rsqrt": lambda x: 1.0 / x.intrinsic("sqrt"),
}

#: The functions of one argument, by JAX's names of the primitives.
FUNCTIONS: dict[str, Unary] = {name: _emitting(name, rule) for name, rule in _UNARY.items()}

#: The functions of two arguments.
BINARY_FUNCTIONS: dict[str, Binary] = {
    "atan2": _emitting("atan2", partial(_by_lane, "atan2")),
    "pow": _emitting("pow", _pow),
}
