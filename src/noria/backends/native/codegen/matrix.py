"""A stage on matrices: loops over heads, rows, and vectors of features of one example.

A block is a few vectors of features; the loop over rows is inside it. Sums over rows stay in
registers within a block. Of a sum over features each row leaves one vector, and as many rows as
there are lanes are reduced together::

    for each head:
        for each tile of rows, if there are sums over features:
            for each block of features:
                for each row of the tile:   load, compute, store, add to the sums
            reduce the vectors of the rows of the tile
        store the sums over rows
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from llvmlite import ir

from noria._integers import ceil_div
from noria.backends.native.codegen.addresses import Addresses, vector_of
from noria.backends.native.codegen.elementwise import EMITTERS, in_memory
from noria.backends.native.codegen.gemv import horizontal
from noria.backends.native.codegen.llvm import (
    I8,
    I32,
    POINTER,
    advance,
    bytes_of,
    carry_loop,
    constant,
    for_share,
    i64,
    internal_function,
    intrinsic,
    load_each,
    load_lanes,
    loop,
    mask,
    minimum,
    splat,
    stack,
    store_lanes,
)
from noria.backends.native.codegen.row import combine, neutral
from noria.backends.native.plan.access import Access, composed, identity
from noria.backends.native.plan.matrices import Target
from noria.backends.native.plan.matrix_lookup import ElementwiseAt, LoadAt, MatrixLookup, MatrixNode
from noria.backends.native.plan.panels import ALIGN, MatrixTiling, item_of
from noria.backends.native.plan.stages import Constant
from noria.ir.graph import Atom, Equation, Value


class MatrixStageCode:
    """The code of a stage for one example.

    Args:
        addresses: the address of each value.
        tiling: the stage.
    """

    def __init__(self, addresses: Addresses, tiling: MatrixTiling):
        self.addresses, self.plan, self.tiling = addresses, addresses.plan, tiling
        self.b, self.lanes, stage = addresses.b, addresses.plan.lanes, tiling.stage
        self.domain, self.lookup = stage.domain, MatrixLookup(addresses.schedule.lookup)
        self.row_axis, last = stage.rows(), len(stage.domain) - 1
        self.features = stage.domain[last]
        self.rows = 1 if self.row_axis is None else stage.domain[self.row_axis]
        self.blocks = tiling.counts(self.lanes)
        self.over_features, self.over_rows = [], []  # type: list[Any], list[Any]
        for equation, targets in stage.reductions:
            wide = self._access(targets[0]).strides[last] != 0
            (self.over_rows if wide else self.over_features).append((equation, targets))
        vectors = ceil_div(self.features, self.lanes)
        rows_of_tiles = self.over_rows if self.over_features else ()
        self.sums = [self._memory(e, vectors) for e, _ in rows_of_tiles]
        self.partial = [self._memory(e, self.lanes) for e, _ in self.over_features]
        self._nodes: dict[Any, MatrixNode] = {}

    def _memory(self, equation: Equation, vectors: int) -> ir.Value:
        return stack(self.b, vectors * bytes_of(self._vector(equation)), ALIGN)

    def _vector(self, equation: Equation) -> ir.VectorType:
        return vector_of(self.plan, equation.inputs[0].aval.dtype)

    def _access(self, target: Target) -> Access:
        return composed(self.domain, identity(self.domain), target.place)

    def emit(self, example: ir.Value) -> None:
        """The stage for one example."""
        self.example = example
        b, skipped = self.b, (*self.inner_axes(), len(self.domain) - 1)
        self.indices: list[ir.Value] = [i64(0)] * len(self.domain)
        with ExitStack() as loops:
            for n, count in enumerate(self.domain):
                if n not in skipped:
                    self.indices[n] = loops.enter_context(loop(b, i64(0), i64(count)))
            self._one_matrix()

    def inner_axes(self) -> tuple[int | None, ...]:
        """The dimensions, besides the features, whose loops are inside `_one_matrix`."""
        return (self.row_axis,)

    def _one_matrix(self) -> None:
        b = self.b
        if not self.over_features:
            self._rows(i64(0), i64(self.rows))
            return
        for (equation, _), memory in zip(self.over_rows, self.sums, strict=True):
            self._fill(memory, equation, ceil_div(self.features, self.lanes))
        with loop(b, i64(0), i64(ceil_div(self.rows, self.lanes))) as tile:
            start = b.mul(tile, i64(self.lanes))
            self._rows(start, minimum(b, b.add(start, i64(self.lanes)), i64(self.rows)))
            self._finish_tile(tile, start)
        for (_, targets), memory in zip(self.over_rows, self.sums, strict=True):
            self._finish_sums(targets, memory)

    def _fill(self, memory: ir.Value, equation: Equation, count: int) -> None:
        """Begin with the neutral element."""
        kind = self._vector(equation)
        with loop(self.b, i64(0), i64(count)) as n:
            address = advance(self.b, memory, self.b.mul(n, i64(bytes_of(kind))))
            self.b.store(neutral_vector(kind, equation), address, align=min(bytes_of(kind), ALIGN))

    # --- rows -------------------------------------------------------------------------------------

    def _rows(self, start: ir.Value, stop: ir.Value) -> None:
        """Some rows of a matrix, block by block of its features."""
        b, (full, whole, rest) = self.b, self.blocks
        if full + bool(rest) > 1:
            for (equation, _), memory in zip(self.over_features, self.partial, strict=True):
                self._fill(memory, equation, self.lanes)
        for block, counts in for_share(b, full, whole, rest, i64(0), i64(1)):
            self._block(block, [n for n in counts if n], start, stop)

    def _block(
        self, block: ir.Value, counts: Sequence[int], start: ir.Value, stop: ir.Value
    ) -> None:
        b, width = self.b, self.tiling.vectors * self.lanes
        self.counts, self.first = counts, b.mul(block, i64(width))
        self._computed: dict[Any, ir.Value] = {}
        self._load_constant_rows()
        before = dict(self._computed)

        def step(k: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
            if self.row_axis is not None:
                self.indices[self.row_axis] = b.add(start, k)
            self._computed = dict(before)
            return self._row(k, sums)

        count = b.sub(stop, start)
        if not self.over_features:
            begin = [neutral_vector(self._vector(e), e) for e, _ in self.over_rows for _ in counts]
            found = iter(carry_loop(b, count, begin, step))
            for _, targets in self.over_rows:
                for n, number in enumerate(counts):
                    self._store_sum(next(found), targets, self.first, number, n)
            return
        cells = []
        for (equation, _), memory in zip(self.over_rows, self.sums, strict=True):
            kind = self._vector(equation)
            address = advance(b, memory, b.mul(self.first, i64(bytes_of(kind) // self.lanes)))
            cells += [(advance(b, address, n * bytes_of(kind)), kind) for n in range(len(counts))]
        sums = [b.load(cell, typ=kind, align=min(bytes_of(kind), ALIGN)) for cell, kind in cells]
        for (cell, kind), value in zip(cells, carry_loop(b, count, sums, step), strict=True):
            b.store(value, cell, align=min(bytes_of(kind), ALIGN))

    def _load_constant_rows(self) -> None:
        """Load values that are the same for all rows before the loop over them."""
        stage = self.tiling.stage
        roots = [*(a for a, _ in stage.stores), *(e.inputs[0] for e, _ in stage.reductions)]
        for atom, access, node in self.lookup.nodes(roots, self.domain, self._is_local):
            self._nodes[id(atom), access] = node
            if isinstance(node, LoadAt) and self._is_constant(node.access):
                for n in range(len(self.counts)):
                    self._value(atom, access, n)

    def _is_local(self, value: Value) -> bool:
        return value in self.tiling.stage.local

    def _is_constant(self, access: Access) -> bool:
        return self.row_axis is None or not access.strides[self.row_axis]

    def _row(self, k: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
        """One row of the block: the sums over rows that include it."""
        b, vectors, whole = self.b, range(len(self.counts)), identity(self.domain)
        for atom, targets in self.tiling.stage.stores:
            values = [self._value(atom, whole, n) for n in vectors]
            for target in targets:
                for n, value in enumerate(values):
                    self._store(value, target, n)
        found = [
            self._added(equation, sums[m * len(vectors) + n], n)
            for m, (equation, _) in enumerate(self.over_rows)
            for n in vectors
        ]
        several = self.blocks[0] + bool(self.blocks[2]) > 1
        for (equation, _), memory in zip(self.over_features, self.partial, strict=True):
            kind = self._vector(equation)
            address = advance(b, memory, b.mul(k, i64(bytes_of(kind))))
            total = b.load(address, typ=kind, align=min(bytes_of(kind), ALIGN)) if several else None
            for n in vectors:
                total = self._added(equation, total, n)
            b.store(total, address, align=min(bytes_of(kind), ALIGN))
        return found

    def _added(self, equation: Equation, total: ir.Value | None, n: int) -> ir.Value:
        """A total and one more vector of the operand of a reduction."""
        b, operand, whole = self.b, equation.inputs[0], identity(self.domain)
        value, count = self._value(operand, whole, n), self.counts[n]
        node = self._nodes.get((id(operand), whole))
        if count < self.lanes:
            rest = neutral_vector(value.type, equation)
            value = b.select(mask(self.lanes, count), value, rest)
        elif total is not None and _is_sum_of_products(equation, node):
            assert isinstance(node, ElementwiseAt)
            factors = [self._value(*pair, n) for pair in node.operands]
            return intrinsic(b, "fmuladd", *factors, total)
        return value if total is None else combine(b, equation, total, value)

    # --- values -----------------------------------------------------------------------------------

    def _value(self, atom: Atom, access: Access, n: int) -> ir.Value:
        """Vector ``n`` of the block of a value; each is computed once."""
        todo = [(atom, access)]
        while todo:
            key = id(todo[-1][0]), todo[-1][1], n
            if key in self._computed:
                todo.pop()
                continue
            node = self._node(*todo[-1])
            operands = node.operands if isinstance(node, ElementwiseAt) else ()
            waits_for = [
                pair for pair in operands if (id(pair[0]), pair[1], n) not in self._computed
            ]
            if waits_for:
                todo += reversed(waits_for)
            else:
                self._computed[key] = self._of_node(node, n)
        return self._computed[id(atom), access, n]

    def _node(self, atom: Atom, access: Access) -> MatrixNode:
        key = id(atom), access
        if key not in self._nodes:
            self._nodes[key] = self.lookup.node_at(atom, self.domain, access, self._is_local)
        return self._nodes[key]

    def _of_node(self, node: MatrixNode, n: int) -> ir.Value:
        if isinstance(node, Constant):
            return constant(vector_of(self.plan, node.dtype), node.value)
        if isinstance(node, ElementwiseAt):
            args = [self._computed[id(a), access, n] for a, access in node.operands]
            return EMITTERS[node.equation.name](self.b, node.equation, args)
        if node.access.strides[-1]:
            return self._load(node, n)
        key = node.value, node.access  # the same for all features, so it is loaded once
        if key not in self._computed:
            self._computed[key] = self._load(node, n)
        return self._computed[key]

    def _load(self, node: LoadAt, n: int) -> ir.Value:
        b, dtype = self.b, node.value.aval.dtype
        kind, item, stride = in_memory(dtype), item_of(node.value), node.access.strides[-1]
        slot = self.addresses.schedule.slots[node.value]
        address = self._address(slot, node.access, self.first, n)
        vector = ir.VectorType(kind, self.lanes)
        if stride == 1:
            found = load_lanes(b, address, vector, self.counts[n], item)
        elif not stride:
            found = splat(b, b.load(address, typ=kind, align=item), self.lanes)
        else:
            lanes = range(self.counts[n])
            places = [advance(b, address, lane * stride * item) for lane in lanes]
            found = load_each(b, places, vector, item)
        return b.icmp_unsigned("!=", found, constant(vector, 0)) if dtype.kind == "b" else found

    def _address(self, slot: Any, access: Access, feature: ir.Value, n: int = 0) -> ir.Value:
        """The address ``n`` vectors after a feature."""
        b, offset = self.b, i64(0)
        for index, stride in zip((*self.indices[:-1], feature), access.strides, strict=True):
            if stride:
                offset = b.add(offset, b.mul(index, i64(stride)))
        shift = access.offset + n * self.lanes * access.strides[-1]
        return self.addresses.address(slot, offset, self.example, shift)

    # --- results ----------------------------------------------------------------------------------

    def _store(self, value: ir.Value, target: Target, n: int) -> None:
        address = self._address(target.slot, self._access(target), self.first, n)
        self._write(value, target, address, self._access(target).strides[-1], self.counts[n])

    def _write(
        self, value: ir.Value, target: Target, address: ir.Value, stride: int, count: int
    ) -> None:
        """Store the first numbers of a vector, ``stride`` elements apart."""
        b, schedule = self.b, self.addresses.schedule
        holder = schedule.values(target.slot.kind)[target.slot.number]
        item = item_of(holder)
        if holder.aval.dtype == bool:
            value = b.zext(value, ir.VectorType(I8, self.lanes))
        if stride == 1:
            store_lanes(b, value, address, count, item)
            return
        for lane in range(count):
            number = b.extract_element(value, ir.Constant(I32, lane))
            b.store(number, advance(b, address, lane * stride * item), align=item)

    def _finish_sums(self, targets: Sequence[Target], memory: ir.Value) -> None:
        """Store the sums over the rows of a matrix."""
        b, lanes, value = self.b, self.lanes, targets[0].slot
        holder = self.addresses.schedule.values(value.kind)[value.number]
        kind = vector_of(self.plan, holder.aval.dtype)
        full, rest = divmod(self.features, lanes)
        for n, count in for_share(b, full, lanes, rest, i64(0), i64(1)):
            shift = b.mul(n, i64(bytes_of(kind)))
            found = b.load(advance(b, memory, shift), typ=kind, align=min(bytes_of(kind), ALIGN))
            self._store_sum(found, targets, b.mul(n, i64(lanes)), count)

    def _store_sum(
        self,
        value: ir.Value,
        targets: Sequence[Target],
        feature: ir.Value,
        count: int,
        n: int = 0,
    ) -> None:
        for target in targets:
            access = self._access(target)
            address = self._address(target.slot, access, feature, n)
            self._write(value, target, address, access.strides[-1], count)

    def _finish_tile(self, tile: ir.Value, start: ir.Value) -> None:
        """Reduce the vectors of a tile of rows, and store one number for each row."""
        b, (full, rest) = self.b, divmod(self.rows, self.lanes)
        if self.row_axis is not None:
            self.indices[self.row_axis] = start
        if not full or not rest:
            self._finish_rows(rest or self.lanes)
            return
        with b.if_else(b.icmp_signed("<", tile, i64(full))) as (is_full, is_last):
            with is_full:
                self._finish_rows(self.lanes)
            with is_last:
                self._finish_rows(rest)

    def _finish_rows(self, count: int) -> None:
        b = self.b
        for (equation, targets), memory in zip(self.over_features, self.partial, strict=True):
            function = _reduce_rows(b.module, equation, self._vector(equation), count)
            found = b.call(function, [memory])
            for target in targets:
                access = self._access(target)
                stride = access.strides[self.row_axis] if self.row_axis is not None else 1
                address = self._address(target.slot, access, i64(0))
                self._write(found, target, address, stride, count)


def neutral_vector(kind: ir.VectorType, equation: Equation) -> ir.Value:
    """The neutral element of a reduction in all lanes."""
    return constant(kind, neutral(equation))


def _reduce_rows(
    module: ir.Module, equation: Equation, kind: ir.VectorType, count: int
) -> ir.Function:
    """``vector f(memory)``: one number for each of ``count`` vectors in memory."""

    def emit(b: ir.IRBuilder, memory: ir.Value) -> None:
        align = min(bytes_of(kind), ALIGN)
        places = [advance(b, memory, n * bytes_of(kind)) for n in range(count)]
        vectors = [b.load(place, typ=kind, align=align) for place in places]
        vectors += [constant(kind, 0)] * (kind.count - count)
        b.ret(horizontal(b, vectors, partial(combine, b, equation)))

    name = f"reduce_rows.{equation.name}.{equation.inputs[0].aval.dtype}.{kind.count}.{count}"
    return internal_function(module, name, [POINTER], emit, kind)


def _is_sum_of_products(equation: Equation, node: MatrixNode | None) -> bool:
    return (
        equation.name == "reduce_sum"
        and isinstance(node, ElementwiseAt)
        and node.equation.name == "mul"
        and equation.inputs[0].aval.dtype.kind == "f"
    )
