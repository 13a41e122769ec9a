"""Legalization: equations are rewritten until there is native code for each.

Calls are inlined, branches become selections, paddings become concatenations. Products of heads
with weights become products of vectors (`small_matrices`). Other products and moves of matrices get
a form for which there is a loop over rows (`matrices`). Derivative rules were applied before, so
functions with such a rule are inlined too.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from noria._jax import call
from noria.backends.native.lower.convolutions import convolution
from noria.backends.native.lower.matrices import on_rows, pad
from noria.backends.native.lower.precision import has_bfloat16, widened
from noria.backends.native.lower.small_matrices import Refused, in_pieces
from noria.backends.native.lower.sums_of_pads import without_sums_of_pads
from noria.backends.native.lower.supported import (
    TooLong,
    UnsupportedEquation,
    has_native_code,
    has_row_code,
    is_sized,
    is_storable,
)
from noria.backends.native.machine import tuning
from noria.ir.build import build
from noria.ir.graph import Atom, Equation, Graph, Value, is_literal, size
from noria.ir.passes import substitute
from noria.ir.primitives import RULES, VIEWS

#: A JAX function with the same results as an equation.
Function = Callable[..., list[Any]]


def legal_step(graph: Graph, weights: Iterable[Value]) -> Graph:
    """A step in legal equations; their number and all dtypes are checked, too.

    Args:
        graph: the equations of a step.
        weights: the values that are the same for all steps and examples.

    Raises:
        UnsupportedEquation: if there is no native code for the step.
    """
    errors = [UnsupportedEquation(v) for v in _unstorable((*graph.inputs, *graph.outputs))]
    try:
        graph = legalized(without_sums_of_pads(graph), weights)
    except UnsupportedEquation as error:
        UnsupportedEquation.raise_all((error, *errors))
    if has_bfloat16(graph):  # inside of a function that has been inlined
        graph = widened(graph)
    if len(graph.equations) > (most := tuning().equations):
        raise TooLong(len(graph.equations), most)
    results = _unstorable(v for e in graph.equations for v in e.outputs)
    UnsupportedEquation.raise_all((*errors, *map(UnsupportedEquation, results)))
    return graph


def _unstorable(values: Iterable[Atom]) -> Iterable[Atom]:
    return (v for v in values if not is_storable(v))


def legalized(graph: Graph, weights: Iterable[Atom]) -> Graph:
    """A graph with the same results, of equations that there is native code for.

    Args:
        graph: the equations of a step.
        weights: the values that are the same for all steps and examples.

    Raises:
        UnsupportedEquation: if there is no code for an equation in any form; for the first one,
            with the obstacles of all.
    """
    equations: list[Equation] = []
    replaced: dict[Value, Atom] = {}
    constants = set(weights)
    errors: list[UnsupportedEquation] = []
    for equation in graph.equations:
        is_constant = [not is_literal(v) and v in constants for v in equation.inputs]
        function = _rewritten(equation)
        if function is None and _is_legal(equation, is_constant):
            equations.append(equation)
            if _is_view(equation) and all(is_constant):
                constants.update(equation.outputs)
            continue
        try:
            inner = _expanded(equation, function, is_constant)
        except UnsupportedEquation as error:
            errors.append(error)
            continue
        equations += inner.equations
        pairs = zip(equation.outputs, inner.outputs, strict=True)
        replaced |= {old: new for old, new in pairs if old is not new}
    UnsupportedEquation.raise_all(errors)
    found = Graph(graph.inputs, graph.outputs, tuple(equations))
    return substitute(found, replaced) if replaced else found


def _is_view(equation: Equation) -> bool:
    """Whether the result is a part of the operand, without repetition."""
    return equation.name in VIEWS and size(equation.inputs[0]) >= size(equation.outputs[0])


def _is_legal(equation: Equation, is_constant: Sequence[bool]) -> bool:
    """Whether there is code for an equation: for a product, with a matrix that is a weight."""
    if not has_native_code(equation):
        return False
    is_matrix = [v.aval.ndim == 2 for v in equation.inputs]
    return equation.name != "dot_general" or any(itertools.compress(is_constant, is_matrix))


def _expanded(equation: Equation, function: Function | None, is_constant: list[bool]) -> Graph:
    """The legal equations that replace an equation: products with a weight are in pieces."""
    weights = [*itertools.compress(equation.inputs, is_constant)]
    if function is not None:
        return _built(equation, function, weights)
    if not is_sized(equation):
        raise UnsupportedEquation(equation)
    try:
        return _built(equation, in_pieces(equation, is_constant), weights)
    except (Refused, UnsupportedEquation):
        pass
    if has_row_code(equation):
        return Graph((), equation.outputs, (equation,))
    function = on_rows(equation)
    if function is None:
        raise UnsupportedEquation(equation)
    try:
        return _built(equation, function, weights)
    except UnsupportedEquation:
        raise UnsupportedEquation(equation) from None


def _built(equation: Equation, function: Function, weights: Sequence[Atom]) -> Graph:
    made, outputs = build(function, equation.inputs, equation.source)
    return legalized(Graph((), tuple(outputs), tuple(made)), weights)


# --- rewrites -------------------------------------------------------------------------------------


def _rewritten(equation: Equation) -> Function | None:
    """An equation in terms of other primitives; ``None`` if there is no rewrite for it."""
    if equation.name.startswith(RULES):
        return _inlined(equation)
    rewrite = _REWRITES.get(equation.name)
    return None if rewrite is None else rewrite(equation)


def _inlined(equation: Equation) -> Function | None:
    inner = equation.params.get("call_jaxpr") or equation.params.get("fun_jaxpr")
    return None if inner is None else functools.partial(call, inner)


def _cond(equation: Equation) -> Function:
    """All branches are computed, and one is selected."""
    branches = equation.params["branches"]

    def select(index: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
        found = zip(*(call(branch, *arrays) for branch in branches), strict=True)
        return [_chosen(index, results) for results in found]

    return select


def _chosen(index: jax.Array, cases: Sequence[jax.Array]) -> jax.Array:
    """The case of a number."""
    found, *others = cases
    for k, other in enumerate(others, 1):
        found = jnp.where(index >= k, other, found)
    return found


def _select(equation: Equation) -> Function | None:
    """A choice by a number, of any number of cases."""
    if equation.inputs[0].aval.dtype == bool:
        return None
    return lambda index, *cases: [_chosen(index, cases)]


def _empty(equation: Equation) -> Function:
    """Zeros in place of the residuals of a branch that is not taken."""
    aval = equation.outputs[0].aval
    return lambda: [jnp.zeros(aval.shape, aval.dtype)]


def _iota(equation: Equation) -> Function:
    """The numbers 0, 1, 2, ... along an axis: twice as many by each sum."""
    aval, axis = equation.outputs[0].aval, equation.params["dimension"]

    def counted() -> list[jax.Array]:
        x = jnp.zeros(1, aval.dtype)
        while len(x) < aval.shape[axis]:
            x = jnp.concatenate([x, x + jnp.asarray(len(x), x.dtype)])
        x = jax.lax.slice(x, (0,), (aval.shape[axis],))
        return [jax.lax.broadcast_in_dim(x, aval.shape, (axis,))]

    return counted


def _log2(equation: Equation) -> Function:
    return lambda x: [jax.lax.log(x) * jnp.asarray(1 / math.log(2), x.dtype)]


def _polynomial(equation: Equation) -> Function:
    """``c0 + x (c1 + x (c2 + ...))``, in the order in which XLA computes it."""

    def horner(x: jax.Array, *coefficients: jax.Array) -> list[jax.Array]:
        *rest, found = coefficients
        for coefficient in reversed(rest):
            found = found * x + coefficient
        return [found]

    return horner


def _power(equation: Equation) -> Function | None:
    """A float to the power of an integer: the integer as a float, as in XLA."""
    x, y = (v.aval.dtype for v in equation.inputs)
    return None if x == y else lambda x, y: [jax.lax.pow(x, y.astype(x.dtype))]


def _cumsum(equation: Equation) -> Function:
    """Each number plus all before it: plus the one before it, then the two, the four ..."""
    axis, is_reverse = equation.params["axis"], equation.params["reverse"]

    def doubled(x: jax.Array) -> list[jax.Array]:
        count, places = x.shape[axis], 1
        part = functools.partial(jax.lax.slice_in_dim, axis=axis)
        while places < count:
            before, rest = part(x, 0, count - places), part(x, places, count)
            edge = part(x, count - places, count) if is_reverse else part(x, 0, places)
            both = before + rest
            x = jnp.concatenate([both, edge] if is_reverse else [edge, both], axis)
            places *= 2
        return [x]

    return doubled


def _of_truths(equation: Equation) -> Function | None:
    """A reduction of truth values: the smallest or the largest of zeros and ones."""
    if equation.inputs[0].aval.dtype != bool:
        return None
    is_smallest, axes = equation.name in ("reduce_and", "reduce_min"), equation.params["axes"]
    reduce = jnp.min if is_smallest else jnp.max
    return lambda x: [reduce(x.astype(jnp.int32), axes) != 0]


_REWRITES: dict[str, Callable[[Equation], Function | None]] = {
    "cond": _cond,
    "conv_general_dilated": convolution,
    "cumsum": _cumsum,
    "empty": _empty,
    "empty2": _empty,
    "iota": _iota,
    "log2": _log2,
    "pad": pad,
    "polynomial": _polynomial,
    "pow": _power,
    "select_n": _select,
    **dict.fromkeys(("reduce_and", "reduce_max", "reduce_min", "reduce_or"), _of_truths),
}
