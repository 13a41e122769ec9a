"""What is done before and after the steps of a time block, for all of them at once.

Before them, in ``prepare``, products of the input are made; after them, in ``finish``, products that are only emitted, and what the steps recorded is
added to the totals, which count as zero after the first time block.

A record holds one vector of features after the other, each for all rows of the time block: a few numbers of one record and a few vectors of another are
two streams, whose outer products are summed in registers.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from llvmlite import ir

from noria.backends.native.codegen import microkernels
from noria.backends.native.codegen.addresses import Buffers, arrays, panel_at
from noria.backends.native.codegen.llvm import (
    I64,
    POINTER,
    VOID,
    at,
    constant,
    fold,
    i64,
    in_share,
    in_tiles,
    loop,
    read,
    stack,
    write,
)
from noria.backends.native.lower.legalize import size
from noria.backends.native.plan.stages import BlockDot, RankUpdate, Slot
from noria.backends.native.plan.tiling import ALIGN, KernelPlan, StageTiling, item_of

#: How many sizes the functions are given.
SIZES = 4


def emit_time_block(plan: KernelPlan, module: ir.Module) -> None:
    """Add to a module the functions ``prepare`` and ``finish``, as far as there is something to do."""
    if plan.prologue:
        TimeBlock(plan, module, "block_prologue").emit(plan.prologue, ())
    if plan.epilogue or plan.schedule.accumulators:
        TimeBlock(plan, module, "block_epilogue").emit(plan.epilogue, plan.schedule.updates)


class TimeBlock:
    """A function of the steps from ``begin`` to before ``end``."""

    def __init__(self, plan: KernelPlan, module: ir.Module, name: str):
        self.plan, self.schedule = plan, plan.schedule
        function = ir.Function(module, ir.FunctionType(VOID, [POINTER, *[I64] * (SIZES + 4)]), name)
        self.b = b = ir.IRBuilder(function.append_basic_block("entry"))
        table, time, self.batch, reverse, block_steps, begin, end, self.share, self.shares = (
            function.args
        )
        self.buffers = Buffers(b, table, self.schedule)
        self.fresh = b.icmp_signed("==", begin, i64(0))
        self.first = b.select(
            b.icmp_signed("!=", reverse, i64(0)), b.sub(time, end), begin
        )  # in time
        self.rows, self.depth = b.mul(block_steps, self.batch), b.mul(b.sub(end, begin), self.batch)
        self.arrays = arrays(b, plan, self.buffers, self.batch, block_steps)

    def emit(
        self, block_dots: Sequence[tuple[BlockDot, StageTiling]], updates: Sequence[RankUpdate]
    ) -> None:
        for block_dot, tiling in block_dots:
            self._project(block_dot, tiling)
        for update in updates:
            if update.right is None:
                self._values(update)
            else:
                self._products(update)
        self.b.ret_void()

    # --- products ---------------------------------------------------------------------------------------------------

    def _project(self, block_dot: BlockDot, tiling: StageTiling) -> None:
        """A share of the columns, for all rows."""
        b, (panel,) = self.b, tiling.panels
        most, vector = (
            self.plan.register_rows(len(panel.columns)),
            self.plan.panel_vector(panel),
        )
        tile, pitch = stack(b, most * tiling.row_stride, ALIGN), i64(tiling.row_stride)
        (source, stride), (target, width) = map(self._rows, (block_dot.source, block_dot.target))
        whole, item = microkernels.bytes_of(vector), microkernels.bytes_of(vector) // vector.count
        for j, counts in in_share(b, *self.plan.counts(tiling), self.share, self.shares):
            packed = panel_at(b, self.buffers, self.plan, panel, j)
            block = at(b, target, b.mul(j, i64(tiling.vectors * whole)))
            function = microkernels.product(
                b.module, vector, len(self.plan.segments(panel, counts)), most
            )
            with in_tiles(b, self.depth, most) as (start, stop):
                line, count = at(b, source, b.mul(start, i64(stride))), b.sub(stop, start)
                b.call(
                    function, [count, line, i64(stride), packed, tile, pitch, i64(panel.dot.depth)]
                )
                with loop(b, i64(0), count) as row:
                    found = at(b, tile, b.mul(row, pitch))
                    place = at(b, block, b.mul(b.add(start, row), i64(width)))
                    for v, numbers in enumerate(counts):
                        if numbers:
                            value = b.load(at(b, found, v * whole), typ=vector, align=whole)
                            write(b, value, at(b, place, v * whole), numbers, item)

    def _rows(self, place: Slot) -> tuple[ir.Value, int]:
        """Where the first row of the time block stands, in the order of time, and the bytes from row to row."""
        b, holder = self.b, self.schedule.values(place.kind)[place.number]
        width, skip = size(holder) * item_of(holder), place.offset * item_of(holder)
        if place.kind == "time_block":
            return at(b, self.arrays[place.kind, place.number], skip), width
        shift = b.mul(b.mul(self.first, self.batch), i64(width))
        return at(b, at(b, self.buffers[place.kind, place.number], shift), skip), width

    # --- totals -----------------------------------------------------------------------------------------------------

    def _vectors(self, record: int, number: int | ir.Value) -> ir.Value:
        """Where a vector of a record stands, for the first row of the first step."""
        b, value = self.b, self.schedule.update_operands[record]
        number = i64(number) if isinstance(number, int) else number
        return at(
            b,
            self.arrays["operand", record],
            b.mul(b.mul(number, self.rows), i64(self.plan.lanes * item_of(value))),
        )

    def _shared(self, value: Any) -> Iterator[tuple[ir.Value, int]]:
        """The vectors of a record that are in this share, and how many numbers each has."""
        full, left = divmod(size(value), self.plan.lanes)
        yield from in_share(self.b, full, self.plan.lanes, left, self.share, self.shares)

    def _values(self, update: RankUpdate) -> None:
        """Of each vector the sum over all rows of all steps."""
        b, value = self.b, self.schedule.update_operands[update.left]
        vector, item, lanes = self.plan.vector(value.aval.dtype), item_of(value), self.plan.lanes
        width, out = (
            lanes * item,
            at(b, self.buffers["accumulator", update.accumulator], update.start * item),
        )

        def add(number: ir.Value, count: int) -> None:
            start, target = (
                self._vectors(update.left, number),
                at(b, out, b.mul(number, i64(width))),
            )

            def step(k: ir.Value, sums: Any) -> list[ir.Value]:
                return [
                    b.fadd(
                        sums[0], b.load(at(b, start, b.mul(k, i64(width))), typ=vector, align=item)
                    )
                ]

            (found,) = fold(b, self.depth, [constant(vector, 0)], step)
            before = b.select(self.fresh, constant(vector, 0), read(b, target, vector, count, item))
            write(b, b.fadd(before, found), target, count, item)

        for number, count in self._shared(value):
            add(number, count)

    def _products(self, update: RankUpdate) -> None:
        """A few vectors of the right record at a time; for them all of the share of the left one."""
        assert update.right is not None
        b, plan, lanes = self.b, self.plan, self.plan.lanes
        left, right = (
            self.schedule.update_operands[update.left],
            self.schedule.update_operands[update.right],
        )
        vector, item, rows = (
            plan.vector(left.aval.dtype),
            item_of(left),
            min(lanes, plan.update_rows),
        )
        distance, pitch = b.mul(self.rows, i64(lanes * item)), i64(update.row_stride * item)
        for start, groups, width, last in _groups(
            plan.blocks(right), lanes, size(right) % lanes or lanes, plan.update_vectors
        ):
            with loop(b, i64(0), i64(groups)) as group:
                column = b.add(b.mul(group, i64(width)), i64(start))
                vectors = self._vectors(update.right, column)
                shift = b.add(b.mul(column, i64(lanes)), i64(update.start))
                out = at(
                    b, self.buffers["accumulator", update.accumulator], b.mul(shift, i64(item))
                )
                for number, count in self._shared(left):
                    for lane in range(0, count, rows):
                        function = microkernels.accumulate(
                            b.module, vector, min(rows, count - lane), width, last
                        )
                        numbers = at(b, self._vectors(update.left, number), lane * item)
                        target = at(
                            b, out, b.mul(b.add(b.mul(number, i64(lanes)), i64(lane)), pitch)
                        )
                        b.call(
                            function,
                            [numbers, vectors, distance, target, pitch, self.depth, self.fresh],
                        )


def _groups(count: int, lanes: int, last: int, most: int) -> list[tuple[int, int, int, int]]:
    """Vectors in groups that are as equal as can be: (first vector, groups, vectors of each, numbers of its last vector).

    All vectors have as many numbers as there are ``lanes``, but for the ``last`` of all.
    """
    groups = -(-count // most)
    narrow, wider = divmod(count, groups)
    found = [(0, wider, narrow + 1), (wider * (narrow + 1), groups - wider, narrow)]
    start, some, width = found.pop()
    found += [(start, some - 1, width), (count - width, 1, width)]
    return [(*group, last if n == 2 else lanes) for n, group in enumerate(found) if group[1]]
