"""Numbers of 16 bits: read, stored and handed on as such, but inside of a loop computed and carried in 32.

XLA on CPUs does the same within a step (it may leave out roundings to bfloat16), and rounds what it carries to the next.
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
from noria.ir.graph import Equation, Graph, Value, is_literal

_NARROW, _WIDE = jnp.dtype(jnp.bfloat16), np.dtype(np.float32)


def is_narrow(graph: Graph) -> bool:
    """Whether some numbers are of type bfloat16."""
    made = (v for e in graph.equations for v in (*e.inputs, *e.outputs))
    return any(v.aval.dtype == _NARROW for v in (*graph.inputs, *graph.outputs, *made))


def widened(
    graph: Graph, known: Iterable[Any], state: Iterable[Any]
) -> tuple[Graph, dict[Any, Any]]:
    """The graph in float32, and the new values by the old ones; those of the state too, which no equation need read.

    Raises:
        UnsupportedEquation: if there is no code for an equation.
    """
    old, graph = graph, legalized(graph, known)
    found: dict[Any, Any] = {}

    def wide(atom: Any) -> Any:
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
    return jtu.tree_map(lambda a: a.astype(_WIDE) if a.dtype == _NARROW else a, arrays)


def of_types(
    outputs: Sequence[Any], totals: Sequence[int], found: tuple[list[Any], list[Any], list[Any]]
) -> tuple[list[Any], list[Any], list[Any]]:
    """The final state and what is stacked, in the types of the outputs that the graph had; totals as they are."""
    final, stacked, summed = found
    dtypes = (v.aval.dtype for v in outputs[: len(outputs) - sum(totals)])
    rest = map(jax.lax.convert_element_type, (*final, *stacked), dtypes)
    return [*islice(rest, len(final))], [*rest], summed
