"""Systems of linear equations in a step: one equation for each, with its matrix.

JAX writes ``jnp.linalg.solve(A, b)`` as two equations. The first one factors the matrix, the second
one has functions that multiply with the matrix, and that solve with the factors. So does
`jax.scipy.linalg.solve` with ``assume_a="pos"``, whose factor is Cholesky's. One equation
``A, b -> x`` has a derivative and native code of its own.
"""

from typing import Any

import jax
import numpy as np

from noria._jax import parts_of, solve
from noria.compiler.levels import STATE, level_of
from noria.ir.build import build
from noria.ir.graph import Atom, Equation, Graph, Value, is_literal
from noria.ir.passes import Replacement, dce, dependence, producers, rewrite
from noria.ir.primitives import is_small_system

#: By the primitive that factors a matrix: whether the matrix must be positive definite.
_POSITIVE = {"cholesky": True, "lu": False}


def single_solves(graph: Graph, sources: dict[Value, int]) -> Graph:
    """Each small system that depends on the state is one equation; see `canonicalize`."""
    if not any(e.name == "custom_linear_solve" for e in graph.equations):
        return graph
    maker, levels = producers(graph.equations), dependence(graph.equations, sources)

    def single(equation: Equation) -> Replacement | None:
        if equation.name != "custom_linear_solve":
            return None
        matrix, right = equation.inputs[0], equation.inputs[-1]
        order, methods = _order(equation), {_method(v, matrix, maker) for v in equation.inputs}
        if order is None or not is_small_system(matrix, right) or not methods & {*_POSITIVE}:
            return None
        if max(level_of(levels, matrix), level_of(levels, right)) < STATE:
            return None
        positive = _POSITIVE["cholesky" if "cholesky" in methods else "lu"]

        def solved(a: jax.Array, b: jax.Array) -> list[jax.Array]:
            turned = b.transpose(order)
            rows = turned.reshape(*a.shape[:-2], -1, a.shape[-1])
            found = solve(a, rows, positive=positive)
            return [found.reshape(turned.shape).transpose(np.argsort(order))]

        return build(solved, [matrix, right], equation.source)

    return dce(rewrite(graph, single))


def _order(equation: Equation) -> list[int] | None:
    """The axes of the right side in the order heads, columns, unknowns.

    ``None`` if the system is not ``A x = b``, with one matrix for each head.
    """
    matrix, right = equation.inputs[0], equation.inputs[-1]
    inner, consts = parts_of(equation.params["jaxprs"].matvec)
    if consts or len(inner.invars) != 2 or not inner.eqns or len(equation.outputs) != 1:
        return None
    product, *moves = inner.eqns
    if product.primitive.name != "dot_general" or [*product.invars] != [*inner.invars]:
        return None
    (rows, unknowns), (of_matrix, heads) = product.params["dimension_numbers"]
    last = matrix.aval.ndim - 1
    if [*rows] != [last] or [*of_matrix] != [*range(last - 1)]:
        return None
    columns = [n for n in range(right.aval.ndim) if n not in (*heads, *unknowns)]
    made, (found,) = [*heads, *unknowns, *columns], product.outvars
    for move in moves:
        if move.primitive.name != "transpose" or move.invars[0] is not found:
            return None
        made, (found,) = [made[n] for n in move.params["permutation"]], move.outvars
    is_whole = inner.outvars[0] is found and made == sorted(made)
    return [*heads, *columns, *unknowns] if is_whole else None


def _method(atom: Atom, matrix: Atom, maker: dict[Any, Equation]) -> str:
    """The primitive that factors a matrix, if a value is its factor."""
    equation = maker.get(_whole(atom, maker))
    if equation is None or equation.name not in _POSITIVE:
        return ""
    return equation.name if _whole(equation.inputs[0], maker) is _whole(matrix, maker) else ""


def _whole(atom: Any, maker: dict[Any, Equation]) -> Any:
    """The value of which one is the transpose, or a triangle."""
    while not is_literal(atom) and atom in maker:
        equation = maker[atom]
        if equation.name not in ("copy", "select_n", "stop_gradient", "transpose"):
            break
        atom = equation.inputs[-1]
    return atom
