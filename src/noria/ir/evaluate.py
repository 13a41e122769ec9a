"""Batched evaluation of the graph of one step; cotangents in 16 bits are summed in float32.

All steps and examples share a parameter, so its cotangent is a sum over both. JAX takes that sum in
the dtype of the parameter. In 16 bits the sum stops growing once the next term is below its
precision: a sum of ones in bfloat16 never exceeds 256. A 16-bit parameter is therefore widened to
float32, broadcast, and narrowed again for each step and example::

    parameter --float32--> broadcast over steps and examples --16 bits--> equations

The values do not change, because the conversion to float32 is exact. The VJP of the broadcast is a
sum in float32, which is rounded once. Matrix products and convolutions already accumulate in 32
bits.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria.ir.build import Unsupported, build, graph_of
from noria.ir.graph import Atom, Env, Equation, Graph, Value, env_of, is_literal, values_of
from noria.ir.passes import dependence, extract, inputs_of, substitute
from noria.ir.primitives import CALLS

#: Primitives whose pull-back accumulates in 32 bits already.
_PRODUCTS = frozenset(("dot_general", "conv_general_dilated"))

#: Primitives that read elements of a table. Their pull-back sums in the dtype of the table.
_LOOKUPS = frozenset(("gather", "dynamic_slice"))


def is_narrow(value: Any) -> bool:
    """Whether an array, or its aval, has floating-point numbers of fewer than 32 bits."""
    return bool(jnp.issubdtype(value.dtype, jnp.floating)) and jnp.finfo(value.dtype).bits < 32


def widened(tree: Any) -> Any:
    """The same arrays, with 16-bit floats converted to float32."""
    return jtu.tree_map(lambda a: a.astype(jnp.float32) if is_narrow(a) else a, tree)


def narrowed(tree: Any, like: Any) -> Any:
    """The arrays of ``tree`` in the dtypes of the arrays of ``like``; ``None`` is kept."""
    return jtu.tree_map(
        lambda a, b: None if a is None else a.astype(b.dtype),
        tree,
        like,
        is_leaf=lambda a: a is None,
    )


def spread(a: jax.Array, axes: Sequence[int], dtype: Any = None) -> jax.Array:
    """``a`` broadcast over leading ``axes``; its cotangent is summed in 32 bits or more.

    ``dtype`` is the dtype of the result, by default the dtype of ``a``.
    """
    dtype = a.dtype if dtype is None else dtype
    return jnp.broadcast_to(widened(a), (*axes, *a.shape)).astype(dtype)


def evaluate(graph: Graph, known: Env, varying: Env, axes: Sequence[int]) -> list[Any]:
    """The outputs of ``graph``, mapped over leading axes of the arrays of ``varying``.

    Args:
        graph: equations of one example and one step.
        known: arrays shared by all steps and examples. A 16-bit value may be given in float32.
        varying: arrays with leading ``axes``.
        axes: the sizes of the leading axes: time, batch, both in either order, or neither.
    """
    names = [v for v in graph.inputs if v in varying]
    shared = [v for v in graph.inputs if v not in varying]
    graph = _with_flat_weights(graph, shared)
    copies: Env = {}
    if axes and any(is_narrow(v.aval) for v in shared):
        graph, known, copies = _with_copies(graph, known, names, axes)
    else:
        known = {
            v: known[v].astype(v.aval.dtype) if is_narrow(v.aval) else known[v] for v in shared
        }
    names, arrays = [*names, *copies], [*(varying[v] for v in names), *copies.values()]

    def one(arrays: list[Any]) -> list[Any]:
        here = known | env_of(names, arrays)
        outputs = graph([here[v] for v in graph.inputs])
        return [
            jnp.asarray(a, v.aval.dtype) if is_literal(v) else a
            for v, a in zip(graph.outputs, outputs, strict=True)
        ]

    for size in reversed(axes):
        one = jax.vmap(one, axis_size=size)
    return one(arrays)


def evaluated_now(function: Callable[[Any], Any], arrays: Any) -> Any:
    """A function of arrays that are known while JAX traces: its result is known, too.

    It is compiled as one program. Single operations would be a program each. JAX may look for NaN
    in the results of the program that is traced, as in those of any other.
    """
    with jax.disable_jit(False), jax.debug_nans(False), jax.debug_infs(False):
        return jax.jit(function).lower(arrays).compile()(arrays)


def _with_flat_weights(graph: Graph, shared: Sequence[Value]) -> Graph:
    """Weights of several kept axes are matrices: XLA transposes a copy of others in each call."""
    equations: list[Equation] = []
    instead: Env = {}
    for equation in graph.equations:
        if _has_deep_weight(equation, shared):
            made, found = build(
                functools.partial(_flat_product, equation), equation.inputs, equation.source
            )
            equations += made
            instead |= env_of(equation.outputs, found)
        else:
            equations.append(equation)
    if not instead:
        return graph
    return substitute(replace(graph, equations=tuple(equations)), instead)


def _has_deep_weight(equation: Equation, shared: Sequence[Value]) -> bool:
    """A product without heads of a vector and a shared array that sums over its last axis."""
    if equation.name != "dot_general":
        return False
    (_, summed), heads = equation.params["dimension_numbers"]
    vector, weight = equation.inputs
    deep = weight in shared and weight.aval.ndim > 2 and vector.aval.ndim == 1
    return deep and not any(heads) and tuple(summed) == (weight.aval.ndim - 1,)


def _flat_product(equation: Equation, vector: jax.Array, weight: jax.Array) -> list[jax.Array]:
    matrix = weight.reshape(-1, weight.shape[-1])
    params = equation.params | {"dimension_numbers": (((0,), (1,)), ((), ()))}
    return [jax.lax.dot_general_p.bind(vector, matrix, **params).reshape(weight.shape[:-1])]


def _with_copies(
    graph: Graph, known: Env, names: Sequence[Value], axes: Sequence[int]
) -> tuple[Graph, Env, Env]:
    """The varying part of the graph, its shared arrays, and their copies per step and example."""
    depends = dependence(graph.equations, dict.fromkeys(names, 1))

    def varies(atom: Atom) -> bool:
        return is_literal(atom) or bool(depends.get(atom))

    rest = [e for e in graph.equations if any(map(varies, e.outputs))]
    asked = [
        v
        for v in values_of([*(v for e in rest for v in e.inputs), *graph.outputs])
        if not varies(v)
    ]
    same = extract(graph.equations, asked, [v for v in graph.inputs if v not in names])
    given = {v: known[v] for v in same.inputs}
    arrays = {v: a.astype(v.aval.dtype) if is_narrow(v.aval) else a for v, a in given.items()}
    arrays |= env_of(asked, same([arrays[v] for v in same.inputs]))
    copy_of: dict[Value, Value] = {}

    def copy(atom: Any, rank: float = math.inf) -> Any:
        fits = not varies(atom) and is_narrow(atom.aval) and atom.aval.ndim <= rank
        return copy_of.setdefault(atom, Value(atom.aval)) if fits else atom

    equations: list[Equation] = []
    instead: Env = {}
    for equation in rest:
        table, *others = equation.inputs
        if equation.name in _LOOKUPS and not varies(table) and is_narrow(table.aval):
            made, found = build(
                functools.partial(_looked_up, equation), equation.inputs, equation.source
            )
            equations += made
            instead |= env_of(equation.outputs, found)
        elif equation.name in _PRODUCTS:
            equations.append(equation)
        else:
            # A product in a jaxpr must not get a copy of a matrix for each example.
            rank = 1 if equation.name in CALLS else math.inf
            equations.append(
                replace(equation, inputs=tuple(copy(atom, rank) for atom in (table, *others)))
            )
    outputs = tuple(map(copy, graph.outputs))
    copies = {c: spread(given.get(v, arrays[v]), axes, v.aval.dtype) for v, c in copy_of.items()}
    part = substitute(Graph((), outputs, tuple(equations)), instead)
    return replace(part, inputs=tuple(inputs_of(part.equations, part.outputs))), arrays, copies


def _looked_up(equation: Equation, table: jax.Array, *others: jax.Array) -> list[jax.Array]:
    """The outputs of a lookup whose pull-back sums in float32."""
    return narrowed(equation.bind(widened(table), *others), [v.aval for v in equation.outputs])


def of_one(tree: Any, axes: int) -> Any:
    """Shapes and dtypes of the arrays without their first ``axes`` axes."""
    return jtu.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape[axes:], a.dtype), tree)


def mapped(
    function: Callable[..., Any], *one: Any
) -> Callable[[Sequence[Any], Sequence[int]], Any]:
    """A batched ``function`` of one step and example: ``(arguments, axes) -> results``.

    Arrays that the function holds or closes over are widened here, outside of any loop that calls
    the result. Their cotangents are then summed over the iterations in 32 bits too.

    Args:
        function: takes and returns pytrees of arrays.
        one: shapes and dtypes of its arguments, without the leading axes.
    """

    def as_it_is(arguments: Sequence[Any], axes: Sequence[int]) -> Any:
        of_all = function
        for size in reversed(axes):
            of_all = jax.vmap(of_all, axis_size=size)
        return of_all(*arguments)

    if not any(
        is_narrow(leaf) for leaf in jtu.tree_leaves((function, one)) if hasattr(leaf, "dtype")
    ):
        return as_it_is
    held, rest = eqx.partition(function, eqx.is_array)
    try:
        graph, closed_over, tree = graph_of(
            lambda held, *args: eqx.combine(held, rest)(*args), held, *one
        )
    except Unsupported:  # a side effect: a graph does not keep the order of effects
        return as_it_is
    arrays = widened([*closed_over, *jtu.tree_leaves(held)])
    known = env_of(graph.inputs[: len(arrays)], arrays)

    def of_all(arguments: Sequence[Any], axes: Sequence[int]) -> Any:
        leaves = jtu.tree_leaves(tuple(arguments))
        varying = env_of(graph.inputs[len(known) :], leaves)
        return jtu.tree_unflatten(tree, evaluate(graph, known, varying, axes))

    return of_all
