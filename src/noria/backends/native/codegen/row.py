"""The element-wise part of a stage: one block of features of one example, in vectors."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir

from noria.backends.native.codegen.elementwise import ELEMENTWISE, in_memory
from noria.backends.native.codegen.llvm import I8, at, constant, i64, mask, read, splat, write
from noria.backends.native.plan.stages import Constant, DotColumns, Elementwise, Load, Slot
from noria.backends.native.plan.tiling import StageTiling, item_of

if TYPE_CHECKING:
    from noria.backends.native.codegen.kernel import Run


_COMBINE = {"reduce_sum": "add", "reduce_max": "max", "reduce_min": "min"}


def combine(b: ir.IRBuilder, equation: Any, one: ir.Value, other: ir.Value) -> ir.Value:
    """The operation that a reduction repeats."""
    return ELEMENTWISE[_COMBINE[equation.name]].rule(b, equation, [one, other])


def neutral(equation: Any) -> Any:
    """What a reduction begins with."""
    dtype = equation.inputs[0].aval.dtype
    if equation.name == "reduce_sum":
        return 0
    lowest = equation.name == "reduce_max"
    if dtype.kind == "f":
        return -math.inf if lowest else math.inf
    return np.iinfo(dtype).min if lowest else np.iinfo(dtype).max


def _key(atom: Any, offset: int) -> tuple[int, int]:
    return id(atom), offset  # numbers are not hashable


class Row:
    """The element-wise part of a stage for one block of features of one example."""

    def __init__(
        self, run: "Run", tiling: StageTiling, row: ir.Value, block: ir.Value, tile: ir.Value | None
    ):
        self.run, self.b, self.lanes = run, run.b, run.plan.lanes
        self.schedule, self.tiling, self.stage = run.schedule, tiling, tiling.stage
        self.row, self.tile = row, tile
        self.start = self.b.mul(block, i64(tiling.vectors * self.lanes))

    def emit(self, counts: Sequence[int]) -> None:
        """Store all that the stage stores; ``counts`` are the features of each vector."""
        self.counts = counts
        for vector, count in enumerate(counts):
            if not count:
                continue
            self.vector, self.count = vector, count
            self.at = self.b.add(self.start, i64(vector * self.lanes))
            self.known: dict[tuple[Any, int], ir.Value] = {}
            for atom, places in self.stage.stores:
                value = self.value(atom, 0)
                for place in places:
                    self._store(value, place)
            for equation, _ in self.stage.reductions:
                self._add(equation)

    def value(self, atom: Any, offset: int) -> ir.Value:
        """The vector of ``atom`` here; each is computed once."""
        todo = [(atom, offset)]  # a cell may be thousands of operations deep, which no recursion is
        while todo:
            key = _key(*todo[-1])
            if key in self.known:
                todo.pop()
                continue
            node = self.schedule.node_at(
                *todo[-1], self.stage.extent, self.stage.local.__contains__
            )
            operands = node.operands if isinstance(node, Elementwise) else ()
            waits_for = [pair for pair in operands if _key(*pair) not in self.known]
            if waits_for:
                todo += reversed(waits_for)
            else:
                self.known[key] = self._value(node)
        return self.known[_key(atom, offset)]

    def _value(self, node: Any) -> ir.Value:
        if isinstance(node, Constant):
            return constant(self.run.plan.vector(node.dtype), node.value)
        if isinstance(node, Load):
            return self._load(node)
        if isinstance(node, DotColumns):
            return self._of_tile(node)
        assert isinstance(node, Elementwise)
        args = [self.known[_key(*pair)] for pair in node.operands]
        return ELEMENTWISE[node.equation.name].rule(self.b, node.equation, args)

    def _of_tile(self, product: DotColumns) -> ir.Value:
        for panel in self.tiling.panels:
            if (product, self.vector) in panel.columns:
                kind = self.run.plan.vector(product.equation.outputs[0].aval.dtype)
                item = item_of(product.equation.outputs[0])
                place = (
                    panel.tile_offset
                    + self.run.plan.tile_position(panel, self.counts, product, self.vector) * item
                )
                assert self.tile is not None
                return self.b.load(at(self.b, self.tile, place), typ=kind, align=item)
        raise AssertionError(product)

    def _load(self, node: Load) -> ir.Value:
        b, dtype, place = self.b, node.value.aval.dtype, self.schedule.slots[node.value]
        kind = in_memory(dtype)
        if node.extent == 1:
            number = b.load(
                self.run.address(place, node.offset, self.row), typ=kind, align=item_of(node.value)
            )
            found = splat(b, number, self.lanes)
        else:
            address = self.run.address(place, b.add(self.at, i64(node.offset)), self.row)
            found = read(
                b, address, ir.VectorType(kind, self.lanes), self.count, item_of(node.value)
            )
        if dtype.kind == "b":
            found = b.icmp_unsigned("!=", found, constant(found.type, 0))
        return found

    def _store(self, value: ir.Value, place: Slot) -> None:
        b = self.b
        holder = self.schedule.values(place.kind)[place.number]
        if holder.aval.dtype == bool:
            value = b.zext(value, ir.VectorType(I8, self.lanes))
        write(b, value, self.run.address(place, self.at, self.row), self.count, item_of(holder))

    def _add(self, equation: Any) -> None:
        b = self.b
        value = self.value(equation.inputs[0], 0)
        if self.count < self.lanes:
            value = b.select(
                mask(self.lanes, self.count), value, constant(value.type, neutral(equation))
            )
        address = self.run.sum_at(equation, self.row)
        b.store(
            combine(b, equation, b.load(address, typ=value.type, align=4), value), address, align=4
        )
