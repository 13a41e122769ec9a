"""A schedule as LLVM code, in up to four functions::

    void pack(void** buffers, int64 share, int64 shares)
    void prepare(void** buffers, sizes, int64 begin, int64 end, int64 share, int64 shares)
    void run(void** buffers, sizes, int64 begin, int64 end, int64 first, int64 last)
    void run(void** buffers, sizes, int64 step, int64 stage, int64 share, int64 shares)
    void finish(void** buffers, sizes, int64 begin, int64 end, int64 share, int64 shares)

``pack`` makes panels of a share of the weights. ``run`` takes some rows of the batch through some steps; in the second form, if work is
shared out by features, all rows through a share of one stage of one step. Steps are taken in stretches; `noria.backends.native.codegen.time_block` has what is done
before and after each of them for all of its steps at once. The sizes are time, batch, whether the loop runs in reverse, and the steps of a time block.

A stage goes over blocks of features. For each block the rows of the batch are taken a few at a time: their products with a panel
go to a tile on the stack, and then row by row the element-wise part reads the tile and stores what is asked for.
"""

from typing import Any

from llvmlite import ir

from noria.backends.native.codegen import microkernels
from noria.backends.native.codegen.addresses import Arrays, Buffers, arrays, panel_at
from noria.backends.native.codegen.elementwise import element, in_memory
from noria.backends.native.codegen.llvm import (
    I1,
    I32,
    I64,
    POINTER,
    VOID,
    at,
    constant,
    i64,
    in_share,
    in_tiles,
    least,
    loop,
    read,
    stack,
    write,
)
from noria.backends.native.codegen.row import Row, combine, neutral
from noria.backends.native.codegen.time_block import SIZES, emit_time_block
from noria.backends.native.lower.legalize import size
from noria.backends.native.plan.stages import Slot, Stage
from noria.backends.native.plan.tiling import (
    ALIGN,
    KernelPlan,
    Panel,
    PanelSegment,
    StageTiling,
    item_of,
)


def emit(plan: KernelPlan) -> ir.Module:
    """A module with the functions."""
    module = ir.Module("noria")
    _emit_pack(plan, module)
    Run(plan, module).emit()
    emit_time_block(plan, module)
    return module


def _emit_pack(plan: KernelPlan, module: ir.Module) -> None:
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER, I64, I64]), "pack")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    table, share, shares = function.args
    buffers = Buffers(b, table, plan.schedule)
    apart = [tiling for _, tiling in (*plan.prologue, *plan.epilogue)]
    for tiling in () if plan.unpacked else (*plan.tilings, *apart):
        for panel in tiling.panels:
            for j, counts in in_share(b, *plan.counts(tiling), share, shares):
                _pack(b, buffers, plan, tiling, panel, j, counts)
    b.ret_void()


def _pack(
    b: ir.IRBuilder,
    buffers: Buffers,
    plan: KernelPlan,
    tiling: StageTiling,
    panel: Panel,
    j: ir.Value,
    counts: list[int],
) -> None:
    """The panel of block ``j``, whose vectors have so many features."""
    vectors = [
        [_columns(b, buffers, plan, tiling, j, span) for span in spans]
        for spans in plan.segments(panel, counts)
    ]
    microkernels.pack(b, plan.panel_vector(panel), panel_at(b, buffers, plan, panel, j), vectors)


def _columns(
    b: ir.IRBuilder,
    buffers: Buffers,
    plan: KernelPlan,
    tiling: StageTiling,
    j: ir.Value,
    span: PanelSegment,
) -> microkernels.Columns:
    """Where the columns of block ``j`` stand in the weight."""
    dot = plan.schedule.dots[span.product.equation]
    first = b.add(b.mul(j, i64(tiling.vectors * plan.lanes)), i64(span.product.offset + span.first))
    weight = at(
        b, buffers["shared", dot.weight], dot.offset * item_of(span.product.equation.outputs[0])
    )
    return microkernels.Columns(weight, dot.shape, dot.contracted_axis, first, span.width)


