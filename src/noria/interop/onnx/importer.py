"""``from_onnx``: the model of an ONNX file."""

import os
import warnings
from typing import Any

from noria.interop.entries import Report, Reporter, did_you_mean
from noria.interop.onnx import chains, loops, nodes
from noria.interop.onnx.files import Source, read
from noria.interop.onnx.graph import Graph, graph_of
from noria.interop.onnx.node import Node, Unreadable
from noria.layers.base import Layer

Place = tuple[Graph, Node]


def from_onnx(
    source: "str | os.PathLike[str] | bytes | Any",
    node: str | None = None,
    *,
    report: Reporter | None = None,
) -> Any:
    """A model with the weights and the graph of an ONNX file.

    A graph that is a chain of supported layers becomes one model with all methods of a layer. Of
    any other graph the recurrent layers are returned, by the names of their nodes. Nothing outside
    the folder of the file is read, and nothing is executed.

    Args:
        source: a path, the bytes of a file, or a ``ModelProto``.
        node: the name of one recurrent node, or of one of its outputs; ``None`` for the graph.
            The names of graphs around it may stand before: ``choice/then_branch/rnn``.
        report: a function that gets the `Report` of the import, such as ``print``.

    Returns:
        A layer; or a dict of layers by name, if the graph is no chain. Inputs and outputs are
        ``(batch, time, features)``, whatever the layout of the file. Initial states that are inputs
        of the file are passed to the methods, like ``lengths``, its ``sequence_lens``.

    Raises:
        ImportError: if onnx is not installed.
        ValueError: if the file is damaged, if there is no such node, or if it has a setting that
            has no meaning. The message names the node.
        TypeError: for a source of another kind.
        OSError: if the file cannot be read.

    An example of length 0 keeps its initial state here; onnxruntime gives zeros as its final state.
    8-bit weights (``DynamicQuantizeLSTM``) become float32, with a warning.

    Examples:
        >>> import jax, noria as nr, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
        >>> nr.to_onnx(path, nr.GRU(2, 3, key=jax.random.key(0)), check=False)
        >>> nr.from_onnx(path).label
        'GRU(in_size=2)'
    """
    found = read(source)
    graph = graph_of(found)
    notes: list[str] = []
    model, used = _one(found, graph, node, notes) if node else _whole(found, graph, notes)
    if any(place.op == nodes.QUANTIZED for place in used):
        warnings.warn(
            f"{found.call}: weights of 8 bits became float32, and activations are not rounded; "
            "outputs differ from those of the quantised model.",
            stacklevel=2,
        )
    if report is not None:
        outside = tuple(n.label for n in graph.nodes if n not in used)
        shown = {n.label: n.op for n in used}
        report(Report(found.call, shown, outside, tuple(notes)))
    return model


def _places(graph: Graph) -> list[Place]:
    """The recurrent nodes and loops of all graphs."""
    return [
        (inner, node)
        for inner in graph.below()
        for node in inner.nodes
        if nodes.kind_of(node) or (node.op in ("Scan", "Loop") and node.domain in ("", "ai.onnx"))
    ]


def _name(place: Place) -> str:
    graph, node = place
    return graph.path + (node.name or next(iter(node.outputs), ""))


def _layer(place: Place, notes: list[str]) -> Layer:
    graph, node = place
    if nodes.kind_of(node):
        return nodes.read_node(graph, node, notes.append)
    return loops.alone(graph, node)


def _one(source: Source, graph: Graph, name: str, notes: list[str]) -> tuple[Layer, list[Node]]:
    """The layer of the node with that name, with or without the path of graphs before it."""
    places = _places(graph)
    chosen = [p for p in places if name in (_name(p), p[1].name, *p[1].outputs)]
    if len(chosen) != 1:
        names = [_name(place) for place in places]
        many = f"{len(chosen)} nodes are called {name!r}: {', '.join(map(_name, chosen))}"
        none = f"no recurrent node is called {name!r}; {did_you_mean(name, names)}"
        source.fail(many if chosen else none)
    try:
        return _layer(chosen[0], notes), [chosen[0][1]]
    except Unreadable as error:
        source.fail(f"{_name(chosen[0])}: {error}.")


def _whole(source: Source, graph: Graph, notes: list[str]) -> tuple[Any, list[Node]]:
    """The model, or a dict of its recurrent layers if it is no chain."""
    try:
        reader = chains.Reader(graph, notes.append)
        return reader.model(), list(graph.nodes)
    except Unreadable as error:
        reason = str(error)
    layers: dict[str, Layer] = {}
    used: list[Node] = []
    notes[:] = [f"the graph is no chain of supported layers: {reason}"]
    for place in _places(graph):
        try:
            layers[_name(place)] = _layer(place, notes)
            used.append(place[1])
        except Unreadable as error:
            notes.append(f"{_name(place)}: {error}")
    if not layers:
        source.fail(
            f"it is no chain of supported layers ({reason}), and has no recurrent node that could "
            "be read alone."
        )
    return layers, used


def described(path: "str | os.PathLike[str]") -> list[tuple[str, str, str]]:
    """The nodes of a file, in rows of a name, the shapes of constants, and the operator."""
    graph = graph_of(read(path))
    rows = []
    for inner in graph.below():
        for node in inner.nodes:
            shapes = [f"{tuple(inner.tensors[n].dims)}" for n in node.inputs if n in inner.tensors]
            rows.append((_name((inner, node)), " ".join(shapes), node.op))
    return rows
