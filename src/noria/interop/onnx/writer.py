"""Builds a graph of ONNX, node by node."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

#: The version of the operators, the oldest with `LayerNormalization` and with axes as inputs.
OPSET = 18

#: The version of the file format, which all runtimes of the last years read.
IR_VERSION = 8


FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Value:
    """A value of the graph, with the shape and the dtype of one step of one example."""

    name: str
    shape: tuple[int, ...]
    dtype: Any = FLOAT32

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, self.dtype)


class Writer:
    """A graph in the making; ``outer`` is the graph around the body of a loop.

    Constants are kept in the outermost graph, each once.
    """

    def __init__(self, outer: "Writer | None" = None):
        self.outer = outer
        self.nodes: list[Any] = []
        self.root: Writer = self if outer is None else outer.root
        if outer is None:
            self.constants: dict[Any, Any] = {}
            self.count: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """A name that no other value has."""
        number = self.root.count.get(hint, 0)
        self.root.count[hint] = number + 1
        return f"{hint}_{number}" if number else hint

    def constant(self, array: Any, hint: str = "constant") -> str:
        """The name of a constant."""
        from onnx import numpy_helper

        array = np.asarray(array)
        key = str(array.dtype), array.shape, array.tobytes()
        if key not in self.root.constants:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape))
            tensor.name = self.fresh(hint)
            self.root.constants[key] = tensor
        name: str = self.root.constants[key].name
        return name

    def ints(self, *values: int) -> str:
        """The name of a vector of 64-bit integers, as for axes and shapes."""
        return self.constant(np.array(values, np.int64), "ints")

    def nodes_of(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add a node whose outputs have given names."""
        from onnx import helper

        name = self.fresh(op)
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), name, **attributes))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; its name."""
        [output] = self.many(op, inputs, 1, **attributes)
        return output

    def many(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Add a node with ``count`` outputs; their names."""
        outputs = [self.fresh(op.lower()) for _ in range(count)]
        self.nodes_of(op, inputs, outputs, **attributes)
        return outputs

    def graph(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """The graph, from descriptions of its inputs and outputs."""
        from onnx import helper

        constants = [] if self.outer is not None else [*self.constants.values()]
        return helper.make_graph(self.nodes, name, list(inputs), list(outputs), constants)


def described(name: str, dtype: Any, shape: Sequence[int | str]) -> Any:
    """The description of an input or an output; a size may be a name."""
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))
