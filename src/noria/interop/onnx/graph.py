"""The graphs of a model: their nodes, their constants, and the graphs inside of nodes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from noria.interop.onnx.files import Source
from noria.interop.onnx.node import Node, Unreadable
from noria.interop.onnx.operations import run


@dataclass(eq=False)
class Graph:
    """A graph, the graph around it, and the path of nodes that leads to it."""

    proto: Any
    source: Source
    opsets: Mapping[str, int]
    outer: "Graph | None" = None
    path: str = ""
    _values: dict[str, np.ndarray | None] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> dict[str, Any]:
        if self.proto.sparse_initializer:
            self.source.fail("the model has sparse tensors, which are not supported.")
        return {tensor.name: tensor for tensor in self.proto.initializer}

    @cached_property
    def inputs(self) -> list[str]:
        """The inputs that are not constants."""
        return [value.name for value in self.proto.input if value.name not in self.tensors]

    @cached_property
    def outputs(self) -> list[str]:
        return [value.name for value in self.proto.output]

    @cached_property
    def nodes(self) -> list[Node]:
        return [self._node(proto) for proto in self.proto.node]

    @cached_property
    def makers(self) -> dict[str, Node]:
        """The node of each value."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def rank(self, name: str) -> int | None:
        """The number of axes that the file declares for an input."""
        for value in self.proto.input:
            if value.name == name and value.type.tensor_type.HasField("shape"):
                return len(value.type.tensor_type.shape.dim)
        return None

    def declares_integers(self, name: str) -> bool:
        from onnx import TensorProto

        kinds = (TensorProto.INT32, TensorProto.INT64)
        return any(
            value.name == name and value.type.tensor_type.elem_type in kinds
            for value in self.proto.input
        )

    def _node(self, proto: Any) -> Node:
        from onnx import AttributeProto, helper

        attributes: dict[str, Any] = {}
        for entry in proto.attribute:
            if entry.type == AttributeProto.TENSOR:
                attributes[entry.name] = self.source.array(entry.t)
            elif entry.type == AttributeProto.GRAPH:
                path = f"{self.path}{proto.name or proto.op_type}/{entry.name}/"
                attributes[entry.name] = Graph(entry.g, self.source, self.opsets, self, path)
            else:
                value = helper.get_attribute_value(entry)
                value = [*value] if isinstance(value, list | tuple) else value
                attributes[entry.name] = _text(value)
        opset = self.opsets.get(proto.domain, self.opsets.get("", 1))
        names = tuple(proto.input), tuple(proto.output)
        return Node(proto.op_type, proto.domain, proto.name, *names, attributes, opset)

    # --- constants -------------------------------------------------------------------------------

    @cached_property
    def _constant_names(self) -> set[str]:
        """The values that depend on no input."""
        found: set[str] = set(self.tensors)
        for node in self.nodes:
            given = [name for name in node.inputs if name]
            has_graphs = any(isinstance(value, Graph) for value in node.attributes.values())
            if not has_graphs and all(n in found or self._is_outer_constant(n) for n in given):
                found.update(node.outputs)
        return found

    def _is_outer_constant(self, name: str) -> bool:
        if self.outer is None or name in self.makers or name in self.inputs:
            return False
        return self.outer.is_constant(name)

    def is_constant(self, name: str) -> bool:
        return name in self._constant_names or self._is_outer_constant(name)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a constant, or ``None`` if it depends on an input or cannot be computed."""
        if name in self._values:
            return self._values[name]
        if name in self.tensors:
            found = self.source.array(self.tensors[name])
        elif name in self._constant_names:
            self._compute(self.makers[name])
            return self._values[name]
        elif self._is_outer_constant(name):
            assert self.outer is not None
            return self.outer.constant(name)
        else:
            return None
        self._values[name] = found
        return found

    def _compute(self, node: Node) -> None:
        """Compute the outputs of a node of constants; those before it first, without recursion."""
        todo = [node]
        while todo:
            needed = [n for n in todo[-1].inputs if n and n not in self._values]
            makers = [self.makers[n] for n in needed if n in self.makers]
            if makers:
                todo += makers
                continue
            now = todo.pop()
            arrays = [self.constant(n) if n else None for n in now.inputs]
            missing = any(n and a is None for n, a in zip(now.inputs, arrays, strict=True))
            try:
                outputs: list[Any] = [] if missing else run(now, arrays)
            except (Unreadable, ValueError, TypeError, IndexError):
                outputs = []  # who needs the value says that it is not known
            for n, output in zip(now.outputs, outputs or [None] * len(now.outputs), strict=False):
                self._values[n] = output

    # --- graphs inside ---------------------------------------------------------------------------

    def below(self) -> Iterator["Graph"]:
        """This graph and all graphs inside of its nodes, outermost first."""
        yield self
        for node in self.nodes:
            for value in node.attributes.values():
                if isinstance(value, Graph):
                    yield from value.below()


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return [_text(item) for item in value] if isinstance(value, list) else value


def graph_of(source: Source) -> Graph:
    """The main graph of a model."""
    opsets = {
        ("" if o.domain == "ai.onnx" else o.domain): o.version for o in source.model.opset_import
    }
    return Graph(source.model.graph, source, opsets)
