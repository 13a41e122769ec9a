"""The affine maps of views, of reductions over one axis, and of the pieces of a concatenation."""

import math

from noria.backends.native.plan.access import AffineMap, affine, strides_of
from noria.ir.graph import Atom, Equation, Value, size


def map_of_view(equation: Equation, value: Value) -> AffineMap:
    """The map from a result of a view to its operand."""
    shape, params = equation.inputs[0].aval.shape, equation.params
    strides = strides_of(shape)
    if equation.name == "broadcast_in_dim":
        source = dict(zip(params["broadcast_dimensions"], range(len(shape)), strict=True))
        wide = [n in source and shape[source[n]] > 1 for n in range(len(params["shape"]))]
        axes = [
            (count, strides[source[n]] if wide[n] else 0) for n, count in enumerate(params["shape"])
        ]
        return affine(0, *axes)
    if equation.name == "transpose":
        return affine(0, *[(shape[n], strides[n]) for n in params["permutation"]])
    if equation.name == "slice":
        starts, steps = params["start_indices"], params["strides"] or [1] * len(shape)
        counts = value.aval.shape
        offset = sum(a * b for a, b in zip(starts, strides, strict=True))
        return affine(offset, *[(n, a * b) for n, a, b in zip(counts, steps, strides, strict=True)])
    if equation.name == "split":
        axis = params["axis"]
        first = sum(map(int, params["sizes"][: equation.outputs.index(value)]))
        return affine(first * strides[axis], *zip(value.aval.shape, strides, strict=True))
    if equation.name == "rev":
        turned = set(params["dimensions"])
        signs = [-1 if n in turned else 1 for n in range(len(shape))]
        offset = sum((shape[n] - 1) * strides[n] for n in turned)
        return affine(offset, *[(n, a * b) for n, a, b in zip(shape, signs, strides, strict=True)])
    return affine(0, (size(value), 1))


def map_of_reduction(equation: Equation) -> AffineMap:
    """The map from the operand of a reduction over one axis to the result."""
    outer, depth, inner = around(equation.inputs[0].aval.shape, equation.params["axes"][0])
    return AffineMap(0, tuple(p for p in ((outer, inner), (depth, 0), (inner, 1)) if p[0] > 1))


def map_of_piece(equation: Equation, first: int, piece: Atom) -> AffineMap:
    """The map from a piece of a concatenation to the result; ``first`` is its start in the axis."""
    axis = equation.params["dimension"]
    outer, width, inner = around(piece.aval.shape, axis)
    whole = equation.outputs[0].aval.shape[axis]
    return affine(first * inner, (outer, whole * inner), (width * inner, 1))


def map_to_piece(equation: Equation, first: int, piece: Atom) -> AffineMap:
    """The map from the result of a concatenation to a piece, where there is the piece."""
    axis = equation.params["dimension"]
    outer, width, inner = around(piece.aval.shape, axis)
    whole = equation.outputs[0].aval.shape[axis]
    axes = ((outer, width * inner), (whole, inner), (inner, 1))
    return AffineMap(-first * inner, tuple(p for p in axes if p[0] > 1))


def place_along(equation: Equation) -> AffineMap:
    """The map from the result of a concatenation to the place along its axis."""
    outer, whole, inner = around(equation.outputs[0].aval.shape, equation.params["dimension"])
    return AffineMap(0, tuple(p for p in ((outer, 0), (whole, 1), (inner, 0)) if p[0] > 1))


def around(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """The number of elements before an axis, along it, and after it."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
