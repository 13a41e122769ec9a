"""Graphs as text, for tests that show a graph before and after a pass.

A line is ``name[shape] = primitive(operands) parameters``; float64 is not written. Names of inputs
are given, the others count up: ``a``, ``b``, ``c``.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from string import ascii_lowercase
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import noria as nr
from noria.backends.native.lower.legalize import legalized
from noria.backends.native.plan.matrices import MatrixStage
from noria.backends.native.plan.schedule import schedule_of
from noria.compiler.levels import CONSTANT, INPUT, STATE
from noria.compiler.split import Split
from noria.compiler.trace import Steps, Traced, trace
from noria.ir.build import graph_of
from noria.ir.graph import Graph, is_literal
from noria.ir.passes import dce


class Names:
    """Names of values, each made when it is first met."""

    def __init__(self, names: dict[Any, str]):
        self.names = dict(names)
        taken = {*names.values()}
        self.fresh = (name for name in _counting() if name not in taken)

    def of(self, atom: Any) -> str:
        if is_literal(atom):
            return f"{np.asarray(atom.val).item():g}" if np.ndim(atom.val) == 0 else str(atom.val)
        if atom not in self.names:
            self.names[atom] = next(self.fresh)
        return self.names[atom]

    def all(self, atoms: Sequence[Any]) -> str:
        return ", ".join(map(self.of, atoms))

    def typed(self, value: Any) -> str:
        """The name, with the shape of an array and a dtype other than float64."""
        shape = ",".join(map(str, value.aval.shape))
        dtype = "" if value.aval.dtype == np.float64 else f":{value.aval.dtype.name}"
        return self.of(value) + (f"[{shape}]" if shape else "") + dtype

    def line(self, equation: Any) -> str:
        inputs = self.all(equation.inputs)
        outputs = ", ".join(map(self.typed, equation.outputs))
        parameters = _PARAMETERS.get(equation.name, lambda params: "")(equation.params)
        return f"{outputs} = {equation.name}({inputs}) {parameters}".rstrip()

    def graph(self, graph: Graph) -> str:
        """The lines of a graph, and what it returns."""
        lines = [self.line(equation) for equation in graph.equations]
        return "\n".join([*lines, f"return {self.all(graph.outputs)}".rstrip()])


def _counting() -> Iterator[str]:
    for length in itertools.count(1):
        yield from map("".join, itertools.product(ascii_lowercase, repeat=length))


def _contracted(params: dict[str, Any]) -> str:
    (left, right), (first, second) = params["dimension_numbers"]
    pairs = [f"{a}.{b}" for a, b in zip(left, right, strict=True)]
    batch = [f"batch {a}.{b}" for a, b in zip(first, second, strict=True)]
    return " ".join(["over " + ",".join(pairs) if pairs else "outer", *batch])


def _sliced(params: dict[str, Any]) -> str:
    ends = zip(params["start_indices"], params["limit_indices"], strict=True)
    return ", ".join(f"{start}:{end}" for start, end in ends)


#: What a line tells of the parameters of a primitive.
_PARAMETERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "dot_general": _contracted,
    "slice": _sliced,
    "split": lambda params: "sizes " + ",".join(map(str, params["sizes"])),
    "concatenate": lambda params: f"axis {params['dimension']}",
    "transpose": lambda params: ",".join(map(str, params["permutation"])),
    "integer_pow": lambda params: f"y={params['y']}",
    "scan": lambda params: f"length {params['length']}",
    "pad": lambda params: str(params["padding_config"]),
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min"),
        lambda params: "axes " + ",".join(map(str, params["axes"])),
    ),
}


def traced(function: Callable[..., Any], **shapes: Any) -> tuple[Graph, Names, dict[Any, int]]:
    """The graph of a function of named arrays, names for its values, and the levels of its inputs.

    ``h`` and names that begin with it depend on the state, ``x`` is the input, all others are
    parameters. A shape may have a dtype behind it: ``((3,), "int32")``.
    """
    names = list(inspect.signature(function).parameters)
    graph, closed_over, _ = graph_of(function, *(_struct(shapes[name]) for name in names))
    assert not closed_over
    levels = [STATE if n[0] == "h" else INPUT if n[0] == "x" else CONSTANT for n in names]
    inputs = graph.inputs
    return (
        graph,
        Names(dict(zip(inputs, names, strict=True))),
        dict(zip(inputs, levels, strict=True)),
    )


class Bound(nr.Cell):
    """A step ``step(state, x, **parameters)``, and perhaps ``read(state, x, **parameters)``."""

    parameters: dict[str, jax.Array]
    step: Callable[..., Any] = eqx.field(static=True)
    read: Callable[..., Any] | None = eqx.field(static=True)

    def __call__(self, state: Any, x: jax.Array) -> Any:
        return self.step(state, x, **self.parameters)

    def output(self, state: Any, x: jax.Array) -> Any:
        if self.read is None:
            return super().output(state, x)
        return self.read(state, x, **self.parameters)

    def initial_state(self) -> Any:
        raise NotImplementedError


def traced_step(
    step: Callable[..., Any],
    h: tuple[int, ...] = (4,),
    c: tuple[int, ...] | None = None,
    x: tuple[int, ...] = (3,),
    read: Callable[..., Any] | None = None,
    **parameters: Any,
) -> tuple[Traced, Names]:
    """One step of a cell, canonical, with names for its parameters, its state and its input."""
    arrays = {name: jnp.zeros(shape) for name, shape in parameters.items()}
    state = jnp.zeros(h) if c is None else (jnp.zeros(h), jnp.zeros(c))
    found = trace(Bound(arrays, step, read), state, Steps(_struct(x), None, None, None))
    names = dict(zip(found.parameter_values, sorted(parameters), strict=False))
    whole = found.state if found.peeled is None else found.peeled.state
    names |= dict(zip(whole, "hc", strict=False)) | {found.steps[0]: "x"}
    return found, Names(names)


#: What the parts of a split step are called here, in order.
PARTS = ("invariant", "prologue", "loop", "epilogue")


def split_text(names: Names, split: Split) -> str:
    """The parts of a split step that are not empty."""
    graphs = [part for part in vars(split).values() if isinstance(part, Graph)]
    texts = zip(PARTS, map(names.graph, graphs), strict=True)
    shown = [f"{part}:\n{text}" for part, text in texts if text != "return"]
    return "\n".join(shown)


def planned(
    function: Callable[..., Any],
    accumulators: Sequence[int] = (),
    prefers_block: bool = False,
    **shapes: Any,
) -> str:
    """The plan of a step as text: equations, products of time blocks, stages, rank updates.

    ``function`` takes named arrays, see `traced`; it returns as many next states as there are
    arrays whose names begin with ``h``, then what is emitted, then operands of accumulators.
    """
    graph, names, levels = traced(function, **shapes)
    of_level = {
        level: [v for v in graph.inputs if levels[v] == level] for level in range(STATE + 1)
    }
    plan = schedule_of(
        graph,
        of_level[CONSTANT],
        of_level[INPUT],
        of_level[STATE],
        accumulators,
        prefer_block=lambda *weights: prefers_block,
    )
    lines = [names.line(equation) for equation in plan.equations]
    lines += [f"before the block: {names.line(product.equation)}" for product in plan.prologue]
    lines += [line for stage in plan.stages for line in _stage(names, stage)]
    lines += [f"after the block: {names.line(product.equation)}" for product in plan.epilogue]
    for update in plan.updates:
        numbers = [n for n in (update.left, update.right) if n is not None]
        operands = " x ".join(names.of(plan.update_operands[n]) for n in numbers)
        lines.append(f"accumulator {update.accumulator}: {operands} at {update.offset}")
    return "\n".join(lines)


def _stage(names: Names, stage: Any) -> Iterator[str]:
    """Products that a stage needs, with their first columns; what it stores, and where."""
    if isinstance(stage, MatrixStage):
        yield f"stage of {' x '.join(map(str, stage.domain))}, rows {stage.rows()}:"
    else:
        columns = [f"{names.of(c.equation.outputs[0])}+{c.offset}" for c in stage.columns]
        yield " ".join([f"stage of {stage.extent}:", *sorted(columns)])
    for value, slots in stage.stores:
        yield f"store {names.of(value)} in {_slots(slots)}"
    for equation, slots in stage.reductions:
        yield f"reduce {names.of(equation.outputs[0])} in {_slots(slots)}"


def legal(function: Callable[..., Any], **shapes: Any) -> str:
    """A graph after legalization, as text; see `traced`."""
    graph, names, levels = traced(function, **shapes)
    weights = [v for v in graph.inputs if levels[v] == CONSTANT]
    return names.graph(dce(legalized(graph, weights)))


def _slots(slots: Sequence[Any]) -> str:
    """Those of a stage on matrices are targets."""
    found = (getattr(slot, "slot", slot) for slot in slots)
    return " ".join(f"{slot.kind}{slot.number}" for slot in found)


def _struct(shape: Any) -> jax.ShapeDtypeStruct:
    if shape and isinstance(shape[-1], str):
        return jax.ShapeDtypeStruct(shape[0], jnp.dtype(shape[1]))
    return jax.ShapeDtypeStruct(shape, jnp.float64)


def aligned(text: str) -> str:
    """A block of a test's source as text: without the indentation and the empty lines."""
    return "\n".join(line.strip() for line in text.strip().splitlines())
