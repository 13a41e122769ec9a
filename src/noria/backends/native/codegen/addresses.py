"""The memory of a kernel: the buffers of a call, scratch memory, and the address of each value.

The buffers are the inputs and results of a `Schedule`, then scratch memory. Arrays of steps and
emitted arrays have the axes time and batch in front, states and unchanged arrays the batch. In
memory the batch may be the outermost axis. Scratch memory holds, in this order, the packed panels;
for each state two arrays between which steps alternate; values of single steps; partial reductions;
staging buffers; parts of rows for the matrix unit; and the arrays of a time block: values in the
order of time, operands of rank updates; and for each thread parts of rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from noria.backends.native.codegen.elementwise import element
from noria.backends.native.codegen.llvm import (
    I1,
    I64,
    POINTER,
    VOID,
    advance,
    begin_function,
    bytes_of,
    i64,
    minimum,
)
from noria.backends.native.plan.panels import ALIGN, Panel, PanelSegment, StageTiling, item_of
from noria.backends.native.plan.schedule import INPUTS, RESULTS, Schedule
from noria.backends.native.plan.stages import Slot
from noria.backends.native.plan.tiling import KernelPlan
from noria.ir.graph import Equation, size

#: Addresses, by kind and index.
Table = dict[tuple[str, int], ir.Value]


def vector_of(plan: KernelPlan, dtype: Any) -> ir.VectorType:
    """The type of a vector of numbers of a dtype."""
    return ir.VectorType(element(dtype), plan.lanes)


def panel_vector(plan: KernelPlan, panel: Panel) -> ir.VectorType:
    """The type of a vector of a panel."""
    return vector_of(plan, panel.columns[0][0].equation.outputs[0].aval.dtype)


def panel_align(plan: KernelPlan, vector: ir.VectorType) -> int:
    """Bytes at whose multiples the vectors of a panel are: XLA places given panels anywhere."""
    whole = bytes_of(vector)
    return whole if plan.given_panels is None else whole // vector.count


def panel_at(
    b: ir.IRBuilder, buffers: "Buffers", plan: KernelPlan, panel: Panel, j: ir.Value
) -> ir.Value:
    """The address of the packed weights of block ``j``."""
    given = plan.given_panels
    panels = buffers.scratch if given is None else buffers["shared", given]
    return advance(b, advance(b, panels, panel.offset), b.mul(j, i64(panel.bytes)))


class Columns(NamedTuple):
    """``width`` columns of a matrix from ``first`` on; ``contracted_axis`` of it is the depth."""

    weight: ir.Value
    shape: tuple[int, int]
    contracted_axis: int
    first: ir.Value
    width: int

    @property
    def depth(self) -> int:
        """The number of terms of the sum."""
        return self.shape[self.contracted_axis]


def columns_of(
    b: ir.IRBuilder,
    buffers: "Buffers",
    plan: KernelPlan,
    tiling: StageTiling,
    j: ir.Value,
    segment: PanelSegment,
) -> Columns:
    """The columns of a weight that a segment of block ``j`` consists of."""
    product = segment.product
    dot, item = plan.schedule.dots[product.equation], item_of(product.equation.outputs[0])
    block = b.mul(j, i64(tiling.vectors * plan.lanes))
    first = b.add(block, i64(product.offset + segment.first))
    weight = advance(b, buffers["shared", dot.weight], dot.offset * item)
    return Columns(weight, dot.shape, dot.contracted_axis, first, segment.width)


def bytes_of_rows(b: ir.IRBuilder, rows: ir.Value, width: int) -> ir.Value:
    """Code for ``aligned(rows * width)``."""
    return b.and_(b.add(b.mul(rows, i64(width)), i64(ALIGN - 1)), i64(-ALIGN))


def bytes_of_share(b: ir.IRBuilder, plan: KernelPlan, batch: ir.Value) -> ir.Value:
    """Code for the bytes that each thread has for itself."""
    return b.add(i64(plan.share_bytes), bytes_of_rows(b, batch, plan.share_width))


class Buffers:
    """The addresses of all buffers of a call; ``next`` is for the final state."""

    def __init__(self, b: ir.IRBuilder, table: ir.Value, schedule: Schedule):
        found = [(slot.kind, slot.number) for slot in schedule.buffers((*INPUTS, *RESULTS))]
        found.append(("scratch", 0))
        self._table: Table = {
            key: b.load(advance(b, table, 8 * i), typ=POINTER, align=8)
            for i, key in enumerate(found)
        }

    def __getitem__(self, key: tuple[str, int]) -> ir.Value:
        return self._table[key]

    @property
    def scratch(self) -> ir.Value:
        return self._table["scratch", 0]


def scratch_arrays(
    b: ir.IRBuilder, plan: KernelPlan, buffers: Buffers, batch: ir.Value, block_steps: ir.Value
) -> Table:
    """The arrays in scratch memory after the panels; each state has two, ``even`` and ``odd``."""
    schedule = plan.schedule
    of_step = [(kind, n) for n in range(len(schedule.state)) for kind in ("even", "odd")]
    of_step += [("scratch", n) for n in range(len(schedule.scratch))]
    of_step += [("reduction", n) for n in range(len(plan.reductions))]
    of_step += [("staged", n) for n in range(len(plan.staged))]
    of_block = [
        (kind, n) for kind in ("time_block", "operand") for n in range(len(schedule.values(kind)))
    ]
    step_widths = [*plan.scratch_widths()]
    of_step += [("parts", 0)] * (len(step_widths) - len(of_step))
    address, found = advance(b, buffers.scratch, plan.panel_bytes), {}
    rows = b.mul(batch, block_steps)
    for names, widths, count in (
        (of_step, step_widths, batch),
        (of_block, plan.block_widths(), rows),
    ):
        for name, width in zip(names, widths, strict=True):
            found[name] = address
            address = advance(b, address, bytes_of_rows(b, count, width))
    found["share", 0] = address
    return found


class Sizes(NamedTuple):
    """The sizes of a call; ``reverse`` is nonzero if the loop runs backwards in time."""

    time: ir.Value
    batch: ir.Value
    reverse: ir.Value
    block_steps: ir.Value


def begin_step_function(
    module: ir.Module, name: str
) -> tuple[ir.IRBuilder, ir.Value, Sizes, Sequence[ir.Value]]:
    """Begin ``void f(void** buffers, sizes, int64, int64, int64, int64)``: its arguments.

    The last four say which part of the work to do.
    """
    count = len(Sizes._fields)
    b, (table, *numbers) = begin_function(module, name, VOID, POINTER, *[I64] * (count + 4))
    return b, table, Sizes(*numbers[:count]), numbers[count:]


class Addresses:
    """The address of each value at the current step, which `bind` sets.

    It also sets ``weights_backwards``: a step reads the weights in the opposite order to the step
    before, so that it begins with those that are still in cache.

    Args:
        b: where code is emitted.
        plan: the plan of the kernel.
        buffers: the buffers of the call.
        sizes: the sizes of the call.
    """

    def __init__(self, b: ir.IRBuilder, plan: KernelPlan, buffers: Buffers, sizes: Sizes):
        self.b, self.plan, self.schedule = b, plan, plan.schedule
        self.buffers, self.sizes = buffers, sizes
        self.arrays = scratch_arrays(b, plan, buffers, sizes.batch, sizes.block_steps)
        # Of each array the address of the first example at the current step.
        self._bases: Table = dict(self.arrays)

    def bind(self, i: ir.Value, start: ir.Value) -> None:
        """Make step ``i`` the current one; ``start`` is the first step in the staging buffers."""
        b, plan, schedule = self.b, self.plan, self.schedule
        _, ends, backwards = self._when(i)
        begins, odd = b.icmp_signed("==", i, i64(0)), b.trunc(i, I1)
        self.weights_backwards = b.xor(odd, backwards)
        for n in range(len(schedule.state)):  # odd steps read the second array and fill the first
            one, two = self.arrays["even", n], self.arrays["odd", n]
            self._bases["state", n] = b.select(
                begins, self.buffers["state", n], b.select(odd, one, two)
            )
            self._bases["next", n] = b.select(
                ends, self.buffers["next", n], b.select(odd, two, one)
            )
        for slot in schedule.buffers(("step", "emitted")):
            self._bases[slot.kind, slot.number] = self.in_buffer(slot, i, i64(0))
        for n, slot in enumerate(plan.staged):
            self._bases[slot.kind, slot.number] = self.staged(n, b.sub(i, start), i64(0))
        for n in range(len(schedule.shared)):
            self._bases["shared", n] = self.buffers["shared", n]
        _, batch, _, block_steps = self.sizes
        done = b.urem(i, block_steps)
        end = minimum(b, b.add(b.sub(i, done), block_steps), self.sizes.time)
        row = b.mul(b.select(backwards, b.sub(b.sub(end, i), i64(1)), done), batch)
        for kind in ("time_block", "operand"):
            for n, value in enumerate(schedule.values(kind)):
                width = item_of(value) * (size(value) if kind == "time_block" else plan.lanes)
                self._bases[kind, n] = advance(b, self.arrays[kind, n], b.mul(row, i64(width)))

    def _when(self, i: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The place of step ``i`` in time, whether it is the last, and whether time is reversed."""
        b = self.b
        last = b.sub(b.sub(self.sizes.time, i64(1)), i)
        backwards = b.icmp_signed("!=", self.sizes.reverse, i64(0))
        return b.select(backwards, last, i), b.icmp_signed("==", last, i64(0)), backwards

    def in_buffer(self, slot: Slot, i: ir.Value, row: ir.Value) -> ir.Value:
        """The address of an example at step ``i`` in a buffer of the call."""
        b, value = self.b, self.schedule.values(slot.kind)[slot.number]
        t, ends, backwards = self._when(i)
        width = i64(size(value) * item_of(value))
        step, example = (
            (width, b.mul(self.sizes.time, width))
            if slot in self.plan.staged
            else (b.mul(self.sizes.batch, width), width)
        )
        if slot.kind == "step" and value in self.schedule.unchanged:
            step = i64(0)
        buffer = self.buffers[slot.kind, slot.number]
        found = advance(b, buffer, b.add(b.mul(t, step), b.mul(row, example)))
        if slot.kind == "step" and value in self.schedule.previous:
            boundary = self.buffers["boundary", self.schedule.previous.index(value)]
            first = advance(b, boundary, b.mul(row, width))
            found = b.select(ends, first, advance(b, found, b.select(backwards, b.neg(step), step)))
        return found

    def staged(self, n: int, k: ir.Value, row: ir.Value) -> ir.Value:
        """The address of an example at step ``k`` of the staging buffer of number ``n``."""
        b, value = self.b, list(self.plan.staged.values())[n]
        shift = b.mul(b.add(b.mul(k, self.sizes.batch), row), i64(size(value) * item_of(value)))
        return advance(b, self.arrays["staged", n], shift)

    def address(
        self, slot: Slot, offset: int | ir.Value, row: ir.Value, shift: int = 0
    ) -> ir.Value:
        """The address of an example in a slot, from ``offset + shift`` on.

        For an operand of a rank update that is a whole number of vectors. The constant part comes
        last: addresses that differ by it alone have the rest in common.
        """
        b, holder = self.b, self.schedule.values(slot.kind)[slot.number]
        base, item = self._bases[slot.kind, slot.number], item_of(holder)
        if slot.kind == "operand":
            offset = b.add(i64(offset) if isinstance(offset, int) else offset, i64(shift))
            rows = b.mul(self.sizes.block_steps, self.sizes.batch)
            place = b.add(b.mul(offset, rows), b.mul(row, i64(self.plan.lanes)))
            return advance(b, base, b.mul(place, i64(item)))
        if slot.kind != "shared":
            base = advance(b, base, b.mul(row, i64(size(holder) * item)))
        if isinstance(offset, int):
            shift += offset
        else:
            base = advance(b, base, b.mul(offset, i64(item)))
        return advance(b, base, (slot.offset + shift) * item)

    def reduction_at(self, equation: Equation, row: ir.Value) -> ir.Value:
        """The address of the partial results of a reduction for an example, one for each lane."""
        n = next(n for n, (e, _) in enumerate(self.plan.reductions) if e is equation)
        width = self.plan.lanes * item_of(equation.inputs[0])
        return advance(self.b, self.arrays["reduction", n], self.b.mul(row, i64(width)))