class Run:
    """The function ``run``."""

    def __init__(self, plan: KernelPlan, module: ir.Module):
        self.plan, self.schedule = plan, plan.schedule
        kind = ir.FunctionType(VOID, [POINTER, *[I64] * (SIZES + 4)])
        function = ir.Function(module, kind, "run")
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        table, self.time, self.batch, self.reverse, self.block_steps, *self.part = function.args
        self.first, self.last = (
            (i64(0), self.batch) if plan.by_features else (self.part[2], self.part[3])
        )
        self.buffers = Buffers(self.b, table, self.schedule)
        # Where the row of an example begins in each buffer: the array of this step, and the bytes of a row.
        self.bases: Arrays = {}
        pitch = max((tiling.row_stride for tiling in plan.tilings), default=0)
        self.tile = stack(self.b, max(1, plan.tile_rows * pitch), ALIGN)

    def emit(self) -> None:
        b, plan = self.b, self.plan
        self.arrays = arrays(b, plan, self.buffers, self.batch, self.block_steps)
        self.bases |= self.arrays
        if not plan.by_features:
            begin, end, _, _ = self.part
            if plan.staged:
                few = i64(plan.staged_steps)
                with loop(
                    b, i64(0), b.udiv(b.add(b.sub(end, begin), b.sub(few, i64(1))), few)
                ) as n:
                    start = b.add(begin, b.mul(n, few))
                    self._steps(start, least(b, b.add(start, few), end))
            else:
                self._steps(begin, end)
            b.ret_void()
            return
        i, number, _, _ = self.part
        self._bind(i, i)
        blocks = [b.append_basic_block("stage") for _ in plan.tilings]
        switch = b.switch(number, blocks[-1])
        for n, (block, tiling) in enumerate(zip(blocks, plan.tilings, strict=True)):
            if n < len(blocks) - 1:
                switch.add_case(i64(n), block)
            b.position_at_end(block)
            self._stage(tiling)
            b.ret_void()

    def _steps(self, start: ir.Value, stop: ir.Value) -> None:
        """Some steps, one after the other."""
        self._exchange("step", start, stop)
        with loop(self.b, start, stop) as i:
            self._bind(i, start)
            for tiling in self.plan.tilings:
                self._stage(tiling)
        self._exchange("emitted", start, stop)

    def _exchange(self, kind: str, start: ir.Value, stop: ir.Value) -> None:
        """Put aside what some steps read, or bring what they emit where it belongs."""
        b, lanes = self.b, self.plan.lanes
        for n, (place, value) in enumerate(self.plan.staged.items()):
            if place.kind != kind:
                continue
            vector, item = ir.VectorType(in_memory(value.aval.dtype), lanes), item_of(value)
            with loop(b, self.first, self.last) as row, loop(b, start, stop) as i:
                there = self._in_buffer(place, i, row)
                here = self._staged(n, value, b.sub(i, start), row)
                source, target = (there, here) if kind == "step" else (here, there)
                full, left = divmod(size(value), lanes)
                for block, count in in_share(b, full, lanes, left, i64(0), i64(1)):
                    shift = b.mul(block, i64(lanes * item))
                    write(
                        b,
                        read(b, at(b, source, shift), vector, count, item),
                        at(b, target, shift),
                        count,
                        item,
                    )

    def _staged(self, n: int, value: Any, k: ir.Value, row: ir.Value) -> ir.Value:
        b = self.b
        shift = b.mul(b.add(b.mul(k, self.batch), row), i64(size(value) * item_of(value)))
        return at(b, self.arrays["staged", n], shift)

    def _when(self, i: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Where step ``i`` is in time, whether it is the last to be taken, and whether time goes backwards."""
        b = self.b
        last = b.sub(b.sub(self.time, i64(1)), i)
        backwards = b.icmp_signed("!=", self.reverse, i64(0))
        return b.select(backwards, last, i), b.icmp_signed("==", last, i64(0)), backwards

    def _in_buffer(self, place: Slot, i: ir.Value, row: ir.Value) -> ir.Value:
        """Where an example stands at step ``i`` in the buffer that the call was given."""
        b, key, value = (
            self.b,
            (place.kind, place.number),
            self.schedule.values(place.kind)[place.number],
        )
        t, ends, backwards = self._when(i)
        width = i64(size(value) * item_of(value))
        step, example = (
            (width, b.mul(self.time, width))
            if place in self.plan.staged
            else (b.mul(self.batch, width), width)
        )
        found = at(b, self.buffers[key], b.add(b.mul(t, step), b.mul(row, example)))
        if place.kind == "step" and value in self.schedule.previous:
            first = at(
                b, self.buffers["boundary", self.schedule.previous.index(value)], b.mul(row, width)
            )
            found = b.select(ends, first, at(b, found, b.select(backwards, b.neg(step), step)))
        return found

    def _bind(self, i: ir.Value, start: ir.Value) -> None:
        """The arrays of step ``i``, one of those from ``start`` on."""
        b, plan = self.b, self.plan
        _, ends, backwards = self._when(i)
        begins, odd = b.icmp_signed("==", i, i64(0)), b.trunc(i, I1)
        for n in range(len(self.schedule.state)):  # odd steps go from the first array to the second
            one, two = self.arrays["one", n], self.arrays["two", n]
            self.bases["state", n] = b.select(
                begins, self.buffers["state", n], b.select(odd, one, two)
            )
            self.bases["next", n] = b.select(ends, self.buffers["next", n], b.select(odd, two, one))
        for place in self.schedule.buffers(("step", "emitted")):
            self.bases[place.kind, place.number] = self._in_buffer(place, i, i64(0))
        for n, (place, value) in enumerate(plan.staged.items()):
            self.bases[place.kind, place.number] = self._staged(n, value, b.sub(i, start), i64(0))
        for n in range(len(self.schedule.shared)):
            self.bases["shared", n] = self.buffers["shared", n]
        done = b.urem(i, self.block_steps)
        end = least(b, b.add(b.sub(i, done), self.block_steps), self.time)
        row = b.mul(b.select(backwards, b.sub(b.sub(end, i), i64(1)), done), self.batch)
        for kind in ("time_block", "operand"):
            for n, value in enumerate(self.schedule.values(kind)):
                width = item_of(value) * (size(value) if kind == "time_block" else plan.lanes)
                self.bases[kind, n] = at(b, self.arrays[kind, n], b.mul(row, i64(width)))

    # --- stages -----------------------------------------------------------------------------------------------------

    def _stage(self, tiling: StageTiling) -> None:
        b, plan = self.b, self.plan
        share, shares = self.part[2:] if plan.by_features else (i64(0), i64(1))
        self._start_sums(tiling.stage)
        if tiling.panels:
            for j, counts in in_share(b, *plan.counts(tiling), share, shares):
                (self._one_by_one if plan.unpacked else self._tiles)(tiling, j, counts)
        else:
            with loop(b, self.first, self.last) as row:
                for j, counts in in_share(b, *plan.counts(tiling), share, shares):
                    Row(self, tiling, row, j, None).emit(counts)
        self._finish_sums(tiling.stage)

    def _tiles(self, tiling: StageTiling, j: ir.Value, counts: list[int]) -> None:
        """One block of features: the rows of the batch in tiles that are as equal as can be."""
        b = self.b
        widths = [len(self.plan.segments(panel, counts)) for panel in tiling.panels]
        most = self.plan.register_rows(max(widths))
        with in_tiles(b, b.sub(self.last, self.first), most) as rows:
            start, stop = (b.add(self.first, row) for row in rows)
            for panel, width in zip(tiling.panels, widths, strict=True):
                function = microkernels.product(
                    b.module, self.plan.panel_vector(panel), width, most
                )
                self._product(tiling, panel, function, j, start, b.sub(stop, start))
            with loop(b, start, stop) as row:
                line = at(b, self.tile, b.mul(b.sub(row, start), i64(tiling.row_stride)))
                Row(self, tiling, row, j, line).emit(counts)

    def _one_by_one(self, tiling: StageTiling, j: ir.Value, counts: list[int]) -> None:
        """One block of features: one row after the other, with weights that are not packed."""
        b, plan = self.b, self.plan
        with loop(b, self.first, self.last) as row:
            for panel in tiling.panels:
                vector, source = plan.panel_vector(panel), panel.dot.row
                line = self.address(self.schedule.slots[source.value], source.offset, row)
                for n, (span,) in enumerate(plan.segments(panel, counts)):
                    if span.width:
                        columns = _columns(b, self.buffers, plan, tiling, j, span)
                        target = at(
                            b, self.tile, panel.tile_offset + n * microkernels.bytes_of(vector)
                        )
                        microkernels.direct(b, vector, columns, line, target)
            Row(self, tiling, row, j, self.tile).emit(counts)

    def _product(
        self,
        tiling: StageTiling,
        panel: Panel,
        function: ir.Function,
        j: Any,
        start: ir.Value,
        count: ir.Value,
    ) -> None:
        b, plan, row = self.b, self.plan, panel.dot.row
        item = item_of(row.value)
        line = self.address(self.schedule.slots[row.value], row.offset, start)
        stride = 0 if row.value in self.schedule.shared else size(row.value) * item
        packed = panel_at(b, self.buffers, plan, panel, j)
        tile = at(b, self.tile, panel.tile_offset)
        b.call(
            function,
            [count, line, i64(stride), packed, tile, i64(tiling.row_stride), i64(panel.dot.depth)],
        )

    def address(self, place: Slot, offset: int | ir.Value, row: ir.Value) -> ir.Value:
        """Where what stands at a place stands for an example, from an offset on; in a record a whole number of vectors."""
        b, holder = self.b, self.schedule.values(place.kind)[place.number]
        base, item = self.bases[place.kind, place.number], item_of(holder)
        if place.kind == "operand":
            offset = i64(offset) if isinstance(offset, int) else offset
            rows = b.mul(self.block_steps, self.batch)
            shift = b.add(b.mul(offset, rows), b.mul(row, i64(self.plan.lanes)))
            return at(b, base, b.mul(shift, i64(item)))
        if place.kind != "shared":
            base = at(b, base, b.mul(row, i64(size(holder) * item)))
        if isinstance(offset, int):
            return at(b, base, (place.offset + offset) * item)
        return at(b, base, b.mul(b.add(offset, i64(place.offset)), i64(item)))

    # --- sums over features -----------------------------------------------------------------------------------------

    def sum_at(self, equation: Any, row: ir.Value) -> ir.Value:
        """Where the partial sums of an example stand, one for each lane."""
        n = next(n for n, (e, _) in enumerate(self.plan.reductions) if e is equation)
        width = self.plan.lanes * item_of(equation.inputs[0])
        return at(self.b, self.bases["sum", n], self.b.mul(row, i64(width)))

    def _start_sums(self, stage: Stage) -> None:
        if not stage.reductions:
            return
        with loop(self.b, self.first, self.last) as row:
            for equation, _ in stage.reductions:
                vector = self.plan.vector(equation.inputs[0].aval.dtype)
                self.b.store(
                    constant(vector, neutral(equation)), self.sum_at(equation, row), align=4
                )

    def _finish_sums(self, stage: Stage) -> None:
        if not stage.reductions:
            return
        b, lanes = self.b, self.plan.lanes
        with loop(b, self.first, self.last) as row:
            for equation, places in stage.reductions:
                kind = element(equation.inputs[0].aval.dtype)
                total = b.load(self.sum_at(equation, row), typ=ir.VectorType(kind, lanes), align=4)
                width = lanes
                while width > 1:
                    width //= 2
                    halves = [
                        b.shuffle_vector(
                            total,
                            total,
                            ir.Constant(ir.VectorType(I32, width), list(range(s, s + width))),
                        )
                        for s in (0, width)
                    ]
                    total = combine(b, equation, *halves)
                number = b.extract_element(total, ir.Constant(I32, 0))
                for place in places:
                    b.store(number, self.address(place, 0, row), align=item_of(equation.inputs[0]))
