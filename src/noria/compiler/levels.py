"""The levels of values: constant, or dependent on parameters, context, input or state."""

from noria.ir.graph import Atom, Equation, Value, is_literal

#: Dependence on nothing, on parameters, on the context, on the input of a step, and on the state.
#: The context is the same in each step of an example.
NUMBER, CONSTANT, CONTEXT, INPUT, STATE = range(5)


def level_of(levels: dict[Value, int], atom: Atom) -> int:
    """The level of a value, or of a constant in an equation."""
    return NUMBER if is_literal(atom) else levels.get(atom, NUMBER)


def reads_parameter(levels: dict[Value, int], equation: Equation) -> bool:
    """Whether an operand depends on parameters alone."""
    return any(level_of(levels, v) == CONSTANT for v in equation.inputs)
