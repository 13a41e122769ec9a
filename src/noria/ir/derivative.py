"""The derivative of a graph in forward mode, as a graph."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from noria.ir.build import Unsupported, graph_of
from noria.ir.graph import Graph, Value, env_of, is_inexact, struct
from noria.ir.passes import cse, substitute
from noria.ir.primitives import LIGHT


def derivative(graph: Graph, inputs: Sequence[Value], tangent_of: dict[Value, Value]) -> Graph:
    """From ``inputs`` and their tangents to all outputs, then the tangents of the inexact ones.

    Args:
        graph: equations of one example and one step.
        inputs: its inputs, and others.
        tangent_of: the tangents of some inputs; the others have zero tangents.

    Raises:
        Unsupported: if a derivative rule closes over an array.
    """
    smooth = [is_inexact(v) for v in graph.outputs]

    def both(arrays: list[Any], tangents: list[Any]) -> Any:
        env = env_of(inputs, arrays)

        def outputs_of(some: list[Any]) -> tuple[list[Any], list[Any]]:
            now = env | env_of(tangent_of, some)
            found = graph([now[v] for v in graph.inputs])
            typed = [
                jnp.asarray(a, v.aval.dtype) for a, v in zip(found, graph.outputs, strict=True)
            ]
            return [a for a, is_smooth in zip(typed, smooth, strict=True) if is_smooth], typed

        given = [env[v] for v in tangent_of]
        _, found, typed = jax.jvp(outputs_of, (given,), (tangents,), has_aux=True)
        return typed, found

    made, hidden, _ = graph_of(
        both, list(map(struct, inputs)), list(map(struct, tangent_of.values()))
    )
    if hidden:
        raise Unsupported("the derivative of a step closes over an array")
    names: dict[Any, Any] = dict(zip(made.inputs, (*inputs, *tangent_of.values()), strict=True))
    return cse(substitute(made, names), LIGHT)
