"""``Conv1d`` as a node of ONNX, and back."""

from typing import TYPE_CHECKING, Any

import numpy as np

from noria.interop.onnx.axes import BATCH, FEATURES, TIME, Axes
from noria.interop.onnx.graph import Graph
from noria.interop.onnx.node import Node, Unreadable
from noria.interop.onnx.writer import Value
from noria.layers.conv import Conv1d

if TYPE_CHECKING:
    from noria.interop.onnx.emit import Emitter


def emit_conv(to: "Emitter", layer: Conv1d, xs: Value, state: Any) -> tuple[Value, Any]:
    """The nodes of a convolution; see `Emitter.layer`."""
    window, add, ints = layer.window, to.writer.add, to.writer.ints
    if to.is_step and (layer.stride != 1 or not window.streams):
        to.fail(f"{layer.label} has no form as a step; expected a stride of 1 and causal padding.")
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
    if left < 0:
        x, left = add("Slice", x, ints(-left), ints(2**31 - 1), ints(0)), 0
    arrays = [layer.W] if layer.b is None else [layer.W, layer.b]
    y = add(
        "Conv",
        add("Transpose", x, perm=[1, 2, 0]),
        *(to.writer.constant(np.asarray(a)) for a in arrays),
        kernel_shape=[window.kernel_size],
        strides=[window.stride],
        dilations=[window.dilation],
        group=layer.groups,
        pads=[left, window.right],
    )
    y = add("Transpose", y, perm=[2, 0, 1])
    y = add("Squeeze", y, ints(0)) if to.is_step else y
    return Value(y, (layer.W.shape[0],)), after


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
    dilation = node.get("dilations", [1])[0]
    reach, stride = (W.shape[2] - 1) * dilation, node.get("strides", [1])[0]
    pads, auto = node.get("pads", [0, 0]), node.get("auto_pad", "NOTSET")
    if auto == "SAME_UPPER" and stride == 1:
        pads = [reach // 2, reach - reach // 2]
    elif auto not in ("NOTSET", "VALID"):
        raise Unreadable(f"{node.label} has auto_pad={auto} and a stride of {stride}")
    # A causal layer streams; the same padding as a pair does so too.
    layer = Conv1d.from_arrays(
        W,
        b,
        stride=stride,
        dilation=dilation,
        groups=node.get("group", 1),
        padding=(pads[0], pads[1]),
    )
    if layer.in_size != axes.size(FEATURES):
        raise Unreadable(f"{node.label} gets {axes.size(FEATURES)} features")
    return layer, axes.features(W.shape[0])
