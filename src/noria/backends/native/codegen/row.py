"""The element-wise part of a stage: one block of features of one example, in vectors."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from noria.backends.native.codegen.addresses import Addresses, vector_of
from noria.backends.native.codegen.elementwise import EMITTERS, in_memory
from noria.backends.native.codegen.llvm import (
    I8,
    advance,
    constant,
    i64,
    load_lanes,
    mask,
    splat,
    store_lanes,
)
from noria.backends.native.plan.panels import StageTiling, item_of
from noria.backends.native.plan.stages import Constant, DotColumns, Elementwise, Load, Slot
from noria.ir.graph import Atom, Equation
from noria.ir.primitives import COMBINE


def combine(b: ir.IRBuilder, equation: Equation, one: ir.Value, other: ir.Value) -> ir.Value:
    """The operation that a reduction repeats."""
    return EMITTERS[COMBINE[equation.name]](b, equation, [one, other])


def neutral(equation: Equation) -> Any:
    """The neutral element of a reduction."""
    dtype = equation.inputs[0].aval.dtype
    if equation.name == "reduce_sum":
        return 0
    lowest = equation.name == "reduce_max"
    if dtype.kind == "f":
        return -math.inf if lowest else math.inf
    return np.iinfo(dtype).min if lowest else np.iinfo(dtype).max


def emit_row(
    addresses: Addresses,
    tiling: StageTiling,
    row: ir.Value,
    block: ir.Value,
    tile: ir.Value | None,
    counts: Sequence[int],
) -> None:
    """Store all values that a stage stores, for one block of features of one example.

    Args:
        addresses: the address of each value.
        tiling: the stage.
        row: the example.
        block: the number of the block.
        tile: the address of the products, if there are any.
        counts: how many features each vector of the block has.
    """
    b = addresses.b
    start = b.mul(block, i64(tiling.vectors * addresses.plan.lanes))
    for n, count in enumerate(counts):
        if count:
            _Vector(addresses, tiling, row, tile, counts, n, start).emit()


class _Vector:
    """One vector of the features of an example: number ``n`` of its block, from ``start``."""

    def __init__(
        self,
        addresses: Addresses,
        tiling: StageTiling,
        row: ir.Value,
        tile: ir.Value | None,
        counts: Sequence[int],
        n: int,
        start: ir.Value,
    ):
        self.addresses, self.b, self.plan = addresses, addresses.b, addresses.plan
        self.tiling, self.stage, self.schedule = tiling, tiling.stage, self.plan.schedule
        self.row, self.tile, self.counts, self.n, self.start = row, tile, counts, n, start
        self.count, self.lanes = counts[n], self.plan.lanes
        self.first = n * self.lanes
        self._computed: dict[tuple[int, int], ir.Value] = {}

    def emit(self) -> None:
        for atom, slots in self.stage.stores:
            value = self._value(atom, 0)
            for slot in slots:
                self._store(value, slot)
        for equation, _ in self.stage.reductions:
            self._accumulate(equation)

    def _value(self, atom: Atom, offset: int) -> ir.Value:
        """The vector of ``atom``; each is computed once."""
        todo = [(atom, offset)]  # no recursion: a cell may be thousands of operations deep
        while todo:
            key = _key(*todo[-1])
            if key in self._computed:
                todo.pop()
                continue
            node = self.schedule.lookup.node_at(
                *todo[-1], self.stage.extent, self.stage.local.__contains__
            )
            operands = node.operands if isinstance(node, Elementwise) else ()
            waits_for = [pair for pair in operands if _key(*pair) not in self._computed]
            if waits_for:
                todo += reversed(waits_for)
            else:
                self._computed[key] = self._of_node(node)
        return self._computed[_key(atom, offset)]

    def _of_node(self, node: Any) -> ir.Value:
        if isinstance(node, Constant):
            return constant(vector_of(self.plan, node.dtype), node.value)
        if isinstance(node, Load):
            return self._load(node)
        if isinstance(node, DotColumns):
            return self._of_tile(node)
        assert isinstance(node, Elementwise)
        args = [self._computed[_key(*pair)] for pair in node.operands]
        return EMITTERS[node.equation.name](self.b, node.equation, args)

    def _of_tile(self, product: DotColumns) -> ir.Value:
        """A vector of products, which a microkernel has left in the tile."""
        result = product.equation.outputs[0]
        for panel in self.tiling.panels:
            if (product, self.n) in panel.columns:
                kind, item = vector_of(self.plan, result.aval.dtype), item_of(result)
                position = self.plan.tile_position(panel, self.counts, product, self.n)
                assert self.tile is not None
                address = advance(self.b, self.tile, panel.tile_offset + position * item)
                return self.b.load(address, typ=kind, align=item)
        raise AssertionError(product)

    def _load(self, node: Load) -> ir.Value:
        b, dtype, slot = self.b, node.value.aval.dtype, self.schedule.slots[node.value]
        kind, item = in_memory(dtype), item_of(node.value)
        if node.extent == 1:
            address = self.addresses.address(slot, node.offset, self.row)
            found = splat(b, b.load(address, typ=kind, align=item), self.lanes)
        else:
            first = self.first + node.offset
            address = self.addresses.address(slot, self.start, self.row, first)
            found = load_lanes(b, address, ir.VectorType(kind, self.lanes), self.count, item)
        if dtype.kind == "b":
            found = b.icmp_unsigned("!=", found, constant(found.type, 0))
        return found

    def _store(self, value: ir.Value, slot: Slot) -> None:
        b = self.b
        holder = self.schedule.values(slot.kind)[slot.number]
        if holder.aval.dtype == bool:
            value = b.zext(value, ir.VectorType(I8, self.lanes))
        address = self.addresses.address(slot, self.start, self.row, self.first)
        store_lanes(b, value, address, self.count, item_of(holder))

    def _accumulate(self, equation: Equation) -> None:
        """Add a vector to the partial results of a reduction."""
        b = self.b
        value = self._value(equation.inputs[0], 0)
        if self.count < self.lanes:
            rest = constant(value.type, neutral(equation))
            value = b.select(mask(self.lanes, self.count), value, rest)
        address = self.addresses.reduction_at(equation, self.row)
        before = b.load(address, typ=value.type, align=4)
        b.store(combine(b, equation, before, value), address, align=4)


def _key(atom: Atom, offset: int) -> tuple[int, int]:
    return id(atom), offset  # literals are not hashable
