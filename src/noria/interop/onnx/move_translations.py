"""Primitives of JAX that move numbers, as nodes of ONNX."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from noria.interop.onnx.equations import Known, Step, Translation


def _broadcast(step: Step, x: Known) -> str:
    shape, places = step.param("shape"), step.param("broadcast_dimensions")
    sizes = step.equation.inputs[0].aval.shape
    ones = [1] * len(shape)
    for size, place in zip(sizes, places, strict=True):
        ones[place] = size
    x = step.reshaped(x, ones)
    same = tuple(ones) == tuple(shape)
    return x if same else step.add("Expand", x, step.ints([1] * step.lead + list(shape)))


def _reshape(step: Step, x: Known) -> str:
    return step.reshaped(x, step.shape)


def _transpose(step: Step, x: Known) -> str:
    order = [*range(step.lead), *step.axes(step.param("permutation"))]
    return step.add("Transpose", x, perm=order)


def _concatenate(step: Step, *parts: Known) -> str:
    [axis] = step.axes([step.param("dimension")])
    return step.add("Concat", *map(step.to.varying, parts), axis=axis)


def _stack(step: Step, *parts: Known) -> str:
    [axis] = step.axes([step.param("axis")])
    wide = [step.add("Unsqueeze", step.to.varying(p), step.ints([axis])) for p in parts]
    return step.add("Concat", *wide, axis=axis)


def _cut(step: Step, x: Known, starts: Any, ends: Any, strides: Any = None) -> str:
    strides = [1] * len(starts) if strides is None else strides
    axes = step.axes(range(len(starts)))
    return step.add("Slice", x, *map(step.ints, (starts, ends, axes, strides)))


def _slice(step: Step, x: Known) -> str:
    return _cut(
        step, x, step.param("start_indices"), step.param("limit_indices"), step.param("strides")
    )


def _dynamic_slice(step: Step, x: Known, *starts: Known) -> str:
    sizes, whole = step.param("slice_sizes"), step.equation.inputs[0].aval.shape
    if any(isinstance(start, str) for start in starts):
        return _looked_up(step, x, starts, sizes, whole)
    begins = [
        int(np.clip(start, 0, most - size))
        for start, size, most in zip(starts, sizes, whole, strict=True)
    ]
    ends = [begin + size for begin, size in zip(begins, sizes, strict=True)]
    return _cut(step, x, begins, ends)


def _looked_up(
    step: Step, x: Known, starts: Sequence[Known], sizes: Sequence[int], whole: Sequence[int]
) -> str:
    """Rows of a constant from a place on that depends on data."""
    first = starts[0]
    if isinstance(x, str) or tuple(sizes[1:]) != tuple(whole[1:]) or not isinstance(first, str):
        step.fail("a slice begins at a place that depends on data; only rows of a constant can")
    last = np.asarray(whole[0] - sizes[0], step.equation.inputs[1].aval.dtype)
    first = step.add("Max", step.add("Min", first, last), np.zeros_like(last))
    first = step.add("Unsqueeze", first, step.ints([step.lead]))
    places = step.add("Add", first, np.arange(sizes[0], dtype=last.dtype))
    return step.add("Gather", x, places, axis=0)


def _split(step: Step, x: Known) -> list[str]:
    [axis] = step.axes([step.param("axis")])
    sizes = step.ints(step.param("sizes"))
    return step.to.writer.many(
        "Split", [step.to.name(x), sizes], len(step.equation.outputs), axis=axis
    )


def _unstack(step: Step, x: Known) -> list[str]:
    [axis] = step.axes([step.param("axis")])
    return [
        step.add("Gather", x, np.asarray(n, np.int64), axis=axis)
        for n in range(len(step.equation.outputs))
    ]


def _rev(step: Step, x: Known) -> str:
    axes = step.axes(step.param("dimensions"))
    count = len(axes)
    bounds = [-1] * count, [-(2**31)] * count, axes, [-1] * count
    return step.add("Slice", x, *map(step.ints, bounds))


def _tile(step: Step, x: Known) -> str:
    return step.add("Tile", x, step.ints([1] * step.lead + list(step.param("reps"))))


def _pad(step: Step, x: Known, fill: Known) -> str:
    config = step.param("padding_config")
    if any(inner for _, _, inner in config) or isinstance(fill, str):
        step.fail("a pad between elements, or by a value that varies, has no operator of ONNX")
    low, high = ([max(0, pair[n]) for pair in config] for n in range(2))
    none = [0] * step.lead
    wide = step.add("Pad", step.to.varying(x), step.ints([*none, *low, *none, *high]), fill)
    if all(a >= 0 and b >= 0 for a, b, _ in config):
        return wide
    starts = [max(0, -a) for a, _, _ in config]
    ends = [begin + size for begin, size in zip(starts, step.shape, strict=True)]
    return _cut(step, wide, starts, ends)


def _gather(step: Step, x: Known, indices: Known) -> str:
    """Rows along one axis, as `jnp.take` asks for."""
    numbers, sizes = step.param("dimension_numbers"), step.param("slice_sizes")
    shape = step.equation.inputs[0].aval.shape
    [axis, *others] = numbers.start_index_map
    others += numbers.operand_batching_dims
    count = step.rank(1) - 1
    rest = [n for n in range(len(step.shape)) if not axis <= n < axis + count]
    one = tuple(1 if n == axis else size for n, size in enumerate(shape))
    plain = numbers.collapsed_slice_dims == (axis,) and tuple(sizes) == one and not others
    if not plain or list(numbers.offset_dims) != rest:
        step.fail("there is no operator of ONNX for this gather")
    if isinstance(indices, str):
        if isinstance(x, str) or axis:
            step.fail("an index that depends on data reads a value that varies")
        kept = step.equation.inputs[1].aval.shape[:-1]
        return step.add("Gather", x, step.reshaped(indices, kept), axis=0)
    return step.add("Gather", x, indices[..., 0].astype(np.int64), axis=axis + step.lead)


MOVES: Mapping[str, Translation] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "split": _split,
    "unstack": _unstack,
    "rev": _rev,
    "tile": _tile,
    "pad": _pad,
    "gather": _gather,
}
