"""Steps whose next state is ``A h + b`` with the same matrix ``A`` at each step: LMU and others.

Such a step is linear, but not element by element. Steps compose by powers of ``A``, which cost the
cube of the size of the state. The matrix may be spread over several products and sums, as for a
low-rank ``A`` or a state of several arrays. Lengths and resets select whole arrays by one flag.
"""

import jax.numpy as jnp

from noria.compiler.levels import CONSTANT, INPUT, level_of
from noria.compiler.split import Split
from noria.ir.graph import Equation, Value, values_of
from noria.ir.passes import dependence, extract
from noria.ir.primitives import is_contraction

#: Linear in all operands at once.
_SUMS = {"add", "add_any", "sub", "neg", "reduce_sum", "copy", "copy_p", "concatenate", "stack"}
_SUMS |= {"broadcast_in_dim", "expand_dims", "reshape", "slice", "split", "squeeze", "transpose"}
_SUMS |= {"rev", "unstack"}


def has_constant_matrix(split: Split) -> bool:
    """Whether the next state is affine in the state by a matrix that is the same at each step."""
    loop = extract(split.loop.equations, split.next_state, split.loop.inputs)
    levels = dict.fromkeys(split.hoisted, INPUT) | dict.fromkeys(split.shared, CONSTANT)
    levels = dependence(loop.equations, levels)
    moving = dependence(loop.equations, dict.fromkeys(split.state, 1))
    found = [e for e in loop.equations if any(moving.get(v) for v in values_of(e.inputs))]
    return any(map(is_contraction, found)) and all(_is_linear(e, levels, moving) for e in found)


def _is_linear(equation: Equation, levels: dict[Value, int], moving: dict[Value, int]) -> bool:
    """Whether the output is affine in the state, with factors that are the same at each step."""
    flags = [level_of(moving, atom) > 0 for atom in equation.inputs]
    if equation.name in ("mul", "dot_general"):
        first, second = equation.inputs
        return sum(flags) == 1 and level_of(levels, second if flags[0] else first) <= CONSTANT
    if equation.name == "div":
        return flags == [True, False] and level_of(levels, equation.inputs[1]) <= CONSTANT
    if equation.name == "select_n":
        return not flags[0] and not equation.inputs[0].aval.ndim
    if equation.name == "convert_element_type":
        dtypes = (equation.inputs[0].aval.dtype, equation.outputs[0].aval.dtype)
        return all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
    return equation.name in _SUMS
