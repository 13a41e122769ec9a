"""The functions of a kernel as LLVM code::

    void pack(void** buffers, int64 share, int64 shares)
    void block_prologue(void** buffers, sizes, int64 begin, int64 end, int64 share, int64 shares)
    void run(void** buffers, sizes, int64 begin, int64 end, int64 first, int64 last)
    void run(void** buffers, sizes, int64 step, int64 stage, int64 share, int64 shares)
    void block_epilogue(void** buffers, sizes, int64 begin, int64 end, int64 share, int64 shares)

``pack`` fills the panels of a share of the weights (`packing`). ``run`` takes some rows of the
batch through some steps. In its second form, if threads share the features, it takes all rows
through a share of one stage of one step. Steps are taken in time blocks; `time_block` emits the
prologue and the epilogue of a block. The sizes are time, batch, whether the loop runs in reverse,
and the steps of a time block.

A stage goes over blocks of features. For each block it takes a few rows of the batch at a time:
a microkernel leaves the products of a panel in a tile on the stack; then, row by row, the
element-wise part (`row`) reads the tile and stores the results.
"""

from collections.abc import Sequence
from functools import partial

from llvmlite import ir

from noria.backends.native.codegen import matrix_unit, unit_parts
from noria.backends.native.codegen.addresses import (
    Addresses,
    Buffers,
    begin_step_function,
    bytes_of_share,
    columns_of,
    panel_at,
    panel_vector,
    vector_of,
)
from noria.backends.native.codegen.elementwise import element, in_memory
from noria.backends.native.codegen.gemv import across_lanes, gemv
from noria.backends.native.codegen.llvm import (
    advance,
    bytes_of,
    constant,
    for_share,
    for_tiles,
    i64,
    internal_function,
    load_lanes,
    loop,
    minimum,
    share_of,
    stack,
    store_lanes,
)
from noria.backends.native.codegen.matrix import MatrixStageCode
from noria.backends.native.codegen.matrix_product import ProductStageCode
from noria.backends.native.codegen.packing import emit_pack, pack_block
from noria.backends.native.codegen.products import Rows, multiply, split
from noria.backends.native.codegen.row import combine, emit_row, neutral
from noria.backends.native.codegen.systems import SystemsCode, systems_code
from noria.backends.native.codegen.time_block import emit_time_block
from noria.backends.native.plan.panels import (
    ALIGN,
    AnyTiling,
    MatrixTiling,
    Panel,
    SolveTiling,
    StageTiling,
    item_of,
)
from noria.backends.native.plan.stages import Stage
from noria.backends.native.plan.tiling import KernelPlan
from noria.ir.graph import Equation, size


def emit(plan: KernelPlan) -> ir.Module:
    """A module with the functions of a kernel."""
    module = ir.Module("noria")
    emit_pack(plan, module)
    _Run(plan, module).emit()
    emit_time_block(plan, module)
    return module


