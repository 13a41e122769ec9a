"""The prologue and the epilogue of a time block, each for all of its steps at once.

The prologue multiplies the inputs of the block with weights. The epilogue multiplies values that
are only emitted. It adds the rank updates of the block to the accumulators, which count as zero
before the first block.

An operand of a rank update has one vector of features after the other, each for all rows of the
block. A few numbers of one operand and a few vectors of another are two streams, whose outer
products are summed in registers::

    rows of the block      left operand          right operand       registers
    0                      a0 a1 a2 a3           [b] [c]             a0[b] a0[c]
    1                      a0 a1 a2 a3           [b] [c]          +  a1[b] a1[c]
    ...                                                              ...
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from llvmlite import ir

from noria.backends.native.codegen import matrix_unit, unit_parts
from noria.backends.native.codegen.addresses import (
    Buffers,
    begin_step_function,
    bytes_of_share,
    panel_at,
    panel_vector,
    scratch_arrays,
    vector_of,
)
from noria.backends.native.codegen.llvm import (
    advance,
    bytes_of,
    carry_loop,
    constant,
    for_groups,
    for_share,
    for_tiles,
    i64,
    load_lanes,
    loop,
    minimum,
    share_of,
    stack,
    store_lanes,
    zeros,
)
from noria.backends.native.codegen.microkernels import rank_k_update
from noria.backends.native.codegen.products import Rows, multiply, split
from noria.backends.native.codegen.unit_update import Operand, Target, add_outer_products
from noria.backends.native.plan.matrix_unit import LINE, ROWS
from noria.backends.native.plan.panels import ALIGN, StageTiling, item_of
from noria.backends.native.plan.stages import BlockDot, RankUpdate, Slot
from noria.backends.native.plan.tiling import KernelPlan
from noria.backends.native.plan.updates import VectorGroup, update_groups
from noria.ir.graph import Atom, size


def emit_time_block(plan: KernelPlan, module: ir.Module) -> None:
    """Add ``block_prologue`` and ``block_epilogue`` to a module, if they have work to do."""
    if plan.prologue:
        _TimeBlock(plan, module, "block_prologue").emit(plan.prologue, ())
    if plan.epilogue or plan.schedule.accumulators:
        _TimeBlock(plan, module, "block_epilogue").emit(plan.epilogue, plan.schedule.updates)


class _Grid(NamedTuple):
    """Rows of an array, with the bytes from step to step and from example to example."""

    first: ir.Value
    step: ir.Value
    example: ir.Value

    def at(self, b: ir.IRBuilder, step: ir.Value, example: ir.Value) -> ir.Value:
        """The address of a row."""
        shift = b.add(b.mul(step, self.step), b.mul(example, self.example))
        return advance(b, self.first, shift)


class _TimeBlock:
    """A function of the steps from ``begin`` to before ``end``."""

    def __init__(self, plan: KernelPlan, module: ir.Module, name: str):
        self.plan, self.schedule = plan, plan.schedule
        self.b, table, sizes, part = begin_step_function(module, name)
        b, (begin, end, self.share, self.shares) = self.b, part
        self.time, self.batch, reverse, block_steps = sizes
        self.buffers = Buffers(b, table, self.schedule)
        self.fresh = b.icmp_signed("==", begin, i64(0))  # accumulators count as zero
        backwards = b.icmp_signed("!=", reverse, i64(0))
        self.first = b.select(backwards, b.sub(self.time, end), begin)  # in the order of time
        self.steps, self.rows = b.sub(end, begin), b.mul(block_steps, self.batch)
        self.depth = b.mul(self.steps, self.batch)
        self.arrays = scratch_arrays(b, plan, self.buffers, self.batch, block_steps)

    def emit(
        self, products: Sequence[tuple[BlockDot, StageTiling]], updates: Sequence[RankUpdate]
    ) -> None:
        for product, tiling in products:
            self._multiply(product, tiling)
        for update in updates:
            if update.right is None:
                self._add_rows(update)
            else:
                self._add_outer_products(update, update.right)
        self.b.ret_void()

    # --- products ---------------------------------------------------------------------------------

    def _multiply(self, product: BlockDot, tiling: StageTiling) -> None:
        """A share of the columns, for all rows."""
        if tiling.by_unit:
            self._multiply_by_unit(product, tiling)
            return
        b, plan, (panel,) = self.b, self.plan, tiling.panels
        source, target = (
            Rows(self._grid(slot).first, i64(self._width(slot)))
            for slot in (product.source, product.target)
        )
        tile, most = self._tile(tiling), plan.rows_of_tile(tiling, len(panel.columns))
        for j, counts in for_share(b, *plan.counts(tiling), self.share, self.shares):
            with for_tiles(b, self.depth, most) as (start, stop):
                some, there, count = source.at(b, start), target.at(b, start), b.sub(stop, start)
                self._block(tiling, tile, j, counts, some, count, partial(there.address, b))

    def _multiply_by_unit(self, product: BlockDot, tiling: StageTiling) -> None:
        """A share of the examples, those that the thread takes through the steps, or of the steps.

        The parts of some rows stay in the second-level cache, and so do a few panels. The parts of
        a tile of rows stay in the first-level cache from panel to panel.
        """
        b, plan, share = self.b, self.plan, (self.share, self.shares)
        examples, steps = (i64(0), self.batch), (i64(0), self.steps)
        if plan.shares_examples:
            examples = share_of(b, self.batch, *share)
        else:
            steps = share_of(b, self.steps, *share)
        most = plan.unit_rows(tiling)
        with for_tiles(b, b.sub(examples[1], examples[0]), most) as (start, stop):
            first, count = b.add(examples[0], start), b.sub(stop, start)
            few = b.udiv(i64(most), count)
            parts = b.udiv(b.add(b.sub(steps[1], steps[0]), b.sub(few, i64(1))), few)
            with loop(b, i64(0), parts) as n:
                begin = b.add(steps[0], b.mul(n, few))
                end = minimum(b, b.add(begin, few), steps[1])
                self._multiply_some(product, tiling, (begin, end), first, count)
        matrix_unit.end(b)

    def _multiply_some(
        self,
        product: BlockDot,
        tiling: StageTiling,
        steps: tuple[ir.Value, ir.Value],
        first: ir.Value,
        count: ir.Value,
    ) -> None:
        """``count`` examples from ``first`` on, for some steps, whose parts stay in cache."""
        b, plan, (panel,), (begin, end) = self.b, self.plan, tiling.panels, steps
        source, target = self._grid(product.source), self._grid(product.target)
        large = unit_parts.new_flag(b)
        parts = Rows(self._memory(), i64(tiling.part_bytes), large)
        unit_parts.clear(b, large)
        with loop(b, begin, end) as step:
            some = Rows(source.at(b, step, first), source.example)
            split(b, panel, some, count, parts.at(b, b.mul(b.sub(step, begin), count)))
        total = b.mul(b.sub(end, begin), count)
        matrix_unit.begin(b, total)

        def place(start: ir.Value, n: ir.Value) -> ir.Value:
            row = b.add(start, n)
            step, example = b.udiv(row, count), b.urem(row, count)
            return target.at(b, b.add(begin, step), b.add(first, example))

        tile, (full, complete, rest) = self._tile(tiling), plan.counts(tiling)
        for panels, numbers in for_groups(b, full, plan.unit_panels(panel), complete, rest):
            with for_tiles(b, total, ROWS) as (row, last), loop(b, *panels) as j:
                some, number = parts.at(b, row), b.sub(last, row)
                self._block(tiling, tile, j, numbers, some, number, partial(place, row))

    def _tile(self, tiling: StageTiling) -> ir.Value:
        (panel,) = tiling.panels
        rows = self.plan.rows_of_tile(tiling, len(panel.columns))
        return stack(self.b, rows * tiling.row_stride, ALIGN)

    def _block(
        self,
        tiling: StageTiling,
        tile: ir.Value,
        j: ir.Value,
        counts: Sequence[int],
        rows: Rows,
        count: ir.Value,
        place: Callable[[ir.Value], ir.Value],
    ) -> None:
        """Multiply ``count`` rows with the panel of a block; ``place(n)`` is where row n goes."""
        b, plan, (panel,) = self.b, self.plan, tiling.panels
        packed, vector = panel_at(b, self.buffers, plan, panel, j), panel_vector(plan, panel)
        whole, vectors = bytes_of(vector), len(plan.segments(panel, counts))
        multiply(b, plan, tiling, panel, vectors, rows, count, packed, tile)
        shift = b.mul(j, i64(tiling.vectors * whole))
        with loop(b, i64(0), count) as row:
            found = advance(b, tile, b.mul(row, i64(tiling.row_stride)))
            there = advance(b, place(row), shift)
            for v, numbers in enumerate(counts):
                if numbers:
                    value = b.load(advance(b, found, v * whole), typ=vector, align=whole)
                    address = advance(b, there, v * whole)
                    store_lanes(b, value, address, numbers, whole // vector.count)

    def _grid(self, slot: Slot) -> "_Grid":
        """The rows of the block, in the order of time."""
        b, holder, width = self.b, self.schedule.values(slot.kind)[slot.number], self._width(slot)
        skip, of_step = slot.offset * item_of(holder), b.mul(self.batch, i64(width))
        if slot.kind == "time_block":
            start = advance(b, self.arrays[slot.kind, slot.number], skip)
            return _Grid(start, of_step, i64(width))
        start = advance(b, self.buffers[slot.kind, slot.number], skip)
        if slot._replace(offset=0) in self.plan.by_example:
            of_example, of_step = b.mul(self.time, i64(width)), i64(width)
        else:
            of_example = i64(width)
        return _Grid(advance(b, start, b.mul(self.first, of_step)), of_step, of_example)

    def _width(self, slot: Slot) -> int:
        """The bytes of a row."""
        holder = self.schedule.values(slot.kind)[slot.number]
        return size(holder) * item_of(holder)

    # --- rank updates -----------------------------------------------------------------------------

    def _vector_at(self, operand: int, number: int | ir.Value) -> ir.Value:
        """The address of a vector of an operand, for the first row of the block."""
        b, value = self.b, self.schedule.update_operands[operand]
        number = i64(number) if isinstance(number, int) else number
        shift = b.mul(b.mul(number, self.rows), i64(self.plan.lanes * item_of(value)))
        return advance(b, self.arrays["operand", operand], shift)

    def _in_share(self, value: Atom) -> Iterator[tuple[ir.Value, int]]:
        """The vectors of a value in this share, and how many numbers each has."""
        full, left = divmod(size(value), self.plan.lanes)
        yield from for_share(self.b, full, self.plan.lanes, left, self.share, self.shares)

    def _add_rows(self, update: RankUpdate) -> None:
        """Add the sum over all rows of the block."""
        b, value = self.b, self.schedule.update_operands[update.left]
        vector, item = vector_of(self.plan, value.aval.dtype), item_of(value)
        zero, width = constant(vector, 0), self.plan.lanes * item
        out = advance(b, self.buffers["accumulator", update.accumulator], update.offset * item)
        nothing = zeros(b, vector)

        def add(number: ir.Value, count: int) -> None:
            start = self._vector_at(update.left, number)
            target = advance(b, out, b.mul(number, i64(width)))

            def step(k: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
                row = b.load(advance(b, start, b.mul(k, i64(width))), typ=vector, align=item)
                return [b.fadd(sums[0], row)]

            (found,) = carry_loop(b, self.depth, [zero], step)
            source = b.select(self.fresh, nothing, target)
            before = load_lanes(b, source, vector, count, item)
            store_lanes(b, b.fadd(before, found), target, count, item)

        for number, count in self._in_share(value):
            add(number, count)

    def _add_outer_products(self, update: RankUpdate, right: int) -> None:
        """A few vectors of the right operand at a time; for each, the share of the left operand."""
        if self.plan.updates_by_unit(update):
            self._add_by_unit(update, right)
            return
        b, left = self.b, self.schedule.update_operands[update.left]
        stride = b.mul(self.rows, i64(self.plan.lanes * item_of(left)))  # from vector to vector
        for group in update_groups(self.plan, self.schedule.update_operands[right]):
            with loop(b, i64(0), i64(group.groups)) as n:
                column = b.add(b.mul(n, i64(group.vectors)), i64(group.first))
                self._add_group(update, group, column, self._vector_at(right, column), stride)

    def _add_by_unit(self, update: RankUpdate, right: int) -> None:
        """The same, by the matrix unit."""
        b, plan = self.b, self.plan
        stride = b.mul(self.rows, i64(LINE))
        left, other = (
            Operand(self._vector_at(n, 0), stride, size(self.schedule.update_operands[n]))
            for n in (update.left, right)
        )
        out = advance(b, self.buffers["accumulator", update.accumulator], 4 * update.offset)
        target = Target(out, 4 * update.row_stride, self.fresh)
        memory, share = self._memory(), (self.share, self.shares)
        add_outer_products(b, plan, (left, other), target, self.depth, memory, share)

    def _memory(self) -> ir.Value:
        """What the thread has for itself."""
        of_share = bytes_of_share(self.b, self.plan, self.batch)
        return advance(self.b, self.arrays["share", 0], self.b.mul(self.share, of_share))

    def _add_group(
        self,
        update: RankUpdate,
        group: VectorGroup,
        column: ir.Value,
        vectors: ir.Value,
        stride: ir.Value,
    ) -> None:
        """Multiply the share of the left operand with vectors of the right one."""
        b, plan, lanes = self.b, self.plan, self.plan.lanes
        left = self.schedule.update_operands[update.left]
        vector, item = vector_of(plan, left.aval.dtype), item_of(left)
        row_stride = i64(update.row_stride * item)
        shift = b.add(b.mul(column, i64(lanes)), i64(update.offset))
        out = advance(b, self.buffers["accumulator", update.accumulator], b.mul(shift, i64(item)))
        rows = min(lanes, plan.update_rows)
        for number, count in self._in_share(left):
            for lane in range(0, count, rows):
                function = rank_k_update(
                    b.module, vector, min(rows, count - lane), group.vectors, group.last
                )
                numbers = advance(b, self._vector_at(update.left, number), lane * item)
                row = b.add(b.mul(number, i64(lanes)), i64(lane))
                target = advance(b, out, b.mul(row, row_stride))
                b.call(
                    function,
                    [numbers, vectors, stride, target, row_stride, self.depth, self.fresh],
                )
