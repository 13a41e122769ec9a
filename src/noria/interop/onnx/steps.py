"""Nodes that work on each step alone: dense layers, norms, activations, and moves of axes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noria.interop.onnx.axes import DIRECTION, FEATURES, Axes
from noria.interop.onnx.graph import Graph
from noria.interop.onnx.node import Node, Unreadable
from noria.interop.onnx.operations import run
from noria.interop.onnx.program import OnnxFunction, program_of
from noria.layers.dense import Dense, Embedding, identity
from noria.layers.per_step import LayerNorm, PerStep
from noria.module import as_pytree

#: Operators that are functions of JAX with a name of their own.
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Relu": jax.nn.relu,
    "Tanh": jnp.tanh,
    "Sigmoid": jax.nn.sigmoid,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "Softmax": jax.nn.softmax,
    "LogSoftmax": jax.nn.log_softmax,
    "Exp": jnp.exp,
    "Abs": jnp.abs,
}

#: Operators that pass numbers on as they are.
NOTHING = ("Identity", "Dropout")


def integers_only(graph: Graph, node: Node) -> list[list[int]]:
    """The further inputs of a Slice as lists, or its attributes before opset 10."""
    if node.opset < 10:
        return [node["starts"], node["ends"], node.get("axes", [0])]
    arrays = [graph.constant(name) for name in node.inputs[1:4] if name]
    if any(array is None for array in arrays):
        raise Unreadable(f"{node.label} has bounds that are computed")
    return [array.reshape(-1).tolist() for array in arrays if array is not None]


@dataclass(frozen=True)
class Steps:
    """Reads nodes of single steps; ``axes`` has those of each value before."""

    graph: Graph
    axes: Mapping[str, Axes]
    note: Callable[[str], None]

    def one(
        self, node: Node, before: str, after: str, axes: Axes, layers: list[Any]
    ) -> tuple[list[Any], Axes]:
        """``layers`` with that of a node, and the axes of its output.

        Raises:
            Unreadable: if the node does more than to compute each step from its input.
        """
        moved = self._moved(node, axes)
        if moved is not None:
            return layers, moved
        if node.op in NOTHING or (node.op == "Cast" and self._is_float(node, axes)):
            return layers, axes
        if node.op == "Gather" and FEATURES not in axes.flat:
            return self._embedded(node, axes, layers)
        known = self._known(node, before, axes, layers)
        if known is not None:
            return known
        return self.several(before, after, axes, layers)

    def _is_float(self, node: Node, axes: Axes) -> bool:
        from onnx import TensorProto

        integers = FEATURES not in axes.flat
        return integers or node["to"] == TensorProto.FLOAT

    def _moved(self, node: Node, axes: Axes) -> Axes | None:
        """The axes after a node that moves axes only, or ``None``."""
        if node.op == "Transpose":
            order = node.get("perm", range(len(axes.names))[::-1])
            return axes.transposed(order).joined()
        if node.op in ("Squeeze", "Unsqueeze"):
            places = node.get("axes", None)
            if node.input(1):
                constant = self.graph.constant(node.input(1))
                places = None if constant is None else constant.reshape(-1).tolist()
            if places is None:
                raise Unreadable(f"{node.label} does not say which axes")
            rank = len(axes.names) + (len(places) if node.op == "Unsqueeze" else 0)
            for place in sorted((p % rank for p in places), reverse=node.op == "Squeeze"):
                axes = axes.without(place) if node.op == "Squeeze" else axes.with_one(place)
            return axes
        if node.op in ("Reshape", "Flatten"):
            given = [np.broadcast_to(np.float32(0), axes.shape())]
            if node.op == "Reshape":
                given.append(self._shape(node.input(1)))
            return axes.reshaped(run(node, given)[0].shape)
        return None

    def _shape(self, name: str) -> np.ndarray:
        """A shape that is constant or computed from shapes."""

        def shape_of(value: str) -> Any:
            return self.axes[value].shape() if value in self.axes else None

        program, _ = program_of(self.graph, [], [name], shape_of)
        return program({})[0]

    def _embedded(self, node: Node, axes: Axes, layers: list[Any]) -> tuple[list[Any], Axes]:
        table = self.graph.constant(node.input(0))
        if table is None or table.ndim != 2 or node.get("axis", 0) != 0:
            raise Unreadable(f"{node.label} looks up no rows of a constant table")
        layer = Embedding(1, 1, key=jax.random.key(0))
        object.__setattr__(layer, "table", jnp.asarray(table))
        found = Axes((*axes.names, (FEATURES,)), {**axes.sizes, FEATURES: table.shape[1]})
        return [*layers, layer], found

    # --- layers with a name ----------------------------------------------------------------------

    def _known(
        self, node: Node, before: str, axes: Axes, layers: list[Any]
    ) -> tuple[list[Any], Axes] | None:
        """A dense layer, a norm or a function of JAX; ``None`` for another node."""
        if axes.names[-1] != (FEATURES,):
            elementwise = node.op in FUNCTIONS and not node.op.endswith("Softmax")
            return ([*layers, PerStep(FUNCTIONS[node.op])], axes) if elementwise else None
        last = layers[-1] if layers else None
        is_open = isinstance(last, Dense) and last.activation == as_pytree(identity)
        if node.op in ("MatMul", "Gemm"):
            return self._dense(node, before, axes, layers)
        if node.op == "Add" and is_open and last is not None and last.b is None:
            other = self.graph.constant(node.inputs[1 - node.inputs.index(before)])
            if other is not None and other.size == other.shape[-1:][0] == last.W.shape[0]:
                return [*layers[:-1], Dense.from_arrays(last.W, other.reshape(-1))], axes
        if node.op in FUNCTIONS and self._along_features(node, axes):
            function = FUNCTIONS[node.op]
            if is_open and last is not None:
                return [*layers[:-1], Dense.from_arrays(last.W, last.b, function)], axes
            return [*layers, PerStep(function)], axes
        if node.op == "LayerNormalization" and self._along_features(node, axes):
            return self._norm(node, axes, layers)
        return None

    def _along_features(self, node: Node, axes: Axes) -> bool:
        if node.op not in ("Softmax", "LogSoftmax", "LayerNormalization"):
            return True
        old = node.op != "LayerNormalization" and node.opset < 13
        return node.get("axis", 1 if old else -1) in (-1, len(axes.names) - 1)

    def _dense(
        self, node: Node, before: str, axes: Axes, layers: list[Any]
    ) -> tuple[list[Any], Axes] | None:
        W = self.graph.constant(node.input(1))
        if W is None or W.ndim != 2 or node.input(0) != before:
            return None
        b = None
        if node.op == "Gemm":
            plain = node.get("alpha", 1.0) == node.get("beta", 1.0) == 1
            b = self.graph.constant(node.input(2)) if node.input(2) else None
            missing = b is None and node.input(2)
            if not plain or node.get("transA", 0) or missing or (b is not None and b.ndim > 1):
                return None
            W = W.T if node.get("transB", 0) else W
        return [*layers, Dense.from_arrays(W.T, b)], axes.features(W.shape[1])

    def _norm(self, node: Node, axes: Axes, layers: list[Any]) -> tuple[list[Any], Axes] | None:
        scale = self.graph.constant(node.input(1))
        bias = self.graph.constant(node.input(2)) if node.input(2) else None
        size = axes.size(FEATURES)
        if scale is None or scale.shape != (size,) or (node.input(2) and bias is None):
            return None
        norm = LayerNorm.from_arrays(scale, bias, eps=node.get("epsilon", 1e-5))
        return [*layers, norm], axes

    # --- other functions of one step -------------------------------------------------------------

    def several(
        self, before: str, after: str, axes: Axes, layers: list[Any]
    ) -> tuple[list[Any], Axes]:
        """``layers`` with the nodes between two values as one function of each step.

        Raises:
            Unreadable: if they are not the same function of each step.
        """
        if axes.names[-1:] != ((FEATURES,),) or DIRECTION in axes.flat:
            raise Unreadable(f"{self.graph.makers[after].label} works on the axes {axes}")
        lead = len(axes.names) - 1

        def shape_of(name: str) -> Any:
            known = self.axes.get(name)
            return None if known is None else (*(1 for _ in known.names[:-1]), known.shape()[-1])

        program, arrays = program_of(self.graph, [before], [after], shape_of)
        function = OnnxFunction(arrays, program, lead)
        size = axes.size(FEATURES)
        x = np.random.default_rng(0).normal(size=(*range(2, 2 + lead), size)).astype(np.float32)
        label = self.graph.makers[after].label
        try:
            [together] = program(arrays, jnp.asarray(x))
            rows = [function(jnp.asarray(row)) for row in x.reshape(-1, size)]
            apart = np.stack(rows).reshape(*x.shape[:-1], -1)
            np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)
        except (ValueError, TypeError, IndexError, AssertionError) as error:
            raise Unreadable(f"{label} is not a function of each step alone") from error
        return [*layers, PerStep(function)], axes.features(apart.shape[-1])
