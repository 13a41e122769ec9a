"""Axes of a mesh in the types of arrays, inside of `jax.shard_map`."""

# JAX annotates few of these functions.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from collections.abc import Sequence
from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec


def on_mesh_of(avals: Sequence[Any], like: Any) -> ShapedArray:
    """The type of an array that is sharded along no mesh axis of type ``Explicit``."""
    meshes = (a.sharding.mesh for a in avals if not a.sharding.mesh.empty)
    mesh = next(meshes, jax.sharding.get_abstract_mesh())
    return ShapedArray(
        like.shape,
        like.dtype,
        sharding=NamedSharding(mesh, PartitionSpec(*[None] * len(like.shape))),
    )


def varying_axes(array: Any) -> frozenset[str]:
    """The axes of a mesh over which an array varies by its type, inside of `jax.shard_map`."""
    return _varying(jax.typeof(array))


def _varying(aval: Any) -> frozenset[str]:
    return aval.mat.varying if hasattr(aval, "mat") else getattr(aval, "vma", frozenset())


def varying(array: Any, axes: frozenset[str]) -> Any:
    """``array``, also varying over ``axes``.

    The derivative is summed over the devices along the axes that are new.
    """
    new = tuple(sorted(axes - varying_axes(array)))
    if not new:
        return array
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, new, to="varying")
    return getattr(jax.lax, "pvary")(array, new)  # noqa: B009  # before JAX 0.9


def retyped(array: Any, axes: frozenset[str]) -> Any:
    """``array``, with a type that says that it varies over ``axes``; no number changes.

    `jax.lax.pcast` differs: its derivative is a sum over devices.
    """
    return _retyped.bind(array, axes=axes)


_retyped = Primitive("noria_retyped")
_retyped.def_impl(lambda array, *, axes: array)


@_retyped.def_abstract_eval
def _(aval: Any, *, axes: frozenset[str]) -> Any:
    if aval.sharding.mesh.empty:
        aval = on_mesh_of((), aval)
    if hasattr(aval, "mat"):
        return aval.update(manual_axis_type=aval.mat.update(varying=axes))
    return aval.update(vma=axes)  # before JAX 0.10


ad.deflinear2(
    _retyped, lambda cotangent, array, *, axes: [retyped(cotangent, _varying(array.aval))]
)
batching.defvectorized(_retyped)
mlir.register_lowering(_retyped, lambda ctx, array, *, axes: [array])
