"""One array of the state as several: the parts that slices of it read.

A cell may keep real and imaginary parts, or positions and velocities, in one array::

    re, im = jnp.split(h, 2)                                    parts of (n,) of a state of (2 n,)
    h'     = jnp.concatenate([a * re - b * im + u, ...])

Here each part becomes an array of the state. Element-wise operations on the whole array, such as
the selection of a reset, become one operation for each part.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from noria.compiler.split import Split, StepLoop
from noria.ir.build import graph_of
from noria.ir.graph import (
    Equation,
    Graph,
    Value,
    env_of,
    is_literal,
    read,
    struct,
    values_of,
)
from noria.ir.passes import dependence, substitute
from noria.ir.primitives import ELEMENTWISE

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Parts of an array along an axis, which is counted from the end: a batch may be in front."""

    axis: int
    size: int
    count: int

    def apart(self, array: jax.Array) -> list[jax.Array]:
        count = array.shape[self.axis] // self.size
        return [array] if count == 1 else jnp.split(array, count, self.axis)

    def joined(self, parts: Sequence[jax.Array]) -> jax.Array:
        return jnp.concatenate(parts, self.axis)


@dataclass(frozen=True, eq=False)
class PartedState(StepLoop):
    """The loop of a step with parts of the arrays of the state as its state.

    Attributes:
        loop: the graph from the inputs of the loop to the next state, then emitted values.
        state: the parts.
        layouts: of each array of the state; ``None`` for an array that is its only part.
    """

    loop: Graph
    state: tuple[Value, ...]
    layouts: tuple[Layout | None, ...]

    def apart(self, arrays: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        for array, layout in zip(arrays, self.layouts, strict=True):
            found += [array] if layout is None else layout.apart(array)
        return found

    def joined(self, arrays: Sequence[Any]) -> list[Any]:
        parts = iter(arrays)
        return [
            next(parts) if layout is None else layout.joined([*islice(parts, layout.count)])
            for layout in self.layouts
        ]


class _Parts(NamedTuple):
    """The parts of a value."""

    layout: Layout
    arrays: list[jax.Array]


def in_parts(split: Split, most: int) -> PartedState | None:
    """The loop with parts, at most ``most`` of each array; ``None`` if no array has parts."""
    depends = dependence(split.loop.equations, dict.fromkeys(split.state, 1))
    layouts = _layouts(split, depends, most)
    if not layouts:
        return None
    of_state = [layouts.get(v.aval.shape) for v in split.state]
    given = (*split.shared, *split.hoisted)

    def step(same: list[Any], state: list[Any]) -> tuple[list[Any], list[Any]]:
        known, parts = env_of(given, same), iter(state)
        for v, layout in zip(split.state, of_state, strict=True):
            known[v] = _Parts(layout, [*islice(parts, layout.count)]) if layout else next(parts)
        for equation in split.loop.equations:
            operands = [read(known, atom) for atom in equation.inputs]
            moves = any(depends.get(v) for v in values_of(equation.inputs))
            found = _apply(equation, operands, layouts) if moves else equation.bind(*operands)
            known.update(zip(equation.outputs, found, strict=True))
        outputs = [read(known, atom) for atom in split.loop.outputs]
        after, emitted = outputs[: len(of_state)], outputs[len(of_state) :]
        pairs = zip(after, of_state, strict=True)
        next_state = [
            p for a, layout in pairs for p in (_apart(a, layout) if layout else [_whole(a)])
        ]
        return next_state, [*map(_whole, emitted)]

    whole = PartedState(split.loop, split.state, tuple(of_state))
    parts = jax.eval_shape(whole.apart, [*map(struct, split.state)])
    graph, _, _ = graph_of(step, [*map(struct, given)], parts)
    inputs, new = graph.inputs[: len(given)], graph.inputs[len(given) :]
    graph = substitute(graph, env_of(inputs, given))
    return PartedState(replace(graph, inputs=(*given, *new)), new, tuple(of_state))


def _layouts(split: Split, depends: dict[Any, int], most: int) -> dict[Shape, Layout]:
    """By the shape of an array of the state: the parts that all slices of such values are made of.

    All borders are along one axis, and multiples of the size of a part.
    """
    borders: dict[Shape, set[tuple[int, int]]] = {v.aval.shape: set() for v in split.state}
    for equation in split.loop.equations:
        value = equation.inputs[0] if equation.inputs else None
        if value is not None and not is_literal(value) and depends.get(value):
            for border in _borders(equation, value.aval.shape):
                borders.get(value.aval.shape, set()).add(border)
    found = {}
    for shape, cuts in borders.items():
        axes = {axis for axis, _ in cuts}
        if len(axes) == 1:
            (axis,) = axes
            size = math.gcd(shape[axis], *(place for _, place in cuts))
            count = shape[axis] // size
            if count <= most:
                found[shape] = Layout(axis - len(shape), size, count)
    return found


def _borders(equation: Equation, shape: Shape) -> list[tuple[int, int]]:
    """The axis and the place of each border inside an array that the equation cuts."""
    params = equation.params
    if equation.name == "split":
        ends = [sum(params["sizes"][: n + 1]) for n in range(len(params["sizes"]) - 1)]
        return [(params["axis"], end) for end in ends]
    if equation.name == "unstack":
        return [(params["axis"], end) for end in range(1, shape[params["axis"]])]
    if equation.name != "slice":
        return []
    limits = zip(shape, params["start_indices"], params["limit_indices"], strict=True)
    return [(n, at) for n, (size, *ends) in enumerate(limits) for at in ends if 0 < at < size]


def _apply(equation: Equation, operands: list[Any], layouts: dict[Shape, Layout]) -> list[Any]:
    """The outputs; they have parts if an operation has a form for each part."""
    output, params = equation.outputs[0].aval, equation.params
    first = next((a for a in operands if isinstance(a, _Parts)), None)
    if equation.name == "concatenate":
        layout = layouts.get(output.shape)
        if layout and params["dimension"] - output.ndim == layout.axis:
            sizes = [v.aval.shape[layout.axis] for v in equation.inputs]
            if all(size % layout.size == 0 for size in sizes):
                return [_Parts(layout, [p for a in operands for p in _apart(a, layout)])]
    elif equation.name == "stack":
        layout = layouts.get(output.shape)
        if layout and (params["axis"] - output.ndim, 1) == (layout.axis, layout.size):
            return [_Parts(layout, [jnp.expand_dims(_whole(a), layout.axis) for a in operands])]
    elif first and _takes_parts(equation, first.layout):
        return _cut(equation, first)
    elif first and _is_elementwise(equation):
        count, axis = len(first.arrays), first.layout.axis
        rows = [
            _apart(a, first.layout) if v.aval.ndim and v.aval.shape[axis] > 1 else [a] * count
            for a, v in zip(operands, equation.inputs, strict=True)
        ]
        arrays = [equation.bind(*some)[0] for some in zip(*rows, strict=True)]
        return [_Parts(first.layout, arrays)]
    return equation.bind(*map(_whole, operands))


def _is_elementwise(equation: Equation) -> bool:
    """Whether an element of the result depends on one of each operand; axes of one are repeated."""
    shape = equation.outputs[0].aval.shape
    pairs = [zip(shape, v.aval.shape, strict=True) for v in equation.inputs if v.aval.ndim]
    return equation.name in ELEMENTWISE and all(n in (1, whole) for p in pairs for whole, n in p)


def _takes_parts(equation: Equation, layout: Layout) -> bool:
    """Whether an equation cuts a value between parts."""
    shape, axis = equation.inputs[0].aval.shape, layout.axis
    if equation.name not in ("slice", "split", "unstack"):
        return False
    if {*(equation.params.get("strides") or [1])} != {1}:
        return False
    borders = _borders(equation, shape)
    return all(n - len(shape) == axis and at % layout.size == 0 for n, at in borders)


def _cut(equation: Equation, value: _Parts) -> list[Any]:
    """Slices of a value are some of its parts."""
    axis, size = value.layout.axis, value.layout.size
    if equation.name == "unstack":
        return [jnp.squeeze(part, axis) for part in value.arrays]
    found, start = [], 0
    if equation.name == "slice":
        start = equation.params["start_indices"][axis] // size
    for output in equation.outputs:
        end = start + output.aval.shape[axis] // size
        some = value.arrays[start:end]
        found.append(some[0] if len(some) == 1 else _Parts(value.layout, some))
        start = end
    return found


def _apart(value: Any, layout: Layout) -> list[Any]:
    """The parts of a value, which may have come in parts of another array's size."""
    if isinstance(value, _Parts):
        own = value.layout
        if (own.axis, own.size) == (layout.axis, layout.size):
            return value.arrays
    return layout.apart(jnp.asarray(_whole(value)))


def _whole(value: Any) -> Any:
    return value.layout.joined(value.arrays) if isinstance(value, _Parts) else value
