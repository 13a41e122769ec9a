"""The compiled loop as one `jax.lax.scan`: any device. Its twins are `noria.backends.plain` and `reference`."""

import math
from collections.abc import Sequence, Set
from typing import Any

import jax

from noria._jax import is_symbolic
from noria.backends.base import PreviousStep, grouped, total
from noria.ir.evaluate import evaluate, is_narrow
from noria.ir.graph import Env, Equation, Graph, env_of


def loop(
    graph: Graph,
    known: Env,
    state: Sequence[Any],
    steps: Env,
    start: list[Any],
    axes: tuple[Any, ...],
    reverse: bool,
    totals: Sequence[int] = (),
    batch_major: Set[Any] = frozenset(),
) -> tuple[list[Any], list[Any], list[Any]]:
    """See `noria.backends`."""
    names = [v for v in graph.inputs if v in steps]
    known = {
        v: a.astype(v.aval.dtype) if is_narrow(v.aval) else a for v, a in known.items()
    }  # once

    def body(carry: list[Any], step: list[Any]) -> tuple[list[Any], list[Any]]:
        varying = env_of(state, carry) | env_of(names, step)
        outputs = evaluate(graph, known, varying, axes[1:])
        return outputs[: len(state)], outputs[len(state) :]

    read = [
        steps[v].whole(reverse) if isinstance(steps[v], PreviousStep) else steps[v] for v in names
    ]
    length = None if read else axes[0]  # where there is an array, its size may be symbolic
    final, stacked = jax.lax.scan(body, start, read, length=length, reverse=reverse)
    emitted = len(stacked) - sum(totals)
    summed = [total(some, len(axes)) for some in grouped(stacked[emitted:], totals)]
    return final, stacked[:emitted], summed


def should_hoist(equation: Equation, given: Sequence[Any], batch: Any, light: bool) -> bool:
    """Whether to lift a product of the input. Either way its gradient is one product after the loop.

    Measured on CPUs: from about a hundred examples on, a deep product runs as fast inside of the loop as outside,
    and outside its result goes through memory twice. Where the loop is ``light``, without a product of the state, that
    is what its time goes into, and a product of one or two features is cheaper to compute than to store.
    """
    if equation.name != "dot_general" or jax.default_backend() != "cpu" or is_symbolic(batch):
        return True
    contracted, _ = equation.params["dimension_numbers"][0]
    depth = math.prod(equation.inputs[0].aval.shape[axis] for axis in contracted)
    return not (batch >= 96 and depth >= 128) and not (light and batch >= 32 and depth <= 2)
