"""Layers as nodes of ONNX. Sequences are ``(time, batch, features)``, one step has no time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

import equinox as eqx
import numpy as np

from noria._functions import Function
from noria.interop.onnx.convolution_nodes import emit_conv, emit_pool
from noria.interop.onnx.recurrent_nodes import emit_bidirectional, emit_recurrence
from noria.interop.onnx.steps import FUNCTIONS
from noria.interop.onnx.translator import Translator, trace
from noria.interop.onnx.writer import Value, Writer
from noria.layers.base import Layer
from noria.layers.bidirectional import Bidirectional
from noria.layers.chain import Chain
from noria.layers.conv import Conv1d
from noria.layers.dense import Dense, Embedding, identity
from noria.layers.dropout import Dropout
from noria.layers.parallel import JOINS, Parallel
from noria.layers.per_step import PerStep
from noria.layers.pool import MaxPool1d, MeanPool1d
from noria.layers.recurrence import Recurrence
from noria.layers.skip import Concat, Residual
from noria.module import as_pytree


@dataclass(frozen=True)
class Emitter:
    """Writes layers into a graph.

    Attributes:
        call: the call in messages.
        writer: the graph.
        lengths: the name of the lengths, or ``None``.
        is_step: whether values are those of one step, without an axis of time.
        streams: whether the model is one step, of one or several steps of the input.
        has_states: whether final states are wanted.
        x: the name of the first value, which has the axes of all.
    """

    call: str
    writer: Writer
    lengths: str | None
    is_step: bool
    streams: bool
    has_states: bool
    x: str

    @property
    def lead(self) -> int:
        """The number of axes before those of one step of one example."""
        return 1 if self.is_step else 2

    def fail(self, reason: str) -> NoReturn:
        raise ValueError(f"{self.call}: {reason}")

    @cached_property
    def batch(self) -> str:
        """The size of the batch, as a vector of one number."""
        axis = self.lead - 1
        return self.writer.add("Shape", self.x, start=axis, end=axis + 1)

    @cached_property
    def valid(self) -> str:
        """Which steps are valid, ``(time, batch)``."""
        assert self.lengths is not None
        add, zero, one = self.writer.add, *(np.asarray(n, np.int64) for n in (0, 1))
        time = add("Squeeze", add("Shape", self.x, start=0, end=1), self.writer.ints(0))
        steps = add("Range", self.writer.constant(zero), time, self.writer.constant(one))
        wide = add("Unsqueeze", steps, self.writer.ints(1))
        from onnx import TensorProto

        lengths = add("Cast", self.lengths, to=TensorProto.INT64)
        return add("Less", wide, add("Unsqueeze", lengths, self.writer.ints(0)))

    def layer(self, layer: Layer, xs: Value, state: Any) -> tuple[Value, Any]:
        """The outputs of a layer, and its final state as a tree of names.

        ``state`` is a tree of names, or ``None`` for the initial state of the layer.
        """
        for kind, emit in EMIT.items():
            if type(layer) is kind:
                return emit(self, layer, xs, state)
        self.fail(
            f"there is no form in ONNX for the layer {type(layer).__name__}; expected "
            f"{', '.join(kind.__name__ for kind in EMIT)}."
        )

    def function(self, function: Callable[..., Any], xs: Value) -> Value:
        """A function of the features of one step."""
        plain = function.func if isinstance(function, Function) else function
        for op, known in FUNCTIONS.items():
            if plain is known:
                along = {"axis": -1} if op.endswith("Softmax") else {}
                return Value(self.writer.add(op, xs.name, **along), xs.shape, xs.dtype)
        graph, closed, tree = trace(self.call, function, xs.struct)
        if tree.num_leaves != 1:
            self.fail(f"{getattr(plain, '__name__', plain)} gives {tree.num_leaves} arrays.")
        translator = Translator(self.call, self.writer, self.lead, xs.name)
        [found] = translator.graph(graph, [*closed, xs.name])
        aval = graph.outputs[0].aval
        return Value(translator.varying(found), aval.shape, np.dtype(aval.dtype))


def emit_block(to: Emitter, layer: Layer, xs: Value, state: Any) -> tuple[Value, Any]:
    """One step of a layer from a block of ``layer.stride`` steps, which is a short sequence.

    The layers of a chain up to the last one with a stride have a sequence. The others have a step.
    """
    if not isinstance(layer, Chain):
        xs, after = replace(to, is_step=False).layer(layer, xs, state)
        return _only_step(to, xs), after
    steps, finals = layer.stride, []
    for part, before in zip(layer.layers, _states_of(layer, state), strict=True):
        if steps > 1 and steps == part.stride:
            xs, after = emit_block(to, part, xs, before)
            to = replace(to, x=xs.name)
        else:
            xs, after = replace(to, is_step=steps == 1).layer(part, xs, before)
        steps //= part.stride
        finals.append(after)
    return xs, tuple(finals)


def _only_step(to: Emitter, xs: Value) -> Value:
    return Value(to.writer.add("Squeeze", xs.name, to.writer.ints(0)), xs.shape, xs.dtype)


def _states_of(layer: Chain, state: Any) -> Any:
    return (None,) * len(layer) if state is None else state


def _chain(to: Emitter, layer: Chain, xs: Value, state: Any) -> tuple[Value, Any]:
    finals = []
    for part, before in zip(layer.layers, _states_of(layer, state), strict=True):
        xs, after = to.layer(part, xs, before)
        finals.append(after)
    return xs, tuple(finals)


def _residual(to: Emitter, layer: Residual, xs: Value, state: Any) -> tuple[Value, Any]:
    ys, after = to.layer(layer.layer, xs, state)
    if ys.shape != xs.shape:
        to.fail(f"{layer.label} adds {xs.shape} and {ys.shape}.")
    return Value(to.writer.add("Add", xs.name, ys.name), xs.shape, xs.dtype), after


def _concat(to: Emitter, layer: Concat, xs: Value, state: Any) -> tuple[Value, Any]:
    ys, after = to.layer(layer.layer, xs, state)
    return _joined(to, [xs, ys], "concat"), after


def _parallel(to: Emitter, layer: Parallel, xs: Value, state: Any) -> tuple[Value, Any]:
    states = (None,) * len(layer.layers) if state is None else state
    pairs = [to.layer(one, xs, s) for one, s in zip(layer.layers, states, strict=True)]
    join = next((name for name, f in JOINS.items() if layer.join == Function(f)), None)
    if join in (None, "tuple"):
        to.fail(f"{layer.label} joins its outputs by {join or 'a function'}; expected a name.")
    return _joined(to, [ys for ys, _ in pairs], str(join)), tuple(after for _, after in pairs)


def _joined(to: Emitter, parts: list[Value], join: str) -> Value:
    """Outputs side by side as one."""
    names, first = [part.name for part in parts], parts[0]
    if join == "concat":
        name = to.writer.add("Concat", *names, axis=to.lead)
        return Value(name, (sum(part.shape[0] for part in parts),), first.dtype)
    op = "Mul" if join == "product" else "Add"
    name = names[0]
    for other in names[1:]:
        name = to.writer.add(op, name, other)
    if join == "mean":
        name = to.writer.add("Div", name, to.writer.constant(np.asarray(len(parts), first.dtype)))
    return Value(name, first.shape, first.dtype)


def _dense(to: Emitter, layer: Dense, xs: Value, state: Any) -> tuple[Value, Any]:
    W = to.writer.constant(np.asarray(layer.W).T, "W")
    name = to.writer.add("MatMul", xs.name, W)
    if layer.b is not None:
        name = to.writer.add("Add", name, to.writer.constant(np.asarray(layer.b), "b"))
    ys = Value(name, (*xs.shape[:-1], layer.W.shape[0]), xs.dtype)
    return ys if layer.activation == as_pytree(identity) else to.function(
        layer.activation, ys
    ), None


def _embedding(to: Emitter, layer: Embedding, xs: Value, state: Any) -> tuple[Value, Any]:
    table = to.writer.constant(np.asarray(layer.table), "table")
    name = to.writer.add("Gather", table, xs.name, axis=0)
    return Value(name, (*xs.shape, layer.table.shape[1])), None


def _dropout(to: Emitter, layer: Dropout, xs: Value, state: Any) -> tuple[Value, Any]:
    return xs, None  # a file is for inference


def _per_step(to: Emitter, layer: PerStep, xs: Value, state: Any) -> tuple[Value, Any]:
    norm = layer.function
    if type(norm) is eqx.nn.LayerNorm and norm.weight is not None and norm.shape == xs.shape:
        arrays = [norm.weight] if norm.bias is None else [norm.weight, norm.bias]
        names = [to.writer.constant(np.asarray(a)) for a in arrays]
        name = to.writer.add("LayerNormalization", xs.name, *names, axis=-1, epsilon=norm.eps)
        return Value(name, xs.shape, xs.dtype), None
    return to.function(norm, xs), None


EMIT: dict[type, Callable[..., tuple[Value, Any]]] = {
    Recurrence: emit_recurrence,
    Bidirectional: emit_bidirectional,
    Chain: _chain,
    Residual: _residual,
    Concat: _concat,
    Parallel: _parallel,
    Conv1d: emit_conv,
    MaxPool1d: emit_pool,
    MeanPool1d: emit_pool,
    Dense: _dense,
    Embedding: _embedding,
    Dropout: _dropout,
    PerStep: _per_step,
}
