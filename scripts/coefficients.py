"""Regenerate the polynomials of the native backend: python scripts/coefficients.py

For each table in `noria.backends.native.codegen.coefficients` the script prints the largest error
of the committed and of the computed coefficients, and then both, coefficient by coefficient.
Polynomials are fitted with the Remez exchange algorithm, rational functions with least squares and
Lawson weights. The arithmetic has 80 digits and needs only the standard library.
``tests/test_native_codegen.py`` checks the committed coefficients: their error may exceed the
smallest possible error by a factor of at most ``ratio``.
"""

import decimal
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from noria.backends.native.codegen import coefficients as tables

Function = Callable[[Decimal], Decimal]

decimal.getcontext().prec = 80

ONE, TWO = Decimal(1), Decimal(2)


# --- functions --------------------------------------------------------------------------------


def series(x: Decimal, first: Decimal, ratio: Callable[[int], Decimal]) -> Decimal:
    """The sum of ``first`` times 1, ratio(1), ratio(1) ratio(2), ..."""
    total, term, n = Decimal(0), first, 0
    while abs(term) > abs(total) * Decimal("1e-85"):
        total, n = total + term, n + 1
        term *= ratio(n)
    return total


def expm1_over(r: Decimal) -> Decimal:
    """(eʳ - 1) / r."""
    return series(r, ONE, lambda n: r / (n + 1))


def artanh_tail(z: Decimal) -> Decimal:
    """(2 artanh(s) / s - 2) / s², where z = s²."""
    total, power, n = Decimal(0), ONE, 3
    while power > Decimal("1e-85"):
        total, power, n = total + 2 * power / n, power * z, n + 2
    return total


def sin_over(z: Decimal) -> Decimal:
    """sin(r) / r, where z = r²."""
    return series(z, ONE, lambda n: -z / (2 * n * (2 * n + 1)))


def cos_of(z: Decimal) -> Decimal:
    """cos(r), where z = r²."""
    return series(z, ONE, lambda n: -z / (2 * n * (2 * n - 1)))


def pi() -> Decimal:
    """Pi by Machin's formula."""

    def arctan(n: int) -> Decimal:
        return series(ONE, ONE / n, lambda k: -(ONE / n**2) * (2 * k - 1) / (2 * k + 1))

    return 4 * (4 * arctan(5) - arctan(239))


with decimal.localcontext() as _digits:
    _digits.prec = 240
    PI = pi()


def erf(x: Decimal) -> Decimal:
    """The Taylor series."""
    total, term, n = Decimal(0), x, 0
    while abs(term) > Decimal(10) ** -decimal.getcontext().prec:
        total, n = total + term / (2 * n + 1), n + 1
        term *= -x * x / n
    return 2 * total / PI.sqrt()


def erfc_tail(t: Decimal) -> Decimal:
    """erfc(x) e^(x²) / t, where t = 1 / (x + 2)."""
    with decimal.localcontext() as context:
        context.prec = (
            220  # 1 - erf(12) begins with 63 zeros, and terms of the series have 62 digits
        )
        x = 1 / t - 2
        return (1 - erf(x)) * (x * x).exp() / t


def tanh(x: Decimal) -> Decimal:
    e = (2 * x).exp()
    return (e - 1) / (e + 1)


# --- approximation ----------------------------------------------------------------------------


def solve(matrix: Sequence[Sequence[Decimal]], right: Sequence[Decimal]) -> list[Decimal]:
    """Gaussian elimination with pivots."""
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for n in range(len(rows)):
        pivot = max(range(n, len(rows)), key=lambda k: abs(rows[k][n]))
        rows[n], rows[pivot] = rows[pivot], rows[n]
        for k in range(len(rows)):
            if k != n:
                factor = rows[k][n] / rows[n][n]
                rows[k] = [a - factor * b for a, b in zip(rows[k], rows[n], strict=True)]
    return [row[-1] / row[n] for n, row in enumerate(rows)]


def chebyshev(low: Decimal, high: Decimal, count: int) -> list[Decimal]:
    """Points of an interval, denser at its ends."""
    angles = (math.pi * n / (count - 1) for n in range(count))
    return [low + (high - low) * (ONE - Decimal(math.cos(angle))) / TWO for angle in angles]


