"""Layers on several devices: they compute locally, without a mesh.

A type of JAX can give the placement of an array on the devices of a mesh, in two ways:

* Inside `jax.shard_map`: the axes of the mesh over which it varies. JAX requires operands of one
  operation to vary over equal axes, and the carry of a loop not to change. So all arguments of a
  layer vary over equal axes, and inside the layer their types do not contain these.
* On a mesh with axes of the type ``Explicit``: the axes along which it is sharded. There a layer is
  a region of the type ``Auto``, and its results are sharded along the batch like its input.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import equinox as eqx
import jax
import jax.tree_util as jtu
from jax.sharding import NamedSharding, PartitionSpec

from noria._jax import retyped, varying, varying_axes
from noria._types import State


class Placed(Protocol):
    """The arguments of a layer, a pytree."""

    @property
    def xs(self) -> Any: ...

    @property
    def batched(self) -> bool: ...


P = TypeVar("P", bound=Placed)


def local(
    function: Callable[[Any, P], tuple[State, Any]],
) -> Callable[[Any, P], tuple[State, Any]]:
    """A decorator: inside the function, types of arrays carry no placement.

    The function takes options and a problem, and returns pytrees with the batch in front, if any.
    """

    @functools.wraps(function)
    def run(options: Any, problem: P) -> tuple[State, Any]:
        arrays, rest = eqx.partition(problem, eqx.is_array)
        inside = _unvarying(lambda arrays: function(options, eqx.combine(arrays, rest)))
        first = jtu.tree_leaves(problem.xs)[0]
        batch = axes_of(first)[:1] if problem.batched else ()
        found: tuple[State, Any] = automatic(inside, arrays, *batch)
        return found

    return run


def _unvarying(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function on arrays whose types carry no varying axes."""

    def run(arrays: Any) -> Any:
        axes = frozenset().union(*map(varying_axes, jtu.tree_leaves(arrays)))
        if not axes:
            return function(arrays)
        alike = jtu.tree_map(lambda a: retyped(varying(a, axes), frozenset()), arrays)
        return jtu.tree_map(lambda a: retyped(a, axes), function(alike))

    return run


def automatic(function: Callable[[Any], Any], arrays: Any, *axes: Any) -> Any:
    """``function(arrays)``, partitioned by XLA.

    On a mesh with explicit axes the results are sharded along ``axes``, first axis first.
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
