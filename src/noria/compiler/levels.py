"""The levels of values: constant, or dependent on parameters, context, input or state."""

from collections.abc import Sequence

from noria.ir.graph import Atom, Equation, Value, is_literal, size
from noria.ir.passes import backward_slice
from noria.ir.primitives import is_contraction

#: Dependence on nothing, on parameters, on the context, on the input of a step, and on the state.
#: The context is the same in each step of an example.
NUMBER, CONSTANT, CONTEXT, INPUT, STATE = range(5)


def level_of(levels: dict[Value, int], atom: Atom) -> int:
    """The level of a value, or of a constant in an equation."""
    return NUMBER if is_literal(atom) else levels.get(atom, NUMBER)


def reads_parameter(levels: dict[Value, int], equation: Equation) -> bool:
    """Whether an operand depends on parameters alone."""
    return any(level_of(levels, v) == CONSTANT for v in equation.inputs)


def matrix_readers(equations: Sequence[Equation], levels: dict[Value, int]) -> list[Equation]:
    """The products of the state and of a matrix that the step makes from its input."""
    return [e for e in equations if _matrices_of(e, levels)]


def made_into_matrices(equations: Sequence[Equation], levels: dict[Value, int]) -> set[Value]:
    """These matrices, and all values that they are made of."""
    read = [v for e in equations for v in _matrices_of(e, levels)]
    return {v for e in backward_slice(equations, read) for v in e.outputs}


def _matrices_of(product: Equation, levels: dict[Value, int]) -> list[Atom]:
    """The operand that depends on the input, if the other one and the result are smaller."""
    if not is_contraction(product):
        return []
    least, pairs = size(product.outputs[0]), (product.inputs, product.inputs[::-1])
    return [
        a
        for a, b in pairs
        if level_of(levels, a) == INPUT
        and level_of(levels, b) == STATE
        and size(a) > max(least, size(b))
    ]
