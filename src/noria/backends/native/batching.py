"""`jax.vmap` of a native loop: more examples, or models with weights of their own.

Mapped inputs are more rows of one call. If weights are mapped, each entry of the mapped axis is a
*model*. All models run in one call, and an array that is not mapped is the same for all of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from noria.backends.base import grouped, total
from noria.backends.native.loop import NativeLoop

#: ``(loop, arrays, time) -> results``
Run = Callable[[NativeLoop, Sequence[Any], int], list[Any]]


def batched(
    run: Run, loop: NativeLoop, arrays: Sequence[Any], axes: Sequence[Any], time: int
) -> tuple[list[Any], list[int]]:
    """The results for arrays with mapped axes, and the places of the axis in the results.

    ``run`` binds the primitive.
    """
    given = [*zip(arrays, axes, strict=True)]
    count = next(a.shape[axis] for a, axis in given if axis is not None)
    mapped = [axis is not None for axis in axes]
    arrays = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in given]
    if any(mapped[: len(loop.shared)]):
        return _models(run, loop, arrays, mapped, count, time)
    return _examples(run, loop, arrays, mapped, count, time)


def _models(
    run: Run, loop: NativeLoop, arrays: list[Any], mapped: list[bool], count: int, time: int
) -> tuple[list[Any], list[int]]:
    """Models; of models that are mapped again, all combinations."""
    inner = loop.models
    by_model = [m or before for m, before in zip(mapped, loop.by_model, strict=True)]
    if inner is not None:
        # An array that has one of the two axes is copied along the other.
        arrays = [
            _combined(a, m, before, count, inner) if m or before else a
            for a, m, before in zip(arrays, mapped, loop.by_model, strict=True)
        ]
    models = count * (1 if inner is None else inner)
    found = run(loop.with_models(models, by_model), arrays, time)
    if inner is not None:
        found = [a.reshape(count, inner, *a.shape[1:]) for a in found]
    return found, [0] * len(found)


def _combined(a: Any, is_mapped: bool, has_models: bool, count: int, inner: int) -> Any:
    """An array with one axis of ``count`` times ``inner`` models."""
    a = a if is_mapped else a[None]
    a = a if has_models else a[:, None]
    return jnp.broadcast_to(a, (count, inner, *a.shape[2:])).reshape(count * inner, *a.shape[2:])


def _examples(
    run: Run, loop: NativeLoop, arrays: list[Any], mapped: list[bool], count: int, time: int
) -> tuple[list[Any], list[int]]:
    """One larger batch. Sums over the batch would mix the examples, so they are taken outside."""
    folded = [
        a if row is None else _fold(a, m, count, row)
        for a, m, row in zip(arrays, mapped, loop.rows().arrays, strict=True)
    ]
    opened, rows = loop.without_accumulation(), loop.rows()
    batch = arrays[-1].shape[(rows.arrays[-1] or 0) + int(mapped[-1])]  # of the state
    results = [
        a.reshape(*a.shape[:row], count, batch, *a.shape[row + 1 :])
        for a, row in zip(run(opened, folded, time), opened.batch_axes, strict=True)
    ]
    carry, emitted, residuals, _ = opened.call.result(results)
    end, front = len(emitted) - sum(loop.call.accumulators), int(loop.models is not None)
    add = jax.vmap(jax.vmap(total) if front else total, front, front)
    totals = [add(some) for some in grouped(emitted[end:], loop.call.accumulators)]
    kept = [*carry, *emitted[:end], *residuals, *totals]
    return kept, loop.mapped_axes


def _fold(a: Any, is_mapped: bool, count: int, axis: int) -> Any:
    """The mapped axis, in front, becomes part of the batch axis."""
    a = a if is_mapped else jnp.broadcast_to(a, (count, *a.shape))
    a = jnp.moveaxis(a, 0, axis)
    return a.reshape(*a.shape[:axis], math.prod(a.shape[axis : axis + 2]), *a.shape[axis + 2 :])
