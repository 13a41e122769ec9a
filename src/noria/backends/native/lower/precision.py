"""Numbers of bfloat16: inputs and outputs have 16 bits, a loop computes and carries 32.

Within a step, XLA on CPUs does the same: it may leave out roundings to bfloat16. But it rounds the
state after each step.
"""

import functools
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._jax import Literal, ShapedArray
from noria.ir.build import build
from noria.ir.graph import Atom, Equation, Graph, Value, is_literal, values_in
from noria.ir.primitives import CALLS

_NARROW, _WIDE = jnp.dtype(jnp.bfloat16), np.dtype(np.float32)


def has_bfloat16(graph: Graph) -> bool:
    """Whether a graph has numbers of bfloat16."""
    made = (v for e in graph.equations for v in (*e.inputs, *e.outputs))
    return any(v.aval.dtype == _NARROW for v in (*graph.inputs, *graph.outputs, *made))


def graph_in_32_bits(graph: Graph, state: Iterable[Value]) -> tuple[Graph, dict[Any, Any]]:
    """A graph in float32, and its values by values of the old graph, with the state.

    A function with a derivative of its own, and a branch, still take and give numbers of bfloat16,
    as they were traced. `widened` does away with these when the code has been inlined.
    """
    found: dict[Any, Any] = {}
    equations: list[Equation] = []
    for equation in graph.equations:
        if equation.name not in CALLS:
            equations.append(_widened(equation, found))
            continue
        inputs = [_wide(v, found) for v in equation.inputs]
        made, outputs = build(functools.partial(_narrowly, equation), inputs, equation.source)
        equations += made
        found |= dict(zip(equation.outputs, outputs, strict=True))
    inputs, outputs = ([_wide(v, found) for v in some] for some in (graph.inputs, graph.outputs))
    pairs = zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True)
    now = {v: w for v, w in pairs if not is_literal(v)} | {v: _wide(v, found) for v in state}
    return Graph(values_in(inputs), tuple(outputs), tuple(equations)), now


def widened(graph: Graph) -> Graph:
    """A legal graph, between inputs and outputs of float32, with no numbers of bfloat16."""
    found: dict[Any, Any] = {}
    equations = tuple(_widened(equation, found) for equation in graph.equations)
    return Graph(graph.inputs, tuple(_wide(v, found) for v in graph.outputs), equations)


def _wide(atom: Atom, found: dict[Any, Any]) -> Any:
    """The value in float32 that takes the place of a value, the same one each time."""
    if atom.aval.dtype != _NARROW:
        return found.get(atom, atom) if isinstance(atom, Value) else atom
    aval = ShapedArray(atom.aval.shape, _WIDE)
    if is_literal(atom):
        return Literal(np.asarray(atom.val, _WIDE), aval)
    return found.setdefault(atom, Value(aval))


def _widened(equation: Equation, found: dict[Any, Any]) -> Equation:
    params = {
        k: _WIDE if isinstance(v, np.dtype) and v == _NARROW else v
        for k, v in equation.params.items()
    }
    inputs, outputs = (
        tuple(_wide(v, found) for v in some) for some in (equation.inputs, equation.outputs)
    )
    return Equation(equation.primitive, inputs, outputs, params, equation.source)


def _narrowly(equation: Equation, *arrays: jax.Array) -> list[jax.Array]:
    """The results of an equation in float32, from arguments in float32."""
    dtypes = (v.aval.dtype for v in equation.inputs)
    found = equation.bind(*map(jax.lax.convert_element_type, arrays, dtypes))
    return [*map(_widest, found)]


def in_32_bits(arrays: Any) -> Any:
    """A tree of arrays, with bfloat16 as float32."""
    return jtu.tree_map(_widest, arrays)


def _widest(array: Any) -> Any:
    return array.astype(_WIDE) if array.dtype == _NARROW else array


def of_types(
    outputs: Sequence[Atom], totals: Sequence[int], found: tuple[list[Any], list[Any], list[Any]]
) -> tuple[list[Any], list[Any], list[Any]]:
    """Results in the dtypes of the graph before it was widened; accumulators stay in float32."""
    final, stacked, summed = found
    dtypes = (v.aval.dtype for v in outputs[: len(outputs) - sum(totals)])
    rest = map(jax.lax.convert_element_type, (*final, *stacked), dtypes)
    return [*islice(rest, len(final))], [*rest], summed
