"""Derivatives in both modes: a linear map of tangents, with a transpose of its own.

`jax.custom_vjp` has no forward mode. Here the rule is the one of `jax.custom_jvp`, and the tangents
of the results are a primitive, the `LinearMap` of the tangents of the arguments. Forward mode
evaluates the map, reverse mode transposes it; neither traces the code of the other.
"""

# JAX annotates few of these functions.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from noria._flags import choose, put, scatter
from noria._jax.jaxprs import parts_of
from noria._jax.mesh_axes import on_mesh_of


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A linear map that depends on residuals.

    Attributes:
        push: from residuals and tangents to the tangents of the results.
        pull: from residuals and cotangents of the results, which may be `SymbolicZero`, to the
            cotangents of the tangents, ``None`` for zero.
        types: the types of the results.
        axes: the place where `jax.vmap` puts the mapped axis of each result.
    """

    push: Callable[[list[Any], list[Any]], list[Any]]
    pull: Callable[[list[Any], list[Any]], list[Any]]
    types: tuple[Any, ...]
    axes: tuple[int, ...]

    def __call__(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        """The tangents of the results. JAX differentiates, maps and transposes this call."""
        found = _linear.bind(*residuals, *tangents, function=self, count=len(residuals))
        return list(found)


def tangent_type(array: Any) -> Any:
    """The type of the tangents of an array."""
    return jax.typeof(array).to_tangent_aval()


def differentiable(
    function: Callable[..., Any], forward: Callable[..., Any], axes: tuple[int, int]
) -> Callable[..., Any]:
    """``function`` with a rule for both modes; its results are two lists of arrays.

    Args:
        function: from pytrees of arrays to the results.
        forward: from truth values, which arrays have a tangent, and the same pytrees, to the
            results, their pull-back, and their tangents, both a `jtu.Partial`. The pull-back takes
            two lists of cotangents, which may be `SymbolicZero`, and returns pytrees as the
            arguments, with ``None`` for zero. The tangents are a function of such pytrees, and
            return the tangents of all inexact results. If they are ``None``, or return ``None``,
            ``function`` is differentiated.
        axes: the place where `jax.vmap` puts the mapped axis in each of the lists.
    """
    run = jax.custom_jvp(function)
    run.defjvp(functools.partial(_rule, function, forward, axes), symbolic_zeros=True)
    return run


def _rule(
    function: Callable[..., Any],
    forward: Callable[..., Any],
    axes: tuple[int, int],
    primals: Any,
    tangents: Any,
) -> Any:
    """The rule of `differentiable` for `jax.custom_jvp`: results, and their tangents."""
    given, tree = jtu.tree_flatten(primals)
    flat = jtu.tree_leaves(tangents)
    moved = [not isinstance(t, SymbolicZero) for t in flat]
    results, *rules = forward(jtu.tree_unflatten(tree, moved), *primals)
    kept, rule_tree = jtu.tree_flatten(rules)
    outputs, ends = jtu.tree_flatten(results)
    smooth = [jnp.issubdtype(a.dtype, jnp.inexact) for a in outputs]
    # Most arguments are residuals of the pull-back already.
    residuals = [*{id(a): a for a in (*kept, *given)}.values()]
    place = {id(a): n for n, a in enumerate(residuals)}
    places = [place[id(a)] for a in (*kept, *given)]

    def rules_of(residuals: list[Any]) -> Any:
        return jtu.tree_unflatten(rule_tree, [residuals[n] for n in places[: len(kept)]])

    def push(residuals: list[Any], tangents: list[Any]) -> list[Any]:
        arrays = [residuals[n] for n in places[len(kept) :]]
        tangents_of = rules_of(residuals)[1]
        if tangents_of is not None:
            found = tangents_of(jtu.tree_unflatten(tree, scatter(tangents, moved)))
            if found is not None:
                return list(found)

        def moving(some: list[Any]) -> list[Any]:
            now = jtu.tree_unflatten(tree, put(arrays, moved, some))
            return choose(jtu.tree_leaves(function(*now)), smooth)

        return jax.jvp(moving, (choose(arrays, moved),), (tangents,))[1]

    def pull_back(residuals: list[Any], cotangents: list[Any]) -> list[Any]:
        full = jtu.tree_unflatten(ends, put(zeros, smooth, cotangents))
        found = rules_of(residuals)[0](full)
        return choose(jtu.tree_leaves(found, is_leaf=lambda g: g is None), moved)

    kinds = [*map(tangent_type, outputs)]
    zeros = [*map(SymbolicZero, kinds)]
    mapped = jtu.tree_leaves([[axis] * len(some) for axis, some in zip(axes, results, strict=True)])
    types, out_axes = tuple(choose(kinds, smooth)), tuple(choose(mapped, smooth))
    linear = LinearMap(push, pull_back, types, out_axes)
    found = linear(residuals, choose(flat, moved))
    return results, jtu.tree_unflatten(ends, put(zeros, smooth, found))


# --- the primitive ------------------------------------------------------------------------------

_linear = Primitive("noria_linear_map")
_linear.multiple_results = True


def _push(*arrays: Any, function: LinearMap, count: int) -> list[Any]:
    return list(function.push(list(arrays[:count]), list(arrays[count:])))


def _compiled(*arrays: Any, **params: Any) -> list[Any]:
    with jax.disable_jit(False):
        return list(jax.jit(lambda *arrays: _push(*arrays, **params))(*arrays))


def _live(*arrays: Any, **params: Any) -> list[Any]:
    """The same without dead code: the results whose tangents these are."""
    jaxpr = jax.make_jaxpr(lambda *arrays: _push(*arrays, **params))(*arrays)
    inner, _ = parts_of(jaxpr)
    live, _ = pe.dce_jaxpr(inner, [True] * len(inner.outvars), True)
    live = live if inner is jaxpr else jaxpr.replace(jaxpr=live)
    return list(jaxpr_as_fun(live)(*arrays))


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, function: LinearMap, count: int
) -> Any:
    """Of a map at fixed residuals the map itself; else the derivative of its code."""
    moved = [not isinstance(t, ad.Zero) for t in tangents]
    if not any(moved[:count]):
        results = function(primals[:count], primals[count:])
        return results, function(primals[:count], [*map(ad.instantiate_zeros, tangents[count:])])

    def moving(some: list[Any]) -> list[Any]:
        return _push(*put(primals, moved, some), function=function, count=count)

    return jax.jvp(moving, (choose(primals, moved),), (choose(tangents, moved),))


def _transposed(
    cotangents: Sequence[Any], *arrays: Any, function: LinearMap, count: int
) -> list[Any]:
    given = [SymbolicZero(g.aval) if isinstance(g, ad.Zero) else g for g in cotangents]
    found = function.pull(list(arrays[:count]), given)
    return [None] * count + [
        ad.Zero(tangent.aval) if g is None else g
        for tangent, g in zip(arrays[count:], found, strict=True)
    ]


def _mapped(
    axis: Any, arrays: Sequence[Any], axes: Sequence[Any], *, function: LinearMap, count: int
) -> Any:
    def over(inner: Any, given: Any, out: Any, *arguments: Any) -> Any:
        mapped = jax.vmap(
            inner,
            given,
            out,
            axis_name=axis.name,
            axis_size=axis.size,
            spmd_axis_name=axis.spmd_name,
        )
        return mapped(*arguments)

    of_residuals, of_tangents = list(axes[:count]), list(axes[count:])
    if all(place is None for place in axes):  # JAX asks here, too; the results are not mapped
        return function(arrays[:count], arrays[count:]), [None] * len(function.types)

    def push(residuals: list[Any], tangents: list[Any]) -> list[Any]:
        given = of_residuals, of_tangents
        found: list[Any] = over(function.push, given, list(function.axes), residuals, tangents)
        return found

    def pull(residuals: list[Any], cotangents: list[Any]) -> list[Any]:
        given = [not isinstance(g, SymbolicZero) for g in cotangents]
        zeros = [*map(SymbolicZero, function.types)]

        def one(residuals: list[Any], some: list[Any]) -> list[Any]:
            return function.pull(residuals, put(zeros, given, some))

        places = choose(function.axes, given)
        found = over(one, (of_residuals, places), 0, residuals, choose(cotangents, given))
        return [
            g if g is None else g.sum(0) if place is None else jnp.moveaxis(g, 0, place)
            for g, place in zip(found, of_tangents, strict=True)
        ]

    types = [
        _with_axis(kind, axis.size, place)
        for place, kind in zip(function.axes, function.types, strict=True)
    ]
    of_all = replace(function, push=push, pull=pull, types=tuple(types))
    return of_all(arrays[:count], arrays[count:]), function.axes


def _with_axis(kind: Any, size: Any, place: int) -> Any:
    """The type with one more axis."""
    shape = (*kind.shape[:place], size, *kind.shape[place:])
    like = jax.ShapeDtypeStruct(shape, kind.dtype)
    return kind.update(shape=shape, sharding=on_mesh_of((kind,), like).sharding)


_linear.def_impl(_compiled)
_linear.def_abstract_eval(lambda *_, function, count: list(function.types))
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transposed
batching.fancy_primitive_batchers[_linear] = _mapped
mlir.register_lowering(_linear, mlir.lower_fun(_live))
