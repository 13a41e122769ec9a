"""A graph that is a chain of supported layers, as one model.

The values between two layers are *cuts*: each path from the input to the output goes through them.
The nodes between two neighbouring cuts become one layer.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from noria.interop.build import chain
from noria.interop.onnx import loops, nodes
from noria.interop.onnx.axes import BATCH, DIRECTION, FEATURES, TIME, Axes
from noria.interop.onnx.convolution_nodes import POOLS, WINDOWS, read_conv, read_pool
from noria.interop.onnx.graph import Graph
from noria.interop.onnx.loops import is_mask
from noria.interop.onnx.node import Node, Unreadable
from noria.interop.onnx.steps import Steps, integers_only
from noria.layers.bidirectional import Bidirectional
from noria.layers.parallel import Parallel
from noria.layers.recurrence import Recurrence
from noria.layers.skip import Concat, Residual

Part = tuple[list[Any], Axes]

#: What a reduction of the two directions is called by `Bidirectional`.
MERGES = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceProd": "product"}
JOINS = {"Concat": "concat", "Add": "sum", "Mul": "product"}
SKIPS = {"Concat": Concat, "Add": Residual}


@dataclass
class Reader:
    """Reads the path from the input of a graph to one of its outputs.

    Attributes:
        graph: the graph.
        note: receives what a user should know.
        axes: the axes of each value that was passed.
        is_last: whether the output is that of the last step.
    """

    graph: Graph
    note: Callable[[str], None]
    axes: dict[str, Axes] = field(default_factory=dict)
    is_last: bool = False

    def model(self) -> Any:
        """The model from the input to the first output.

        Raises:
            Unreadable: if the graph is no chain of supported layers.
        """
        output = self.graph.outputs[0]
        inputs = {n for n in self._before([output]) if n in self.graph.inputs}
        if len(inputs) != 1:
            raise Unreadable(f"the output {output!r} depends on {len(inputs)} inputs")
        [x] = inputs
        layers, axes = self.path(x, output, self._input_axes(x))
        if FEATURES not in axes.flat or DIRECTION in axes.flat:
            raise Unreadable(f"the output has the axes {axes}")
        if not self.is_last and not {TIME, "?0"} & {*axes.flat}:
            self.note("the model is one step: its states are inputs and outputs")
        if self.is_last:
            self.note("the output is that of the last step: nr.last(model(xs), lengths)")
        if not layers:
            raise Unreadable("the model has no layers")
        return chain(layers)

    def _input_axes(self, name: str) -> Axes:
        rank = self.graph.rank(name)
        if self.graph.declares_integers(name):
            if rank not in (None, 1, 2):
                raise Unreadable(f"the input {name!r} has {rank} axes; expected 1 or 2 of indices")
            names = ("?0",) if rank == 1 else ("?0", "?1")
            return Axes(tuple((n,) for n in names), {})
        if rank == 2:
            return Axes(((BATCH,), (FEATURES,)), {FEATURES: self._declared_features(name)})
        if rank not in (None, 3):
            raise Unreadable(f"the input {name!r} has {rank} axes; expected 2 or 3")
        readers = [node.op for node in self.graph.nodes if name in node.inputs]
        if WINDOWS & set(readers):  # which have the features in the middle
            sizes = {FEATURES: self._declared_features(name, 1)}
            return Axes(((BATCH,), (FEATURES,), (TIME,)), sizes)
        sizes = {FEATURES: self._declared_features(name)}
        return Axes((("?0",), ("?1",), (FEATURES,)), sizes)

    def _declared_features(self, name: str, place: int = -1) -> int:
        """The declared number of features; 1033 stands for any."""
        for value in self.graph.proto.input:
            if value.name == name and value.type.tensor_type.HasField("shape"):
                return value.type.tensor_type.shape.dim[place].dim_value or 1033
        return 1033

    # --- paths -----------------------------------------------------------------------------------

    def data(self, node: Node) -> list[str]:
        """The inputs of a node through which the sequence comes."""
        if nodes.kind_of(node):
            return [node.input(0)]
        if node.op in ("Scan", "Loop"):
            return [loops.body_of(self.graph, node).source]
        if node.op == "Where" and is_mask(self.graph, node.input(0)):
            return [node.input(1)]
        if node.op in ("Shape", "Size", "Range", "ConstantOfShape"):
            return []
        given = (
            node.inputs[:1] if node.op in ("Reshape", "Expand", "Slice", "Dropout") else node.inputs
        )
        return [n for n in given if n and not self.graph.is_constant(n) and self._moves(n)]

    def _moves(self, name: str) -> bool:
        """Whether a value depends on more than shapes."""
        todo, seen = [name], set()
        while todo:
            now = todo.pop()
            if now in seen or not now or self.graph.is_constant(now):
                continue
            seen.add(now)
            maker = self.graph.makers.get(now)
            if maker is None:
                return True
            if maker.op in ("Shape", "Size"):
                continue
            todo += maker.inputs
        return False

    def _before(self, outputs: Sequence[str], start: str | None = None) -> set[str]:
        """The values from ``start``, or from the inputs, that ``outputs`` depend on."""
        found: set[str] = set()
        todo = list(outputs)
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found.add(name)
            if name != start and name in self.graph.makers:
                todo += self.data(self.graph.makers[name])
        return found

    def _cuts(self, start: str, end: str) -> list[str]:
        """The values that lie on each path, from ``start`` to ``end``."""
        live = self._before([end], start)
        if start not in live:
            raise Unreadable(f"{end!r} does not depend on {start!r}")
        order = [start]
        for node in self.graph.nodes:
            order += [name for name in node.outputs if name in live and name != start]
        place = {name: n for n, name in enumerate(order)}
        if live - place.keys():
            raise Unreadable(f"it depends on {sorted(live - place.keys())[0]!r}")
        reach, cuts = 0, [start]
        last_use = dict.fromkeys(order, -1)
        for name in order[1:]:
            for before in self.data(self.graph.makers[name]):
                last_use[before] = max(last_use[before], place[name])
        for name in order:
            if name != start and reach <= place[name]:
                cuts.append(name)
            reach = max(reach, last_use[name])
        return cuts

    def path(self, start: str, end: str, axes: Axes) -> Part:
        """The layers from one value to another."""
        layers: list[Any] = []
        self.axes[start] = axes
        cuts = self._cuts(start, end)
        for before, after in itertools.pairwise(cuts):
            layers, axes = self._region(before, after, axes, layers)
            self.axes[after] = axes
        return layers, axes

    def _region(self, before: str, after: str, axes: Axes, layers: list[Any]) -> Part:
        """``layers`` with those of the nodes between two cuts."""
        node = self.graph.makers[after]
        if self.data(node) == [before]:
            return self._single(node, before, after, axes, layers)
        given = node.op in JOINS and not any(map(self.graph.is_constant, node.inputs))
        if given and self._has_state(before, after):
            found = self._joined(node, before, axes)
            if found is not None:
                return [*layers, found[0]], found[1]
        return Steps(self.graph, self.axes, self.note).several(before, after, axes, layers)

    def _has_state(self, before: str, after: str) -> bool:
        """Whether there is a layer with a state between two values."""
        makers = [self.graph.makers[n] for n in self._before([after], before) if n != before]
        return any(nodes.kind_of(n) or n.op in ("Scan", "Loop", *WINDOWS) for n in makers)

    # --- kinds of regions ------------------------------------------------------------------------

    def _single(self, node: Node, before: str, after: str, axes: Axes, layers: list[Any]) -> Part:
        """The layer of one node."""
        if nodes.kind_of(node):
            return self._recurrent(node, after, axes, layers)
        if node.op in ("Scan", "Loop"):
            return self._loop(node, after, axes, layers)
        if node.op == "Conv":
            layer, axes = read_conv(self.graph, node, axes)
            return [*layers, layer], axes
        if node.op in POOLS:
            pool, axes = read_pool(self.graph, node, axes)
            return [*layers, pool], axes
        if node.op == "Where" and is_mask(self.graph, node.input(0)):
            return layers, axes
        if node.op in MERGES and DIRECTION in axes.flat and isinstance(layers[-1], Bidirectional):
            return self._merged(node, axes, layers)
        if node.op in ("Gather", "Slice") and (axes.flat.count(TIME) or "?1" in axes.flat):
            last = self._last_step(node, axes)
            if last is not None:
                self.is_last = True
                return layers, last
        return Steps(self.graph, self.axes, self.note).one(node, before, after, axes, layers)

    def _recurrent(self, node: Node, after: str, axes: Axes, layers: list[Any]) -> Part:
        batch_first = bool(node.get("layout", 0))
        given = (BATCH, TIME, FEATURES) if batch_first else (TIME, BATCH, FEATURES)
        axes = self._bind(axes, given)
        layer = nodes.read_node(self.graph, node, self.note)
        count = 2 if isinstance(layer, Bidirectional) else 1
        cell = (layer.forward if isinstance(layer, Bidirectional) else layer).cell
        if axes.size(FEATURES) not in (1033, cell.in_size):
            raise Unreadable(f"{node.label} gets {axes.size(FEATURES)} features")
        sizes = {**axes.sizes, FEATURES: cell.hidden_size, DIRECTION: count}
        names: tuple[str, ...] = (
            (BATCH, TIME, DIRECTION) if batch_first else (TIME, DIRECTION, BATCH)
        )
        if after == node.outputs[0]:
            pass
        elif after == node.outputs[1] and node.get("direction", "forward") == "forward":
            self.is_last = True
            names = names[:1] + names[2:] if batch_first else names[1:]
        else:
            raise Unreadable(f"the path goes through the final state of {node.label}")
        return [*layers, layer], Axes(tuple((n,) for n in (*names, FEATURES)), sizes)

    def _bind(self, axes: Axes, expected: tuple[str, ...]) -> Axes:
        """The axes, which must be these; one step has no axis of time, or one of size 1."""
        if () in axes.names and TIME in expected and not axes.flat.count(TIME):
            place = axes.names.index(())
            names = (*axes.names[:place], (TIME,), *axes.names[place + 1 :])
            axes = Axes(names, {**axes.sizes, TIME: 1})
        found = axes.bound(*expected)
        # Which axis is time is known from here on, and so for all values before.
        pairs = zip(axes.names, found.names, strict=True)
        told: dict[tuple[str, ...], tuple[str, ...]] = {
            old: new for old, new in pairs if old in (("?0",), ("?1",))
        }
        for value, known in self.axes.items():
            names = tuple(told.get(axis, axis) for axis in known.names)
            self.axes[value] = Axes(names, known.sizes)
        return found

    def _loop(self, node: Node, after: str, axes: Axes, layers: list[Any]) -> Part:
        body = loops.body_of(self.graph, node, after)
        names = axes.single()
        rest = [n for place, n in enumerate(names) if place != body.axis % len(names)]
        batched = len(rest) > 1
        if rest[-1] != FEATURES or len(rest) > 2 or rest[0] == TIME:
            raise Unreadable(f"{node.label} runs over the axes {axes}")
        if axes.size(FEATURES) == 1033:
            raise Unreadable(f"the number of features of {node.label} is not declared")
        layer = loops.layer_of(self.graph, body, (axes.size(FEATURES),), batched)
        out = _features_of(layer, axes.size(FEATURES))
        found = (TIME, BATCH, FEATURES) if batched else (TIME, FEATURES)
        return [*layers, layer], Axes(tuple((n,) for n in found), {FEATURES: out})

    def _merged(self, node: Node, axes: Axes, layers: list[Any]) -> Part:
        """A reduction over the two directions."""
        constant = self.graph.constant(node.input(1)) if node.input(1) else None
        chosen = node.get("axes", []) if constant is None else constant.tolist()
        places = [n for n, axis in enumerate(axes.names) if axis == (DIRECTION,)]
        if [n % len(axes.names) for n in chosen] != places or node.get("keepdims", 1):
            raise Unreadable(f"{node.label} reduces other axes than the directions")
        names = tuple(axis for axis in axes.names if axis != (DIRECTION,))
        both = layers[-1]
        layer = Bidirectional(both.forward, both.backward, MERGES[node.op])
        return [*layers[:-1], layer], Axes(names, {FEATURES: axes.size(FEATURES)})

    def _last_step(self, node: Node, axes: Axes) -> Axes | None:
        """The axes without time, if a node takes the last step of it."""
        time = next(n for n, a in enumerate(axes.names) if a in ((TIME,), ("?1",)))
        if node.op == "Gather":
            index = self.graph.constant(node.input(1))
            if node.get("axis", 0) % len(axes.names) != time or index is None:
                return None
            if index.reshape(-1).tolist() != [-1]:
                raise Unreadable(f"{node.label} takes a step that is not the last")
            names = [*axes.names[:time], *([()] if index.ndim else []), *axes.names[time + 1 :]]
            return Axes(tuple(names), axes.sizes)
        given = integers_only(self.graph, node)
        starts, ends, chosen = given[0], given[1], given[2] if given[2:] else [0]
        if [n % len(axes.names) for n in chosen] != [time]:
            return None
        if starts != [-1] or ends[0] < 2**31 - 1:
            raise Unreadable(f"{node.label} takes steps that are not the last one")
        return Axes((*axes.names[:time], (), *axes.names[time + 1 :]), axes.sizes)

    def _joined(self, node: Node, before: str, axes: Axes) -> tuple[Any, Axes] | None:
        """Paths that meet: a skip connection, two directions, or layers side by side."""
        try:
            parts = [self.path(before, name, axes) for name in node.inputs]
        except Unreadable:
            return None
        layers, (found, *others) = (
            [chain(part) if part else None for part, _ in parts],
            [part_axes for _, part_axes in parts],
        )
        if any(other.names != found.names for other in others) and "?0" not in axes.flat:
            raise Unreadable(f"{node.label} joins values with other axes")
        found = next((a for a in (found, *others) if "?0" not in a.flat), found)
        sizes = [a.size(FEATURES) for _, a in parts]
        if node.op == "Concat":
            if node["axis"] % len(found.names) != len(found.names) - 1:
                return None
            found = found.features(sum(sizes))
        elif len(set(sizes)) > 1:
            return None
        if layers[0] is None and len(layers) == 2 and node.op in SKIPS:
            return SKIPS[node.op](layers[1]), found
        if layers[-1] is None and len(layers) == 2 and node.op == "Add":
            return Residual(layers[0]), found
        if any(layer is None for layer in layers):
            return None
        forward: Any = layers[0]
        backward: Any = layers[-1]
        both = isinstance(forward, Recurrence) and isinstance(backward, Recurrence)
        if both and len(layers) == 2 and not forward.reverse and backward.reverse:
            return Bidirectional(forward, backward, JOINS[node.op]), found
        return Parallel(JOINS[node.op], *layers), found


def _features_of(layer: Recurrence, features: int) -> int:
    """The number of features that a layer emits."""
    x = jax.ShapeDtypeStruct((1, features), "float32")
    return jax.eval_shape(layer, x).shape[-1]
