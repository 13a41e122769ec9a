"""Layers among several devices: they compute locally, and need not know of meshes.

A type of JAX can say how an array lies on the devices of a mesh, in two ways:

* inside of `jax.shard_map`, over which axes of the mesh it varies. JAX wants operands of one
  operation to vary alike, and the carry of a loop not to change. So all arguments of a layer are
  made to vary alike, and inside of the layer their types no longer say so.
* on a mesh with axes of the type ``Explicit``, along which axes it is sharded. There a layer is a
  region of the type ``Auto``, whose results are sharded along the batch as its input is.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jax.sharding import NamedSharding, PartitionSpec

from noria._jax import retyped, varying, varying_axes
from noria._types import State
from noria.backends.base import Problem


def local(
    function: Callable[[Any, Problem], tuple[State, Any]],
) -> Callable[[Any, Problem], tuple[State, Any]]:
    """A decorator: inside, types of arrays say nothing of devices.

    The function takes options and a problem, and gives pytrees with the batch in front, if any.
    """

    @functools.wraps(function)
    def run(options: Any, problem: Problem) -> tuple[State, Any]:
        arrays, rest = eqx.partition(problem, eqx.is_array)
        inside = _unvarying(lambda arrays: function(options, eqx.combine(arrays, rest)))
        first = jtu.tree_leaves(problem.xs)[0]
        batch = axes_of(first)[:1] if problem.batched else ()
        found: tuple[State, Any] = automatic(inside, arrays, *batch)
        return found

    return run


def _unvarying(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of arrays whose types do not say over which axes they vary."""

    def run(arrays: Any) -> Any:
        axes = frozenset().union(*map(varying_axes, jtu.tree_leaves(arrays)))
        if not axes:
            return function(arrays)
        alike = jtu.tree_map(lambda a: retyped(varying(a, axes), frozenset()), arrays)
        return jtu.tree_map(lambda a: retyped(a, axes), function(alike))

    return run


def automatic(function: Callable[[Any], Any], arrays: Any, *axes: Any) -> Any:
    """``function(arrays)``, where XLA chooses how to share it out.

    On a mesh with explicit axes the results are sharded along these, first axis first.
    """
    meshes = [jax.typeof(a).sharding.mesh for a in jtu.tree_leaves(arrays)]
    mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
    if mesh is None:
        return function(arrays)
    given = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.sharding.auto_axes(function, axes=mesh.explicit_axes, out_sharding=given)(arrays)


def axes_of(array: jax.Array) -> tuple[Any, ...]:
    """The explicit axes of a mesh along which each axis of an array is sharded."""
    return tuple(jax.typeof(array).sharding.spec)
