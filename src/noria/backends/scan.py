"""The compiled loop as one `jax.lax.scan`: any device. Its twins are `noria.backends.plain` and `reference`."""

from collections.abc import Sequence
from typing import Any

import jax

from noria.graph import Graph, Known, evaluate, named


def loop(
    graph: Graph,
    known: Known,
    state: Sequence[Any],
    steps: Known,
    start: list[Any],
    axes: tuple[int, ...],
    reverse: bool,
) -> tuple[list[Any], list[Any]]:
    """See `noria.backends`."""
    names = [v for v in graph.inputs if v in steps]

    def body(carry: list[Any], step: list[Any]) -> tuple[list[Any], list[Any]]:
        varying = named(state, carry) | named(names, step)
        outputs = evaluate(graph, known, varying, axes[1:])
        return outputs[: len(state)], outputs[len(state) :]

    return jax.lax.scan(body, start, [steps[v] for v in names], length=axes[0], reverse=reverse)
