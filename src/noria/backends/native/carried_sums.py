"""Wide sums over steps and examples as arrays of the state: one sum for each example.

The operand of an accumulator is stored for all rows of a time block, and then added up. That serves
outer products, and vectors. An operand as wide as a matrix would leave the cache on the way. So it
is added in its own step, to a sum that the example has for itself. The sums of the examples are
added after the loop::

    reverse loop of S4    12 gradients of (features, state size), 16 kB for each row
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from noria.backends.base import grouped
from noria.backends.native.loop import NativeLoop, Run
from noria.ir.build import build
from noria.ir.graph import Atom, Equation, Value, is_literal, size

#: Steps from which a sum pays: its start and its end are arrays, too.
_STEPS = 4


def with_carried_sums(loop: NativeLoop, arrays: Sequence[Any], time: int, run: Run) -> list[Any]:
    """The results of ``run(loop, arrays)``, of a loop whose wide sums are in the state."""
    which = _wide_sums(loop)
    batch = loop.batch(arrays)
    if time < _STEPS or not batch or not any(which):
        return run(loop, arrays)
    inner, sums = _carrying(loop, which)
    axes = (*(() if loop.models is None else (loop.models,)), batch)
    zeros = [jnp.zeros((*axes, *v.aval.shape), v.aval.dtype) for v in sums]
    found = run(inner, [*arrays, *zeros])
    first, after = len(loop.call.state), len(loop.call.state) + len(sums)
    carried = iter([_total(a, len(axes) - 1) for a in found[first:after]])
    end = len(found) - sum(not is_wide for is_wide in which)
    others = iter(found[end:])
    totals = [next(carried if is_wide else others) for is_wide in which]
    return [*found[:first], *found[after:end], *totals]


def _total(a: jax.Array, axis: int) -> jax.Array:
    """The sum over an axis, half by half: models have the bits that each would have alone.

    The order of `jnp.sum` depends on the other axes.
    """
    while (count := a.shape[axis]) > 1:
        half = count // 2
        first, second, rest = jnp.split(a, (half, 2 * half), axis)
        a = jnp.concatenate([first + second, rest], axis)
    return a.squeeze(axis)


def _wide_sums(loop: NativeLoop) -> list[bool]:
    """Of each accumulator, whether it sums one wide operand."""
    operands = grouped(loop.call.graph.outputs[loop.call.ends[2] :], loop.call.accumulators)
    least = loop.tuning.carried_numbers
    return [
        not more and not is_literal(first) and size(first) >= least for first, *more in operands
    ]


def _carrying(loop: NativeLoop, which: Sequence[bool]) -> tuple[NativeLoop, list[Value]]:
    """The loop with some sums in its state, and the sums."""
    call, (one, _, three) = loop.call, loop.call.ends
    graph, outputs = call.graph, call.graph.outputs
    operands = grouped(outputs[three:], call.accumulators)
    sums: list[Value] = []
    after: list[Atom] = []
    equations: list[Equation] = [*graph.equations]
    for (operand,) in itertools.compress(operands, which):
        before = Value(operand.aval)
        made, (total,) = build(lambda a, b: [jax.lax.add(a, b)], [before, operand], None)
        equations += made
        sums.append(before)
        after.append(total)
    others = [some for some, is_wide in zip(operands, which, strict=True) if not is_wide]
    rest = itertools.chain.from_iterable(others)
    changed = replace(
        graph,
        inputs=(*graph.inputs, *sums),
        outputs=(*outputs[:one], *after, *outputs[one:three], *rest),
        equations=tuple(equations),
    )
    counts = tuple(len(some) for some in others)
    state = (*call.state, *sums)
    inner = loop.with_call(replace(call, graph=changed, state=state, accumulators=counts))
    if loop.models is not None:
        inner.of_models |= {(v, False) for v in sums}
    return inner, sums
