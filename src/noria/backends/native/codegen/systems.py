"""Stages of systems of linear equations, by elimination and by substitution.

Several systems take each step of a method together, so that none waits for a division. Elimination
is for any matrix::

    for each row i, and each system:
        exchange it with the row below that has the largest [i], unless the matrix is positive
        u = row[i] / row[i][i], right of the diagonal
        for each right side y:  z[i] = y[i] / row[i][i]
        for each row j below:   row[j] -= row[j][i] u,  y[j] -= row[j][i] z[i]
    for each row i, the last one first, and each system:
        for each right side:    x[i] = z[i] - u[i] · x

``u`` replaces the row, and ``z[i]`` replaces ``y[i]``. Substitution is for a triangle, here the
lower one, or its transpose, whose columns are rows in memory::

    for each row i:                       x[i] = (y[i] - row[i] · x) / row[i][i]
    for each row i, the last one first:   x[i] = y[i] / row[i][i],  y -= x[i] row[i]
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from noria.backends.native.codegen.addresses import Addresses, vector_of
from noria.backends.native.codegen.gemv import across_lanes
from noria.backends.native.codegen.llvm import (
    I64,
    advance,
    bytes_of,
    carry_loop,
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
from noria.ir.primitives import SOLVE

#: Bytes of the matrices that are solved together: they stay in the first-level cache.
_GROUP_BYTES = 1 << 14


def systems_code(addresses: Addresses, tiling: SolveTiling) -> "SystemsCode":
    """The code of a stage."""
    kind = Elimination if tiling.stage.equation.name == SOLVE else Substitution
    return kind(addresses, tiling)


class SystemsCode(ABC):
    """The code of a stage for one example.

    Args:
        addresses: the address of each value.
        tiling: the stage.
    """

    def __init__(self, addresses: Addresses, tiling: SolveTiling):
        self.addresses, self.b, self.stage = addresses, addresses.b, tiling.stage
        self.params, self.size = tiling.stage.equation.params, tiling.stage.unknowns
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
        b, group = self.b, i64(self.group)
        with loop(b, i64(0), i64(self.stage.systems // self.group)) as part:
            first = b.mul(part, group)
            with loop(b, i64(0), group) as n:
                self._begin(example, b.add(first, n), n)
            self._solve()
            with loop(b, i64(0), group) as n:
                self._finish(example, b.add(first, n), n)

    @abstractmethod
    def _solve(self) -> None:
        """From the matrices and right sides of a group to the solutions."""

    @contextmanager
    def _each_row(self, *, backwards: bool) -> Iterator[tuple[ir.Value, ir.Value]]:
        """A loop over rows, and over the systems of a group: the numbers of both."""
        b, size = self.b, i64(self.size)
        with loop(b, i64(0), size) as m, loop(b, i64(0), i64(self.group)) as n:
            yield n, b.sub(b.sub(size, i64(1)), m) if backwards else m

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

    def _beyond(self, row: ir.Value, i: ir.Value, *, right: bool) -> list[ir.Value]:
        """The vectors of row ``i``, with zeros up to the diagonal, or else from it on."""
        b, found = self.b, []
        for v in range(len(self.counts)):
            kind = ir.VectorType(I64, self.lanes)
            columns = ir.Constant(kind, [*range(v * self.lanes, (v + 1) * self.lanes)])
            is_beyond = b.icmp_signed(">" if right else "<", columns, splat(b, i, self.lanes))
            found.append(b.select(is_beyond, self._vector(row, v), constant(self.kind, 0)))
        return found

    def _dot(self, vectors: Sequence[ir.Value], row: ir.Value) -> ir.Value:
        """The product of a row that is in registers and one in memory."""
        total = constant(self.kind, 0)
        for v, vector in enumerate(vectors):
            total = intrinsic(self.b, "fmuladd", vector, self._vector(row, v), total)
        return across_lanes(self.b, total, self.b.fadd)

    def _subtract(self, scaled: Sequence[ir.Value], factor: ir.Value, row: ir.Value) -> None:
        """Subtract a multiple of some vectors from a row."""
        b, minus = self.b, splat(self.b, self.b.fneg(factor), self.lanes)
        for v, vector in enumerate(scaled):
            self._put(intrinsic(b, "fmuladd", minus, vector, self._vector(row, v)), row, v)

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


class Elimination(SystemsCode):
    """Systems with any matrix, or a positive definite one."""

    def _solve(self) -> None:
        with self._each_row(backwards=False) as (n, i):
            self._eliminate(n, i)
        with self._each_row(backwards=True) as (n, i), self._columns(n) as k:
            found, side = self._at(self.found, k), self._number(self._at(self.sides, k), i)
            row = [self._vector(self._row(n, i), v) for v in range(len(self.counts))]
            self._put_number(self.b.fsub(side, self._dot(row, found)), found, i)

    def _eliminate(self, n: ir.Value, i: ir.Value) -> None:
        b, row = self.b, self._row(n, i)
        if not self.params["positive"]:
            self._exchange(n, i, self._largest(n, i))
        pivot = self._number(row, i)
        if self.params["positive"]:
            zero, nan = (constant(pivot.type, number) for number in (0, float("nan")))
            pivot = b.select(b.fcmp_ordered(">", pivot, zero), pivot, nan)
        factor = b.fdiv(constant(pivot.type, 1), pivot)
        wide = splat(b, factor, self.lanes)
        scaled = [b.fmul(vector, wide) for vector in self._beyond(row, i, right=True)]
        for v, vector in enumerate(scaled):
            self._put(vector, row, v)
        with self._columns(n) as k:
            side = self._at(self.sides, k)
            number = self._number(side, i)
            self._put_number(b.fmul(number, factor), side, i)
            if self.params["positive"]:  # u has what the rows below have in column i
                self._subtract(scaled, number, side)
        with loop(b, b.add(i, i64(1)), i64(self.size)) as j:
            other = self._row(n, j)
            number = self._number(other, i)
            self._subtract(scaled, number, other)
            if not self.params["positive"]:
                self._subtract_in_sides(n, i, j, number)

    def _subtract_in_sides(self, n: ir.Value, i: ir.Value, j: ir.Value, number: ir.Value) -> None:
        """Subtract a multiple of number ``i`` from number ``j`` of each right side."""
        with self._columns(n) as k:
            side = self._at(self.sides, k)
            taken = self.b.fmul(number, self._number(side, i))
            self._put_number(self.b.fsub(self._number(side, j), taken), side, j)

    def _largest(self, n: ir.Value, i: ir.Value) -> ir.Value:
        """The row, from row ``i`` on, whose number in column ``i`` is the largest."""
        b = self.b

        def step(k: ir.Value, before: Sequence[ir.Value]) -> list[ir.Value]:
            j = b.add(i, k)
            found = intrinsic(b, "fabs", self._number(self._row(n, j), i))
            is_larger = b.fcmp_ordered(">", found, before[0])
            return [b.select(is_larger, *pair) for pair in zip((found, j), before, strict=True)]

        start = intrinsic(b, "fabs", self._number(self._row(n, i), i)), i
        return carry_loop(b, b.sub(i64(self.size), i), start, step)[1]

    def _exchange(self, n: ir.Value, i: ir.Value, j: ir.Value) -> None:
        """Exchange two rows of a system."""
        rows = self._row(n, i), self._row(n, j)
        for v in range(len(self.counts)):
            one, two = (self._vector(row, v) for row in rows)
            self._put(two, rows[0], v)
            self._put(one, rows[1], v)
        with self._columns(n) as k:
            side = self._at(self.sides, k)
            one, two = self._number(side, i), self._number(side, j)
            self._put_number(two, side, i)
            self._put_number(one, side, j)


class Substitution(SystemsCode):
    """Systems ``x A = y`` with a triangle, or with its transpose."""

    def _solve(self) -> None:
        lower, by_rows = self.params["lower"], self.params["transpose_a"]
        with self._each_row(backwards=lower != by_rows) as (n, i):
            row = self._row(n, i)
            diagonal, others = self._number(row, i), self._beyond(row, i, right=not lower)
            with self._columns(n) as k:
                side, found = self._at(self.sides, k), self._at(self.found, k)
                number = self._number(side, i)
                if by_rows:
                    number = self.b.fsub(number, self._dot(others, found))
                if not self.params["unit_diagonal"]:
                    number = self.b.fdiv(number, diagonal)
                self._put_number(number, found, i)
                if not by_rows:
                    self._subtract(others, number, side)
