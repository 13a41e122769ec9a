"""How the stages of a schedule are cut into blocks, panels and arrays of scratch memory, for one instruction set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from noria.backends.native.codegen.elementwise import element
from noria.backends.native.codegen.llvm import i64
from noria.backends.native.lower.legalize import size
from noria.backends.native.machine import Isa, Tuning
from noria.backends.native.machine import tuning as current_tuning
from noria.backends.native.plan.schedule import Schedule
from noria.backends.native.plan.stages import BlockDot, Dot, DotColumns, Slot, Stage

#: Bytes to which panels and arrays are aligned.
ALIGN = 64


def aligned(number: int) -> int:
    return -(-number // ALIGN) * ALIGN


def bytes_of_rows(b: ir.IRBuilder, rows: ir.Value, width: int) -> ir.Value:
    """The same in code: ``aligned(rows * width)``."""
    return b.and_(b.add(b.mul(rows, i64(width)), i64(ALIGN - 1)), i64(-ALIGN))


def item_of(value: Any) -> int:
    """Bytes of one number."""
    return int(np.dtype(value.aval.dtype).itemsize)


@dataclass(frozen=True)
class Panel:
    """Columns that multiply the same row; their vectors stand side by side, from byte ``place`` of a row of the tile on."""

    dot: Dot
    columns: tuple[tuple[DotColumns, int], ...]
    tile_offset: int
    scratch_offset: int  # bytes from the start of the scratch memory


class PanelSegment(NamedTuple):
    """Columns of a product that stand side by side in a vector: ``width`` of them, from feature ``first`` of the block on."""

    product: DotColumns
    first: int
    width: int


@dataclass(frozen=True)
class StageTiling:
    """How a stage is cut: blocks of ``vectors`` vectors of features; the products of a block in panels."""

    stage: Stage
    vectors: int
    panels: tuple[Panel, ...]
    row_stride: int  # bytes of a row of the tile


class KernelPlan:
    """A schedule cut up for one instruction set: ``lanes`` numbers in a vector, ``panel_bytes`` bytes of packed weights.

    Threads share the features of each stage if ``by_features``, else the rows of the batch. With ``unpacked`` weights are
    read where they are, and not packed. The buffers ``batch_major`` have all steps of an example side by side in memory, others all examples of a
    step; what a few steps read and fill of them is staged, in the order of the others.
    """

    def __init__(
        self,
        schedule: Schedule,
        isa: Isa,
        by_features: bool = False,
        unpacked: bool = False,
        batch_major: Sequence[Slot] = (),
        tuning: Tuning | None = None,
    ):
        tuning = tuning or current_tuning()
        self.schedule, self.by_features, self.unpacked = schedule, by_features, unpacked
        self.staged = {place: schedule.values(place.kind)[place.number] for place in batch_major}
        widest = max((size(value) * item_of(value) for value in self.staged.values()), default=1)
        self.staged_steps = max(1, tuning.staged_bytes // widest)
        values = [*schedule.slots, *schedule.producer, *schedule.outputs]
        dtypes = [v.aval.dtype for v in values if v.aval.dtype != bool and v.aval.shape]
        self.lanes = min(
            map(isa.lanes, [np.dtype(np.float32), *dtypes])
        )  # that of the widest, of no less than four bytes
        many = isa.registers >= 32
        self.registers, self.tile_rows = isa.registers, tuning.tile_rows
        self.panel_vectors, self.update_rows = tuning.panel_vectors[many], tuning.update_rows[many]
        self.elementwise_vectors, self.update_vectors = (
            tuning.elementwise_vectors,
            tuning.update_vectors,
        )
        self.panel_bytes = 0
        self.tilings = [self._tiling(stage) for stage in schedule.stages]
        self.prologue, self.epilogue = map(self._block_dots, (schedule.prologue, schedule.epilogue))
        self.reductions = [pair for stage in schedule.stages for pair in stage.reductions]

    def scratch_bytes(self, batch: int, block_steps: int) -> int:
        """Bytes of scratch memory for a batch and so many steps of a time block."""
        rows = sum(aligned(batch * width) for width in self.scratch_widths())
        rows += sum(aligned(batch * block_steps * width) for width in self.block_widths())
        return self.panel_bytes + rows

    def scratch_widths(self) -> Iterator[int]:
        """Bytes that one row takes in each array of the scratch memory."""
        for value in self.schedule.state:
            yield from [size(value) * item_of(value)] * 2
        for value in self.schedule.scratch:
            yield size(value) * item_of(value)
        for equation, _ in self.reductions:
            yield self.lanes * item_of(equation.inputs[0])
        for value in self.staged.values():
            yield self.staged_steps * size(value) * item_of(value)

    def block_widths(self) -> Iterator[int]:
        """Bytes that one example of one step takes in each array of a time block, and in each record, which has whole vectors."""
        for value in self.schedule.time_block:
            yield size(value) * item_of(value)
        for value in self.schedule.update_operands:
            yield self.blocks(value) * self.lanes * item_of(value)

    def blocks(self, value: Any) -> int:
        """Vectors that a value fills."""
        return -(-size(value) // self.lanes)

    def register_rows(self, width: int) -> int:
        """Rows whose sums, one step of a panel and one broadcast fit the registers."""
        return max(1, min(self.tile_rows, (self.registers - width - 1) // width))

    def vector(self, dtype: Any) -> ir.VectorType:
        return ir.VectorType(element(dtype), self.lanes)

    def panel_vector(self, panel: Panel) -> ir.VectorType:
        return self.vector(panel.columns[0][0].equation.outputs[0].aval.dtype)

    # --- products ---------------------------------------------------------------------------------------------------

    def _block_dots(self, some: Sequence[BlockDot]) -> list[tuple[BlockDot, StageTiling]]:
        """Each as a stage of its own."""
        stages = [
            Stage(self.schedule.dots[p.equation].width, columns=[DotColumns(p.equation, 0)])
            for p in some
        ]
        return [(p, self._tiling(stage)) for p, stage in zip(some, stages, strict=True)]

    def _tiling(self, stage: Stage) -> StageTiling:
        most = self.panel_vectors
        vectors = max(1, most // len(stage.columns)) if stage.columns else self.elementwise_vectors
        vectors = min(vectors, -(-stage.extent // self.lanes))
        by_row: dict[tuple[Any, int, Any], list[DotColumns]] = {}
        for column in stage.columns:
            dot, dtype = self.schedule.dots[column.equation], column.equation.outputs[0].aval.dtype
            by_row.setdefault((dot.row.value, dot.row.offset, dtype), []).append(column)
        panels, place = [], 0
        for columns in by_row.values():
            pairs = [(column, v) for column in columns for v in range(vectors)]
            count = -(-len(pairs) // most)
            width = -(-len(pairs) // count)
            for start in range(0, len(pairs), width):
                some = tuple(pairs[start : start + width])
                dot = self.schedule.dots[some[0][0].equation]
                item = item_of(some[0][0].equation.outputs[0])
                panels.append(Panel(dot, some, place, self.panel_bytes))
                place += aligned(len(some) * self.lanes * item)
                blocks = -(-stage.extent // (vectors * self.lanes))
                self.panel_bytes += (
                    0
                    if self.unpacked
                    else aligned(blocks * dot.depth * len(some) * self.lanes * item)
                )
        return StageTiling(stage, vectors, tuple(panels), place)

    def segments(self, panel: Panel, counts: Sequence[int]) -> list[list[PanelSegment]]:
        """What each vector of the panel of a block holds, if the vectors of the block have so many features."""
        if not self._is_dense(panel, counts):
            return [
                [PanelSegment(product, v * self.lanes, counts[v])] for product, v in panel.columns
            ]
        columns = [(product, r) for product in _products(panel) for r in range(sum(counts))]
        found = []
        for start in range(0, len(columns), self.lanes):
            some = columns[start : start + self.lanes]
            features = {
                product: [r for other, r in some if other is product] for product, _ in some
            }
            found.append(
                [PanelSegment(product, rows[0], len(rows)) for product, rows in features.items()]
            )
        return found

    def tile_position(
        self, panel: Panel, counts: Sequence[int], product: DotColumns, v: int
    ) -> int:
        """Where vector ``v`` of a product stands in a row of the tile, in numbers from the panel's place on."""
        if self._is_dense(panel, counts):
            return _products(panel).index(product) * sum(counts) + v * self.lanes
        return panel.columns.index((product, v)) * self.lanes

    def _is_dense(self, panel: Panel, counts: Sequence[int]) -> bool:
        """Whether the features of a last block stand side by side, product after product, since they fill fewer vectors so."""
        vectors = -(-sum(counts) * len(_products(panel)) // self.lanes)
        return not self.unpacked and vectors < len(panel.columns)

    def counts(self, tiling: StageTiling) -> tuple[int, list[int], list[int]]:
        """Full blocks of a stage, how many features each vector of them has, and of the last block, if it is not full."""
        block = tiling.vectors * self.lanes
        full, left = divmod(tiling.stage.extent, block)
        rest = [max(0, min(self.lanes, left - v * self.lanes)) for v in range(tiling.vectors)]
        return full, [self.lanes] * tiling.vectors, rest if left else []


def _products(panel: Panel) -> list[DotColumns]:
    return list(dict.fromkeys(product for product, _ in panel.columns))
