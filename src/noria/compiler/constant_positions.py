"""Operations whose positions are known, in terms of primitives with native code.

::

    argmax(x)          min of i where x[i] = max(x), or x[i] is NaN
    x[[2, 0, 1]]       concatenate(x[2:3], x[0:2])      positions that are constants

`noria.compiler.constant_scatters` has the same for scatters.
"""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria._jax import Tracer
from noria.compiler.constant_scatters import SCATTERS, scattered
from noria.ir.build import build
from noria.ir.evaluate import evaluated_now
from noria.ir.graph import Env, Equation, Graph, is_literal, size
from noria.ir.passes import dependence, extract, substitute

#: Runs of neighbours of which a gather may consist. Its pull-back adds one padded array for each
#: (``python benchmarks/tuning.py RUNS``).
RUNS = 8

_EXTREMES = {"argmax": jax.lax.reduce_max, "argmin": jax.lax.reduce_min}
#: The primitives that read at positions, or give them.
READS = frozenset(("gather", *_EXTREMES))


def with_known_positions(graph: Graph, constants: Env, names: Collection[str]) -> Graph:
    """The graph without some primitives, where their positions are constants.

    Args:
        graph: one step.
        constants: the arrays of the inputs that the step closes over.
        names: primitives among `READS` and `SCATTERS`.
    """
    if not any(e.name in names for e in graph.equations):
        return graph
    positions = _known_positions(graph, constants, names)
    equations: list[Equation] = []
    instead: dict[Any, Any] = {}
    for equation in graph.equations:
        function: Callable[..., Any] | None = None
        if equation.name not in names:
            equations.append(equation)
            continue
        if equation.name in _EXTREMES:
            function = functools.partial(_position, equation)
        elif equation in positions:
            rule = functools.partial(scattered, most=RUNS) if equation.name in SCATTERS else _pieces
            function = rule(equation, positions[equation])
        if function is None:
            equations.append(equation)
            continue
        inputs = equation.inputs if equation.name in SCATTERS else equation.inputs[:1]
        made, outputs = build(function, inputs, equation.source)
        equations += made
        instead |= dict(zip(equation.outputs, outputs, strict=True))
    return substitute(Graph(graph.inputs, graph.outputs, tuple(equations)), instead)


def _known_positions(
    graph: Graph, constants: Env, names: Collection[str]
) -> dict[Equation, np.ndarray]:
    """The positions of gathers and scatters, where these are known."""
    known = {v: a for v, a in constants.items() if not isinstance(a, Tracer)}
    unknown = dependence(graph.equations, {v: 1 for v in graph.inputs if v not in known})
    some = [e for e in graph.equations if e.name in names and e.name not in _EXTREMES]
    some = [e for e in some if is_literal(e.inputs[1]) or not unknown.get(e.inputs[1])]
    if not some:
        return {}
    part = extract(graph.equations, [e.inputs[1] for e in some], known)
    found = evaluated_now(part, [known[v] for v in part.inputs])
    return {e: np.asarray(a) for e, a in zip(some, found, strict=True)}


def _position(equation: Equation, x: jax.Array) -> list[jax.Array]:
    """The first position of the largest or smallest number; NaN is both."""
    (axis,), dtype = equation.params["axes"], equation.params["index_dtype"]
    extreme = jnp.expand_dims(_EXTREMES[equation.name](x, (axis,)), axis)
    is_there = x == jnp.broadcast_to(extreme, x.shape)
    if jnp.issubdtype(x.dtype, jnp.floating):
        is_there = is_there | (x != x)
    count = x.shape[axis]
    index = jax.lax.broadcasted_iota(dtype, x.shape, axis)
    return [jnp.where(is_there, index, jnp.asarray(count - 1, dtype)).min(axis)]


def _pieces(equation: Equation, indices: np.ndarray) -> Callable[..., Any] | None:
    """The gather as slices, if its positions are a few runs of neighbours."""
    operand, output = equation.inputs[0].aval, equation.outputs[0].aval
    if not size(equation.inputs[0]) or not size(equation.outputs[0]):
        return None
    numbers = np.arange(operand.size, dtype=np.int32).reshape(operand.shape)
    params = {**equation.params, "fill_value": -1}
    found = evaluated_now(lambda x: equation.primitive.bind(x, indices, **params), numbers)
    places = np.asarray(found).reshape(-1)
    runs = [*_runs(places)]
    if len(runs) > RUNS or (places < 0).any():
        return None

    def sliced(x: jax.Array) -> list[jax.Array]:
        flat = x.reshape(-1)
        parts = [jax.lax.slice(flat, (first,), (last + 1,)) for first, last in runs]
        return [jnp.concatenate(parts).reshape(output.shape)]

    return sliced


def _runs(places: Sequence[int] | np.ndarray) -> Iterator[tuple[int, int]]:
    """The first and last number of each run of neighbours."""
    ends = np.flatnonzero(np.diff(places) != 1)
    firsts, lasts = (0, *(ends + 1)), (*ends, len(places) - 1)
    for first, last in zip(firsts, lasts, strict=True):
        yield int(places[first]), int(places[last])