class _Run:
    """The function ``run``."""

    def __init__(self, plan: KernelPlan, module: ir.Module):
        self.plan, self.schedule = plan, plan.schedule
        self.b, table, self.sizes, self.part = begin_step_function(module, "run")
        self.first, self.last = (
            (i64(0), self.sizes.batch) if plan.by_features else (self.part[2], self.part[3])
        )
        self.buffers = Buffers(self.b, table, self.schedule)
        flat = [tiling for tiling in plan.tilings if isinstance(tiling, StageTiling)]
        tiles = (plan.rows_of_tile(tiling, 1) * tiling.row_stride for tiling in flat)
        self.tile = stack(self.b, max([1, *tiles]), ALIGN)
        self.by_unit = any(tiling.by_unit for tiling in flat)
        self.large = unit_parts.new_flag(self.b)
        self.addresses = Addresses(self.b, plan, self.buffers, self.sizes)
        self.parts = self._parts() if self.by_unit else None

    def _parts(self) -> ir.Value:
        """The address of the parts of the first row."""
        b, arrays = self.b, self.addresses.arrays
        if not self.plan.by_features:
            return arrays["parts", 0]
        return advance(b, self._of_share(), i64(self.plan.share_bytes))

    def _of_share(self) -> ir.Value:
        """The address of what the thread has for itself."""
        b, share = self.b, self.part[2] if self.plan.by_features else i64(0)
        shift = b.mul(share, bytes_of_share(b, self.plan, self.sizes.batch))
        return advance(b, self.addresses.arrays["share", 0], shift)

    def emit(self) -> None:
        if self.plan.by_features:
            self._one_stage()
            return
        begin, end = self.part[:2]
        if self.by_unit:
            matrix_unit.begin(self.b, self.b.sub(self.last, self.first))
        if self.plan.one_by_one:
            with loop(self.b, self.first, self.last) as row:
                self.first, self.last = row, self.b.add(row, i64(1))
                self._all_steps(begin, end)
        else:
            self._all_steps(begin, end)
        if self.by_unit:
            matrix_unit.end(self.b)
        self.b.ret_void()

    def _all_steps(self, begin: ir.Value, end: ir.Value) -> None:
        b, plan = self.b, self.plan
        if not plan.staged:
            self._steps(begin, end)
            return
        few = i64(plan.staged_steps)
        count = b.udiv(b.add(b.sub(end, begin), b.sub(few, i64(1))), few)
        with loop(b, i64(0), count) as n:
            start = b.add(begin, b.mul(n, few))
            self._steps(start, minimum(b, b.add(start, few), end))

    def _one_stage(self) -> None:
        """A share of the features of one stage of one step."""
        b, plan, (i, number, _, _) = self.b, self.plan, self.part
        self.addresses.bind(i, i)
        blocks = [b.append_basic_block("stage") for _ in plan.tilings]
        switch = b.switch(number, blocks[-1])
        for n, (block, tiling) in enumerate(zip(blocks, plan.tilings, strict=True)):
            if n < len(blocks) - 1:
                switch.add_case(i64(n), block)
            b.position_at_end(block)
            by_unit = isinstance(tiling, StageTiling) and tiling.by_unit
            if by_unit:
                matrix_unit.begin(b, self.sizes.batch)
            self.first, self.last = i64(0), self.sizes.batch
            if not self._is_by_features(tiling):
                self.first, self.last = share_of(b, self.sizes.batch, *self.part[2:])
            self._stage(tiling)
            if by_unit:
                matrix_unit.end(b)
            b.ret_void()

    def _steps(self, start: ir.Value, stop: ir.Value) -> None:
        """Some steps, one after the other."""
        self._copy_staged("step", start, stop)
        with loop(self.b, start, stop) as i:
            self.addresses.bind(i, start)
            for tiling in self.plan.tilings:
                self._stage(tiling)
        self._copy_staged("emitted", start, stop)

    def _copy_staged(self, kind: str, start: ir.Value, stop: ir.Value) -> None:
        """Copy the inputs of some steps into staging buffers, or emitted arrays out of them."""
        b, lanes = self.b, self.plan.lanes
        for n, (slot, value) in enumerate(self.plan.staged.items()):
            if slot.kind != kind:
                continue
            vector, item = ir.VectorType(in_memory(value.aval.dtype), lanes), item_of(value)
            with loop(b, self.first, self.last) as row, loop(b, start, stop) as i:
                there = self.addresses.in_buffer(slot, i, row)
                here = self.addresses.staged(n, b.sub(i, start), row)
                source, target = (there, here) if kind == "step" else (here, there)
                full, left = divmod(size(value), lanes)
                for block, count in for_share(b, full, lanes, left, i64(0), i64(1)):
                    shift = b.mul(block, i64(lanes * item))
                    found = load_lanes(b, advance(b, source, shift), vector, count, item)
                    store_lanes(b, found, advance(b, target, shift), count, item)

    # --- stages -----------------------------------------------------------------------------------

    def _is_by_features(self, tiling: AnyTiling) -> bool:
        """Whether threads share the features of a stage: reductions and matrices need all."""
        is_flat = isinstance(tiling, StageTiling) and not tiling.stage.reductions
        return self.plan.by_features and is_flat

    def _stage(self, tiling: AnyTiling) -> None:
        b, plan = self.b, self.plan
        if not isinstance(tiling, StageTiling):
            code = self._by_example(tiling)
            with loop(b, self.first, self.last) as row:
                code.emit(row)
            return
        share, shares = self.part[2:] if self._is_by_features(tiling) else (i64(0), i64(1))
        self._start_reductions(tiling.stage)
        if tiling.by_unit:
            unit_parts.clear(b, self.large)
            of_unit = {panel.parts: panel for panel in tiling.panels if panel.by_unit}
            for panel in of_unit.values():
                rows, parts = self._rows(panel, self.first), self._parts_of(panel)
                split(b, panel, rows, b.sub(self.last, self.first), parts.at(b, self.first))
        if tiling.panels:
            backwards = self.addresses.weights_backwards
            for j, counts in for_share(b, *plan.counts(tiling), share, shares, backwards):
                (self._row_by_row if plan.unpacked else self._tile_by_tile)(tiling, j, counts)
        else:
            with loop(b, self.first, self.last) as row:
                for j, counts in for_share(b, *plan.counts(tiling), share, shares):
                    emit_row(self.addresses, tiling, row, j, None, counts)
        self._finish_reductions(tiling.stage)

    def _by_example(self, tiling: MatrixTiling | SolveTiling) -> MatrixStageCode | SystemsCode:
        """The code of a stage that takes one example after the other."""
        if isinstance(tiling, SolveTiling):
            return systems_code(self.addresses, tiling)
        if tiling.tiled_axis is None:
            return MatrixStageCode(self.addresses, tiling)
        return ProductStageCode(self.addresses, tiling, tiling.tiled_axis)

    def _tile_by_tile(self, tiling: StageTiling, j: ir.Value, counts: Sequence[int]) -> None:
        """One block of features, for the rows of the batch in tiles of nearly equal size."""
        b, plan = self.b, self.plan
        widths = [len(plan.segments(panel, counts)) for panel in tiling.panels]
        places = [self._packed(tiling, panel, j, counts) for panel in tiling.panels]
        with for_tiles(
            b, b.sub(self.last, self.first), plan.rows_of_tile(tiling, max(widths))
        ) as tile:
            start, stop = (b.add(self.first, row) for row in tile)
            for panel, width, packed in zip(tiling.panels, widths, places, strict=True):
                count = b.sub(stop, start)
                if panel.by_unit:
                    rows = self._parts_of(panel).at(b, start)
                else:
                    rows = self._rows(panel, start)
                target = advance(b, self.tile, panel.tile_offset)
                multiply(b, plan, tiling, panel, width, rows, count, packed, target)
            with loop(b, start, stop) as row:
                line = advance(b, self.tile, b.mul(b.sub(row, start), i64(tiling.row_stride)))
                emit_row(self.addresses, tiling, row, j, line, counts)

    def _packed(
        self, tiling: StageTiling, panel: Panel, j: ir.Value, counts: Sequence[int]
    ) -> ir.Value:
        """The address of the panel of a block; it is packed here if it is used here only."""
        b, plan = self.b, self.plan
        if not plan.packs_blocks:
            return panel_at(b, self.buffers, plan, panel, j)
        target = advance(b, self._of_share(), i64(panel.offset))
        pack_block(b, self.buffers, plan, tiling, panel, j, counts, target)
        return target

    def _row_by_row(self, tiling: StageTiling, j: ir.Value, counts: Sequence[int]) -> None:
        """One block of features, one row after the other, with weights that are not packed."""
        b, plan = self.b, self.plan
        with loop(b, self.first, self.last) as row:
            for panel in tiling.panels:
                vector, source = panel_vector(plan, panel), panel.dot.row
                slot = self.schedule.slots[source.value]
                line = self.addresses.address(slot, source.offset, row)
                for n, (segment,) in enumerate(plan.segments(panel, counts)):
                    if segment.width:
                        columns = columns_of(b, self.buffers, plan, tiling, j, segment)
                        shift = panel.tile_offset + n * bytes_of(vector)
                        gemv(b, vector, columns, line, advance(b, self.tile, shift))
            emit_row(self.addresses, tiling, row, j, self.tile, counts)

    def _rows(self, panel: Panel, start: ir.Value) -> Rows:
        """The rows that a panel is multiplied with, from ``start`` on."""
        row = panel.dot.row
        line = self.addresses.address(self.schedule.slots[row.value], row.offset, start)
        stride = 0 if row.value in self.schedule.shared else size(row.value) * item_of(row.value)
        return Rows(line, i64(stride))

    def _parts_of(self, panel: Panel) -> Rows:
        """The parts of all rows, for the matrix unit.

        All stages have the same distance from row to row: a thread may be in another stage.
        """
        parts = advance(self.b, self.parts, panel.parts)
        return Rows(parts, i64(self.plan.step_parts), self.large)

    # --- reductions over features -----------------------------------------------------------------

    def _start_reductions(self, stage: Stage) -> None:
        if not stage.reductions:
            return
        with loop(self.b, self.first, self.last) as row:
            for equation, _ in stage.reductions:
                vector = vector_of(self.plan, equation.inputs[0].aval.dtype)
                address = self.addresses.reduction_at(equation, row)
                self.b.store(constant(vector, neutral(equation)), address, align=4)

    def _finish_reductions(self, stage: Stage) -> None:
        """Combine the lanes of each partial result: halves of the vector, quarters, and so on."""
        if not stage.reductions:
            return
        b, lanes = self.b, self.plan.lanes
        with loop(b, self.first, self.last) as row:
            for equation, slots in stage.reductions:
                kind = ir.VectorType(element(equation.inputs[0].aval.dtype), lanes)
                found = b.load(self.addresses.reduction_at(equation, row), typ=kind, align=4)
                number = b.call(_across_lanes(b.module, equation, kind), [found])
                for slot in slots:
                    address = self.addresses.address(slot, 0, row)
                    b.store(number, address, align=item_of(equation.inputs[0]))


def _across_lanes(module: ir.Module, equation: Equation, kind: ir.VectorType) -> ir.Function:
    """The function that combines all lanes of a vector as a reduction combines numbers."""

    def emit(b: ir.IRBuilder, vector: ir.Value) -> None:
        b.ret(across_lanes(b, vector, partial(combine, b, equation)))

    name = f"across_lanes.{equation.name}.{equation.inputs[0].aval.dtype}.{kind.count}"
    return internal_function(module, name, [kind], emit, kind.element)
