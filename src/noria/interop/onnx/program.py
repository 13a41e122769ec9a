"""Nodes of a graph as a function of arrays: cells made of loops, and functions of one step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from noria.cells.base import Cell
from noria.interop.onnx.graph import Graph
from noria.interop.onnx.node import Node, Unreadable
from noria.interop.onnx.operations import run
from noria.interop.onnx.shape_operations import MOST
from noria.module import Module


@dataclass(frozen=True, eq=False)
class Program:
    """Nodes in order, from some values to others; the numbers that it learns are passed in.

    ``fixed`` has constants that no training changes: integers, booleans and single numbers.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fixed: Mapping[str, np.ndarray]

    def __repr__(self) -> str:
        return f"Program({', '.join(node.op for node in self.nodes)})"

    def __call__(self, arrays: Mapping[str, Any], *values: Any) -> list[Any]:
        known = {**self.fixed, **arrays, **dict(zip(self.inputs, values, strict=True))}
        for node in self.nodes:
            outputs = run(node, [known[name] if name else None for name in node.inputs])
            known.update(zip(node.outputs, outputs, strict=False))
        return [known[name] for name in self.outputs]


def program_of(
    graph: Graph,
    inputs: Sequence[str],
    outputs: Sequence[str],
    shape_of: Callable[[str], Sequence[int] | None] = lambda name: None,
    fixed: Mapping[str, np.ndarray] | None = None,
) -> tuple[Program, dict[str, jax.Array]]:
    """The program from ``inputs`` to ``outputs`` of a graph, and its arrays.

    Args:
        graph: the graph, or the body of a loop.
        inputs: names of values that are given.
        outputs: names of values that are wanted.
        shape_of: the shape of a value outside, for the operator Shape.
        fixed: values that are known already.

    Raises:
        Unreadable: if a value depends on anything but ``inputs``.
    """
    given, known = set(inputs), dict(fixed or {})
    needed: dict[Node, None] = {}
    todo = [name for name in outputs if name not in given]
    while todo:
        name = todo.pop()
        if not name or name in given or name in known:
            continue
        constant = graph.constant(name)
        if constant is not None:
            known[name] = constant
            continue
        maker = graph.makers.get(name)
        if maker is None:
            raise Unreadable(f"it also reads {name!r}")
        outer = shape_of(maker.input(0)) if maker.op == "Shape" else None
        if outer is not None:
            known[name] = np.array(outer[maker.get("start", 0) : maker.get("end", None)], np.int64)
            continue
        if maker not in needed:
            needed[maker] = None
            todo += maker.inputs
    learned = {
        name: jnp.asarray(array)
        for name, array in known.items()
        if np.issubdtype(array.dtype, np.floating) and array.size > 1
    }
    rest = {name: array for name, array in known.items() if name not in learned}
    nodes = tuple(node for node in graph.nodes if node in needed)
    ready = given | known.keys()
    for node in nodes:
        if not ready.issuperset(filter(None, node.inputs)):
            raise Unreadable(f"{node.label} reads a value that is computed after it")
        ready.update(node.outputs)
    return Program(nodes, tuple(inputs), tuple(outputs), rest), learned


def check_sizes(call: Callable[..., Any], *args: Any) -> None:
    """Raise `Unreadable` if a step makes an array out of all proportion, before it is run."""
    jaxpr = jax.make_jaxpr(call)(*args)
    for equation in jaxpr.eqns:
        for value in equation.outvars:
            if getattr(value.aval, "size", 0) > MOST:
                raise Unreadable(f"a step makes an array of the shape {value.aval.shape}")


class OnnxFunction(Module):
    """Nodes of a graph that compute each step from its input alone.

    Args:
        arrays: the numbers of the nodes, by their names in the file.
        program: the nodes.
        axes: how many axes lie before the features in the file.
    """

    arrays: dict[str, jax.Array]
    program: Program = eqx.field(static=True)
    axes: int = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        [y] = self.program(self.arrays, x.reshape((1,) * self.axes + x.shape))
        return y.reshape(y.shape[self.axes :])


class OnnxCell(Cell, trainable=("arrays",)):
    """The body of a loop of an ONNX file as a cell, for one example.

    Args:
        arrays: the numbers of the body, by their names in the file.
        start: the arrays of the initial state.
        program: the nodes, from ``x`` and the state to the next state and the output.
        in_shape: the shape of ``x``.
        batched: whether the body is written for rows of a batch.
    """

    arrays: dict[str, jax.Array]
    start: tuple[np.ndarray, ...]
    program: Program = eqx.field(static=True)
    in_shape: tuple[int, ...] = eqx.field(static=True)
    batched: bool = eqx.field(static=True)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        before = state if isinstance(state, tuple) else (state,)
        given = [a[None] if self.batched else a for a in (x, *before)]
        found = self.program(self.arrays, *given)
        *after, y = (a[0] if self.batched else jnp.asarray(a) for a in found)
        after = [a.astype(b.dtype) for a, b in zip(after, before, strict=True)]
        return (tuple(after) if isinstance(state, tuple) else after[0]), y

    def initial_state(self) -> Any:
        arrays = tuple(map(jnp.asarray, self.start))
        return arrays if len(arrays) > 1 else arrays[0]