def horner(coefficients: Sequence[Decimal], x: Decimal) -> Decimal:
    total = Decimal(0)
    for c in reversed(coefficients):
        total = total * x + c
    return total


@dataclass(frozen=True)
class Polynomial:
    """The minimax polynomial for a function on an interval, for a weighted error.

    Attributes:
        name: the name of the table.
        committed: the coefficients in the package.
        function: the function to approximate.
        low: start of the interval.
        high: end of the interval.
        weight: factor of the error of the polynomial in the error to minimize.
        ratio: largest allowed ratio of the committed error to the smallest error.
        fixed: the first coefficients, if they are prescribed.
    """

    name: str
    committed: tuple[float, ...]
    function: Function
    low: Decimal
    high: Decimal
    weight: Function
    ratio: float
    fixed: tuple[float, ...] = ()

    def fit(self) -> list[Decimal]:
        """The Remez exchange algorithm on a fine grid."""
        grid = chebyshev(self.low, self.high, 400)
        wanted, weights = [self.function(x) for x in grid], [self.weight(x) for x in grid]
        fixed = list(map(Decimal, self.fixed))
        free = range(len(fixed), len(self.committed))
        points = [round(k * (len(grid) - 1) / len(free)) for k in range(len(free) + 1)]
        if fixed or not weights[0]:
            points[0] = 1  # the error at the end is zero for all coefficients
        for _ in range(30):
            matrix = [
                [*(grid[p] ** n if n else ONE for n in free), (-1) ** k / weights[p]]
                for k, p in enumerate(points)
            ]
            right = [wanted[p] - horner(fixed, grid[p]) for p in points]
            *found, _ = solve(matrix, right)
            coefficients = fixed + found
            errors = [
                w * (y - horner(coefficients, x))
                for x, y, w in zip(grid, wanted, weights, strict=True)
            ]
            before, points = points, extremes(errors, len(points))
            if points == before:
                return coefficients
        raise ArithmeticError(self.name)

    def error(self, coefficients: Sequence[Decimal]) -> Decimal:
        """The largest weighted error."""
        grid = chebyshev(self.low, self.high, 300)
        return max(abs(self.weight(x) * (self.function(x) - horner(coefficients, x))) for x in grid)


def extremes(errors: Sequence[Decimal], count: int) -> list[int]:
    """The given number of largest errors with alternating signs."""
    found: list[int] = []
    for n, error in enumerate(errors):
        if not error:
            continue
        if found and (errors[found[-1]] > 0) == (error > 0):
            if abs(error) > abs(errors[found[-1]]):
                found[-1] = n
        else:
            found.append(n)
    while len(found) > count:
        del found[0 if abs(errors[found[0]]) < abs(errors[found[-1]]) else -1]
    return found


@dataclass(frozen=True)
class Rational:
    """A quotient P(x²) / Q(x²) with Q(0) = 1 whose largest relative error is nearly the smallest.

    Attributes:
        name: the name of the table.
        committed: the coefficients in the package, those of P and then those of Q.
        function: the function of x to approximate, divided by x.
        high: end of the interval, which starts at 0.
        above: the number of coefficients of P.
        ratio: see `Polynomial`.
    """

    name: str
    committed: tuple[float, ...]
    function: Function
    high: Decimal
    above: int
    ratio: float

    def fit(self) -> list[Decimal]:
        """Least squares of P - f Q; Lawson's weights make the largest errors alike."""
        xs = chebyshev(Decimal(0), self.high, 161)[1:]
        wanted = [self.function(x) for x in xs]
        degree = max(self.above, len(self.committed) - self.above)
        powers = [[x ** (2 * n) if n else ONE for n in range(degree)] for x in xs]
        lawson, found = [ONE / len(xs)] * len(xs), [ONE] * self.above + [ONE]
        found += [Decimal(0)] * (len(self.committed) - len(found))
        best: tuple[Decimal, list[Decimal]] = (Decimal("inf"), [])
        for _ in range(60):
            rows, right = [], []
            for x, y, w, z in zip(xs, wanted, lawson, powers, strict=True):
                scale = w.sqrt() / (horner(found[self.above :], x * x) * y)
                below = z[1 : len(self.committed) - self.above]
                rows.append([scale * p for p in z[: self.above]] + [-scale * y * p for p in below])
                right.append(scale * y)
            found = least_squares(rows, right)
            found.insert(self.above, ONE)
            errors = [abs(self.quotient(found, x) / y - 1) for x, y in zip(xs, wanted, strict=True)]
            best = min(best, (max(errors), found))
            total = sum(map(Decimal.__mul__, lawson, errors))
            lawson = [w * e / total for w, e in zip(lawson, errors, strict=True)]
        return best[1]

    def quotient(self, coefficients: Sequence[Decimal], x: Decimal) -> Decimal:
        """P(x²) / Q(x²)."""
        above, below = coefficients[: self.above], coefficients[self.above :]
        return horner(above, x * x) / horner(below, x * x)

    def error(self, coefficients: Sequence[Decimal]) -> Decimal:
        """The largest relative error."""
        xs = chebyshev(Decimal(0), self.high, 300)[1:]
        return max(abs(self.quotient(coefficients, x) / self.function(x) - 1) for x in xs)


