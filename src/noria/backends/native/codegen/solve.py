"""A stage of systems of linear equations with positive definite matrices: elimination.

Several systems take each step of the method together, so that none waits for a division::

    for each row i, and each system:
        u = row[i] / row[i][i], right of the diagonal
        for each row j below:   row[j] -= row[j][i] u
        for each right side y:  z[i] = y[i] / row[i][i],  y -= y[i] u
    for each row i, the last one first, and each system:
        for each right side:    x[i] = z[i] - u[i] · x

``u`` replaces the row, and ``z[i]`` replaces ``y[i]``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from noria.backends.native.codegen.addresses import Addresses, vector_of
from noria.backends.native.codegen.gemv import across_lanes
from noria.backends.native.codegen.llvm import (
    I64,
    advance,
    bytes_of,
    constant,
    i64,
    intrinsic,
    load_lanes,
    loop,
    splat,
    stack,
    store_lanes,
)
from noria.backends.native.plan.panels import ALIGN, SolveTiling

#: Bytes of the matrices that are solved together: they stay in the first-level cache.
_GROUP_BYTES = 1 << 14


class SolveStageCode:
    """The code of a stage for one example.

    Args:
        addresses: the address of each value.
        tiling: the stage.
    """

    def __init__(self, addresses: Addresses, tiling: SolveTiling):
        self.addresses, self.b = addresses, addresses.b
        self.stage, self.size = tiling.stage, tiling.stage.unknowns
        self.matrix, self.right = tiling.stage.equation.inputs
        self.kind = vector_of(addresses.plan, self.right.aval.dtype)
        self.lanes, self.item = self.kind.count, bytes_of(self.kind) // self.kind.count
        self.counts = [min(self.lanes, self.size - n * self.lanes) for n in range(tiling.vectors)]
        self.row_bytes = tiling.vectors * bytes_of(self.kind)
        most = max(1, _GROUP_BYTES // (self.size * self.row_bytes))
        systems = tiling.stage.systems
        self.group = next(n for n in range(min(most, systems), 0, -1) if systems % n == 0)
        self.rows = self._memory(self.size)
        self.sides, self.found = (self._memory(tiling.stage.columns) for _ in range(2))

    def _memory(self, rows: int) -> ir.Value:
        """Memory for some rows of each system of a group."""
        return stack(self.b, self.group * rows * self.row_bytes, ALIGN)

    def emit(self, example: ir.Value) -> None:
        """The stage for one example."""
        b, group, size = self.b, i64(self.group), i64(self.size)
        with loop(b, i64(0), i64(self.stage.systems // self.group)) as part:
            first = b.mul(part, group)
            with loop(b, i64(0), group) as n:
                self._begin(example, b.add(first, n), n)
            with loop(b, i64(0), size) as i, loop(b, i64(0), group) as n:
                self._eliminate(n, i)
            with loop(b, i64(0), size) as i, loop(b, i64(0), group) as n:
                self._substitute(n, b.sub(b.sub(size, i64(1)), i))
            with loop(b, i64(0), group) as n:
                self._finish(example, b.add(first, n), n)

    @contextmanager
    def _columns(self, n: ir.Value) -> Iterator[ir.Value]:
        """A loop over the right sides of a system: their numbers in the group."""
        count = i64(self.stage.columns)
        with loop(self.b, i64(0), count) as k:
            yield self.b.add(self.b.mul(n, count), k)

    def _begin(self, example: ir.Value, system: ir.Value, n: ir.Value) -> None:
        """Copy a matrix and its right sides; lanes beyond them are zero."""
        b, size = self.b, i64(self.size)
        with loop(b, i64(0), size) as i:
            source = self._source(self.matrix, example, b.add(b.mul(system, size), i))
            self._copy(source, self._row(n, i))
        shift = b.mul(b.sub(system, n), i64(self.stage.columns))
        with self._columns(n) as k:
            source = self._source(self.right, example, b.add(shift, k))
            self._copy(source, self._at(self.sides, k))
            for v in range(len(self.counts)):
                self._put(constant(self.kind, 0), self._at(self.found, k), v)

    def _source(self, value: Any, example: ir.Value, row: ir.Value) -> ir.Value:
        slot = self.addresses.schedule.slots[value]
        return self.addresses.address(slot, self.b.mul(row, i64(self.size)), example)

    def _copy(self, source: ir.Value, target: ir.Value) -> None:
        for v, count in enumerate(self.counts):
            address = advance(self.b, source, v * bytes_of(self.kind))
            self._put(load_lanes(self.b, address, self.kind, count, self.item), target, v)

    def _eliminate(self, n: ir.Value, i: ir.Value) -> None:
        b, row = self.b, self._row(n, i)
        pivot = self._number(row, i)
        zero, nan = (constant(pivot.type, number) for number in (0, float("nan")))
        pivot = b.select(b.fcmp_ordered(">", pivot, zero), pivot, nan)
        factor = b.fdiv(constant(pivot.type, 1), pivot)
        wide, scaled = splat(b, factor, self.lanes), []
        for v in range(len(self.counts)):
            after = b.fmul(self._vector(row, v), wide)
            scaled.append(b.select(self._is_after(i, v), after, constant(self.kind, 0)))
            self._put(scaled[v], row, v)
        with loop(b, b.add(i, i64(1)), i64(self.size)) as j:
            other = self._row(n, j)
            self._subtract(scaled, self._number(other, i), other)
        with self._columns(n) as k:
            side = self._at(self.sides, k)
            number = self._number(side, i)
            self._put_number(b.fmul(number, factor), side, i)
            self._subtract(scaled, number, side)

    def _is_after(self, i: ir.Value, v: int) -> ir.Value:
        """Whether each lane of vector ``v`` of a row is right of the diagonal of row ``i``."""
        kind = ir.VectorType(I64, self.lanes)
        columns = ir.Constant(kind, [*range(v * self.lanes, (v + 1) * self.lanes)])
        return self.b.icmp_signed(">", columns, splat(self.b, i, self.lanes))

    def _subtract(self, scaled: list[ir.Value], factor: ir.Value, row: ir.Value) -> None:
        """Subtract a multiple of some vectors from a row."""
        b, minus = self.b, splat(self.b, self.b.fneg(factor), self.lanes)
        for v, vector in enumerate(scaled):
            self._put(intrinsic(b, "fmuladd", minus, vector, self._vector(row, v)), row, v)

    def _substitute(self, n: ir.Value, i: ir.Value) -> None:
        b, row = self.b, self._row(n, i)
        with self._columns(n) as k:
            found, total = self._at(self.found, k), constant(self.kind, 0)
            for v in range(len(self.counts)):
                vectors = self._vector(row, v), self._vector(found, v)
                total = intrinsic(b, "fmuladd", *vectors, total)
            side = self._number(self._at(self.sides, k), i)
            self._put_number(b.fsub(side, across_lanes(b, total, b.fadd)), found, i)

    def _finish(self, example: ir.Value, system: ir.Value, n: ir.Value) -> None:
        """Store the solutions of a system in all slots."""
        b, shift = self.b, self.b.mul(self.b.sub(system, n), i64(self.stage.columns))
        with self._columns(n) as k:
            place = b.mul(b.add(shift, k), i64(self.size))
            for slot in self.stage.slots:
                target = self.addresses.address(slot, place, example)
                for v, count in enumerate(self.counts):
                    address = advance(b, target, v * bytes_of(self.kind))
                    vector = self._vector(self._at(self.found, k), v)
                    store_lanes(b, vector, address, count, self.item)

    # --- memory of a group ------------------------------------------------------------------------

    def _row(self, n: ir.Value, i: ir.Value) -> ir.Value:
        return self._at(self.rows, self.b.add(self.b.mul(n, i64(self.size)), i))

    def _at(self, memory: ir.Value, row: ir.Value) -> ir.Value:
        return advance(self.b, memory, self.b.mul(row, i64(self.row_bytes)))

    def _vector(self, row: ir.Value, v: int) -> ir.Value:
        address = advance(self.b, row, v * bytes_of(self.kind))
        return self.b.load(address, typ=self.kind, align=min(bytes_of(self.kind), ALIGN))

    def _put(self, vector: ir.Value, row: ir.Value, v: int) -> None:
        address = advance(self.b, row, v * bytes_of(self.kind))
        self.b.store(vector, address, align=min(bytes_of(self.kind), ALIGN))

    def _number(self, row: ir.Value, i: ir.Value) -> ir.Value:
        address = advance(self.b, row, self.b.mul(i, i64(self.item)))
        return self.b.load(address, typ=self.kind.element, align=self.item)

    def _put_number(self, number: ir.Value, row: ir.Value, i: ir.Value) -> None:
        address = advance(self.b, row, self.b.mul(i, i64(self.item)))
        self.b.store(number, address, align=self.item)
