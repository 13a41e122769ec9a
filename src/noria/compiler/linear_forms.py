"""Forms of the values of a step: affine in the state, or the maximum of a sum and a number.

Both are ``scale ⊗ leaf ⊕ shift`` in a semiring. The ``leaf`` is one array of the state, and
``scale`` and ``shift`` are known::

    AFFINE      scale * leaf + shift
    h           1 * h + 0
    u * v       (v * scale) * h + v * shift         v known
    u + v       (scale + scale') * h + ...          the same leaf, or v known
    select      by a known condition: lengths and resets are affine

    MAX_PLUS    max(leaf + scale, shift)
    h           max(h + 0, -inf)
    u + v       max(h + (scale + v), shift + v)     v known
    max(u, v)   max(h + scale, max(shift, v))       v known, or the same leaf
    select      as above: a reset has a scale of -inf

The rules read equations; they never test numbers. An operation without a rule, or one that moves,
broadcasts or sums elements of the state, or combines two of its arrays, has no form. Integers, such
as a counter, are affine by the same rules (except division), without a derivative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from noria.ir.graph import Env, Equation, Graph, is_literal, read, values_of
from noria.ir.source import place


class NotLinear(Exception):
    """The step is not linear; the message names the operation or the array."""


class Form(NamedTuple):
    """``scale ⊗ leaf ⊕ shift``, arrays shaped like the value; without state ``leaf`` is ``None``.

    A ``scale`` of ``None`` is one, a ``shift`` of ``None`` is zero. Neither is computed.
    """

    leaf: Any
    scale: Any
    shift: Any


@dataclass(frozen=True)
class Semiring:
    """An addition ``⊕`` and a multiplication ``⊗`` of arrays, as rules for equations.

    Attributes:
        rules: by the name of an operation.
        zero: the neutral element of ``⊕``, a scale that resets the state.
        one: the neutral element of ``⊗``.
        kind: the dtypes of the state.
    """

    rules: dict[str, "Rule"]
    zero: float
    one: float
    kind: Any


def forms_of(
    ring: Semiring, loop: Graph, state: Sequence[Any], numbers: Sequence[int], known: Env
) -> list[Form]:
    """The form of each next state, with all arrays; they have these numbers in the state.

    Raises:
        NotLinear: if one of them has no form.
    """
    forms = {leaf: Form(leaf, None, None) for leaf in state}
    for equation in loop.equations:
        if any(v in forms for v in values_of(equation.inputs)):
            forms[equation.outputs[0]] = _apply(ring, equation, forms, known)
        else:
            outputs = equation.bind(*(read(known, atom) for atom in equation.inputs))
            known.update(zip(equation.outputs, outputs, strict=True))
    found = []
    for n, leaf, atom in zip(numbers, state, loop.outputs, strict=True):
        form = None if is_literal(atom) else forms.get(atom)
        if form is not None and form.leaf is not leaf:
            other = numbers[state.index(form.leaf)]
            raise NotLinear(f"its arrays {n} and {other} depend on each other")
        found.append(_complete(ring, form or Form(None, None, read(known, atom)), atom.aval))
    return found


def _complete(ring: Semiring, form: Form, aval: Any) -> Form:
    zero, one = (jnp.full(aval.shape, number, aval.dtype) for number in (ring.zero, ring.one))
    return Form(
        form.leaf,
        (zero if form.leaf is None else one) if form.scale is None else form.scale,
        zero if form.shift is None else form.shift,
    )


def _apply(ring: Semiring, equation: Equation, forms: dict[Any, Form], known: Env) -> Form:
    """The form of the output of an equation."""
    output = equation.outputs[0].aval
    rule = ring.rules.get(equation.name)
    moved = any(v in forms and v.aval.shape != output.shape for v in values_of(equation.inputs))
    if rule is None or moved or not jnp.issubdtype(output.dtype, ring.kind):
        raise NotLinear(f"{place(equation)} is not")
    operands = []
    for atom in equation.inputs:
        form = None if is_literal(atom) else forms.get(atom)
        operands.append(form or Form(None, None, read(known, atom)))
    leaves = {form.leaf for form in operands if form.leaf is not None}
    found = rule(ring, equation, operands, output) if len(leaves) == 1 else None
    if found is None:
        raise NotLinear(f"{place(equation)} is not")
    scale, shift = found
    return Form(leaves.pop(), scale, shift)


#: ``(semiring, equation, forms of its inputs, aval of its output) -> (scale, shift)``; ``None`` if
#: the output has no form.
Rule = Callable[[Semiring, Equation, list[Form], Any], tuple[Any, Any] | None]


def _sum(ring: Semiring, equation: Equation, operands: list[Form], output: Any) -> tuple[Any, Any]:
    left, right = (_filled(ring, form, output) for form in operands)
    shift = equation.bind(left.shift, right.shift)[0]
    if right.leaf is None:
        return operands[0].scale, right.shift if operands[
            0
        ].shift is None and equation.name != "sub" else shift
    if left.leaf is None and equation.name != "sub":
        return operands[1].scale, left.shift if operands[1].shift is None else shift
    return equation.bind(left.scale, right.scale)[0], shift


def _filled(ring: Semiring, form: Form, output: Any) -> Form:
    """A form with all arrays, in one shape."""
    if form.leaf is None:
        form = Form(
            None, None, jnp.broadcast_to(jnp.asarray(form.shift, output.dtype), output.shape)
        )
    return _complete(ring, form, output)


def _product(
    ring: Semiring, equation: Equation, operands: list[Form], output: Any
) -> tuple[Any, Any] | None:
    left, right = operands
    if left.leaf is None:
        left, right = right, left
    if right.leaf is not None:
        return None
    by = jnp.broadcast_to(jnp.asarray(right.shift, output.dtype), output.shape)
    return (
        by if left.scale is None else left.scale * by,
        None if left.shift is None else left.shift * by,
    )


def _quotient(
    ring: Semiring, equation: Equation, operands: list[Form], output: Any
) -> tuple[Any, Any] | None:
    left, right = operands
    if right.leaf is not None or not jnp.issubdtype(output.dtype, jnp.inexact):
        return None
    by = jnp.broadcast_to(jnp.asarray(right.shift, output.dtype), output.shape)
    scale = jnp.ones(output.shape, output.dtype) if left.scale is None else left.scale
    return scale / by, None if left.shift is None else left.shift / by


def _negative(
    ring: Semiring, equation: Equation, operands: list[Form], output: Any
) -> tuple[Any, Any]:
    form = operands[0]
    scale = jnp.ones(output.shape, output.dtype) if form.scale is None else form.scale
    return -scale, None if form.shift is None else -form.shift


def _selection(
    ring: Semiring, equation: Equation, operands: list[Form], output: Any
) -> tuple[Any, Any] | None:
    which, *cases = operands
    if which.leaf is not None:
        return None
    filled = [_filled(ring, form, output) for form in cases]
    scale = equation.bind(which.shift, *(form.scale for form in filled))[0]
    if all(form.leaf is not None and form.shift is None for form in cases):
        return scale, None
    return scale, equation.bind(which.shift, *(form.shift for form in filled))[0]


def _unchanged(
    ring: Semiring, equation: Equation, operands: list[Form], output: Any
) -> tuple[Any, Any]:
    return operands[0].scale, operands[0].shift


def _conversion(
    ring: Semiring, equation: Equation, operands: list[Form], output: Any
) -> tuple[Any, Any] | None:
    form = operands[0]
    before, kinds = form.leaf.aval.dtype, (jnp.floating, jnp.complexfloating)
    if not any(
        jnp.issubdtype(before, kind) and jnp.issubdtype(output.dtype, kind) for kind in kinds
    ):
        return None  # integers round, and real numbers lose the imaginary part
    scale, shift = (None if a is None else a.astype(output.dtype) for a in form[1:])
    return scale, shift


def _moved_sum(
    ring: Semiring, equation: Equation, operands: list[Form], output: Any
) -> tuple[Any, Any] | None:
    """Max-plus: a known number is added to both parts, or subtracted from them."""
    left, right = operands
    if left.leaf is None and equation.name != "sub":
        left, right = right, left
    if left.leaf is None or right.leaf is not None:
        return None
    by = jnp.broadcast_to(jnp.asarray(right.shift, output.dtype), output.shape)
    zero = jnp.zeros(output.shape, output.dtype)
    scale = equation.bind(zero if left.scale is None else left.scale, by)[0]
    return scale, None if left.shift is None else equation.bind(left.shift, by)[0]


def _maximum(
    ring: Semiring, equation: Equation, operands: list[Form], output: Any
) -> tuple[Any, Any]:
    left, right = (_filled(ring, form, output) for form in operands)
    known = [form for form in operands if form.leaf is None]
    shift = jnp.maximum(left.shift, right.shift)
    if known:
        return next(form.scale for form in operands if form.leaf is not None), shift
    return jnp.maximum(left.scale, right.scale), shift


_MOVES: dict[str, Rule] = {"select_n": _selection, "copy": _unchanged, "copy_p": _unchanged}

AFFINE = Semiring(
    {
        **_MOVES,
        "add": _sum,
        "add_any": _sum,
        "sub": _sum,
        "mul": _product,
        "div": _quotient,
        "neg": _negative,
        "convert_element_type": _conversion,
    },
    zero=0,
    one=1,
    kind=jnp.number,
)

MAX_PLUS = Semiring(
    {**_MOVES, "add": _moved_sum, "sub": _moved_sum, "max": _maximum},
    zero=-jnp.inf,
    one=0,
    kind=jnp.floating,
)
