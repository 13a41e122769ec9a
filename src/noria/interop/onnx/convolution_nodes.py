"""``Conv1d`` and pools as nodes of ONNX, and back."""

from typing import TYPE_CHECKING, Any

import numpy as np

from noria.interop.onnx.axes import BATCH, FEATURES, TIME, Axes
from noria.interop.onnx.graph import Graph
from noria.interop.onnx.node import Node, Unreadable
from noria.interop.onnx.writer import Value
from noria.layers.conv import Conv1d
from noria.layers.pool import MaxPool1d, MeanPool1d, PoolLayer
from noria.layers.window import Window

if TYPE_CHECKING:
    from noria.interop.onnx.emit import Emitter

#: The pools by their operators.
POOLS: dict[str, type[MaxPool1d | MeanPool1d]] = {"MaxPool": MaxPool1d, "AveragePool": MeanPool1d}

#: The operators over the steps of a sequence.
WINDOWS = {"Conv", *POOLS}


def emit_conv(to: "Emitter", layer: Conv1d, xs: Value, state: Any) -> tuple[Value, Any]:
    """The nodes of a convolution; see `Emitter.layer`."""
    window, add, ints = layer.window, to.writer.add, to.writer.ints
    if to.streams and not window.streams:
        to.fail(f"{layer.label} has no form as a step; expected causal padding.")
    if to.lengths is not None and (layer.stride != 1 or not window.keeps_time or to.has_states):
        to.fail(
            f"{layer.label} with lengths has a form without states only, and for a stride of 1 and "
            "as many outputs as steps."
        )
    x = add("Unsqueeze", xs.name, ints(0)) if to.is_step else xs.name
    if to.lengths is not None:
        zero = to.writer.constant(np.zeros((), xs.dtype))
        x = add("Where", add("Unsqueeze", to.valid, ints(2)), x, zero)
    left, after = window.left, None
    if state is not None:
        x = add("Concat", add("Transpose", state, perm=[1, 0, 2]), x, axis=0)
        last = add("Slice", x, ints(-left), ints(2**31 - 1), ints(0))
        after, left = add("Transpose", last, perm=[1, 0, 2]), 0
    arrays = [layer.W] if layer.b is None else [layer.W, layer.b]
    names = [to.writer.constant(np.asarray(a)) for a in arrays]
    options = {"dilations": [window.dilation], "group": layer.groups}
    y = _over_time(to, "Conv", [x, *names], window._replace(left=left), options)
    y = add("Squeeze", y, ints(0)) if to.is_step else y
    return Value(y, (layer.W.shape[0],)), after


def emit_pool(to: "Emitter", layer: PoolLayer, xs: Value, state: Any) -> tuple[Value, Any]:
    """The nodes of a pool; see `Emitter.layer`."""
    add, ints, window = to.writer.add, to.writer.ints, layer.window
    if to.lengths is not None:
        to.fail(f"{layer.label} has a form without lengths only; expected lengths=False.")
    if to.streams and not window.streams:
        to.fail(f"{layer.label} has no form as a step; expected causal padding.")
    op = next(op for op, kind in POOLS.items() if type(layer) is kind)
    x, after = add("Unsqueeze", xs.name, ints(0)) if to.is_step else xs.name, None
    if state is None:
        options = {"count_include_pad": 0} if op == "AveragePool" else {}
        y = _over_time(to, op, [x], window, options)
    else:
        y, after = _pool_after(to, op, layer, Value(x, xs.shape, xs.dtype), state)
    y = add("Squeeze", y, ints(0)) if to.is_step else y
    return Value(y, xs.shape, xs.dtype), after


