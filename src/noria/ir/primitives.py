"""The table of primitives: the kind of each, its cost, and its form in the native backend.

The compiler and the native backend decide by this table alone; code generation registers an emitter
for each primitive with an entry ``elementwise``. To teach Noria a primitive of JAX, add its line.
A primitive without a line is *heavy*: it stays on its side of a cut, and the native backend has no
code for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from noria._jax import inner_jaxprs, parts_of
from noria.ir.graph import Atom, Equation, size_in_bytes, values_of


class Kind(Enum):
    """The effect of a primitive on numbers."""

    MOVE = "moves or selects numbers"
    LIGHT = "a few instructions for each number"
    TRANSCENDENTAL = "many instructions for each number; not repeated to save memory"
    REDUCTION = "combines the numbers along some axes"
    CONTRACTION = "multiplies and adds along a contracted axis"


@dataclass(frozen=True)
class Primitive:
    """One line of the table.

    Attributes:
        kind: its effect on numbers.
        elementwise: kinds of operands (`numpy.dtype.kind`) for which the native backend has an
            element-wise emitter.
        view: whether the native backend turns it into an offset, if the result is contiguous.
        combine: for a reduction with native code, the primitive that it repeats.
    """

    kind: Kind
    elementwise: str = ""
    view: bool = False
    combine: str = ""


_MOVE, _LIGHT, _SLOW, _REDUCTION = Kind.MOVE, Kind.LIGHT, Kind.TRANSCENDENTAL, Kind.REDUCTION

PRIMITIVES: dict[str, Primitive] = {
    # moves
    "broadcast_in_dim": Primitive(_MOVE, view=True),
    "copy": Primitive(_MOVE, view=True),
    "copy_p": Primitive(_MOVE, view=True),
    "expand_dims": Primitive(_MOVE, view=True),
    "reshape": Primitive(_MOVE, view=True),
    "slice": Primitive(_MOVE, view=True),
    "split": Primitive(_MOVE, view=True),
    "squeeze": Primitive(_MOVE, view=True),
    "stop_gradient": Primitive(_MOVE, view=True),
    "transpose": Primitive(_MOVE, view=True),
    "concatenate": Primitive(_MOVE),
    "pad": Primitive(_MOVE),
    "rev": Primitive(_MOVE),
    "stack": Primitive(_MOVE),
    "tile": Primitive(_MOVE),
    "unstack": Primitive(_MOVE),
    "bitcast_convert_type": Primitive(_MOVE, "fiu"),
    "complex": Primitive(_MOVE),
    "convert_element_type": Primitive(_MOVE, "fiub"),
    "imag": Primitive(_MOVE),
    "iota": Primitive(_MOVE),
    "real": Primitive(_MOVE),
    "reduce_precision": Primitive(_MOVE),
    "select_n": Primitive(_MOVE, "fiub"),
    # arithmetic, comparisons, bits
    "abs": Primitive(_LIGHT, "fiu"),
    "add": Primitive(_LIGHT, "fiu"),
    "add_any": Primitive(_LIGHT, "fiu"),
    "and": Primitive(_LIGHT, "iub"),
    "ceil": Primitive(_LIGHT, "f"),
    "clamp": Primitive(_LIGHT, "fiu"),
    "conj": Primitive(_LIGHT),
    "eq": Primitive(_LIGHT, "fiub"),
    "floor": Primitive(_LIGHT, "f"),
    "ge": Primitive(_LIGHT, "fiu"),
    "gt": Primitive(_LIGHT, "fiu"),
    "integer_pow": Primitive(_LIGHT, "fiu"),
    "is_finite": Primitive(_LIGHT, "f"),
    "le": Primitive(_LIGHT, "fiu"),
    "lt": Primitive(_LIGHT, "fiu"),
    "max": Primitive(_LIGHT, "fiu"),
    "min": Primitive(_LIGHT, "fiu"),
    "mul": Primitive(_LIGHT, "fiu"),
    "ne": Primitive(_LIGHT, "fiub"),
    "neg": Primitive(_LIGHT, "fi"),
    "nextafter": Primitive(_LIGHT),
    "not": Primitive(_LIGHT, "iub"),
    "one_minus_square": Primitive(_LIGHT, "fiu"),
    "or": Primitive(_LIGHT, "iub"),
    "polynomial": Primitive(_LIGHT),
    "population_count": Primitive(_LIGHT),
    "round": Primitive(_LIGHT, "f"),
    "shift_left": Primitive(_LIGHT, "iu"),
    "shift_right_arithmetic": Primitive(_LIGHT, "iu"),
    "shift_right_logical": Primitive(_LIGHT, "iu"),
    "sign": Primitive(_LIGHT, "fiu"),
    "square": Primitive(_LIGHT, "fiu"),
    "sub": Primitive(_LIGHT, "fiu"),
    "xor": Primitive(_LIGHT, "iub"),
    # functions
    "acos": Primitive(_SLOW),
    "acosh": Primitive(_SLOW),
    "asin": Primitive(_SLOW),
    "asinh": Primitive(_SLOW),
    "atan": Primitive(_SLOW),
    "atan2": Primitive(_SLOW, "f"),
    "atanh": Primitive(_SLOW),
    "cbrt": Primitive(_SLOW, "f"),
    "cos": Primitive(_SLOW, "f"),
    "cosh": Primitive(_SLOW, "f"),
    "digamma": Primitive(_SLOW),
    "div": Primitive(_SLOW, "fiu"),
    "erf": Primitive(_SLOW, "f"),
    "erf_inv": Primitive(_SLOW),
    "erfc": Primitive(_SLOW, "f"),
    "exp": Primitive(_SLOW, "f"),
    "exp2": Primitive(_SLOW, "f"),
    "expm1": Primitive(_SLOW, "f"),
    "lgamma": Primitive(_SLOW),
    "log": Primitive(_SLOW, "f"),
    "log1p": Primitive(_SLOW, "f"),
    "log2": Primitive(_SLOW),
    "logistic": Primitive(_SLOW, "f"),
    "pow": Primitive(_SLOW, "f"),
    "rem": Primitive(_SLOW, "fiu"),
    "rsqrt": Primitive(_SLOW, "f"),
    "sin": Primitive(_SLOW, "f"),
    "sinh": Primitive(_SLOW, "f"),
    "sqrt": Primitive(_SLOW, "f"),
    "tan": Primitive(_SLOW, "f"),
    "tanh": Primitive(_SLOW, "f"),
    # reductions and contractions
    "reduce_and": Primitive(_REDUCTION),
    "reduce_max": Primitive(_REDUCTION, combine="max"),
    "reduce_min": Primitive(_REDUCTION, combine="min"),
    "reduce_or": Primitive(_REDUCTION),
    "reduce_prod": Primitive(_REDUCTION),
    "reduce_sum": Primitive(_REDUCTION, combine="add"),
    "dot_general": Primitive(Kind.CONTRACTION),
}


def _of_kind(*kinds: Kind) -> frozenset[str]:
    return frozenset(name for name, primitive in PRIMITIVES.items() if primitive.kind in kinds)


MOVES, TRANSCENDENTAL = _of_kind(Kind.MOVE), _of_kind(Kind.TRANSCENDENTAL)

#: Cheap enough to be done on either side of a cut; everything else has its side given.
LIGHT = _of_kind(Kind.MOVE, Kind.LIGHT, Kind.TRANSCENDENTAL, Kind.REDUCTION)

#: Views, which become offsets in native code.
VIEWS = frozenset(name for name, primitive in PRIMITIVES.items() if primitive.view)

#: Views in a loop over rows and features.
MATRIX_VIEWS = VIEWS | {"rev"}

#: Reductions with native code, and the primitive that each repeats.
COMBINE = {name: primitive.combine for name, primitive in PRIMITIVES.items() if primitive.combine}

#: Element-wise primitives with native code, and the kinds of operands that they accept.
ELEMENTWISE = {
    name: primitive.elementwise for name, primitive in PRIMITIVES.items() if primitive.elementwise
}


#: A system of linear equations, ``A, b -> x``: see `noria.compiler.solves`.
SOLVE = "noria_solve"

#: Systems of linear equations, also with a triangle.
SOLVES = frozenset({SOLVE, "triangular_solve"})

#: The largest system with native code: it holds the matrix in the first-level cache.
MOST_UNKNOWNS = 64

#: Primitives whose results have native code only where they are stored: each number needs many.
WHOLE = frozenset({"dot_general", *SOLVES, *COMBINE})

#: Primitives that hold a jaxpr.
CALLS = frozenset("scan while cond custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr".split())

#: How the names of calls begin whose function has a derivative rule of its own.
RULES = ("custom_jvp_call", "custom_vjp_call")
#: Those of them whose rule may be any function of the cotangent.
REVERSE_RULES = "custom_vjp_call"


def is_contraction(equation: Equation) -> bool:
    """Whether an equation is a product with a contracted axis."""
    return equation.name == "dot_general" and bool(equation.params["dimension_numbers"][0][0])


def expands(equation: Equation) -> bool:
    """Whether a contraction is larger than its operands, as a sum of outer products is."""
    return is_contraction(equation) and size_in_bytes(equation.outputs[0]) > sum(
        map(size_in_bytes, values_of(equation.inputs))
    )


def is_small_solve(equation: Equation) -> bool:
    """Whether an equation is a system of linear equations that native code can solve."""
    if equation.name not in SOLVES:
        return False
    return is_small_system(*equation.inputs)


def is_small_system(matrix: Atom, right: Atom) -> bool:
    """Whether native code can solve systems with such matrices and right sides."""
    a, b = matrix.aval, right.aval
    is_float = a.dtype == b.dtype and a.dtype in (np.float32, np.float64)
    return bool(is_float and 0 < a.shape[-1] <= MOST_UNKNOWNS)


def is_heavy(equation: Equation) -> bool:
    """Whether an equation is a contraction, a convolution, a gather or a loop."""
    if equation.name == "dot_general":
        return is_contraction(equation)
    if equation.name.startswith(RULES):
        inner = equation.params.get("call_jaxpr") or equation.params.get("fun_jaxpr")
        return inner is None or any(name not in LIGHT for name in _names(parts_of(inner)[0]))
    return equation.name not in LIGHT


def _names(jaxpr: Any) -> Iterator[str]:
    """The primitives of a jaxpr, and of the jaxprs inside it."""
    for equation in jaxpr.eqns:
        inner = [*inner_jaxprs(equation.params)]
        if not inner:
            yield equation.primitive.name
        for nested in inner:
            yield from _names(nested)
