"""Groups of heads as rows of the batch: with few examples, threads share the heads.

The heads of a memory do not read each other. So some heads, a *group*, go through all steps as one
more row of the batch::

    S[h]' = a[h] S[h] + k[h] v[h]ᵀ    one example, four heads: two rows with two heads

Groups lie side by side on one axis of each array. If it is the first one, and time is in front of
the batch, an array of the rows is the array of the heads as it is: nothing is copied.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from noria._integers import ceil_div
from noria._jax import ShapedArray
from noria.backends.native.loop import NativeLoop, Run
from noria.backends.native.lower.legalize import legal_step
from noria.backends.native.lower.supported import UnsupportedEquation
from noria.backends.native.machine import using
from noria.backends.native.plan.work import flops_beside_products, most_threads
from noria.ir.graph import (
    Atom,
    Equation,
    Graph,
    Value,
    bytes_of_matrices,
    is_literal,
    size,
    size_in_bytes,
    values_in,
)
from noria.ir.primitives import COMBINE, ELEMENTWISE, SOLVES

#: The axis of the groups, of each value that has one.
Axes = dict[Value, int]


class _Mixed(Exception):
    """Groups read each other, or their arrays would be copied."""


def with_head_groups(loop: NativeLoop, arrays: Sequence[Any], time: int, run: Run) -> list[Any]:
    """The results of ``run(loop, arrays)``, of a loop whose rows are groups of heads."""
    batch = loop.batch(arrays)
    count = _count(loop, time, batch)
    if count == 1:
        return run(loop, arrays)
    try:
        with using(loop.tuning):
            graph = legal_step(loop.call.graph, loop.shared)
        axes = _axes(graph, loop, count)
    except (_Mixed, UnsupportedEquation):
        return run(loop, arrays)
    return _Grouped(loop, graph, axes, count, batch, time).run(arrays, run)


def _count(loop: NativeLoop, time: int, batch: int) -> int:
    """The groups of each example: as many as all threads need, if the heads can be so divided."""
    call, tuning = loop.call, loop.tuning
    threads = most_threads(tuning)
    if loop.models is not None or call.accumulators or time <= 1 or not 0 < batch < threads:
        return 1
    if bytes_of_matrices(call.state) < tuning.matrix_state_bytes:
        return 1
    if flops_beside_products(call.graph.equations) * time * batch < 2 * tuning.thread_flops:
        return 1
    heads = math.gcd(*(v.aval.shape[0] if v.aval.ndim else 1 for v in call.state))
    counts = [n for n in range(2, heads + 1) if heads % n == 0]
    wanted = ceil_div(threads, batch)
    return next((n for n in counts if n >= wanted), max(counts, default=1))


# --- the axes of the groups -----------------------------------------------------------------------


def _axes(graph: Graph, loop: NativeLoop, count: int) -> Axes:
    """The axis along which the groups of a value lie side by side.

    Arrays of the state have heads first. Equations hand the axis on, from operands to results and
    back, until nothing changes.

    Raises:
        _Mixed: if there are no such axes.
    """
    found: Axes = {}
    for value in (*loop.call.state, *graph.outputs[: len(loop.call.state)]):
        _put(found, value, 0, count)
    known = 0
    while len(found) > known:
        known = len(found)
        for equation in (*graph.equations, *reversed(graph.equations)):
            _hand_on(equation, found, count)
    _check(graph, loop, found, count)
    return found


def _put(found: Axes, atom: Atom, axis: int | None, count: int) -> None:
    if is_literal(atom) and not atom.aval.ndim:
        return  # a number, the same for all groups
    if axis is None or is_literal(atom) or atom.aval.shape[axis] % count:
        raise _Mixed
    if found.setdefault(atom, axis) != axis:
        raise _Mixed


def _hand_on(equation: Equation, found: Axes, count: int) -> None:
    """Give the axis to all operands and results of an equation that have it."""
    if not _has_groups(equation, found):
        return
    operands = [(v, _way(equation, v)) for v in equation.inputs]
    for result in equation.outputs:
        for operand, way in operands:
            if not is_literal(operand) and operand in found:
                _put(found, result, way[found[operand]], count)
        for operand, way in operands:
            if result in found and found[result] in way:
                _put(found, operand, way.index(found[result]), count)
            elif result in found and not _is_repeated(equation, operand):
                raise _Mixed  # the operand has all groups, but not side by side


def _is_repeated(equation: Equation, operand: Atom) -> bool:
    """Whether all groups may read the same numbers of an operand."""
    is_number = equation.name in ELEMENTWISE and size(operand) == 1
    return is_number or equation.name == "broadcast_in_dim"


def _has_groups(equation: Equation, found: Axes) -> bool:
    return any(not is_literal(v) and v in found for v in (*equation.inputs, *equation.outputs))


def _way(equation: Equation, operand: Atom) -> list[int | None]:
    """For each axis of an operand, the axis of the result with the same numbers, if there is one.

    Several results (`split`) differ along the axis that is cut, which has none.

    Raises:
        _Mixed: if nothing is known of the equation.
    """
    name, params = equation.name, equation.params
    shape, result = operand.aval.shape, equation.outputs[0].aval.shape
    axes = range(len(shape))
    if name == "broadcast_in_dim":
        there = params["broadcast_dimensions"]
        return [to if shape[n] == result[to] else None for n, to in enumerate(there)]
    if name == "transpose":
        return [params["permutation"].index(n) for n in axes]
    if name in ("expand_dims", "reshape", "squeeze"):
        return [_same_place(shape, n, result) for n in axes]
    if name in SOLVES:
        return [n if n < len(result) - 2 else None for n in axes]
    if name in COMBINE:
        kept = [n for n in axes if n not in params["axes"]]
        return [kept.index(n) if n in kept else None for n in axes]
    if name in ("concatenate", "rev", "slice", "split"):
        cut = {params.get("dimension"), params.get("axis"), *params.get("dimensions", ())}
        return [None if n in cut or shape[n] != result[n] else n for n in axes]
    if name in ELEMENTWISE or name in ("copy", "copy_p", "stop_gradient"):
        return [n if shape == result else None for n in axes]
    raise _Mixed


def _same_place(shape: Sequence[int], axis: int, result: Sequence[int]) -> int | None:
    """The axis of another shape that begins at the same number."""
    if shape[axis] == 1:
        return None
    before = math.prod(shape[:axis])
    places = [n for n, long in enumerate(result) if long > 1 and math.prod(result[:n]) == before]
    return places[0] if places else None


def _check(graph: Graph, loop: NativeLoop, found: Axes, count: int) -> None:
    """Raise `_Mixed` if a result has no groups, or too much would be copied.

    Arrays of all steps are taken as they are, so groups lie on their first axis. Small arrays may
    be copied: inputs that all groups read, and shared ones of the heads, which become state.
    """
    state = loop.call.state
    if any(is_literal(v) or v not in found for v in graph.outputs):
        raise _Mixed
    if any(e.outputs[0] in found and not e.inputs for e in graph.equations):
        raise _Mixed  # a counter
    stacked = [v for v in (*loop.steps, *values_in(graph.outputs[len(state) :])) if v in found]
    if any(math.prod(v.aval.shape[: found[v]]) > 1 for v in stacked):
        raise _Mixed
    copied = count * sum(size_in_bytes(v) for v in loop.steps if v not in found)
    kept = sum(size_in_bytes(v) for v in loop.shared if v in found)
    if 8 * max(copied, kept) > sum(map(size_in_bytes, state)):
        raise _Mixed


# --- the loop -------------------------------------------------------------------------------------


class _Grouped:
    """A loop whose rows are groups of heads, and its arrays.

    Shared values of the heads, such as decays, are state that does not change. All results of all
    steps are residuals: they have time in front.
    """

    def __init__(
        self, loop: NativeLoop, graph: Graph, axes: Axes, count: int, batch: int, time: int
    ):
        self._loop, self._graph, self._axes = loop, graph, axes
        self._count, self._batch, self._time = count, batch, time
        self._kept = [v for v in loop.shared if v in axes]
        made = [v for e in graph.equations for v in e.outputs]
        self._part: dict[Value, Value] = {
            v: Value(ShapedArray(self._shape(v), v.aval.dtype)) if v in axes else v
            for v in (*graph.inputs, *loop.call.state, *made)
        }

    def _shape(self, value: Value) -> tuple[int, ...]:
        """The shape of the value of one group."""
        shape = [*value.aval.shape]
        if value in self._axes:
            shape[self._axes[value]] //= self._count
        return tuple(shape)

    def _parts(self, values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(v if is_literal(v) else self._part[v] for v in values)

    def _inner(self) -> NativeLoop:
        loop, graph, call = self._loop, self._graph, self._loop.call
        width, kept = len(call.state), self._parts(self._kept)
        outputs = self._parts(graph.outputs)
        inner = replace(
            call,
            graph=Graph(
                self._parts(graph.inputs),
                (*outputs[:width], *kept, *outputs[width:]),
                tuple(map(self._equation, graph.equations)),
            ),
            shared=tuple(v for v in loop.shared if v not in self._axes),
            state=(*self._parts(call.state), *kept),
            residuals=len(outputs) - width,
            derive=None,
        )
        known = {v: a for v, a in loop.known.items() if v not in self._axes}
        previous, steps = self._parts(loop.previous), frozenset(inner.steps)
        return NativeLoop(inner, previous, steps, loop.isa, loop.tuning, known)

    def _equation(self, equation: Equation) -> Equation:
        """The equation of one group; a few primitives name shapes."""
        params, outputs = dict(equation.params), self._parts(equation.outputs)
        shape = outputs[0].aval.shape
        if equation.name == "broadcast_in_dim":
            params["shape"] = shape
        elif equation.name == "reshape":
            params["new_sizes"] = shape
        elif equation.name == "slice" and equation.outputs[0] in self._axes:
            axis, ends = self._axes[equation.outputs[0]], [*params["limit_indices"]]
            ends[axis] = shape[axis]
            params["limit_indices"] = tuple(ends)
        return replace(
            equation, inputs=self._parts(equation.inputs), outputs=outputs, params=params
        )

    # --- arrays -----------------------------------------------------------------------------------

    def run(self, arrays: Sequence[Any], run: Run) -> list[Any]:
        """The results, of arrays and with results as the loop has them."""
        loop, rest = self._loop, iter(arrays)
        shared = {v: next(rest) for v in loop.shared}
        steps = [self._steps(v, next(rest)) for v in loop.steps]
        late = [self._rows(v, next(rest), 1) for v in loop.previous]
        state = [self._rows(v, a, 1) for v, a in zip(loop.call.state, rest, strict=True)]
        for value in self._kept:
            of_all = jnp.broadcast_to(shared[value], (self._batch, *value.aval.shape))
            state.append(self._rows(value, of_all, 1))
        same = [a for v, a in shared.items() if v not in self._axes]
        found = run(self._inner(), [*same, *steps, *late, *state])
        width, emitted, _ = loop.call.ends
        del found[width : width + len(self._kept)]
        values = values_in(self._graph.outputs)
        final = [
            self._whole(v, a, (self._batch,)) for v, a in zip(values, found[:width], strict=False)
        ]
        pairs = zip(values[width:], found[width:], strict=True)
        results = [self._whole(v, a, (self._time, self._batch)) for v, a in pairs]
        count = emitted - width
        return [*final, *(a.swapaxes(0, 1) for a in results[:count]), *results[count:]]

    def _steps(self, value: Value, array: Any) -> Any:
        """An array of all steps, with time in front."""
        is_first = value in self._loop.time_major
        return self._rows(value, array if is_first else array.swapaxes(0, 1), 2)

    def _rows(self, value: Value, array: Any, leading: int) -> Any:
        """An array with groups as rows; the last of its ``leading`` axes is the batch."""
        time, rows = array.shape[: leading - 1], self._batch * self._count
        if value in self._axes:
            at = leading + self._axes[value]
            array = jnp.moveaxis(self._apart(array, at), at, leading)
        else:
            array = jnp.repeat(array, self._count, leading - 1)
        return array.reshape(*time, rows, *self._shape(value))

    def _apart(self, array: Any, axis: int) -> Any:
        """An array with an axis of groups in front of the axis of their heads."""
        shape = array.shape
        return array.reshape(*shape[:axis], self._count, -1, *shape[axis + 1 :])

    def _whole(self, value: Any, array: Any, front: tuple[int, ...]) -> Any:
        """The array of all groups, with the axes ``front``."""
        rows = array.reshape(*front, self._count, *self._shape(value))
        apart = jnp.moveaxis(rows, len(front), len(front) + self._axes[value])
        return apart.reshape(*front, *value.aval.shape)
