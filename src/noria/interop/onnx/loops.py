"""The nodes Scan and Loop as layers: their bodies become cells."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from noria.interop.onnx.graph import Graph
from noria.interop.onnx.node import Node, Unreadable
from noria.interop.onnx.nodes import repeated
from noria.interop.onnx.program import OnnxCell, check_sizes, program_of
from noria.layers.recurrence import Recurrence


@dataclass(frozen=True)
class Body:
    """The parts of a loop over the steps of one value.

    Attributes:
        graph: the body.
        x: the name of the input of a step, in the body.
        source: the name of the sequence, outside.
        axis: the axis of time of the sequence.
        states: the names of the state: before, in the body; after, in the body; at the start,
            outside.
        y: the name of the output of a step, in the body.
        fixed: values of the body that are known.
        reverse: whether the loop starts at the end.
    """

    graph: Graph
    x: str
    source: str
    axis: int
    states: tuple[tuple[str, str, str], ...]
    y: str
    fixed: dict[str, np.ndarray]
    reverse: bool = False


def body_of(graph: Graph, node: Node, output: str | None = None) -> Body:
    """The parts of a Scan or a Loop; ``output`` is the result that is asked for.

    Raises:
        Unreadable: if it is no loop over the steps of one value.
    """
    return _scan(graph, node, output) if node.op == "Scan" else _loop(graph, node, output)


def _scan(graph: Graph, node: Node, output: str | None) -> Body:
    body, count = node["body"], node["num_scan_inputs"]
    first = len(node.inputs) - count
    names = body.inputs if len(body.inputs) == len(node.inputs) else []
    if first < 0 or not names or node.opset < 9:
        raise Unreadable(f"{node.label} has another number of inputs than its body")
    axes = node.get("scan_input_axes", [0] * count)
    backward = node.get("scan_input_directions", [0] * count)
    fixed, sequences = {}, []
    for n in range(count):
        if is_mask(graph, node.inputs[first + n]):
            axes_of_mask = body.rank(names[first + n]) or 0
            fixed[names[first + n]] = np.ones((1,) * axes_of_mask, np.bool_)
        else:
            sequences.append(n)
    if len(sequences) != 1:
        raise Unreadable(f"{node.label} runs over {len(sequences)} values at once")
    [n] = sequences
    place = _place(node, first, output)
    results = node.get("scan_output_directions", [0] * (len(node.outputs) - first))
    if results[place] != backward[n] or node.get("scan_output_axes", [0] * (place + 1))[place]:
        raise Unreadable(f"{node.label} stores its outputs in another order or along another axis")
    states = tuple(zip(names[:first], body.outputs[:first], node.inputs[:first], strict=True))
    return Body(
        body,
        names[first + n],
        node.inputs[first + n],
        axes[n],
        states,
        body.outputs[first + place],
        fixed,
        bool(backward[n]),
    )


def _place(node: Node, states: int, output: str | None) -> int:
    """The place of an output among those that a loop collects."""
    collected = node.outputs[states:]
    if not collected or (output is not None and output not in collected):
        raise Unreadable(f"{node.label} gives its final state only, and no output of each step")
    return 0 if output is None else collected.index(output)


def is_mask(graph: Graph, name: str) -> bool:
    """Whether a value says which steps are valid: a comparison of a range with lengths."""
    maker = graph.makers.get(name)
    while maker is not None and maker.op in ("Unsqueeze", "Transpose", "Identity"):
        maker = graph.makers.get(maker.input(0))
    if maker is None or maker.op not in ("Less", "Greater"):
        return False
    return any(_leads_to_lengths(graph, side) for side in maker.inputs)


def _leads_to_lengths(graph: Graph, name: str) -> bool:
    while (maker := graph.makers.get(name)) is not None and maker.op in ("Unsqueeze", "Cast"):
        name = maker.input(0)
    return name in graph.inputs and graph.rank(name) == 1 and graph.declares_integers(name)


def _loop(graph: Graph, node: Node, output: str | None) -> Body:
    body: Graph = node["body"]
    if len(body.inputs) != len(node.inputs):
        raise Unreadable(f"{node.label} has another number of inputs than its body")
    count, condition, *before = body.inputs
    after = body.outputs[0]
    if after != condition and not _passes(body, after, condition):
        raise Unreadable(f"{node.label} may end early, depending on data")
    steps = [n for n in body.nodes if n.op == "Gather" and _is_counter(body, n.input(1), count)]
    read = {(n.input(0), n.get("axis", 0)) for n in steps if not body.is_constant(n.input(0))}
    if len(read) != 1:
        raise Unreadable(f"{node.label} reads {len(read)} values step by step; expected one")
    [(source, axis)] = read
    x, *others = [n for n in steps if n.input(0) == source]
    if others or not _is_scalar(body, x.input(1), count):
        raise Unreadable(f"{node.label} reads its input in several places")
    place = _place(node, len(before), output)
    ends = body.outputs[1 : 1 + len(before)]
    states = tuple(zip(before, ends, node.inputs[2:], strict=True))
    y = body.outputs[1 + len(before) + place]
    return Body(body, x.outputs[0], source, axis, states, y, {condition: np.asarray(True)})


def _passes(body: Graph, name: str, condition: str) -> bool:
    """Whether the condition of a loop is the one before, or the constant true."""
    value = body.constant(name)
    if value is not None:
        return bool(np.all(value))
    maker = body.makers.get(name)
    return maker is not None and maker.op == "Identity" and maker.input(0) == condition


def _is_counter(body: Graph, name: str, count: str) -> bool:
    while (maker := body.makers.get(name)) is not None and maker.op in (
        "Unsqueeze",
        "Squeeze",
        "Cast",
        "Identity",
    ):
        name = maker.input(0)
    return name == count


def _is_scalar(body: Graph, name: str, count: str) -> bool:
    while (maker := body.makers.get(name)) is not None and maker.op in ("Cast", "Identity"):
        name = maker.input(0)
    return name == count


# --- layers -------------------------------------------------------------------------------------


def layer_of(graph: Graph, body: Body, in_shape: tuple[int, ...], batched: bool) -> Recurrence:
    """The layer of a loop.

    Args:
        graph: the graph of the loop.
        body: its parts.
        in_shape: the shape of the input of a step of one example.
        batched: whether the loop runs over rows of a batch.

    Raises:
        Unreadable: if an operator has no translation, a size is not known, or a step mixes
            examples.
    """
    befores, afters, outer = zip(*body.states, strict=True) if body.states else ((), (), ())
    if not befores:
        raise Unreadable("a loop has no state")
    program, arrays = program_of(
        body.graph, [body.x, *befores], [*afters, body.y], fixed=body.fixed
    )
    starts = [
        _start(graph, name, body.graph, inner, batched)
        for name, inner in zip(outer, befores, strict=True)
    ]
    cell = OnnxCell(arrays, tuple(starts), program, in_shape, batched)
    _check(cell)
    return Recurrence(cell, reverse=body.reverse)


def _start(graph: Graph, name: str, body: Graph, inner: str, batched: bool) -> np.ndarray:
    """The initial state of one example; zeros if it is passed in calls."""
    array = repeated(graph, name)
    shape = _declared(body, inner)
    if shape is None:
        shape = _declared(graph, name)
    if shape is None and array is not None and graph.constant(name) is not None:
        shape = array.shape[1:] if batched else array.shape
    elif shape is not None and batched:
        shape = shape[1:]
    if shape is None or any(size < 1 for size in shape):
        raise Unreadable(f"the shape of the state {inner!r} is not known")
    if array is None or not array.any():
        dtype = np.float32 if array is None else array.dtype
        return np.zeros(shape, np.int32 if dtype == np.int64 else dtype)
    if batched:
        if (array != array[:1]).any():
            raise Unreadable(f"the initial state {name!r} differs between examples")
        array = array[0]
    return np.broadcast_to(array, shape)


def _declared(graph: Graph, name: str) -> tuple[int, ...] | None:
    """The shape that a file declares; 0 for a free size."""
    for value in graph.proto.input:
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return None


def _check(cell: OnnxCell) -> None:
    """Run a step of two examples together, and one by one: the results must agree."""
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    state, x = cell.initial_state(), draw((2, *cell.in_shape))
    own = state if isinstance(state, tuple) else (state,)
    states = [
        draw((2, *a.shape)).astype(a.dtype) if a.dtype.kind == "f" else jnp.stack([a, a])
        for a in own
    ]
    try:
        check_sizes(cell, state, x[0])
        if not cell.batched:
            return
        together = cell.program(cell.arrays, x, *states)
        for n in range(2):
            given = tuple(a[n] for a in states)
            after, y = cell(given if isinstance(state, tuple) else given[0], x[n])
            alone = [*(after if isinstance(after, tuple) else (after,)), y]
            for a, b in zip(together, alone, strict=True):
                np.testing.assert_allclose(a[n], b, rtol=1e-4, atol=1e-5)
    except (ValueError, TypeError, IndexError, AssertionError) as error:
        raise Unreadable(
            f"a step of the loop is not that of separate examples ({error})"
        ) from error


def alone(graph: Graph, node: Node) -> Recurrence:
    """The layer of a loop of a graph that is no chain, from the shapes that its body declares."""
    body = body_of(graph, node)
    shape = _declared(body.graph, body.x)
    if shape is None or len(shape) not in (1, 2) or shape[-1] < 1:
        raise Unreadable(f"the shape of the input of a step of {node.label} is not declared")
    return layer_of(graph, body, shape[-1:], batched=len(shape) == 2)
