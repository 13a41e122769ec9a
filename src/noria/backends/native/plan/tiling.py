"""Tiling: divide the stages of a schedule into blocks and panels for one instruction set.

A *block* is a few vectors of neighbouring features. The columns of a weight that a block needs form
*panels*. For each step along the contracted axis, a panel has one or more vectors side by side. A
microkernel multiplies them with a few rows. The products of a row, panel after panel, form a row of
the *tile*.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from noria._integers import ceil_div
from noria._jax import ShapedArray
from noria.backends.native.machine import Isa, Tuning
from noria.backends.native.plan import matrix_unit
from noria.backends.native.plan.fusion import AnyStage
from noria.backends.native.plan.panels import (
    AnyTiling,
    MatrixTiling,
    Panel,
    PanelMemory,
    PanelSegment,
    SolveTiling,
    StageTiling,
    aligned,
    content_of,
    counts_of,
    equal_parts,
    item_of,
)
from noria.backends.native.plan.schedule import Schedule
from noria.backends.native.plan.stages import (
    BlockDot,
    Dot,
    DotColumns,
    RankUpdate,
    Slot,
    SolveStage,
    Stage,
)
from noria.backends.native.plan.work import Division
from noria.ir.graph import Atom, Value, size, values_of


class KernelPlan:
    """A schedule, tiled for one instruction set.

    Args:
        schedule: the schedule of a step.
        isa: the instruction set.
        division: the shares of threads.
        unpacked: whether weights are read in place, not packed into panels.
        once: whether there is one step, and its weights are no constants.
        staged: buffers whose outer axis in memory is the batch. A few steps of them pass through
            staging buffers, whose outer axis is time.
        batch_major: other buffers whose outer axis is the batch.
        tuning: the thresholds.

    Attributes:
        by_features: whether threads share the features of each stage, not the rows of the batch.
        shares_examples: whether a thread makes products of a time block, by the matrix unit, for
            the examples that it takes through the steps. Else it makes them for some of the steps.
        lanes: numbers in a vector.
        panel_bytes: bytes of packed weights in scratch memory.
        packs_blocks: whether a thread packs the panels of a block just before it multiplies with
            them, into memory of its own. So it can if it multiplies with them once.
        block_panel_bytes: bytes of this memory.
        given_panels: the number of the shared array that holds the packed weights; ``None`` if
            the kernel packs them, into scratch memory.
        staged: the values of the buffers with a staging buffer.
        by_example: the ``batch_major`` buffers that the kernel can read and fill as they are: those
            of products for a time block by the matrix unit. Of the others it needs a copy.
        staged_steps: steps that a staging buffer holds.
        tilings: the stages in blocks.
        prologue: the products before the steps of a time block, each as a stage of its own.
        epilogue: the products after them.
        reductions: the reductions of all stages.
        one_by_one: whether each example goes through all steps before the next one begins, with its
            state in the first-level cache: with matrices, and no panels that examples would share.
        tile_rows: rows of the tile, at most, but for the matrix unit.
        by_unit: whether the matrix unit multiplies in the steps, and in the time blocks.
        prefetch_bytes, depth_steps: see `Tuning`.
        update: the panels of rank updates by the matrix unit.
        update_rows: rows of the left operand of a rank update that are multiplied at a time.
        update_vectors: vectors of the right operand that are multiplied at a time.
    """

    def __init__(
        self,
        schedule: Schedule,
        isa: Isa,
        division: Division,
        unpacked: bool,
        once: bool,
        staged: Sequence[Slot],
        batch_major: Sequence[Slot],
        tuning: Tuning,
    ):
        self.schedule, self.by_features, self.unpacked = schedule, division.by_features, unpacked
        self.shares_examples = division.of_examples
        many = isa.registers >= 32
        self.update_rows, self.update_vectors = tuning.update_rows[many], tuning.update_vectors
        self._tuning, self._registers = tuning, isa.registers - (not isa.is_fused)
        self._matrix_vectors = tuning.matrix_vectors, tuning.product_vectors[many]
        self.tile_rows = tuning.tile_rows
        self.depth_steps = tuning.depth_steps[many] if isa.is_fused else 1  # else sums are spilled
        fetches = schedule.weight_bytes > tuning.prefetched_weight_bytes[many]
        self.prefetch_bytes = tuning.prefetch_bytes * fetches
        self.update = matrix_unit.update_tiling(tuning.unit_update_rows, tuning.part_bytes)
        self.staged = {slot: schedule.values(slot.kind)[slot.number] for slot in staged}
        widest = max((size(value) * item_of(value) for value in self.staged.values()), default=1)
        self.staged_steps = max(1, tuning.staged_bytes // widest)
        self.lanes = min(map(isa.lanes, _dtypes(schedule)))
        self.packs_blocks = once and not unpacked and (division.by_features or division.shares == 1)
        self.block_panel_bytes, self._memory = 0, PanelMemory()
        self.given_panels: int | None = None
        has_unit = isa.has_unit and self.lanes == matrix_unit.LANES and not unpacked
        weights = schedule.weight_bytes // (division.shares if division.by_features else 1)
        self.by_unit = (
            has_unit and tuning.prefers_unit(weights, division.rows),
            has_unit and division.block_rows >= tuning.unit_block_rows,
        )
        block_width = tuning.panel_vectors[many]
        step_width = self._step_width(division.rows, block_width)
        self.tilings = [self._of_step(stage, step_width) for stage in schedule.stages]
        self.prologue, self.epilogue = (
            self._of_block(products, block_width)
            for products in (schedule.prologue, schedule.epilogue)
        )
        self.panel_bytes = self._memory.bytes
        self.by_example = [slot for slot in batch_major if self._is_of_unit(slot)]
        self.one_by_one = not any(tiling.panels for tiling in self.tilings) and not all(
            isinstance(tiling, StageTiling) for tiling in self.tilings
        )
        flat = [stage for stage in schedule.stages if isinstance(stage, Stage)]
        self.reductions = [pair for stage in flat for pair in stage.reductions]

    def _is_of_unit(self, slot: Slot) -> bool:
        """Whether only products for a time block use a buffer, all by the matrix unit."""
        schedule, value = self.schedule, self.schedule.values(slot.kind)[slot.number]
        if slot.kind == "step":
            tilings = [t for p, t in self.prologue if p.source._replace(offset=0) == slot]
            read = {v for equation in schedule.equations for v in values_of(equation.inputs)}
            stored = *schedule.outputs, *schedule.update_operands
            read |= {*values_of(stored), *schedule.previous}
            if value in read:
                return False
        else:
            tilings = [t for p, t in self.epilogue if p.target == slot]
            if any(tiling.stage.extent < size(value) for tiling in tilings):
                return False
        return bool(tilings) and all(tiling.by_unit for tiling in tilings)

    def take_panels(self) -> None:
        """Read the packed weights from one more shared array, the last: bytes."""
        panels = Value(ShapedArray((self.panel_bytes,), np.dtype(np.uint8)))
        self.given_panels, self.panel_bytes = len(self.schedule.shared), 0
        self.schedule = replace(self.schedule, shared=(*self.schedule.shared, panels))

    # --- scratch memory ---------------------------------------------------------------------------

    def scratch_bytes(self, batch: int, block_steps: int, shares: int) -> int:
        """Bytes of scratch memory for a batch, the steps of a time block, and some threads."""
        rows = sum(aligned(batch * width) for width in self.scratch_widths())
        rows += sum(aligned(batch * block_steps * width) for width in self.block_widths())
        of_share = self.share_bytes + aligned(batch * self.share_width)
        return self.panel_bytes + rows + self.spare_bytes + shares * of_share

    def scratch_widths(self) -> Iterator[int]:
        """Bytes of one row of each array of a step."""
        for value in self.schedule.state:
            yield from [size(value) * item_of(value)] * 2
        for value in self.schedule.scratch:
            yield size(value) * item_of(value)
        for equation, _ in self.reductions:
            yield self.lanes * item_of(equation.inputs[0])
        for emitted in self.staged.values():
            yield self.staged_steps * size(emitted) * item_of(emitted)
        if self.step_parts and not self.by_features:
            yield self.step_parts

    def block_widths(self) -> Iterator[int]:
        """Bytes of one row of each array of a time block; update operands have whole vectors."""
        for value in self.schedule.time_block:
            yield size(value) * item_of(value)
        for operand in self.schedule.update_operands:
            yield self.vectors(operand) * self.lanes * item_of(operand)

    def block_steps(self, time: int, batch: int) -> int:
        """Steps of a time block: nearly equal blocks, with about the rows that `Tuning` names."""
        kept, tuning = sum(self.block_widths()), self._tuning
        if self.schedule.accumulators:
            rows = tuning.block_rows
        elif kept:
            most = tuning.unit_block_bytes if self.by_unit[1] else tuning.block_bytes
            weights = self.schedule.block_weight_bytes // tuning.block_weight_ratio
            rows = ceil_div(max(most, weights), kept)
        else:
            return time
        return ceil_div(time, min(time, ceil_div(time * batch, rows)))

    @property
    def step_parts(self) -> int:
        """Bytes of the parts of one row of a step; its stages use the same memory."""
        widths = (t.part_bytes for t in self.tilings if isinstance(t, StageTiling))
        return max(widths, default=0)

    @property
    def spare_bytes(self) -> int:
        """Bytes at the end: the matrix unit may read one row too many, and ignore it."""
        return self.step_parts

    @property
    def share_bytes(self) -> int:
        """Bytes that each thread has for itself: its panels, or parts of rows of a time block."""
        tilings = [tiling for _, tiling in (*self.prologue, *self.epilogue) if tiling.by_unit]
        rows = ((self.unit_rows(tiling) + 1) * tiling.part_bytes for tiling in tilings)
        updates = any(map(self.updates_by_unit, self.schedule.updates))
        return aligned(max([self.block_panel_bytes, updates * self.update.bytes, *rows]))

    @property
    def share_width(self) -> int:
        """Bytes of one row that each thread has for itself: it splits all rows, or its own."""
        return self.step_parts if self.by_features else 0

    def unit_rows(self, tiling: StageTiling) -> int:
        """Rows of a time block that the matrix unit multiplies with one panel after the other."""
        tile = matrix_unit.ROWS * tiling.part_bytes
        return ceil_div(self._tuning.part_bytes, tile) * matrix_unit.ROWS

    def updates_by_unit(self, update: RankUpdate) -> bool:
        """Whether the matrix unit adds outer products: it is worth to split both operands."""
        numbers = [n for n in (update.left, update.right) if n is not None]
        operands = [self.schedule.update_operands[n] for n in numbers]
        least = self._tuning.unit_update_features
        are_large = all(v.aval.dtype == np.float32 and size(v) >= least for v in operands)
        return self.by_unit[1] and len(operands) == 2 and are_large

    def unit_panels(self, panel: Panel) -> int:
        """Panels of a time block that stay in cache from rows to rows."""
        return max(1, self._tuning.unit_panel_bytes // panel.bytes)

    def vectors(self, value: Atom) -> int:
        """Vectors that a value fills."""
        return ceil_div(size(value), self.lanes)

    # --- products ---------------------------------------------------------------------------------

    def _of_block(
        self, products: Sequence[BlockDot], width: int
    ) -> list[tuple[BlockDot, StageTiling]]:
        """The products of a prologue or an epilogue, each as a stage of its own, with one panel."""
        stages = [
            Stage(self.schedule.dots[p.equation].width, columns=[DotColumns(p.equation, 0)])
            for p in products
        ]
        return [
            (p, self._tiling(stage, width, width, self.by_unit[1]))
            for p, stage in zip(products, stages, strict=True)
        ]

    def _step_width(self, rows: int, most: int) -> int:
        """Vectors of a panel of a step: ``most``, or so few that a tile reads uncached panels once.

        Narrower panels are a few percent slower where they are cached, and one vector is too few.
        """
        if rows <= self._tuning.few_rows:
            return max(self._tuning.panel_vectors)
        is_cached = self.schedule.weight_bytes <= self._tuning.cached_weight_bytes
        if rows > self.tile_rows or is_cached:
            return most
        fits = (width for width in range(2, most + 1) if self.register_rows(width) >= rows)
        return max(fits, default=most)

    def _tiling(self, stage: Stage, most: int, width: int, may_use_unit: bool) -> StageTiling:
        """The blocks of a stage, of up to ``most`` vectors of all products, and their panels.

        They have more if the products of one row do not fill a panel otherwise: half of one has too
        few sums to hide the latency of a multiply-add.
        """
        vectors, by_row = self._tuning.elementwise_vectors, self._by_row(stage)
        if by_row:
            most_of_row = max(map(len, by_row))
            vectors = max(1, most // len(stage.columns), width // most_of_row)
        vectors = min(vectors, ceil_div(stage.extent, self.lanes))
        panels: list[Panel] = []
        row = parts = packed = 0
        for columns in by_row:
            dot, item = self._dot(columns[0]), item_of(columns[0].equation.outputs[0])
            pairs = [(column, v) for column in columns for v in range(vectors)]
            for some in equal_parts(pairs, width):
                vector = len(some) * self.lanes * item
                features = stage.extent * len(columns)
                by_unit = may_use_unit and self._suits_unit(columns[0], len(some), features)
                bytes_ = dot.depth * vector
                if by_unit:
                    bytes_ = matrix_unit.panel_bytes(dot.depth, len(some))
                place = packed
                if not self.unpacked and not self.packs_blocks:
                    blocks = ceil_div(stage.extent, vectors * self.lanes)
                    content = stage.extent, vectors, by_unit, content_of(some, self.schedule.dots)
                    place = self._memory.place(content, blocks * bytes_)
                packed += aligned(bytes_)
                panels.append(Panel(dot, tuple(some), row, place, bytes_, by_unit, parts))
                row += aligned(vector)
            if any(panel.by_unit and panel.parts == parts for panel in panels):
                parts += matrix_unit.row_bytes(dot.depth)
        if self.packs_blocks:
            self.block_panel_bytes = max(self.block_panel_bytes, packed)
        return StageTiling(stage, vectors, tuple(panels), row)

    def _suits_unit(self, product: DotColumns, vectors: int, features: int) -> bool:
        """Whether a product fills tiles, and has so many columns that splitting the row pays."""
        dot, dtype = self._dot(product), product.equation.outputs[0].aval.dtype
        least = self._tuning.unit_features[dot.depth > 2 * features]
        is_own = dot.row.value not in self.schedule.shared
        is_large = features >= least and matrix_unit.fills(dot.depth, vectors)
        return is_own and dtype == np.float32 and is_large

    def _dot(self, product: DotColumns) -> Dot:
        return self.schedule.dots[product.equation]

    def _by_row(self, stage: Stage) -> list[list[DotColumns]]:
        """The products of a stage, together if they multiply the same numbers of the same row."""
        found: dict[tuple[Any, int, int, Any], list[DotColumns]] = {}
        for column in stage.columns:
            dot, dtype = self._dot(column), column.equation.outputs[0].aval.dtype
            found.setdefault((dot.row.value, dot.row.offset, dot.depth, dtype), []).append(column)
        return list(found.values())

    def register_rows(self, width: int) -> int:
        """Rows whose sums fit the registers, with a step of the panel and a broadcast."""
        return max(1, min(self.tile_rows, (self._registers - width - 1) // width))

    def rows_of_tile(self, tiling: StageTiling, width: int) -> int:
        """The most rows of a tile of a stage, for panels of ``width`` vectors."""
        return matrix_unit.ROWS if tiling.by_unit else self.register_rows(width)

    def segments(self, panel: Panel, counts: Sequence[int]) -> list[list[PanelSegment]]:
        """The columns in each vector of a panel, for vectors with the features of the block.

        In a dense panel the products follow each other without a gap::

            products a and b of 5 features, 4 lanes    a0 a1 a2 a3   a4 b0 b1 b2   b3 b4
            the same, not dense                        a0 a1 a2 a3   a4
                                                       b0 b1 b2 b3   b4
        """
        if not self._is_dense(panel, counts):
            return [
                [PanelSegment(product, v * self.lanes, counts[v])] for product, v in panel.columns
            ]
        columns = [(product, r) for product in panel.products for r in range(sum(counts))]
        found = []
        for start in range(0, len(columns), self.lanes):
            features: dict[DotColumns, list[int]] = {}
            for product, r in columns[start : start + self.lanes]:
                features.setdefault(product, []).append(r)
            found.append(
                [PanelSegment(product, rows[0], len(rows)) for product, rows in features.items()]
            )
        return found

    def tile_position(
        self, panel: Panel, counts: Sequence[int], product: DotColumns, v: int
    ) -> int:
        """The first number of vector ``v`` of a product in a row of the tile, from the panel on."""
        if self._is_dense(panel, counts):
            return panel.products.index(product) * sum(counts) + v * self.lanes
        return panel.columns.index((product, v)) * self.lanes

    def _is_dense(self, panel: Panel, counts: Sequence[int]) -> bool:
        """Whether the last block's panel fills fewer vectors without gaps between products."""
        vectors = ceil_div(sum(counts) * len(panel.products), self.lanes)
        return not self.unpacked and vectors < len(panel.columns)

    def counts(self, tiling: StageTiling) -> tuple[int, list[int], list[int]]:
        """The number of full blocks, the features of each of their vectors, and of the last block.

        The last list is empty if all blocks are full.
        """
        return counts_of(tiling.stage.extent, tiling.vectors, self.lanes)

    def _of_step(self, stage: AnyStage, width: int) -> AnyTiling:
        if isinstance(stage, Stage):
            return self._tiling(stage, self._tuning.block_vectors, width, self.by_unit[0])
        if isinstance(stage, SolveStage):
            return SolveTiling(stage, ceil_div(stage.unknowns, self.lanes))
        axis = stage.tiled_axis(self.schedule.lookup)
        most = self._matrix_vectors[axis is not None]
        return MatrixTiling(stage, min(most, ceil_div(stage.domain[-1], self.lanes)), axis)


def _dtypes(schedule: Schedule) -> list[Any]:
    """The dtypes whose numbers should fit a vector: float32, and the dtypes of all vectors."""
    values = [*schedule.slots, *schedule.lookup.producer, *schedule.outputs]
    avals = [v.aval for v in values]
    return [np.dtype(np.float32), *(a.dtype for a in avals if a.dtype != bool and a.shape)]
