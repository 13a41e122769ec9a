"""How the stages of a program are cut into blocks, panels and arrays of scratch memory, for one instruction set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from noria.backends.native.codegen.elementwise import element
from noria.backends.native.codegen.llvm import i64
from noria.backends.native.lower.legalize import size
from noria.backends.native.machine import Isa
from noria.backends.native.plan.schedule import Schedule
from noria.backends.native.plan.stages import Dot, Product, Projection, Slot, Stage

#: Bytes to which panels and arrays are aligned.
ALIGN = 64

#: Bytes of an example, about, that are read or written at a time where it has all its steps side by side.
_RUN = 2**11


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
    products: tuple[tuple[Product, int], ...]
    place: int
    panel: int  # bytes from the start of the scratch memory


class PanelSegment(NamedTuple):
    """Columns of a product that stand side by side in a vector: ``width`` of them, from feature ``first`` of the block on."""

    product: Product
    first: int
    width: int


@dataclass(frozen=True)
class StageTiling:
    """How a stage is cut: blocks of ``vectors`` vectors of features; the products of a block in groups."""

    stage: Stage
    vectors: int
    groups: tuple[Panel, ...]
    pitch: int  # bytes of a row of the tile


class KernelPlan:
    """A program cut up for one instruction set: ``lanes`` numbers in a vector, ``panels`` bytes of packed weights.

    Threads share the features of each stage if ``by_features``, else the rows of the batch. With ``direct`` products weights are
    read where they are, and not packed. The buffers ``batch_major`` have all steps of an example side by side in memory, others all examples of a
    step; what a few steps read and fill of them is put ``aside``, in the order of the others.
    """

    def __init__(
        self,
        program: Schedule,
        isa: Isa,
        by_features: bool = False,
        direct: bool = False,
        batch_major: Sequence[Slot] = (),
    ):
        self.program, self.by_features, self.direct = program, by_features, direct
        self.aside = {place: program.values(place.kind)[place.number] for place in batch_major}
        widest = max((size(value) * item_of(value) for value in self.aside.values()), default=1)
        self.steps_aside = max(1, _RUN // widest)
        values = [*program.places, *program.maker, *program.outputs]
        dtypes = [v.aval.dtype for v in values if v.aval.dtype != bool and v.aval.shape]
        self.lanes = min(
            map(isa.lanes, [np.dtype(np.float32), *dtypes])
        )  # that of the widest, of no less than four bytes
        self.registers = isa.registers
        self.panels = 0
        self.layouts = [self._layout(stage) for stage in program.stages]
        self.before, self.after = map(self._projections, (program.before, program.after))
        self.sums = [pair for stage in program.stages for pair in stage.sums]

    def scratch_bytes(self, batch: int, stretch: int) -> int:
        """Bytes of scratch memory for a batch and so many steps of a stretch."""
        rows = sum(aligned(batch * width) for width in self.scratch_widths())
        rows += sum(aligned(batch * stretch * width) for width in self.stretch_widths())
        return self.panels + rows

    def scratch_widths(self) -> Iterator[int]:
        """Bytes that one row takes in each array of the scratch memory."""
        for value in self.program.state:
            yield from [size(value) * item_of(value)] * 2
        for value in self.program.scratch:
            yield size(value) * item_of(value)
        for equation, _ in self.sums:
            yield self.lanes * item_of(equation.inputs[0])
        for value in self.aside.values():
            yield self.steps_aside * size(value) * item_of(value)

    def stretch_widths(self) -> Iterator[int]:
        """Bytes that one example of one step takes in each array of a stretch, and in each record, which has whole vectors."""
        for value in self.program.stretch:
            yield size(value) * item_of(value)
        for value in self.program.records:
            yield self.blocks(value) * self.lanes * item_of(value)

    def blocks(self, value: Any) -> int:
        """Vectors that a value fills."""
        return -(-size(value) // self.lanes)

    def vector(self, dtype: Any) -> ir.VectorType:
        return ir.VectorType(element(dtype), self.lanes)

    def group_vector(self, group: Panel) -> ir.VectorType:
        return self.vector(group.products[0][0].equation.outputs[0].aval.dtype)

    # --- products ---------------------------------------------------------------------------------------------------

    def _projections(self, some: Sequence[Projection]) -> list[tuple[Projection, StageTiling]]:
        """Each as a stage of its own."""
        stages = [
            Stage(self.program.dots[p.equation].width, columns=[Product(p.equation, 0)])
            for p in some
        ]
        return [(p, self._layout(stage)) for p, stage in zip(some, stages, strict=True)]

    def _layout(self, stage: Stage) -> StageTiling:
        most = 4 if self.registers >= 32 else 2
        vectors = max(1, most // len(stage.columns)) if stage.columns else 2
        vectors = min(vectors, -(-stage.extent // self.lanes))
        by_row: dict[tuple[Any, int, Any], list[Product]] = {}
        for column in stage.columns:
            dot, dtype = self.program.dots[column.equation], column.equation.outputs[0].aval.dtype
            by_row.setdefault((dot.row.value, dot.row.offset, dtype), []).append(column)
        groups, place = [], 0
        for columns in by_row.values():
            pairs = [(column, v) for column in columns for v in range(vectors)]
            count = -(-len(pairs) // most)
            width = -(-len(pairs) // count)
            for start in range(0, len(pairs), width):
                some = tuple(pairs[start : start + width])
                dot = self.program.dots[some[0][0].equation]
                item = item_of(some[0][0].equation.outputs[0])
                groups.append(Panel(dot, some, place, self.panels))
                place += aligned(len(some) * self.lanes * item)
                blocks = -(-stage.extent // (vectors * self.lanes))
                self.panels += (
                    0
                    if self.direct
                    else aligned(blocks * dot.depth * len(some) * self.lanes * item)
                )
        return StageTiling(stage, vectors, tuple(groups), place)

    def panel(self, group: Panel, counts: Sequence[int]) -> list[list[PanelSegment]]:
        """What each vector of the panel of a block holds, if the vectors of the block have so many features."""
        if not self._is_dense(group, counts):
            return [
                [PanelSegment(product, v * self.lanes, counts[v])] for product, v in group.products
            ]
        columns = [(product, r) for product in _products(group) for r in range(sum(counts))]
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

    def place(self, group: Panel, counts: Sequence[int], product: Product, v: int) -> int:
        """Where vector ``v`` of a product stands in a row of the tile, in numbers from the group's place on."""
        if self._is_dense(group, counts):
            return _products(group).index(product) * sum(counts) + v * self.lanes
        return group.products.index((product, v)) * self.lanes

    def _is_dense(self, group: Panel, counts: Sequence[int]) -> bool:
        """Whether the features of a last block stand side by side, product after product, since they fill fewer vectors so."""
        vectors = -(-sum(counts) * len(_products(group)) // self.lanes)
        return not self.direct and vectors < len(group.products)

    def counts(self, layout: StageTiling) -> tuple[int, list[int], list[int]]:
        """Full blocks of a stage, how many features each vector of them has, and of the last block, if it is not full."""
        block = layout.vectors * self.lanes
        full, left = divmod(layout.stage.extent, block)
        rest = [max(0, min(self.lanes, left - v * self.lanes)) for v in range(layout.vectors)]
        return full, [self.lanes] * layout.vectors, rest if left else []


def _products(group: Panel) -> list[Product]:
    return list(dict.fromkeys(product for product, _ in group.products))
