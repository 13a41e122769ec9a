"""Exponentials, logarithms and hyperbolic functions of vectors.

The exponential functions share one reduction: ±x = n ln 2 + r with an integer n, and eʳ is a
polynomial. The logarithms split x into 2ᵏ m and use a series of artanh for log m.
"""

import math
from collections.abc import Iterable

from noria.backends.native.codegen.coefficients import FLOAT, TANH, Format
from noria.backends.native.codegen.vector import Vector

LN2, LOG2E = math.log(2), 1 / math.log(2)


# --- exponentials -----------------------------------------------------------------------------


def _powers(x: Vector, bias: int, floor: bool = False, sign: int = 1) -> tuple[Vector, Vector]:
    """(2ⁿ, ±r) where e^±x = 2ⁿ eʳ. A smaller ``bias`` gives a power that is as much smaller.

    n is the integer nearest to ±x / ln 2, or with ``floor`` the integer below. Then r is never
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


def exp(x: Vector, halve: int = 0) -> Vector:
    """eˣ = 2ⁿ P(r); with ``halve`` = 1, half of it, which overflows later."""
    f = x.format
    power, r = _powers(
        x.clamp((0.5 - f.bias) * LN2, (f.bias + 1.5 + halve) * LN2), f.bias - halve, floor=True
    )
    return r.polynomial((1.0, *f.exp)) * power


def exp2(x: Vector) -> Vector:
    """2ⁿ = 2ʰ 2ⁿ⁻ʰ with h near n/2: neither factor overflows before the product does."""
    f = x.format
    x = x.clamp(-f.bias - f.mantissa - 3.0, f.bias + 3.0)
    n = x + f.round - f.round
    half = n.fma(0.5, f.round + f.bias)
    other = n - (half - (f.round + f.bias)) + (f.round + f.bias)
    y = ((x - n) * LN2).polynomial((1.0, *f.expm1))
    return y * (half.bits << f.mantissa).number * (other.bits << f.mantissa).number


def expm1(x: Vector) -> Vector:
    """eˣ - 1 = 2 (2ⁿ⁻¹ (eʳ - 1) + 2ⁿ⁻¹ - ½); half of each term leaves room at the top."""
    f = x.format
    half, r = _powers(x.clamp(-(f.mantissa + 2) * LN2, (f.bias + 1.4) * LN2), f.bias - 1)
    y = (r * r.polynomial(f.expm1)).fma(half, half - 0.5)
    return x.where(_small(x), y + y)


def logistic(x: Vector) -> Vector:
    """1 / (1 + e⁻ˣ)."""
    f = x.format
    power, minus_r = _powers(x.clamp(-(f.bias + 1) * LN2, f.bias * LN2), f.bias, sign=-1)
    exp = (c * (-1) ** n for n, c in enumerate((1.0, *f.exp_nearest)))
    return 1.0 / minus_r.polynomial(exp).fma(power, 1.0)


# --- hyperbolic functions ---------------------------------------------------------------------


def tanh(x: Vector) -> Vector:
    """A rational function in single precision; E / (E + 2) with E = e²ˣ - 1 in double."""
    f = x.format
    if f is FLOAT:
        return rational(x, 9.02, *TANH)
    power, r = _powers(x.clamp(-20.0, 20.0) * 2.0, f.bias)
    e = (r * r.polynomial(f.expm1)).fma(power, power - 1.0)
    return x.where(_small(x), e / (e + 2.0))


def sinh(x: Vector) -> Vector:
    """e^|x|/2 - e^-|x|/2 with the sign of x; on [-1, 1] the Taylor series."""
    a, z = x.intrinsic("fabs"), x * x
    half = exp(a, halve=1)
    series = x * z.polynomial(taylor(range(1, x.format.sinh, 2)))
    return series.where(a.compare("<", 1.0), (half - 0.25 / half).intrinsic("copysign", x))


def cosh(x: Vector) -> Vector:
    half = exp(x.intrinsic("fabs"), halve=1)
    return half + 0.25 / half


def taylor(powers: Iterable[int]) -> list[float]:
    return [1 / math.factorial(n) for n in powers]


def rational(x: Vector, limit: float, above: tuple[float, ...], below: tuple[float, ...]) -> Vector:
    """The quotient x P(x²) / Q(x²) on ±limit and constant beyond, clamped to ±1.

    The limit is a point where the quotient rounds to 1, with and without fused multiply-add.
    """
    x = x.clamp(-limit, limit)
    z = x * x
    return (x * z.polynomial(above) / z.polynomial(below)).clamp(-1.0, 1.0)


# --- logarithms -------------------------------------------------------------------------------


def log(x: Vector) -> Vector:
    m, k = _mantissa(x)
    return _log_of(x, m - 1.0, k)


def log1p(x: Vector) -> Vector:
    """log(1 + x) with 1 + x = 2ᵏ (1 + f), where f includes the rounding error of the sum."""
    f = x.format
    u = x + 1.0
    m, k = _mantissa(u)
    down = ((k ^ -1) + (2 * f.bias + 1) << f.mantissa).number  # 2⁻ᵏ
    lost = ((x - (u - 1.0)) * down).where(u.compare("<", 2.0**f.mantissa), 0.0)
    return x.where(_small(x), _log_of(u, m - 1.0 + lost, k))


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


def _small(x: Vector) -> Vector:
    """The mask of numbers at which x + x² rounds to x. Their squares may underflow."""
    return x.intrinsic("fabs").compare("<", 2.0 ** -(x.format.mantissa + 2))
