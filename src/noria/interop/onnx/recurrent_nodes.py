"""Recurrent layers as nodes of ONNX: LSTM, GRU and RNN, or a Scan over the traced step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.tree_util as jtu
import numpy as np

from noria.cells.base import advance, arguments_of, cell_name
from noria.cells.lstm import LSTMState
from noria.interop.onnx.equations import Known
from noria.interop.onnx.matching import matched
from noria.interop.onnx.recognise import Gated, recognised
from noria.interop.onnx.translator import Translator, trace
from noria.interop.onnx.writer import Value, Writer, described
from noria.layers.bidirectional import Bidirectional
from noria.layers.recurrence import Recurrence

if TYPE_CHECKING:
    from noria.interop.onnx.emit import Emitter

#: The reductions over the two directions of a node, and the nodes that join two values.
REDUCTIONS = {"sum": "ReduceSum", "mean": "ReduceMean", "product": "ReduceProd"}
JOINS = {"sum": "Add", "mean": "Add", "product": "Mul"}


def emit_recurrence(to: "Emitter", layer: Recurrence, xs: Value, state: Any) -> tuple[Value, Any]:
    """The nodes of a layer; see `Emitter.layer`."""
    if to.is_step and layer.reverse:
        to.fail(f"{layer.label} is reversed; a step needs layers that run forward.")
    found = _gated(to, layer, xs)
    if found is None:
        return _scan(to, layer, xs, state)
    gated, places = found
    own = layer.initial_state()
    direction = "reverse" if layer.reverse else "forward"
    Y, [after] = _node(
        to, [gated], [_in_order(own, places)], [_in_order(state, places)], xs, direction
    )
    if after is not None:
        leaves = _in_order(after, [places.index(n) for n in range(len(places))])
        after = jtu.tree_unflatten(jtu.tree_structure(own), leaves)
    axes = (0, 1) if to.is_step else (1,)
    name = to.writer.add("Squeeze", Y, to.writer.ints(*axes))
    return Value(name, (gated.hidden,)), after


def _gated(to: "Emitter", layer: Recurrence, xs: Value) -> tuple[Gated, list[int]] | None:
    """The node of a layer, and the places of h and c in its state."""
    if len(xs.shape) != 1:
        return None
    gated = recognised(layer.cell)
    if gated is not None:
        return gated, [0, 1] if gated.kind == "LSTM" else [0]
    structs = jtu.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), layer.initial_state())
    return matched(f"{to.call}: {layer.label}", layer.cell, structs, xs.struct)


def _in_order(state: Any, places: Sequence[int]) -> Any:
    """The arrays of a state in another order."""
    if state is None:
        return None
    leaves = jtu.tree_leaves(state)
    return [leaves[n] for n in places]


def emit_bidirectional(
    to: "Emitter", layer: Bidirectional, xs: Value, state: Any
) -> tuple[Value, Any]:
    """The nodes of a layer; see `Emitter.layer`."""
    if to.is_step:
        to.fail(f"{layer.label} needs whole sequences; a step needs layers that run forward.")
    if layer.merge == "pair":
        to.fail(f'{layer.label} gives two arrays with merge="pair"; expected another merge.')
    both, states = layer._directions, (None, None) if state is None else state
    found = [recognised(one.cell) for one in both] if len(xs.shape) == 1 else [None, None]
    forward, backward = found
    if forward is None or backward is None or not forward.fits(backward):
        parts = [
            emit_recurrence(to, one, xs, before) for one, before in zip(both, states, strict=True)
        ]
        (f, after_f), (b, after_b) = parts
        return _merged(to, layer, f, b), (after_f, after_b)
    starts = [one.initial_state() for one in both]
    Y, after = _node(to, [forward, backward], starts, states, xs, "bidirectional")
    add, ints, size = to.writer.add, to.writer.ints, forward.hidden
    if layer.merge == "concat":
        turned = add("Transpose", Y, perm=[0, 2, 1, 3])
        return Value(add("Reshape", turned, ints(0, 0, 2 * size)), (2 * size,)), tuple(after)
    name = add(REDUCTIONS[layer.merge], Y, ints(1), keepdims=0)
    return Value(name, (size,)), tuple(after)


def _merged(to: "Emitter", layer: Bidirectional, f: Value, b: Value) -> Value:
    """The outputs of two nodes as one."""
    if layer.merge == "concat":
        name = to.writer.add("Concat", f.name, b.name, axis=to.lead)
        return Value(name, (f.shape[0] + b.shape[0],), f.dtype)
    name = to.writer.add(JOINS[layer.merge], f.name, b.name)
    if layer.merge == "mean":
        name = to.writer.add("Mul", name, to.writer.constant(np.asarray(0.5, f.dtype)))
    return Value(name, f.shape, f.dtype)


# --- LSTM, GRU, RNN -----------------------------------------------------------------------------


def _node(
    to: "Emitter",
    gated: Sequence[Gated],
    own: Sequence[Any],
    states: Sequence[Any],
    xs: Value,
    direction: str,
) -> tuple[str, list[Any]]:
    """One node for one direction or two: its output Y, and the final states as trees of names."""
    first, writer = gated[0], to.writer
    x = writer.add("Unsqueeze", xs.name, writer.ints(0)) if to.is_step else xs.name
    weights = [writer.constant(np.stack([getattr(g, n) for g in gated]), n) for n in ("W", "R")]
    weights += [_stacked(writer, gated, name) for name in ("B", "P")]
    arrays = 2 if first.kind == "LSTM" else 1
    starts = [
        _start(to, [jtu.tree_leaves(o)[n] for o in own], [_leaf(s, n) for s in states], "hc"[n])
        for n in range(arrays)
    ]
    names = [x, *weights[:3], to.lengths or "", *starts]
    names += [weights[3]] if first.kind == "LSTM" else []
    while not names[-1]:
        names.pop()
    outputs = [writer.fresh(n) for n in ("Y", "Y_h", "Y_c")[: 1 + arrays * to.has_states]]
    attributes: dict[str, Any] = {"hidden_size": first.hidden, "direction": direction}
    writer.nodes_of(
        first.kind, names, outputs, **attributes, **first.attributes, **_functions(gated)
    )
    if not to.has_states:
        return outputs[0], [None] * len(gated)
    finals = [
        _final(to, output, start, len(gated))
        for output, start in zip(outputs[1:], starts, strict=True)
    ]
    trees = [*zip(*finals, strict=True)]
    return outputs[0], [LSTMState(*t) if first.kind == "LSTM" else t[0] for t in trees]


def _stacked(writer: Writer, gated: Sequence[Gated], name: str) -> str:
    """An optional array of the directions, with zeros for one that lacks it; ``""`` for none."""
    arrays = [getattr(g, name) for g in gated]
    some = next((a for a in arrays if a is not None), None)
    if some is None:
        return ""
    return writer.constant(
        np.stack([np.zeros_like(some) if a is None else a for a in arrays]), name
    )


def _functions(gated: Sequence[Gated]) -> dict[str, Any]:
    """The attributes that name the activations; none for those that a node has by default."""
    functions = [f for g in gated for f in g.functions]
    names = [f.name for f in functions]
    defaults = {"LSTM": "Sigmoid Tanh Tanh", "GRU": "Sigmoid Tanh", "RNN": "Tanh"}
    if names == defaults[gated[0].kind].split() * len(gated):
        return {}
    found: dict[str, Any] = {"activations": names}
    for letter in ("alpha", "beta"):
        numbers = [n for f in functions if (n := getattr(f, letter)) is not None]
        found |= {f"activation_{letter}": numbers} if numbers else {}
    return found


def _leaf(state: Any, place: int) -> Any:
    return None if state is None else jtu.tree_leaves(state)[place]


def _start(to: "Emitter", own: list[Any], given: list[Any], letter: str) -> str:
    """The initial state of the directions, ``(directions, batch, hidden)``; ``""`` for zeros."""
    writer = to.writer
    if all(name is None for name in given):
        array = np.stack([np.asarray(a) for a in own])[:, None]
        if not array.any():
            return ""
        size = array.shape
        shape = writer.add("Concat", writer.ints(size[0]), to.batch, writer.ints(size[2]), axis=0)
        return writer.add("Expand", writer.constant(array, f"initial_{letter}"), shape)
    rows = [writer.add("Unsqueeze", name, writer.ints(0)) for name in given]
    return rows[0] if len(rows) == 1 else writer.add("Concat", *rows, axis=0)


def _final(to: "Emitter", name: str, start: str, directions: int) -> list[str]:
    """The final state of each direction, ``(batch, hidden)``."""
    from onnx import TensorProto

    writer = to.writer
    if to.lengths is not None and start:
        # Runtimes give zeros for an example without steps; its state is the initial one.
        is_some = writer.add("Cast", to.lengths, to=TensorProto.BOOL)
        is_some = writer.add("Unsqueeze", is_some, writer.ints(0, 2))
        name = writer.add("Where", is_some, name, start)
    if directions == 1:
        return [writer.add("Squeeze", name, writer.ints(0))]
    return [
        writer.add("Gather", name, writer.constant(np.asarray(n, np.int64)), axis=0)
        for n in range(directions)
    ]


# --- any other cell -----------------------------------------------------------------------------


def _scan(to: "Emitter", layer: Recurrence, xs: Value, state: Any) -> tuple[Value, Any]:
    """A Scan whose body is the step of the cell; in a model of one step, the nodes themselves."""
    cell = layer.cell
    label = f"{to.call}: {layer.label}"
    needed = [name for name, must in arguments_of(cell).items() if must or name != "key"]
    if needed:
        to.fail(f"{layer.label} takes {', '.join(needed)}; a file of ONNX has no such input.")
    own = jtu.tree_leaves(layer.initial_state())
    structs = jtu.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), layer.initial_state())
    graph, closed, tree = trace(label, lambda s, x: advance(cell, s, x), structs, xs.struct)
    if tree.num_leaves != len(own) + 1:
        to.fail(
            f"the output of {cell_name(cell)} has {tree.num_leaves - len(own)} arrays; "
            "expected one."
        )
    befores = [_initial(to, a) for a in own] if state is None else jtu.tree_leaves(state)
    if to.is_step:
        translator = Translator(label, to.writer, 1, to.x)
        found = translator.graph(graph, [*closed, *befores, xs.name])
        names = [translator.varying(known) for known in found]
    else:
        names = _loop(to, label, graph, closed, own, befores, xs, layer.reverse)
    aval = graph.outputs[-1].aval
    after = jtu.tree_unflatten(jtu.tree_structure(layer.initial_state()), names[:-1])
    return Value(names[-1], aval.shape, np.dtype(aval.dtype)), after


def _initial(to: "Emitter", array: Any) -> str:
    """An array of the initial state, for each example."""
    array = np.asarray(array)
    shape = to.writer.add("Concat", to.batch, to.writer.ints(*array.shape), axis=0)
    shape = shape if array.ndim else to.batch
    return to.writer.add("Expand", to.writer.constant(array[None], "initial_state"), shape)


def _loop(
    to: "Emitter",
    label: str,
    graph: Any,
    closed: list[Any],
    own: list[Any],
    befores: list[str],
    xs: Value,
    reverse: bool,
) -> list[str]:
    """The outputs of a Scan: the final state, and the outputs of all steps."""
    body = Writer(to.writer)
    inner = [body.fresh("state") for _ in own]
    x = body.fresh("x")
    translator = Translator(label, body, 1, x)
    found = translator.graph(graph, [*closed, *inner, x])
    valid = body.fresh("is_valid") if to.lengths is not None else None
    outputs = [
        _result(translator, known, before, valid, atom.aval)
        for known, before, atom in zip(found, [*inner, None], graph.outputs, strict=True)
    ]
    avals = [atom.aval for atom in graph.outputs]

    def rows(name: str, shape: Any, dtype: Any) -> Any:
        return described(name, dtype, ["batch", *shape])

    inputs = [rows(n, a.shape, a.dtype) for n, a in zip(inner, own, strict=True)]
    inputs.append(rows(x, xs.shape, xs.dtype))
    inputs += [rows(valid, (), np.bool_)] if valid else []
    results = [rows(n, a.shape, a.dtype) for n, a in zip(outputs, avals, strict=True)]
    sequences = [xs.name, to.valid] if valid else [xs.name]
    turned: dict[str, Any] = {}
    if reverse:
        turned = {
            "scan_input_directions": [1] * len(sequences),
            "scan_output_directions": [1],
        }
    return to.writer.many(
        "Scan",
        [*befores, *sequences],
        len(outputs),
        body=body.graph("step", inputs, results),
        num_scan_inputs=len(sequences),
        **turned,
    )


def _result(to: Translator, known: Known, before: str | None, valid: str | None, aval: Any) -> str:
    """An output of a body: at a step of padding the state before, or zeros."""
    name = to.varying(known)
    if valid is None:
        return to.writer.add("Identity", name)
    axes = [*range(1, 1 + len(aval.shape))]
    flag = to.writer.add("Unsqueeze", valid, to.writer.ints(*axes)) if axes else valid
    other = to.writer.constant(np.zeros((), aval.dtype)) if before is None else before
    return to.writer.add("Where", flag, name, other)
