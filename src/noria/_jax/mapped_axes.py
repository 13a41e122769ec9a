"""Results whose mapped axes under `jax.vmap` are known in advance."""

# JAX annotates few of these functions.
# mypy: disable-error-code="no-untyped-call,untyped-decorator"

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from noria._jax.primitives import without_dead_code


def aligned(results: Sequence[Any], axes: Sequence[int], given: Sequence[Any]) -> list[Any]:
    """``results`` as they are. Under `jax.vmap`, result i is mapped along ``axes[i]``.

    That holds if any of ``given``, from which the results were computed, is mapped. A function and
    its `jax.custom_vjp` rule must agree about the axes. Inside of `jax.jit`, JAX takes the axes of
    the function for both. It would silently exchange axes in the results of the rule.
    """
    return list(_aligned.bind(*results, *given, axes=tuple(axes)))


_aligned = Primitive("noria_aligned")
_aligned.multiple_results = True


@_aligned.def_impl
@_aligned.def_abstract_eval
def _(*arrays: Any, axes: tuple[int, ...]) -> list[Any]:
    return list(arrays[: len(axes)])


def mapped_along(array: Any, axis: int | None, to: int, size: int) -> Any:
    """An array that is mapped along ``axis``, or not at all, with its mapped axis at ``to``."""
    if axis is not None:
        return jnp.moveaxis(array, axis, to)
    shape = *array.shape[:to], size, *array.shape[to:]
    return jnp.broadcast_to(jnp.expand_dims(array, to), shape)


def _align(arrays: Sequence[Any], mapped: Sequence[int | None], *, axes: tuple[int, ...]) -> Any:
    size = next(a.shape[axis] for a, axis in zip(arrays, mapped, strict=True) if axis is not None)
    moved = [mapped_along(*pair, size) for pair in zip(arrays, mapped, axes, strict=False)]
    return aligned(moved, axes, arrays[len(axes) :]), axes  # also under an outer vmap


def _unused(
    used: list[bool], *, axes: tuple[int, ...]
) -> tuple[list[bool], list[bool], dict[str, Any]]:
    return used, used, {"axes": tuple(itertools.compress(axes, used))}


ad.primitive_jvps[_aligned] = lambda primals, tangents, *, axes: (
    _aligned.bind(*primals, axes=axes),
    tangents[: len(axes)],
)
batching.primitive_batchers[_aligned] = _align
pe.dce_rules[_aligned] = functools.partial(without_dead_code, _unused)
mlir.register_lowering(_aligned, lambda ctx, *arrays, axes: arrays[: len(axes)])


def everywhere(flag: jax.Array) -> jax.Array:
    """A flag as it is. Under `jax.vmap`: whether it is true in all examples.

    The result is never mapped, so that a `jax.lax.cond` which it decides runs one branch only.
    """
    result: jax.Array = _everywhere.bind(flag)
    return result


_everywhere = Primitive("noria_everywhere")


@_everywhere.def_impl
@_everywhere.def_abstract_eval
def _(flag: Any) -> Any:
    return flag


batching.primitive_batchers[_everywhere] = lambda arrays, axes: (
    everywhere(arrays[0].all(axes[0])),  # also under an outer vmap
    None,
)
mlir.register_lowering(_everywhere, lambda ctx, flag: [flag])
