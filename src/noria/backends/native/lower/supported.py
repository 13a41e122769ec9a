"""The equations and values with native code, by `noria.ir.primitives`."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from noria.ir.graph import Atom, Equation, size
from noria.ir.primitives import COMBINE, ELEMENTWISE, MATRIX_VIEWS, SOLVES, VIEWS, is_small_solve
from noria.ir.reasons import Reason
from noria.ir.source import where


class UnsupportedEquation(Exception):
    """The native backend has no code for an equation or a value; the message says for which.

    Attributes:
        obstacles: the messages of all errors that were found, this one first.
    """

    def __init__(self, subject: Equation | Atom):
        if isinstance(subject, Equation):
            some = subject.inputs or subject.outputs
            shapes = " ".join(v.aval.str_short(short_dtypes=True) for v in some)
            line = where(subject.source)
            self._say(Reason.NO_CODE(name=subject.name, shapes=shapes, where=line))
        else:
            shape = subject.aval.str_short(short_dtypes=True)
            self._say(Reason.NO_VALUES(shape=shape))

    def _say(self, message: str) -> None:
        Exception.__init__(self, message)
        self.obstacles: tuple[str, ...] = (message,)

    @classmethod
    def raise_all(cls, errors: Iterable["UnsupportedEquation"]) -> None:
        """Raise the first of some errors, if there is one, with the obstacles of all."""
        found = [*errors]
        if found:
            every = (obstacle for error in found for obstacle in error.obstacles)
            found[0].obstacles = tuple(dict.fromkeys(every))
            raise found[0] from None


class TooLong(UnsupportedEquation):
    """A step has more equations than machine code is made for."""

    def __init__(self, count: int, most: int):
        self._say(Reason.TOO_LONG(count=count, most=most))


def kind_of(dtype: Any) -> str:
    """As `numpy.dtype.kind`; empty for a dtype without native code.

    Numbers of bfloat16 are computed in float32.
    """
    if dtype == jnp.bfloat16:
        return "f"
    return "" if dtype == np.float16 else getattr(dtype, "kind", "")


def is_storable(value: Atom) -> bool:
    """Whether the native backend can store a value: it has a known dtype, and elements."""
    dtype = value.aval.dtype
    is_known = isinstance(dtype, np.dtype) and dtype.kind in "fiub" and dtype != np.float16
    return is_known and bool(size(value))


def check_dtype(value: Atom) -> None:
    """Raise an error if the native backend cannot store a value.

    Raises:
        UnsupportedEquation: if it has another dtype, or no elements.
    """
    if not is_storable(value):
        raise UnsupportedEquation(value)


def is_sized(equation: Equation) -> bool:
    """Whether all operands and results have elements."""
    return all(size(v) for v in (*equation.inputs, *equation.outputs))


def has_native_code(equation: Equation) -> bool:
    """Whether there is code for an equation as it is; `legalized` may find it in another form."""
    name = equation.name
    if not is_sized(equation):
        return False
    if name in _CONDITIONS:
        return _CONDITIONS[name](equation)
    if name in COMBINE:
        operand = equation.inputs[0].aval
        return len(equation.params["axes"]) == operand.ndim and operand.dtype != bool
    return name in VIEWS or (name in ELEMENTWISE and _is_elementwise(equation))


def has_row_code(equation: Equation) -> bool:
    """Whether there is a loop over rows and features for an equation that has no other code."""
    name = equation.name
    if not is_sized(equation):
        return False
    if name in COMBINE:
        axes, operand = equation.params["axes"], equation.inputs[0].aval
        return len(axes) == 1 and operand.shape[axes[0]] > 1 and operand.dtype != bool
    if name == "reshape":
        return equation.params.get("dimensions") is None
    if name in SOLVES:  # several right sides are rows
        return is_small_solve(equation) and not equation.params.get("left_side")
    return name in MATRIX_VIEWS or name == "concatenate"


def _is_elementwise(equation: Equation) -> bool:
    """Whether each operand has a known dtype, and one element or the shape of the result."""
    shape = equation.outputs[0].aval.shape
    return all(
        kind_of(v.aval.dtype) in [*ELEMENTWISE[equation.name]]
        and (math.prod(v.aval.shape) == 1 or v.aval.shape == shape)
        for v in equation.inputs
    )


# --- conditions of single primitives --------------------------------------------------------------


def _is_row_times_matrix(equation: Equation) -> bool:
    contracted, batch = equation.params["dimension_numbers"]
    dtypes = {v.aval.dtype for v in (*equation.inputs, *equation.outputs)}
    return (
        sorted(v.aval.ndim for v in equation.inputs) == [1, 2]
        and len(contracted[0]) == 1
        and not any(batch)
        and len(dtypes) == 1
        and all(kind_of(dtype) == "f" for dtype in dtypes)
    )


def _is_along_rows(axis: str) -> Callable[[Equation], bool]:
    """A condition: the axis named by a parameter is the first with more than one element."""
    return lambda e: math.prod(e.inputs[0].aval.shape[: e.params[axis]]) == 1


def _is_contiguous(equation: Equation) -> bool:
    params, shape = equation.params, equation.inputs[0].aval.shape
    if params["strides"] is not None and any(stride != 1 for stride in params["strides"]):
        return False
    ends = zip(params["start_indices"], params["limit_indices"], shape, strict=True)
    cut = [stop - start != n for start, stop, n in ends]
    return not any(cut) or math.prod(shape[: max(i for i, c in enumerate(cut) if c)]) == 1


def _keeps_order(equation: Equation) -> bool:
    shape = equation.inputs[0].aval.shape
    moved = [axis for axis in equation.params["permutation"] if shape[axis] > 1]
    return moved == sorted(moved)


def _is_two_way(equation: Equation) -> bool:
    is_boolean = len(equation.inputs) == 3 and equation.inputs[0].aval.dtype == bool
    return is_boolean and _is_elementwise(equation)


def _keeps_its_size(equation: Equation) -> bool:
    """Numbers of bfloat16 are float32 in registers, so their own bits are not there."""
    dtypes = [v.aval.dtype for v in (*equation.inputs, *equation.outputs)]
    same = len({dtype.itemsize for dtype in dtypes}) == 1 and jnp.bfloat16 not in dtypes
    return same and _is_elementwise(equation)


_CONDITIONS: dict[str, Callable[[Equation], bool]] = {
    "dot_general": _is_row_times_matrix,
    "concatenate": _is_along_rows("dimension"),
    "split": _is_along_rows("axis"),
    "slice": _is_contiguous,
    "broadcast_in_dim": lambda e: size(e.inputs[0]) in (1, size(e.outputs[0])),
    "transpose": _keeps_order,
    "reshape": lambda e: e.params.get("dimensions") is None,
    "select_n": _is_two_way,
    "bitcast_convert_type": _keeps_its_size,
}
