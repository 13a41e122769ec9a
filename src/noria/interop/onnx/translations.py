"""Primitives of JAX as nodes of ONNX, one function each; `translator` calls them.

The leading axes of values are not in the shapes of the primitives: a function adds their number.
"""

import string

import numpy as np

from noria.interop.onnx.equations import Known, Step, Translation
from noria.interop.onnx.move_translations import MOVES


def _plain(op: str) -> Translation:
    return lambda step, *given: step.add(op, *step.aligned(given))


def _bits(logical: str, bitwise: str) -> Translation:
    return lambda step, *given: step.add(
        logical if step.is_boolean else bitwise, *step.aligned(given)
    )


def _negated(op: str) -> Translation:
    return lambda step, *given: step.add("Not", step.add(op, *step.aligned(given)))


# --- functions ----------------------------------------------------------------------------------


def _integer_pow(step: Step, x: Known) -> str:
    power = step.param("y")
    if power in (2, 3):
        square = step.add("Mul", x, x)
        return square if power == 2 else step.add("Mul", square, x)
    return step.add("Pow", x, step.number(power))


def _expm1(step: Step, x: Known) -> str:
    """2 t / (1 - t) with t = tanh(x / 2) near zero, where a difference of exp would cancel."""
    t = step.add("Tanh", step.add("Mul", x, step.number(0.5)))
    near = step.add("Div", step.add("Mul", t, step.number(2)), step.add("Sub", step.number(1), t))
    far = step.add("Sub", step.add("Exp", x), step.number(1))
    small = step.add("Less", step.add("Abs", x), step.number(1))
    return step.add("Where", small, near, far)


def _log1p(step: Step, x: Known) -> str:
    """log(u) x / (u - 1) with u = 1 + x, which loses no digits near zero."""
    u = step.add("Add", x, step.number(1))
    rest = step.add("Sub", u, step.number(1))
    is_zero = step.add("Equal", rest, step.number(0))
    is_infinite = step.add("IsInf", u)
    safe = step.add("Where", is_zero, step.number(1), rest)
    near = step.add("Div", step.add("Mul", step.add("Log", u), x), safe)
    far = step.add("Where", is_infinite, x, near)
    return step.add("Where", is_zero, x, far)


def _cbrt(step: Step, x: Known) -> str:
    root = step.add("Pow", step.add("Abs", x), step.number(1 / 3))
    return step.add("Mul", step.add("Sign", x), root)


def _round(step: Step, x: Known) -> str:
    if int(step.param("rounding_method")):  # to the nearest even number
        return step.add("Round", x)
    away = step.add("Floor", step.add("Add", step.add("Abs", x), step.number(0.5)))
    return step.add("Mul", step.add("Sign", x), away)


def _is_finite(step: Step, x: Known) -> str:
    return step.add("Not", step.add("Or", step.add("IsNaN", x), step.add("IsInf", x)))


def _clamp(step: Step, low: Known, x: Known, high: Known) -> str:
    low, x, high = step.aligned([low, x, high])
    return step.add("Min", step.add("Max", x, low), high)


def _convert(step: Step, x: Known) -> str:
    return step.cast(x, step.param("new_dtype"))


def _select(step: Step, which: Known, *cases: Known) -> str:
    if isinstance(which, str) and not step.rank() and step.shape:
        which = step.reshaped(which, [1] * len(step.shape))
    if step.equation.inputs[0].aval.dtype == np.bool_:
        return step.add("Where", which, cases[1], cases[0])
    chosen: Known = cases[-1]
    for n, case in reversed([*enumerate(cases[:-1])]):
        is_n = step.add("Equal", which, np.asarray(n, step.equation.inputs[0].aval.dtype))
        chosen = step.add("Where", is_n, case, chosen)
    return str(chosen)


# --- sums and products --------------------------------------------------------------------------


def _reduction(op: str) -> Translation:
    def translate(step: Step, x: Known) -> str:
        return step.add(op, x, step.ints(step.axes(step.param("axes"))), keepdims=0)

    return translate


def _any_or_all(op: str) -> Translation:
    def translate(step: Step, x: Known) -> str:
        axes = step.ints(step.axes(step.param("axes")))
        return step.cast(step.add(op, step.cast(x, np.int32), axes, keepdims=0), np.bool_)

    return translate