def least_squares(rows: Sequence[Sequence[Decimal]], right: Sequence[Decimal]) -> list[Decimal]:
    """Least squares by the normal equations, which are accurate enough with 80 digits."""

    def dot(a: Sequence[Decimal], b: Sequence[Decimal]) -> Decimal:
        return sum(map(Decimal.__mul__, a, b), Decimal(0))

    columns = list(zip(*rows, strict=True))
    return solve([[dot(a, b) for b in columns] for a in columns], [dot(a, right) for a in columns])


# --- the tables -------------------------------------------------------------------------------


def of_format(name: str, f: tables.Format) -> list[Polynomial]:
    """The polynomials of a floating-point format."""
    ln2, root = TWO.ln(), TWO.sqrt()

    def of_exp(r: Decimal) -> Decimal:  # the error of eʳ = 1 + r P(r), relative to eʳ
        return abs(r) / r.exp()

    def of_expm1(r: Decimal) -> Decimal:  # relative to eʳ - 1
        return ONE / expm1_over(r)

    def of_log(z: Decimal) -> Decimal:  # of s (2 + s² P(s²)), relative to 2 artanh(s)
        return z / (2 + z * artanh_tail(z))

    edge = ((root - 1) / (root + 1)) ** 2
    return [
        Polynomial(f"{name}.exp", f.exp, expm1_over, Decimal(0), ln2, of_exp, 1.1),
        Polynomial(
            f"{name}.exp_nearest", f.exp_nearest, expm1_over, -ln2 / 2, ln2 / 2, of_exp, 1.1
        ),
        Polynomial(f"{name}.expm1", f.expm1, expm1_over, -ln2 / 2, ln2 / 2, of_expm1, 1.1),
        Polynomial(f"{name}.log", f.log, artanh_tail, Decimal(0), edge, of_log, 2.0),
    ]


def problems() -> Iterable[Polynomial | Rational]:
    """All tables and the functions that they approximate."""
    yield from of_format("FLOAT", tables.FLOAT)
    yield from of_format("DOUBLE", tables.DOUBLE)
    edge, zero = (PI / 4) ** 2, Decimal(0)
    yield Polynomial(
        "SIN", tables.SIN, sin_over, zero, +edge, lambda z: ONE / sin_over(z), 2.0, (1.0,)
    )
    yield Polynomial(
        "COS", tables.COS, cos_of, zero, +edge, lambda z: ONE / cos_of(z), 2.5, (1.0, -0.5)
    )
    low, high = ONE / 14, ONE / Decimal("2.5")  # x from 1/2 to 12
    yield Polynomial("ERFC", tables.ERFC, erfc_tail, low, high, lambda t: ONE / erfc_tail(t), 8.0)
    (above, below), limit = tables.TANH, Decimal("9.02")
    yield Rational("TANH", above + below, lambda x: tanh(x) / x, limit, len(above), 1.1)
    (above, below), limit = tables.ERF, Decimal(4)
    yield Rational("ERF", above + below, lambda x: erf(x) / x, limit, len(above), 4.0)


def main() -> None:
    for problem in problems():
        found, committed = problem.fit(), list(map(Decimal, problem.committed))
        errors = problem.error(found), problem.error(committed)
        print(f"{problem.name}: smallest error {errors[0]:.3e}, committed {errors[1]:.3e}")
        for new, old in zip(found, committed, strict=True):
            print(f"    {new:+.17e}  {old:+.17e}")


if __name__ == "__main__":
    main()