def _pool_after(to: "Emitter", op: str, layer: PoolLayer, xs: Value, state: Any) -> tuple[str, Any]:
    """A pool that continues past steps; those that are not there do not count.

    ``state`` has the names of the arrays of a `noria.layers.pool.PoolState`.
    """
    add, ints, window = to.writer.add, to.writer.ints, layer.window
    x = add("Concat", add("Transpose", state.past, perm=[1, 0, 2]), xs.name, axis=0)
    batch = add("Shape", xs.name, start=0, end=2)
    new = add("Expand", to.writer.constant(np.ones((1, 1), bool)), batch)
    there = add("Concat", add("Transpose", state.there, perm=[1, 0]), new, axis=0)
    valid = add("Unsqueeze", there, ints(2))
    least = to.writer.constant(np.asarray(-np.inf if op == "MaxPool" else 0, xs.dtype))
    window = window._replace(left=0)
    y = _over_time(to, op, [add("Where", valid, x, least)], window, {})
    if op == "AveragePool":  # of all steps; only those that are there count
        one, zero = (to.writer.constant(np.asarray(n, xs.dtype)) for n in (1, 0))
        share = _over_time(to, op, [add("Where", valid, one, zero)], window, {})
        y = add("Div", y, share)
    cut = ints(-layer.window.left), ints(2**31 - 1), ints(0)
    past = add("Transpose", add("Slice", x, *cut), perm=[1, 0, 2])
    return y, type(state)(past, add("Transpose", add("Slice", there, *cut), perm=[1, 0]))


def _over_time(
    to: "Emitter", op: str, inputs: list[str], window: Window, options: dict[str, Any]
) -> str:
    """The node of an operator over the steps of a sequence, the first of its ``inputs``."""
    (x, *others), add, left = inputs, to.writer.add, window.left
    if left < 0:
        x, left = add("Slice", x, *map(to.writer.ints, (-left, 2**31 - 1, 0))), 0
    y = add(
        op,
        add("Transpose", x, perm=[1, 2, 0]),
        *others,
        kernel_shape=[window.kernel_size],
        strides=[window.stride],
        pads=[left, window.right],
        **options,
    )
    return add("Transpose", y, perm=[2, 0, 1])


def read_conv(graph: Graph, node: Node, axes: Axes) -> tuple[Conv1d, Axes]:
    """The layer of a Conv over the last axis, and the axes of its output.

    Raises:
        Unreadable: if it is no convolution over time, or its weights are not constant.
    """
    axes = axes.bound(BATCH, FEATURES, TIME)
    W = graph.constant(node.input(1))
    b = graph.constant(node.input(2)) if node.input(2) else None
    if W is None or W.ndim != 3 or (node.input(2) and b is None):
        raise Unreadable(f"{node.label} is no convolution over time with constant weights")
    dilation, stride = node.get("dilations", [1])[0], node.get("strides", [1])[0]
    # A causal layer streams; the same padding as a pair does so too.
    layer = Conv1d.from_arrays(
        W,
        b,
        stride=stride,
        dilation=dilation,
        groups=node.get("group", 1),
        padding=_padding(node, (W.shape[2] - 1) * dilation, stride),
    )
    if layer.in_size != axes.size(FEATURES):
        raise Unreadable(f"{node.label} gets {axes.size(FEATURES)} features")
    return layer, axes.features(W.shape[0])


def read_pool(graph: Graph, node: Node, axes: Axes) -> tuple[MaxPool1d | MeanPool1d, Axes]:
    """The layer of a MaxPool or AveragePool over the last axis, and the axes of its output.

    Raises:
        Unreadable: if it is no pool over time, or counts what Noria's does not.
    """
    axes = axes.bound(BATCH, FEATURES, TIME)
    kernel, stride = node.get("kernel_shape", []), node.get("strides", [1])[0]
    if len(kernel) != 1 or node.get("ceil_mode", 0) or node.get("dilations", [1]) != [1]:
        raise Unreadable(f"{node.label} is no pool over time without ceil_mode and dilations")
    padding = _padding(node, kernel[0] - 1, stride)
    if any(padding) and node.op == "AveragePool" and node.get("count_include_pad", 0):
        raise Unreadable(f"{node.label} counts padding as zeros")
    features = axes.size(FEATURES)
    return POOLS[node.op](kernel[0], stride, padding=padding, size=features), axes


def _padding(node: Node, reach: int, stride: int) -> tuple[int, int]:
    """The padding at both ends of a sequence, for windows that reach so many steps further."""
    first, last = node.get("pads", [0, 0])
    auto = node.get("auto_pad", "NOTSET")
    if auto == "SAME_UPPER" and stride == 1:
        return reach // 2, reach - reach // 2
    if auto not in ("NOTSET", "VALID"):
        raise Unreadable(f"{node.label} has auto_pad={auto} and a stride of {stride}")
    return first, last
