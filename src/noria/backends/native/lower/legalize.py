"""Equations in a form that there is code for, and which there is code for."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._jax import call
from noria.backends.native.codegen.elementwise import ELEMENTWISE, kind_of
from noria.backends.native.lower.small_matrices import COMBINING, Refused, in_pieces
from noria.ir.build import build
from noria.ir.graph import Equation, Graph, is_literal
from noria.ir.passes import substitute
from noria.ir.source import origin

REDUCTIONS = frozenset(COMBINING)


class UnsupportedEquation(Exception):
    """The native backend has no code for an equation, or for a value of its type; the message says which."""

    def __init__(self, what: Any):
        if isinstance(what, Equation):
            path, line = origin(what)
            shapes = " ".join(v.aval.str_short(short_dtypes=True) for v in what.inputs)
            where = f", {Path(path).name}:{line}" if path else ""
            super().__init__(f"there is no native code for {what.name} of {shapes}{where}")
        else:
            super().__init__(
                f"there is no native code for values of {what.aval.str_short(short_dtypes=True)}"
            )


class TooLong(UnsupportedEquation):
    """A step has more equations than machine code is made for."""

    def __init__(self, count: int, most: int):
        Exception.__init__(
            self,
            f"the step has {count} operations, and native code is made of at most {most}",
        )


def size(atom: Any) -> int:
    return math.prod(atom.aval.shape)


#: What only moves numbers, so that it becomes an offset.
MOVES = frozenset(
    "copy copy_p stop_gradient reshape squeeze expand_dims broadcast_in_dim slice split transpose".split()
)


def legalized(graph: Graph, weights: Iterable[Any]) -> Graph:
    """The graph without calls, branches, paddings and small matrices; rules for derivatives have done their work by now.

    ``weights`` are the same for all steps and examples.

    Raises:
        UnsupportedEquation: if there is no code for an equation.
    """
    equations: list[Equation] = []
    instead: dict[Any, Any] = {}
    found = set(weights)
    for equation in graph.equations:
        constant = [not is_literal(v) and v in found for v in equation.inputs]
        function = _rewritten(equation)
        if function is None and has_native_code(equation) and not _is_of_state(equation, constant):
            equations.append(equation)
            if (
                equation.name in MOVES
                and all(constant)
                and size(equation.inputs[0]) >= size(equation.outputs[0])
            ):
                found.update(equation.outputs)
            continue
        inner = _inner(equation, function, constant)
        equations += inner.equations
        instead |= dict(zip(equation.outputs, inner.outputs, strict=True))
    return substitute(Graph(graph.inputs, graph.outputs, tuple(equations)), instead)


def _inner(equation: Equation, function: Callable[..., Any] | None, constant: list[bool]) -> Graph:
    """What stands instead of an equation."""
    weights = [v for v, is_constant in zip(equation.inputs, constant, strict=True) if is_constant]
    if function is not None:
        made, outputs = build(function, equation.inputs, equation.source)
        return legalized(Graph((), tuple(outputs), tuple(made)), weights)
    if not _is_sized(equation):
        raise UnsupportedEquation(equation)
    try:
        made, outputs = build(in_pieces(equation, constant), equation.inputs, equation.source)
        return legalized(Graph((), tuple(outputs), tuple(made)), weights)
    except (Refused, UnsupportedEquation):
        raise UnsupportedEquation(equation) from None


def _is_of_state(equation: Equation, constant: list[bool]) -> bool:
    """Whether it is a product with a matrix that is not a weight."""
    matrix = [v.aval.ndim == 2 for v in equation.inputs]
    return equation.name == "dot_general" and not any(itertools.compress(constant, matrix))


def _rewritten(equation: Equation) -> Callable[..., Any] | None:
    """The same in other primitives, where there is no code for this one."""
    params = equation.params
    if equation.name.startswith(("custom_jvp_call", "custom_vjp_call")):
        inner = params.get("call_jaxpr") or params.get("fun_jaxpr")
        return None if inner is None else functools.partial(call, inner)
    if equation.name == "cond":
        return functools.partial(_selected, params["branches"])
    if equation.name in ("empty", "empty2"):  # what a branch that is not taken would have stored
        return lambda: [jnp.zeros(equation.outputs[0].aval.shape, equation.outputs[0].aval.dtype)]
    if equation.name == "log2":
        return lambda x: [jax.lax.log(x) * jnp.asarray(1 / math.log(2), x.dtype)]
    if equation.name == "polynomial":
        return _horner
    if equation.name == "pad":
        low, high, interior = zip(*params["padding_config"], strict=True)
        if any(interior) or len(low) != 1:
            return None

        def pad(a: jax.Array, value: jax.Array) -> list[jax.Array]:
            before, after = ([jnp.broadcast_to(value, n)] if n[0] > 0 else [] for n in (low, high))
            kept = a[max(0, -low[0]) : a.shape[0] - max(0, -high[0])]  # less than nothing is a cut
            return [jnp.concatenate([*before, kept, *after])]

        return pad
    return None


def _horner(x: jax.Array, *coefficients: jax.Array) -> list[jax.Array]:
    """``c0 + x (c1 + x (c2 + ...))``, in the order in which XLA computes it."""
    *rest, total = coefficients
    for coefficient in reversed(rest):
        total = total * x + coefficient
    return [total]


def _selected(branches: Sequence[Any], index: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
    """What the branches give, all of which are computed."""
    found, *others = (call(branch, *arrays) for branch in branches)
    for k, other in enumerate(others, 1):
        found = [jnp.where(index >= k, one, two) for one, two in zip(other, found, strict=True)]
    return found


def _is_sized(equation: Equation) -> bool:
    return all(size(v) for v in (*equation.inputs, *equation.outputs))


def has_native_code(equation: Equation) -> bool:
    """Whether there is code for an equation."""
    name, params = equation.name, equation.params
    given = equation.inputs[0].aval.shape if equation.inputs else ()
    if not _is_sized(equation):
        return False
    if name == "dot_general":
        contracted, batch = params["dimension_numbers"]
        dtypes = {v.aval.dtype for v in (*equation.inputs, *equation.outputs)}
        ranks = sorted(v.aval.ndim for v in equation.inputs)
        return (
            ranks == [1, 2]
            and len(contracted[0]) == 1
            and not any(batch)
            and len(dtypes) == 1
            and _is_float(dtypes)
        )
    if name in REDUCTIONS:
        return len(params["axes"]) == len(given) and equation.inputs[0].aval.dtype != bool
    if name == "concatenate":
        return math.prod(given[: params["dimension"]]) == 1
    if name == "split":
        return math.prod(given[: params["axis"]]) == 1
    if name == "slice":
        return _is_contiguous(equation)
    if name == "broadcast_in_dim":
        return size(equation.inputs[0]) in (1, size(equation.outputs[0]))
    if name == "transpose":
        moved = [axis for axis in params["permutation"] if given[axis] > 1]
        return moved == sorted(moved)
    if name == "reshape":
        return params.get("dimensions") is None
    return name in MOVES or (name in ELEMENTWISE and ELEMENTWISE[name].accepts(equation))


def _is_float(dtypes: set[Any]) -> bool:
    return all(kind_of(dtype) == "f" for dtype in dtypes)


def check_dtype(value: Any) -> None:
    dtype = value.aval.dtype
    if (
        not isinstance(dtype, np.dtype)
        or dtype.kind not in "fiub"
        or dtype == np.float16
        or not size(value)
    ):
        raise UnsupportedEquation(value)


def _is_contiguous(equation: Equation) -> bool:
    params, shape = equation.params, equation.inputs[0].aval.shape
    if params["strides"] is not None and any(stride != 1 for stride in params["strides"]):
        return False
    cut = [
        b - a != n
        for a, b, n in zip(params["start_indices"], params["limit_indices"], shape, strict=True)
    ]
    return not any(cut) or math.prod(shape[: max(i for i, c in enumerate(cut) if c)]) == 1


def first_of(equation: Equation, value: Any) -> int:
    """The place of an output's first element in the input of an equation that moves."""
    if equation.name == "slice":
        return int(
            np.ravel_multi_index(equation.params["start_indices"], equation.inputs[0].aval.shape)
        )
    if equation.name == "split":
        return sum(size(v) for v in equation.outputs[: equation.outputs.index(value)])
    return 0


def pieces_of(equation: Equation) -> Iterator[tuple[Any, int]]:
    """The operands of a concatenation, and where each begins."""
    start = 0
    for operand in equation.inputs:
        yield operand, start
        start += size(operand)
