"""Forms of the values of a step: affine in the state, or the maximum of sums and a number.

Both are ``a_1 ⊗ h_1 ⊕ a_2 ⊗ h_2 ... ⊕ shift`` in a semiring. Each ``h`` is an array of the state;
the scales ``a`` and the ``shift`` are known::

    AFFINE      a * h + shift
    h           1 * h + 0
    u * v       (v * a) * h + v * shift             v known
    u + v       (a + a') * h + ...                  the scales of the same array are added
    select      by a known condition: lengths and resets are affine

    MAX_PLUS    max(h + a, shift)
    h           max(h + 0, -inf)
    u + v       max(h + (a + v), shift + v)         v known
    max(u, v)   max(h + max(a, a'), ...)
    select      as above: a reset has a scale of -inf

The rules read equations; they never test numbers. An operation without a rule, or one that moves,
broadcasts or sums elements of the state, has no form. Integers, such as a counter, are affine by
the same rules (except division), without a derivative.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from noria.ir.graph import Env, Equation, Graph, Value, is_literal, read, values_of
from noria.ir.source import place
from noria.ops.semirings import AFFINE, MAX_PLUS, Semiring


class NotLinear(Exception):
    """The step is not linear; the message names the operation or the array."""


class Form(NamedTuple):
    """``a_1 ⊗ h_1 ⊕ a_2 ⊗ h_2 ... ⊕ shift``, arrays that broadcast to the shape of the value.

    ``scales`` has the arrays of the state; it is empty for a known value. A scale of ``None`` is
    one, a ``shift`` of ``None`` is zero. Neither is computed.
    """

    scales: dict[Value, Any]
    shift: Any


def forms_of(ring: Semiring, loop: Graph, state: Sequence[Any], known: Env) -> list[Form]:
    """The form of each next state, with all arrays.

    Raises:
        NotLinear: if one of them has no form.
    """
    if any(jnp.issubdtype(leaf.aval.dtype, jax.dtypes.extended) for leaf in state):
        raise NotLinear("a random key is not")
    forms = {leaf: Form({leaf: None}, None) for leaf in state}
    for equation in loop.equations:
        if any(v in forms for v in values_of(equation.inputs)):
            forms[equation.outputs[0]] = _apply(ring, equation, forms, known)
        else:
            outputs = equation.bind(*(read(known, atom) for atom in equation.inputs))
            known.update(zip(equation.outputs, outputs, strict=True))
    found: list[Form] = []
    for atom in loop.outputs:
        form = None if is_literal(atom) else forms.get(atom)
        scales, shift = form or Form({}, read(known, atom))
        full = _Filling(ring, atom.aval)
        found.append(Form({h: full.scale(scales, h) for h in state}, full.shift(shift)))
    return found


class _Filling:
    """Scales and shifts as arrays of one shape and dtype."""

    def __init__(self, ring: Semiring, aval: Any):
        self.ring, self.aval = ring, aval

    def scale(self, scales: dict[Value, Any], leaf: Value) -> Any:
        return self._array(scales.get(leaf, self.ring.zero), self.ring.one)

    def shift(self, shift: Any) -> Any:
        return self._array(shift, self.ring.zero)

    def _array(self, array: Any, default: float) -> Any:
        array = jnp.asarray(default if array is None else array, self.aval.dtype)
        return jnp.broadcast_to(array, self.aval.shape)


def _apply(ring: Semiring, equation: Equation, forms: dict[Any, Form], known: Env) -> Form:
    """The form of the output of an equation."""
    output = equation.outputs[0].aval
    rule = _RULES[ring].get(equation.name)
    shapes = {v.aval.shape for v in values_of(equation.inputs) if v in forms}
    same = rule is _reshaped or shapes == {output.shape}
    found = None
    if rule is not None and same and jnp.issubdtype(output.dtype, _KINDS[ring]):
        operands = []
        for atom in equation.inputs:
            form = None if is_literal(atom) else forms.get(atom)
            operands.append(form or Form({}, read(known, atom)))
        found = rule(equation, operands, _Filling(ring, output))
    if found is None:
        raise NotLinear(f"{place(equation)} is not")
    return found


#: ``(equation, forms of its inputs, filling for its output) -> form``; ``None`` if it has no form.
Rule = Callable[[Equation, list[Form], _Filling], Form | None]


def _addition(equation: Equation, operands: list[Form], full: _Filling) -> Form:
    """``u ⊕ v``, for the affine semiring also ``u - v``."""
    left, right = operands
    negative = equation.name == "sub"

    def added(one: Any, other: Any) -> Any:
        return equation.bind(one, other)[0]

    scales = {}
    for leaf in {**left.scales, **right.scales}:
        if leaf not in right.scales:
            scales[leaf] = left.scales[leaf]
        elif leaf not in left.scales and not negative:
            scales[leaf] = right.scales[leaf]
        else:
            scales[leaf] = added(full.scale(left.scales, leaf), full.scale(right.scales, leaf))
    if right.shift is None or (left.shift is None and not negative):
        shift = left.shift if right.shift is None else right.shift
        return Form(scales, None if shift is None else full.shift(shift))
    return Form(scales, added(full.shift(left.shift), full.shift(right.shift)))


def _multiplication(equation: Equation, operands: list[Form], full: _Filling) -> Form | None:
    """``u ⊗ v`` with a known operand, or its inverse, a quotient or a difference."""
    form, known = operands
    inverse = equation.name in ("div", "sub")
    if not form.scales and not inverse:
        form, known = known, form
    exact = jnp.issubdtype(full.aval.dtype, jnp.inexact)
    if known.scales or (equation.name == "div" and not exact):
        return None
    by = full.shift(known.shift)

    def scaled(array: Any) -> Any:
        return equation.bind(array, by)[0]

    return Form(
        {
            leaf: by if scale is None and not inverse else scaled(full.scale(form.scales, leaf))
            for leaf, scale in form.scales.items()
        },
        None if form.shift is None else scaled(full.shift(form.shift)),
    )


def _negative(equation: Equation, operands: list[Form], full: _Filling) -> Form:
    scales, shift = operands[0]
    return Form(
        {leaf: -full.scale(scales, leaf) for leaf in scales}, None if shift is None else -shift
    )


def _selection(equation: Equation, operands: list[Form], full: _Filling) -> Form | None:
    which, *cases = operands
    if which.scales:
        return None

    def selected(arrays: Sequence[Any]) -> Any:
        return equation.bind(which.shift, *arrays)[0]

    leaves = {leaf: None for form in cases for leaf in form.scales}
    scales = {leaf: selected([full.scale(form.scales, leaf) for form in cases]) for leaf in leaves}
    if all(form.shift is None for form in cases):
        return Form(scales, None)
    return Form(scales, selected([full.shift(form.shift) for form in cases]))


def _unchanged(equation: Equation, operands: list[Form], full: _Filling) -> Form:
    return operands[0]


def _reshaped(equation: Equation, operands: list[Form], full: _Filling) -> Form | None:
    """Axes of one element come and go; the elements stay in their order."""
    before = equation.inputs[0].aval
    if math.prod(before.shape) != math.prod(full.aval.shape):
        return None

    def reshaped(array: Any) -> Any:
        return None if array is None else jnp.broadcast_to(array, before.shape).reshape(after)

    after, (scales, shift) = full.aval.shape, operands[0]
    return Form({leaf: reshaped(scale) for leaf, scale in scales.items()}, reshaped(shift))


def _conversion(equation: Equation, operands: list[Form], full: _Filling) -> Form | None:
    scales, shift = operands[0]
    before, after = equation.inputs[0].aval.dtype, full.aval.dtype
    kinds = (jnp.floating, jnp.complexfloating)
    if not any(jnp.issubdtype(before, kind) and jnp.issubdtype(after, kind) for kind in kinds):
        return None  # integers round, and real numbers lose the imaginary part

    def converted(array: Any) -> Any:
        return None if array is None else array.astype(after)

    return Form({leaf: converted(scale) for leaf, scale in scales.items()}, converted(shift))


_MOVES: dict[str, Rule] = {
    "select_n": _selection,
    **dict.fromkeys(("copy", "copy_p"), _unchanged),
    **dict.fromkeys(("reshape", "squeeze", "expand_dims", "broadcast_in_dim"), _reshaped),
}

_RULES: dict[Semiring, dict[str, Rule]] = {
    AFFINE: {
        **_MOVES,
        "add": _addition,
        "add_any": _addition,
        "sub": _addition,
        "mul": _multiplication,
        "div": _multiplication,
        "neg": _negative,
        "convert_element_type": _conversion,
    },
    MAX_PLUS: {
        **_MOVES,
        "max": _addition,
        "add": _multiplication,
        "sub": _multiplication,
    },
}

#: The dtypes of the state.
_KINDS = {AFFINE: jnp.number, MAX_PLUS: jnp.floating}
