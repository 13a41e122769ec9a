"""What is done before and after the steps of a stretch, for all of them at once.

Before them, in ``prepare``, products of the input are made; after them, in ``finish``, products that are only emitted, and what the steps recorded is
added to the totals, which count as zero after the first stretch.

A record holds one vector of features after the other, each for all rows of the stretch: a few numbers of one record and a few vectors of another are
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
from noria.backends.native.plan.stages import Projection, Slot, Term
from noria.backends.native.plan.tiling import ALIGN, KernelPlan, StageTiling, item_of

#: How many sizes the functions are given.
SIZES = 4


def emit_stretch(plan: KernelPlan, module: ir.Module) -> None:
    """Add to a module the functions ``prepare`` and ``finish``, as far as there is something to do."""
    if plan.before:
        Stretch(plan, module, "prepare").emit(plan.before, ())
    if plan.after or plan.program.totals:
        Stretch(plan, module, "finish").emit(plan.after, plan.program.terms)


class Stretch:
    """A function of the steps from ``begin`` to before ``end``."""

    def __init__(self, plan: KernelPlan, module: ir.Module, name: str):
        self.plan, self.program = plan, plan.program
        function = ir.Function(module, ir.FunctionType(VOID, [POINTER, *[I64] * (SIZES + 4)]), name)
        self.b = b = ir.IRBuilder(function.append_basic_block("entry"))
        table, time, self.batch, reverse, stretch, begin, end, self.share, self.shares = (
            function.args
        )
        self.buffers = Buffers(b, table, self.program)
        self.fresh = b.icmp_signed("==", begin, i64(0))
        self.first = b.select(
            b.icmp_signed("!=", reverse, i64(0)), b.sub(time, end), begin
        )  # in time
        self.rows, self.depth = b.mul(stretch, self.batch), b.mul(b.sub(end, begin), self.batch)
        self.arrays = arrays(b, plan, self.buffers, self.batch, stretch)

    def emit(
        self, projections: Sequence[tuple[Projection, StageTiling]], terms: Sequence[Term]
    ) -> None:
        for projection, layout in projections:
            self._project(projection, layout)
        for term in terms:
            if term.right is None:
                self._values(term)
            else:
                self._products(term)
        self.b.ret_void()

    # --- products ---------------------------------------------------------------------------------------------------

    def _project(self, projection: Projection, layout: StageTiling) -> None:
        """A share of the columns, for all rows."""
        b, (group,) = self.b, layout.groups
        most, vector = (
            microkernels.most_rows(self.plan.registers, len(group.products)),
            self.plan.group_vector(group),
        )
        tile, pitch = stack(b, most * layout.pitch, ALIGN), i64(layout.pitch)
        (source, stride), (target, width) = map(self._rows, (projection.source, projection.target))
        whole, item = microkernels.bytes_of(vector), microkernels.bytes_of(vector) // vector.count
        for j, counts in in_share(b, *self.plan.counts(layout), self.share, self.shares):
            panel = panel_at(b, self.buffers, self.plan, group, j)
            block = at(b, target, b.mul(j, i64(layout.vectors * whole)))
            function = microkernels.product(
                b.module, vector, len(self.plan.panel(group, counts)), most
            )
            with in_tiles(b, self.depth, most) as (start, stop):
                line, count = at(b, source, b.mul(start, i64(stride))), b.sub(stop, start)
                b.call(
                    function, [count, line, i64(stride), panel, tile, pitch, i64(group.dot.depth)]
                )
                with loop(b, i64(0), count) as row:
                    found = at(b, tile, b.mul(row, pitch))
                    place = at(b, block, b.mul(b.add(start, row), i64(width)))
                    for v, numbers in enumerate(counts):
                        if numbers:
                            value = b.load(at(b, found, v * whole), typ=vector, align=whole)
                            write(b, value, at(b, place, v * whole), numbers, item)

    def _rows(self, place: Slot) -> tuple[ir.Value, int]:
        """Where the first row of the stretch stands, in the order of time, and the bytes from row to row."""
        b, holder = self.b, self.program.values(place.kind)[place.number]
        width, skip = size(holder) * item_of(holder), place.offset * item_of(holder)
        if place.kind == "stretch":
            return at(b, self.arrays[place.kind, place.number], skip), width
        shift = b.mul(b.mul(self.first, self.batch), i64(width))
        return at(b, at(b, self.buffers[place.kind, place.number], shift), skip), width

    # --- totals -----------------------------------------------------------------------------------------------------

    def _vectors(self, record: int, number: int | ir.Value) -> ir.Value:
        """Where a vector of a record stands, for the first row of the first step."""
        b, value = self.b, self.program.records[record]
        number = i64(number) if isinstance(number, int) else number
        return at(
            b,
            self.arrays["record", record],
            b.mul(b.mul(number, self.rows), i64(self.plan.lanes * item_of(value))),
        )

    def _shared(self, value: Any) -> Iterator[tuple[ir.Value, int]]:
        """The vectors of a record that are in this share, and how many numbers each has."""
        full, left = divmod(size(value), self.plan.lanes)
        yield from in_share(self.b, full, self.plan.lanes, left, self.share, self.shares)

    def _values(self, term: Term) -> None:
        """Of each vector the sum over all rows of all steps."""
        b, value = self.b, self.program.records[term.left]
        vector, item, lanes = self.plan.vector(value.aval.dtype), item_of(value), self.plan.lanes
        width, out = lanes * item, at(b, self.buffers["total", term.total], term.start * item)

        def add(number: ir.Value, count: int) -> None:
            start, target = self._vectors(term.left, number), at(b, out, b.mul(number, i64(width)))

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

    def _products(self, term: Term) -> None:
        """A few vectors of the right record at a time; for them all of the share of the left one."""
        assert term.right is not None
        b, plan, lanes = self.b, self.plan, self.plan.lanes
        left, right = self.program.records[term.left], self.program.records[term.right]
        vector, item, rows = (
            plan.vector(left.aval.dtype),
            item_of(left),
            min(lanes, 8 if plan.registers >= 32 else 4),
        )
        distance, pitch = b.mul(self.rows, i64(lanes * item)), i64(term.pitch * item)
        for start, groups, width, last in _groups(
            plan.blocks(right), lanes, size(right) % lanes or lanes
        ):
            with loop(b, i64(0), i64(groups)) as group:
                column = b.add(b.mul(group, i64(width)), i64(start))
                vectors = self._vectors(term.right, column)
                shift = b.add(b.mul(column, i64(lanes)), i64(term.start))
                out = at(b, self.buffers["total", term.total], b.mul(shift, i64(item)))
                for number, count in self._shared(left):
                    for lane in range(0, count, rows):
                        function = microkernels.accumulate(
                            b.module, vector, min(rows, count - lane), width, last
                        )
                        numbers = at(b, self._vectors(term.left, number), lane * item)
                        target = at(
                            b, out, b.mul(b.add(b.mul(number, i64(lanes)), i64(lane)), pitch)
                        )
                        b.call(
                            function,
                            [numbers, vectors, distance, target, pitch, self.depth, self.fresh],
                        )


def _groups(count: int, lanes: int, last: int) -> list[tuple[int, int, int, int]]:
    """Vectors in groups that are as equal as can be: (first vector, groups, vectors of each, numbers of its last vector).

    All vectors have as many numbers as there are ``lanes``, but for the ``last`` of all.
    """
    groups = -(-count // microkernels.WIDTH)
    narrow, wider = divmod(count, groups)
    found = [(0, wider, narrow + 1), (wider * (narrow + 1), groups - wider, narrow)]
    start, some, width = found.pop()
    found += [(start, some - 1, width), (count - width, 1, width)]
    return [(*group, last if n == 2 else lanes) for n, group in enumerate(found) if group[1]]
