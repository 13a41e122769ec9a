"""Numbers of bfloat16: inputs and outputs have 16 bits, a loop computes and carries 32.

Within a step, XLA on CPUs does the same: it may leave out roundings to bfloat16. But it rounds the
state after each step.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._jax import Literal, ShapedArray
from noria.backends.native.lower.legalize import legalized
from noria.ir.graph import Atom, Equation, Graph, Value, is_literal

_NARROW, _WIDE = jnp.dtype(jnp.bfloat16), np.dtype(np.float32)


def has_bfloat16(graph: Graph) -> bool:
    """Whether a graph has numbers of bfloat16."""
    made = (v for e in graph.equations for v in (*e.inputs, *e.outputs))
    return any(v.aval.dtype == _NARROW for v in (*graph.inputs, *graph.outputs, *made))


def graph_in_32_bits(
    graph: Graph, known: Iterable[Value], state: Iterable[Value]
) -> tuple[Graph, dict[Any, Any]]:
    """A legal graph in float32, and its values by values of the old graph, with the state.

    Raises:
        UnsupportedEquation: if there is no code for an equation.
    """
    old, graph = graph, legalized(graph, known)
    found: dict[Any, Any] = {}

    def wide(atom: Atom) -> Any:
        if atom.aval.dtype != _NARROW:
            return atom
        aval = ShapedArray(atom.aval.shape, _WIDE)
        return (
            Literal(np.asarray(atom.val, _WIDE), aval)
            if is_literal(atom)
            else found.setdefault(atom, Value(aval))
        )

    def of(params: dict[str, Any]) -> dict[str, Any]:
        return {
            k: _WIDE if isinstance(v, np.dtype) and v == _NARROW else v for k, v in params.items()
        }

    equations = [
        Equation(
            e.primitive,
            tuple(map(wide, e.inputs)),
            tuple(map(wide, e.outputs)),
            of(e.params),
            e.source,
        )
        for e in graph.equations
    ]
    inputs, outputs = tuple(map(wide, graph.inputs)), tuple(map(wide, graph.outputs))
    pairs = zip((*old.inputs, *old.outputs), (*inputs, *outputs), strict=True)
    now = {v: w for v, w in pairs if not is_literal(v)} | {v: wide(v) for v in state}
    return Graph(inputs, outputs, tuple(equations)), now


def in_32_bits(arrays: Any) -> Any:
    """A tree of arrays, with bfloat16 as float32."""
    return jtu.tree_map(lambda a: a.astype(_WIDE) if a.dtype == _NARROW else a, arrays)


def of_types(
    outputs: Sequence[Atom], totals: Sequence[int], found: tuple[list[Any], list[Any], list[Any]]
) -> tuple[list[Any], list[Any], list[Any]]:
    """Results in the dtypes of the graph before it was widened; accumulators stay in float32."""
    final, stacked, summed = found
    dtypes = (v.aval.dtype for v in outputs[: len(outputs) - sum(totals)])
    rest = map(jax.lax.convert_element_type, (*final, *stacked), dtypes)
    return [*islice(rest, len(final))], [*rest], summed
