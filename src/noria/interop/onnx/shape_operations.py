"""Operators of ONNX that move numbers, or compute with shapes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from noria.interop.onnx.node import Node, Unreadable

#: The most numbers that an operator may make of fewer: 1 GB of float32. A file of a few bytes can
#: ask for any size.
MOST = 2**28


def bounded(node: Node, shape: Sequence[int]) -> tuple[int, ...]:
    """``shape``, unless it has more than `MOST` elements or a negative size."""
    found = tuple(int(size) for size in shape)
    if any(size < 0 for size in found) or math.prod(found) > MOST:
        raise Unreadable(f"{node.label} makes an array of the shape {found}")
    return found


def ints(node: Node, values: Any) -> list[int]:
    """Constants that decide about shapes."""
    if not isinstance(values, np.ndarray | np.generic):
        raise Unreadable(f"{node.label} has a shape, an axis or an index that depends on data")
    return [int(value) for value in np.ravel(values)]


def axes_of(node: Node, axes: Any, name: str = "axes") -> list[int]:
    """Axes from the second input, or from the attribute of older versions."""
    return ints(node, axes) if axes is not None else list(node.get(name, []))


def _np(x: Any) -> Any:
    return np if isinstance(x, np.ndarray | np.generic) else jnp


def _all_np(arrays: Sequence[Any]) -> Any:
    return np if all(isinstance(a, np.ndarray | np.generic) for a in arrays) else jnp


def _cast(node: Node, x: Any) -> Any:
    from onnx import helper

    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(node["to"]))
    return x.astype(dtype if _np(x) is np else _narrow(dtype))


def _narrow(dtype: np.dtype) -> Any:
    return (
        jnp.zeros((), dtype).dtype if dtype.itemsize < 8 else jnp.asarray(np.zeros((), dtype)).dtype
    )


def _reshape(node: Node, x: Any, shape: Any) -> Any:
    sizes = ints(node, shape)
    if not node.get("allowzero", 0):
        sizes = [x.shape[n] if size == 0 else size for n, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(node: Node, x: Any) -> Any:
    axis = node.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _expand(node: Node, x: Any, shape: Any) -> Any:
    sizes = bounded(node, ints(node, shape))
    return _np(x).broadcast_to(x, bounded(node, np.broadcast_shapes(x.shape, sizes)))


def _tile(node: Node, x: Any, repeats: Any) -> Any:
    times = ints(node, repeats)
    bounded(node, [a * b for a, b in zip(x.shape, times, strict=True)])
    return _np(x).tile(x, times)


def _transpose(node: Node, x: Any) -> Any:
    return _np(x).transpose(x, node.get("perm", None))


def _squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    return _np(x).squeeze(x, tuple(axes_of(node, axes)) or None)


def _unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    return _np(x).expand_dims(x, tuple(axes_of(node, axes)))


def _concat(node: Node, *arrays: Any) -> Any:
    return _all_np(arrays).concatenate(arrays, axis=node["axis"])


def _split(node: Node, x: Any, sizes: Any = None) -> Any:
    axis = node.get("axis", 0)
    parts = ints(node, sizes) if sizes is not None else node.get("split", None)
    if parts is None:
        count = len(node.outputs)
        one = -(-x.shape[axis] // count)
        parts = [one] * (count - 1) + [x.shape[axis] - one * (count - 1)]
    return tuple(_np(x).split(x, np.cumsum(parts)[:-1].tolist(), axis=axis))


def slices_of(node: Node, x: Any, *given: Any) -> list[slice]:
    """A slice for each axis; from opset 10 on starts, ends, axes and steps are inputs."""
    if node.opset < 10:
        starts, ends = node["starts"], node["ends"]
        axes, steps = node.get("axes", range(len(starts))), [1] * len(starts)
    else:
        starts, ends = ints(node, given[0]), ints(node, given[1])
        axes = ints(node, given[2]) if given[2:] and given[2] is not None else range(len(starts))
        steps = ints(node, given[3]) if given[3:] else [1] * len(starts)
    found = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        last = None if step < 0 and end < -x.shape[axis] else end
        found[axis] = slice(start, last, step)
    return found


def _slice(node: Node, x: Any, *given: Any) -> Any:
    return x[tuple(slices_of(node, x, *given))]


def _gather(node: Node, x: Any, indices: Any) -> Any:
    axis, xp = node.get("axis", 0), _all_np([x, indices])
    if xp is np:
        bounded(node, [*indices.shape, x.size // max(x.shape[axis], 1)])
        return np.take(x, indices, axis)
    indices = jnp.asarray(indices)
    return jnp.take(x, jnp.where(indices < 0, indices + x.shape[axis], indices), axis)


def _shape(node: Node, x: Any) -> Any:
    return np.array(x.shape[node.get("start", 0) : node.get("end", None)], np.int64)


def _constant(node: Node) -> Any:
    if "value" in node.attributes:
        return node["value"]
    name, value = next(iter(node.attributes.items()))
    dtype = {"value_float": np.float32, "value_floats": np.float32}.get(name, np.int64)
    if name.startswith(("value_int", "value_float")):
        return np.asarray(value, dtype)
    raise Unreadable(f"{node.label} is a constant of text or of a sparse tensor")


def _constant_of_shape(node: Node, shape: Any) -> Any:
    value = node.get("value", np.zeros(1, np.float32))
    return np.full(bounded(node, ints(node, shape)), value.reshape(-1)[0])


def _range(node: Node, start: Any, limit: Any, delta: Any) -> Any:
    if not all(isinstance(a, np.ndarray | np.generic) for a in (start, limit, delta)):
        raise Unreadable(f"{node.label} has a length that depends on data")
    bounded(node, [max(0, math.ceil((limit - start) / delta))])
    return np.arange(start, limit, delta, dtype=start.dtype)


def _pad(node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    if node.get("mode", "constant") != "constant":
        raise Unreadable(f"{node.label} pads with mode {node['mode']}")
    sizes = ints(node, pads) if pads is not None else node["pads"]
    chosen = ints(node, axes) if axes is not None else range(x.ndim)
    widths, half = [(0, 0)] * x.ndim, len(sizes) // 2
    for axis, before, after in zip(chosen, sizes[:half], sizes[half:], strict=True):
        widths[axis] = (before, after)
    bounded(node, [size + sum(pair) for size, pair in zip(x.shape, widths, strict=True)])
    fill = node.get("value", 0.0) if value is None else value.reshape(())
    return _np(x).pad(x, widths, constant_values=fill)


SHAPES: dict[str, Callable[..., Any]] = {
    "Identity": lambda node, x: x,
    "Dropout": lambda node, x, ratio=None, training=None: x,
    "Cast": _cast,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Tile": _tile,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Shape": _shape,
    "Size": lambda node, x: np.asarray(math.prod(x.shape), np.int64),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Pad": _pad,
}
