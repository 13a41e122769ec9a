"""Convolutions as products: the windows of the operand, times the kernel as a matrix.

The windows are stored, axis by axis of the kernel. Each product is then one of two matrices, for
each group of features, in the order of the result::

    features first    out[o, p] = sum over d of K[o, d] windows[d, p]     d: feature, then tap
    features last     out[p, o] = sum over d of windows[p, d] K[d, o]     d: tap, then feature

For both, `kernels_outside` brings kernels that are parameters into the right order, once for all
steps.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from noria.backends.native.lower.supported import is_sized, kind_of
from noria.backends.native.machine import tuning
from noria.ir.build import build
from noria.ir.graph import EMPTY, Equation, Graph, Value, is_literal, size
from noria.ir.passes import dependence, extract, inputs_of, rewrite

Function = Callable[..., list[Any]]


def convolution(equation: Equation) -> Function | None:
    """A JAX function with the results of a convolution; ``None`` if it has no native form."""
    params, kernel = equation.params, equation.inputs[1].aval
    dtypes = {v.aval.dtype for v in (*equation.inputs, *equation.outputs)}
    taps = [kernel.shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
    if len(dtypes) > 1 or kind_of(kernel.dtype) != "f" or params["batch_group_count"] > 1:
        return None
    if sum(taps) > tuning().taps or not is_sized(equation):
        return None
    shape, features = equation.outputs[0].aval.shape, params["dimension_numbers"].out_spec[1]
    windows = size(equation.outputs[0]) // shape[features] * size(equation.inputs[1])
    windows = windows // shape[features] * params["feature_group_count"]
    if windows * kernel.dtype.itemsize > tuning().window_bytes:
        return None
    return functools.partial(_convolved, equation)


def _is_last(equation: Equation) -> bool:
    """Whether the features of the result are its last axis."""
    numbers = equation.params["dimension_numbers"]
    return bool(numbers.out_spec[1] == len(numbers.out_spec) - 1)


def _order(equation: Equation) -> tuple[int, ...]:
    """The axes of the kernel in the order of the matrix: outputs first, or last."""
    outputs, inputs, *taps = equation.params["dimension_numbers"].rhs_spec
    return (*taps, inputs, outputs) if _is_last(equation) else (outputs, inputs, *taps)


def _is_depthwise(equation: Equation) -> bool:
    """Whether each group has one feature, and the groups are the last axis of the result."""
    groups, kernel = equation.params["feature_group_count"], equation.inputs[1].aval.shape
    outputs, inputs = equation.params["dimension_numbers"].rhs_spec[:2]
    return _is_last(equation) and kernel[inputs] == 1 and kernel[outputs] == groups > 1


def _convolved(equation: Equation, x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    shape, numbers = equation.outputs[0].aval.shape, equation.params["dimension_numbers"]
    groups, last = equation.params["feature_group_count"], _is_last(equation)
    batch, features, *positions = (shape[axis] for axis in numbers.out_spec)
    outputs, depth, count = features // groups, kernel.size // features, math.prod(positions)
    x, kernel = _windows(equation, x, positions), kernel.transpose(_order(equation))
    whole: tuple[int, ...]
    if _is_depthwise(equation):
        whole, summed = (batch, count, depth, groups), 2
        x, kernel = x.reshape(whole), kernel.reshape(depth, groups)
    elif last:
        whole, summed = (batch, count, groups, depth, outputs), 3
        x = x.reshape(batch, count, groups, depth, 1)
        kernel = kernel.reshape(depth, groups, outputs).transpose(1, 0, 2)
    else:
        whole, summed = (batch, groups, outputs, depth, count), 3
        x = x.reshape(batch, groups, 1, depth, count)
        kernel = kernel.reshape(groups, outputs, depth, 1)
    found = (jnp.broadcast_to(x, whole) * jnp.broadcast_to(kernel, whole)).sum(summed)
    axes = [*numbers.out_spec]
    if last:
        axes.append(axes.pop(1))
    # Axis n is axis ``axes[n]`` of the result.
    found = found.reshape([shape[axis] for axis in axes])
    return [found.transpose([axes.index(n) for n in range(len(shape))])]


def _windows(equation: Equation, x: jax.Array, positions: Sequence[int]) -> jax.Array:
    """The operand of each tap at each position, with the axes of the taps among those of ``x``.

    Features first: batch, groups, features, taps, positions. Features last: batch, positions,
    groups, taps, features; or taps, then groups, if each has one feature.
    """
    params, numbers = equation.params, equation.params["dimension_numbers"]
    groups, last, axes = params["feature_group_count"], _is_last(equation), len(positions)
    taps = [equation.inputs[1].aval.shape[axis] for axis in numbers.rhs_spec[2:]]
    batch, features, *space = numbers.lhs_spec
    x = x.transpose([batch, *space, features] if last else [batch, features, *space])
    split = (groups, x.shape[-1 if last else 1] // groups)
    if last:
        place = 1 + axes + (not _is_depthwise(equation))
        x = x if _is_depthwise(equation) else x.reshape(*x.shape[:-1], *split)
    else:
        place, x = 3, x.reshape(x.shape[0], *split, *x.shape[2:])
    for n in reversed(range(axes)):
        x = _unfolded(
            x,
            1 + n if last else x.ndim - axes + n,
            place,
            taps[n],
            positions[n],
            stride=params["window_strides"][n],
            apart=params["rhs_dilation"][n],
            padding=(*params["padding"][n], params["lhs_dilation"][n] - 1),
        )
    return x


def _unfolded(
    a: jax.Array,
    axis: int,
    place: int,
    taps: int,
    count: int,
    *,
    stride: int,
    apart: int,
    padding: tuple[int, int, int],
) -> jax.Array:
    """A new axis at ``place``: the element that each tap along ``axis`` reads at each position."""
    if any(padding):
        config = [padding if n == axis else (0, 0, 0) for n in range(a.ndim)]
        a = jax.lax.pad(a, jnp.zeros((), a.dtype), config)
    length = (count - 1) * stride + 1
    parts = [
        jnp.expand_dims(jax.lax.slice_in_dim(a, k * apart, k * apart + length, stride, axis), place)
        for k in range(taps)
    ]
    return parts[0] if taps == 1 else jax.lax.concatenate(parts, place)


# --- kernels --------------------------------------------------------------------------------------


def kernels_outside(graph: Graph, shared: Iterable[Value]) -> tuple[Graph, Graph]:
    """Kernels of parameters as matrices: a graph that makes them, and the step that reads them.

    Args:
        graph: the equations of a step.
        shared: the values that are the same for all steps and examples.

    Returns:
        The graph of the kernels, which are new inputs of the step; empty if there are none.
    """
    if not any(e.name == "conv_general_dilated" for e in graph.equations):
        return EMPTY, graph
    known = {*shared}
    varies = dependence(graph.equations, {v: 1 for v in graph.inputs if v not in known})
    kernels: list[Value] = []

    def ordered(equation: Equation) -> tuple[list[Equation], list[Any]] | None:
        if equation.name != "conv_general_dilated":
            return None
        kernel, order = equation.inputs[1], _order(equation)
        if is_literal(kernel) or varies.get(kernel) or convolution(equation) is None:
            return None
        if order == (*range(len(order)),) and kernel in known:
            return None
        made, (new,) = build(lambda a: [a.transpose(order)], [kernel], equation.source)
        assert isinstance(new, Value)
        kernels.append(new)
        numbers = equation.params["dimension_numbers"]
        spec = tuple(order.index(axis) for axis in numbers.rhs_spec)
        params = {**equation.params, "dimension_numbers": numbers._replace(rhs_spec=spec)}
        output = Value(equation.outputs[0].aval)
        inputs = (equation.inputs[0], new)
        made.append(Equation(equation.primitive, inputs, (output,), params, equation.source))
        return made, [output]

    graph = rewrite(graph, ordered)
    wanted = [v for v in dict.fromkeys(kernels) if v not in known]
    outside = extract(graph.equations, wanted, inputs_of(graph.equations))
    return outside, extract(graph.equations, graph.outputs, (*graph.inputs, *wanted))
