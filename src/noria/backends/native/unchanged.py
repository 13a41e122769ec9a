"""Matrices in the state that no step changes: read where they are, and never copied.

A kernel writes the next state to other memory than that of the state before. So each step would
copy a matrix that stays as it is, such as the memory of attention. It is an input of all steps
instead, without an axis of time::

    w = softmax(keys q),  c = w values        keys and values of each example, read in place
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from noria.backends.native.loop import NativeLoop, Run
from noria.ir.graph import Value, changes


def with_unchanged_steps(loop: NativeLoop, arrays: Sequence[Any], time: int, run: Run) -> list[Any]:
    """The results of ``run(loop, arrays)``, of a loop whose unchanged matrices are inputs."""
    which = _unchanged(loop)
    is_empty = loop.models == 0 or not time * loop.batch(arrays)
    if is_empty or not any(which) or all(which):
        return run(loop, arrays)
    given = dict(zip(loop.inputs(), arrays, strict=True))
    inner = _reading(loop, which)
    found = run(inner, [given[name] for name in inner.inputs()])
    state = loop.call.state
    rest = iter(found)
    final = [
        _of_models(loop, v, given[v, False]) if stays else next(rest)
        for v, stays in zip(state, which, strict=True)
    ]
    return [*final, *rest]


def _unchanged(loop: NativeLoop) -> list[bool]:
    """Of each array of the state, whether it is a matrix that no step changes."""
    state = loop.call.state
    which = changes(state, loop.call.graph.outputs)
    return [not moves and v.aval.ndim > 1 for v, moves in zip(state, which, strict=True)]


def _reading(loop: NativeLoop, which: Sequence[bool]) -> NativeLoop:
    """The loop that reads some arrays of its state as inputs of all steps."""
    call = loop.call
    width, outputs = len(call.state), call.graph.outputs
    changes = [not stays for stays in which]
    graph = replace(call.graph, outputs=(*itertools.compress(outputs, changes), *outputs[width:]))
    state = tuple(itertools.compress(call.state, changes))
    inner = loop.with_call(replace(call, graph=graph, state=state))
    unchanged = itertools.compress(call.state, which)
    inner.unchanged = tuple(v for v in unchanged if v in graph.inputs)
    return inner


def _of_models(loop: NativeLoop, value: Value, array: Any) -> Any:
    """An array of the state with an axis of models, if the results have one."""
    if loop.models is None or (value, False) in loop.of_models:
        return array
    return jnp.broadcast_to(array, (loop.models, *array.shape))