def _place_of(op: str) -> Translation:
    def translate(step: Step, x: Known) -> str:
        [axis] = step.axes(step.param("axes"))
        return step.cast(step.add(op, x, axis=axis, keepdims=0), step.param("index_dtype"))

    return translate


def _cumsum(step: Step, x: Known) -> str:
    [axis] = step.axes([step.param("axis")])
    return step.add("CumSum", x, np.asarray(axis, np.int64), reverse=int(step.param("reverse")))


def _dot_general(step: Step, a: Known, b: Known) -> str:
    """A product of rows and a matrix where the constant is one, else an Einsum."""
    (over_a, over_b), (same_a, same_b) = step.param("dimension_numbers")
    for x, W, over_x, over_W in ((a, b, over_a, over_b), (b, a, over_b, over_a)):
        rank = step.rank(0 if x is a else 1)
        is_rows = rank == 1 or (rank == 2 and x is a and over_x == (1,))
        if isinstance(W, str) or W.ndim != 2 or len(over_x) != 1 or same_a or not is_rows:
            continue
        return step.add("MatMul", x, W if over_W == (0,) else W.T)
    free = iter(string.ascii_letters[step.lead :])
    letters_a = [next(free) for _ in range(step.rank(0))]
    letters_b = [next(free) for _ in range(step.rank(1))]
    for n, m in zip((*over_a, *same_a), (*over_b, *same_b), strict=True):
        letters_b[m] = letters_a[n]
    kept_a = [c for n, c in enumerate(letters_a) if n not in (*over_a, *same_a)]
    kept_b = [c for n, c in enumerate(letters_b) if n not in (*over_b, *same_b)]
    lead = string.ascii_letters[: step.lead]
    terms = [
        "".join([lead if isinstance(x, str) else "", *letters])
        for x, letters in ((a, letters_a), (b, letters_b))
    ]
    result = "".join([lead, *(letters_a[n] for n in same_a), *kept_a, *kept_b])
    return step.add("Einsum", a, b, equation=f"{terms[0]},{terms[1]}->{result}")


def _table(pairs: str) -> dict[str, Translation]:
    """Primitives with an operator of the same meaning."""
    return {name: _plain(op) for name, op in (pair.split(":") for pair in pairs.split())}


TRANSLATIONS: dict[str, Translation] = {
    **_table(
        "add:Add add_any:Add sub:Sub mul:Mul div:Div max:Max min:Min pow:Pow neg:Neg abs:Abs "
        "sign:Sign floor:Floor ceil:Ceil exp:Exp log:Log sqrt:Sqrt tanh:Tanh logistic:Sigmoid "
        "erf:Erf sin:Sin cos:Cos tan:Tan sinh:Sinh cosh:Cosh asin:Asin acos:Acos atan:Atan "
        "asinh:Asinh acosh:Acosh atanh:Atanh eq:Equal lt:Less le:LessOrEqual gt:Greater "
        "ge:GreaterOrEqual stop_gradient:Identity copy:Identity copy_p:Identity"
    ),
    "and": _bits("And", "BitwiseAnd"),
    "or": _bits("Or", "BitwiseOr"),
    "xor": _bits("Xor", "BitwiseXor"),
    "not": _bits("Not", "BitwiseNot"),
    "ne": _negated("Equal"),
    "square": lambda step, x: step.add("Mul", x, x),
    "integer_pow": _integer_pow,
    "rsqrt": lambda step, x: step.add("Reciprocal", step.add("Sqrt", x)),
    "exp2": lambda step, x: step.add("Pow", step.number(2), x),
    "log2": lambda step, x: step.add("Div", step.add("Log", x), step.number(np.log(2))),
    "expm1": _expm1,
    "log1p": _log1p,
    "cbrt": _cbrt,
    "erfc": lambda step, x: step.add("Sub", step.number(1), step.add("Erf", x)),
    "rem": lambda step, a, b: step.add("Mod", *step.aligned([a, b]), fmod=1),
    "round": _round,
    "is_finite": _is_finite,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "select_n": _select,
    **MOVES,
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_and": _any_or_all("ReduceMin"),
    "reduce_or": _any_or_all("ReduceMax"),
    "argmax": _place_of("ArgMax"),
    "argmin": _place_of("ArgMin"),
    "cumsum": _cumsum,
    "dot_general": _dot_general,
}
