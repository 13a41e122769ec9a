"""The coefficients of polynomials for elementary functions.

``scripts/coefficients.py`` defines the function and the interval of each, and finds it again. The
committed coefficients have few digits, and some come from another weight of the error. So their
error is up to so many times the smallest possible one: exp, expm1 and `TANH` 1.1; log and `SIN` 2;
`COS` 2.5; `ERF` 4; `ERFC` 8. In double precision all errors are far below the rounding error.
"""

from dataclasses import dataclass


def numbers(text: str) -> tuple[float, ...]:
    """Coefficients from a string: the formatter would put each literal on a line."""
    return tuple(map(float, text.split()))


@dataclass(frozen=True)
class Format:
    """A floating-point format, and polynomials for it, from the lowest power on.

    Their degrees are the smallest whose error is below the rounding error of the function.

    Attributes:
        mantissa: bits after the point.
        bias: of the exponent.
        ln2: ln 2 in two parts (Cody and Waite 1980). The first has trailing zero bits, so that its
            product with any exponent is exact.
        exp: (eʳ - 1)/r for r in [0, ln 2], where the relative error of eʳ is smallest.
        exp_nearest: the same for |r| ≤ ½ ln 2.
        expm1: (eʳ - 1)/r for |r| ≤ ½ ln 2, where its relative error is smallest.
        log: (2 artanh(s)/s - 2)/s² in powers of s², for |s| ≤ (√2 - 1)/(√2 + 1).
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
        """A number that, added to x, leaves the nearest integer to x in the low bits of the sum."""
        return 1.5 * 2.0**self.mantissa


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
    "1.0 0.5 0.1666666666666668 0.04166666666666649 0.00833333333331959 0.001388888888896574"
    " 0.00019841269890106942 2.4801587171724564e-05 2.7557240826713927e-06"
    " 2.7557400210834503e-07 2.51100798185777e-08 2.0876750907197876e-09"
)
DOUBLE = Format(
    mantissa=52,
    bias=1023,
    ln2=numbers("0.693145751953125 1.42860682030941723212e-6"),
    exp=numbers(
        "1.0000000000000009 0.4999999999999221 0.16666666666901098 0.04166666663167151"
        " 0.00833333363530501 0.001388887258256934 0.00019841843859432512 2.478822563462895e-05"
        " 2.7760730553011204e-06 2.5622261320123317e-07 3.529684827077218e-08"
    ),
    exp_nearest=_NEAREST,
    expm1=_NEAREST,
    log=numbers(
        "0.666666666666671 0.3999999999951718 0.285714287300112 0.22222199005406681"
        " 0.18183576430198528 0.15313030195915803 0.14811936070983317"
    ),
    sinh=20,
)

# For single precision alone. As (P, Q): x P(x²) / Q(x²), for |x| ≤ 9.02 and |x| ≤ 4.
TANH = (
    numbers("0.9999999785 0.1337777511 0.003491726595 2.05454674e-05 1.326629398e-08"),
    numbers("1.0 0.4671108986 0.02586229433 0.000327931713 7.740442743e-07"),
)
ERF = (
    numbers(
        "1.128379144 0.1915457313 0.05287483721 0.003807962632 0.0002846828508 2.025939074e-06"
    ),
    numbers("1.0 0.5030856619 0.1145577264 0.01505469407 0.001170676622 3.783186493e-05"),
)
# erfc(x) = t P(t) e^(-x²) with t = 1 / (x + 2), for x in [½, 12].
ERFC = numbers(
    "0.5641557867 1.130176634 1.933901697 3.337081268 -1.321893336 19.18080893 -64.67900261"
    " 74.79901945 -30.81446881"
)
# sin r / r and cos r in powers of r², for |r| ≤ π/4.
SIN = numbers("1.0 -0.166666546 0.008332096042 -0.000195032935")
COS = numbers("1.0 -0.5 0.04166665458 -0.001388764946 2.446316604e-05")
