"""A program as LLVM code, in three functions::

    void pack(void** buffers, int64 share, int64 shares)
    void run(void** buffers, sizes, int64 begin, int64 end, int64 first, int64 last)
    void run(void** buffers, sizes, int64 step, int64 stage, int64 share, int64 shares)
    void sum(void** buffers, sizes, int64 steps, int64 fresh, int64 share, int64 shares)

``pack`` makes panels of a share of the weights. ``run`` takes some rows of the batch through some steps; in the second form, if work is
shared out by features, all rows through a share of one stage of one step. ``sum`` adds what steps recorded to a share of the totals, which count
as zero before the first time (``fresh``). The sizes are time, batch, whether the loop runs in reverse, and how many steps are recorded at a time.

The buffers are those of `Program`: shared, steps, what shifted ones read last, the state before the first step; then the final state, what is emitted, totals, and
scratch memory. Arrays of steps and what is emitted have the axes time and batch in front, the states the batch. In scratch
memory stand the panels, then for each state two arrays between which steps alternate, then values of single steps, then the records.

A stage goes over blocks of features. For each block the rows of the batch are taken a few at a time: their products with a panel
go to a tile on the stack, and then row by row the element-wise part reads the tile and stores what is asked for.
A record holds one vector of features after the other, each for all rows of some steps: a few numbers of one record and a few vectors of another are
two streams, whose outer products are summed in registers.
"""

from collections.abc import Iterator
from typing import Any

from llvmlite import ir

from noria.backends.native import gemm
from noria.backends.native.elementwise import element
from noria.backends.native.expressible import size
from noria.backends.native.instructions import (
    I1,
    I32,
    I64,
    POINTER,
    VOID,
    at,
    constant,
    fold,
    i64,
    in_share,
    loop,
    read,
    stack,
    write,
)
from noria.backends.native.layout import ALIGN, Group, Layout, Plan, bytes_of_rows, item_of
from noria.backends.native.program import INPUTS, RESULTS, Place, Program, Stage, Term
from noria.backends.native.row import Row, combine, neutral

#: How many sizes the functions are given.
SIZES = 4


def emit(plan: Plan) -> ir.Module:
    """A module with the functions ``pack``, ``run`` and, if there are totals, ``sum``."""
    module = ir.Module("noria")
    _emit_pack(plan, module)
    Run(plan, module).emit()
    if plan.program.totals:
        Sum(plan, module).emit()
    return module


def _emit_pack(plan: Plan, module: ir.Module) -> None:
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER, I64, I64]), "pack")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    table, share, shares = function.args
    buffers = Buffers(b, table, plan.program)
    for layout in plan.layouts:
        for group in layout.groups:
            for j, counts in in_share(b, *plan.counts(layout), share, shares):
                _pack(b, buffers, plan, layout, group, j, counts)
    b.ret_void()


def _pack(
    b: ir.IRBuilder, buffers: "Buffers", plan: Plan, layout: Layout, group: Group, j: ir.Value, counts: list[int]
) -> None:
    """The panel of block ``j``, whose vectors have so many features."""
    start, columns = b.mul(j, i64(layout.vectors * plan.lanes)), []
    for product, v in group.products:
        dot = plan.program.dots[product.equation]
        first = b.add(start, i64(product.offset + v * plan.lanes))
        columns.append((buffers["shared", dot.weight], plan.program.shared[dot.weight].aval.shape, dot.along, first))
    gemm.pack(
        b,
        plan.group_vector(group),
        panel_at(b, buffers, plan, group, j),
        columns,
        [counts[v] for _, v in group.products],
    )


def panel_at(b: ir.IRBuilder, buffers: "Buffers", plan: Plan, group: Group, j: ir.Value) -> ir.Value:
    """Where the panel of block ``j`` stands."""
    width = group.dot.depth * len(group.products) * gemm.bytes_of(plan.group_vector(group))
    return at(b, at(b, buffers.scratch, group.panel), b.mul(j, i64(width)))


class Buffers:
    """The addresses of all buffers, by kind and index; those of ``next`` are for the final state."""

    def __init__(self, b: ir.IRBuilder, table: ir.Value, program: Program):
        found = [(kind, i) for kind in (*INPUTS, *RESULTS) for i in range(len(program.values(kind)))]
        found.append(("scratch", 0))
        self._table = {key: b.load(at(b, table, 8 * i), typ=POINTER, align=8) for i, key in enumerate(found)}

    def __getitem__(self, key: tuple[str, int]) -> ir.Value:
        return self._table[key]

    @property
    def scratch(self) -> ir.Value:
        return self._table["scratch", 0]


Arrays = dict[tuple[str, int], ir.Value]


def arrays(
    b: ir.IRBuilder, plan: Plan, buffers: Buffers, batch: ir.Value, recorded: ir.Value
) -> tuple[list[tuple[ir.Value, ir.Value]], Arrays, list[ir.Value]]:
    """What stands in scratch memory behind the panels: the two arrays of each state, values of one step and sums, records."""
    place, found = at(b, buffers.scratch, plan.panels), []
    for width in plan.scratch_widths():
        found.append(place)
        place = at(b, place, bytes_of_rows(b, batch, width))
    count = 2 * len(plan.program.state)
    pairs = [(found[n], found[n + 1]) for n in range(0, count, 2)]
    bases: Arrays = {("scratch", n): a for n, a in enumerate(found[count : count + len(plan.program.scratch)])}
    bases |= {("sum", n): a for n, a in enumerate(found[count + len(plan.program.scratch) :])}
    records, rows = [], b.mul(batch, recorded)
    for width in plan.record_widths():
        records.append(place)
        place = at(b, place, b.mul(rows, i64(width)))
    return pairs, bases, records


class Run:
    """The function ``run``."""

    def __init__(self, plan: Plan, module: ir.Module):
        self.plan, self.program = plan, plan.program
        kind = ir.FunctionType(VOID, [POINTER, *[I64] * (SIZES + 4)])
        function = ir.Function(module, kind, "run")
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        table, self.time, self.batch, self.reverse, self.recorded, *self.part = function.args
        self.first, self.last = (i64(0), self.batch) if plan.by_features else (self.part[2], self.part[3])
        self.buffers = Buffers(self.b, table, self.program)
        # Where the row of an example begins in each buffer: the array of this step, and the bytes of a row.
        self.bases: dict[tuple[str, int], ir.Value] = {}
        pitch = max((layout.pitch for layout in plan.layouts), default=0)
        self.tile = stack(self.b, max(1, gemm.MOST_ROWS * pitch), ALIGN)

    def emit(self) -> None:
        b, plan = self.b, self.plan
        self.pairs, self.bases, self.records = arrays(b, plan, self.buffers, self.batch, self.recorded)
        if not plan.by_features:
            begin, end, _, _ = self.part
            with loop(b, begin, end) as i:
                self._bind(i)
                for layout in plan.layouts:
                    self._stage(layout)
            b.ret_void()
            return
        i, number, _, _ = self.part
        self._bind(i)
        blocks = [b.append_basic_block("stage") for _ in plan.layouts]
        switch = b.switch(number, blocks[-1])
        for n, (block, layout) in enumerate(zip(blocks, plan.layouts, strict=True)):
            if n < len(blocks) - 1:
                switch.add_case(i64(n), block)
            b.position_at_end(block)
            self._stage(layout)
            b.ret_void()

    def _bind(self, i: ir.Value) -> None:
        """The arrays of step ``i``."""
        b, plan = self.b, self.plan
        last = b.sub(b.sub(self.time, i64(1)), i)
        ends, backwards = b.icmp_signed("==", last, i64(0)), b.icmp_signed("!=", self.reverse, i64(0))
        t = b.select(backwards, last, i)
        begins, odd = b.icmp_signed("==", i, i64(0)), b.trunc(i, I1)
        for n, (one, two) in enumerate(self.pairs):  # odd steps go from the first array to the second
            self.bases["state", n] = b.select(begins, self.buffers["state", n], b.select(odd, one, two))
            self.bases["next", n] = b.select(ends, self.buffers["next", n], b.select(odd, two, one))
        for kind in ("step", "emitted"):
            for n, value in enumerate(self.program.values(kind)):
                width = b.mul(self.batch, i64(size(value) * item_of(value)))
                self.bases[kind, n] = at(b, self.buffers[kind, n], b.mul(t, width))
                if kind == "step" and value in self.program.shifted:
                    first = self.buffers["first", self.program.shifted.index(value)]
                    onward = b.select(backwards, b.neg(width), width)
                    self.bases[kind, n] = b.select(ends, first, at(b, self.bases[kind, n], onward))
        for n in range(len(self.program.shared)):
            self.bases["shared", n] = self.buffers["shared", n]
        slot = b.mul(b.urem(i, self.recorded), self.batch)
        for n, value in enumerate(self.program.records):
            shift = b.mul(slot, i64(plan.lanes * item_of(value)))
            self.bases["record", n] = at(b, self.records[n], shift)

    # --- stages -----------------------------------------------------------------------------------------------------

    def _stage(self, layout: Layout) -> None:
        b, plan = self.b, self.plan
        share, shares = self.part[2:] if plan.by_features else (i64(0), i64(1))
        self._start_sums(layout.stage)
        if layout.groups:
            for j, counts in in_share(b, *plan.counts(layout), share, shares):
                self._tiles(layout, j, counts)
        else:
            with loop(b, self.first, self.last) as row:
                for j, counts in in_share(b, *plan.counts(layout), share, shares):
                    Row(self, layout, row, j, None).emit(counts)
        self._finish_sums(layout.stage)

    def _tiles(self, layout: Layout, j: ir.Value, counts: list[int]) -> None:
        """One block of features: the rows of the batch in tiles that are as equal as can be."""
        b = self.b
        most = min(gemm.most_rows(self.plan.registers, len(group.products)) for group in layout.groups)
        rows = b.sub(self.last, self.first)
        tiles = b.udiv(b.add(rows, i64(most - 1)), i64(most))
        with loop(b, i64(0), tiles) as n:
            start = b.add(self.first, b.udiv(b.mul(n, rows), tiles))
            stop = b.add(self.first, b.udiv(b.mul(b.add(n, i64(1)), rows), tiles))
            for group in layout.groups:
                self._product(layout, group, j, start, b.sub(stop, start), most)
            with loop(b, start, stop) as row:
                line = at(b, self.tile, b.mul(b.sub(row, start), i64(layout.pitch)))
                Row(self, layout, row, j, line).emit(counts)

    def _product(self, layout: Layout, group: Group, j: Any, start: ir.Value, count: ir.Value, most: int) -> None:
        b, plan = self.b, self.plan
        vector, row = plan.group_vector(group), group.dot.row
        item = item_of(row.value)
        line = self.address(self.program.places[row.value], row.offset, start)
        stride = 0 if row.value in self.program.shared else size(row.value) * item
        panel = panel_at(b, self.buffers, plan, group, j)
        tile = at(b, self.tile, group.place)
        function = gemm.product(b.module, vector, len(group.products), most)
        b.call(function, [count, line, i64(stride), panel, tile, i64(layout.pitch), i64(group.dot.depth)])

    def address(self, place: Place, offset: int | ir.Value, row: ir.Value) -> ir.Value:
        """Where what stands at a place stands for an example, from an offset on; in a record a whole number of vectors."""
        b, holder = self.b, self.program.values(place.kind)[place.number]
        base, item = self.bases[place.kind, place.number], item_of(holder)
        if place.kind == "record":
            offset = i64(offset) if isinstance(offset, int) else offset
            rows = b.mul(self.recorded, self.batch)
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
        n = next(n for n, (e, _) in enumerate(self.plan.sums) if e is equation)
        width = self.plan.lanes * item_of(equation.inputs[0])
        return at(self.b, self.bases["sum", n], self.b.mul(row, i64(width)))

    def _start_sums(self, stage: Stage) -> None:
        if not stage.sums:
            return
        with loop(self.b, self.first, self.last) as row:
            for equation, _ in stage.sums:
                vector = self.plan.vector(equation.inputs[0].aval.dtype)
                self.b.store(constant(vector, neutral(equation)), self.sum_at(equation, row), align=4)

    def _finish_sums(self, stage: Stage) -> None:
        if not stage.sums:
            return
        b, lanes = self.b, self.plan.lanes
        with loop(b, self.first, self.last) as row:
            for equation, places in stage.sums:
                kind = element(equation.inputs[0].aval.dtype)
                total = b.load(self.sum_at(equation, row), typ=ir.VectorType(kind, lanes), align=4)
                width = lanes
                while width > 1:
                    width //= 2
                    halves = [
                        b.shuffle_vector(
                            total, total, ir.Constant(ir.VectorType(I32, width), list(range(s, s + width)))
                        )
                        for s in (0, width)
                    ]
                    total = combine(b, equation, *halves)
                number = b.extract_element(total, ir.Constant(I32, 0))
                for place in places:
                    b.store(number, self.address(place, 0, row), align=item_of(equation.inputs[0]))


class Sum:
    """The function ``sum``."""

    def __init__(self, plan: Plan, module: ir.Module):
        self.plan, self.program = plan, plan.program
        function = ir.Function(module, ir.FunctionType(VOID, [POINTER, *[I64] * (SIZES + 4)]), "sum")
        self.b = b = ir.IRBuilder(function.append_basic_block("entry"))
        table, _, self.batch, _, self.recorded, steps, fresh, self.share, self.shares = function.args
        self.buffers = Buffers(b, table, self.program)
        self.fresh = b.icmp_signed("!=", fresh, i64(0))
        self.rows, self.depth = b.mul(self.recorded, self.batch), b.mul(steps, self.batch)
        self.records = arrays(b, plan, self.buffers, self.batch, self.recorded)[2]

    def emit(self) -> None:
        for term in self.program.terms:
            if term.right is None:
                self._values(term)
            else:
                self._products(term)
        self.b.ret_void()

    def _vectors(self, record: int, number: int | ir.Value) -> ir.Value:
        """Where a vector of a record stands, for the first row of the first step."""
        b, value = self.b, self.program.records[record]
        number = i64(number) if isinstance(number, int) else number
        return at(b, self.records[record], b.mul(b.mul(number, self.rows), i64(self.plan.lanes * item_of(value))))

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
                return [b.fadd(sums[0], b.load(at(b, start, b.mul(k, i64(width))), typ=vector, align=item))]

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
        vector, item, rows = plan.vector(left.aval.dtype), item_of(left), min(lanes, 8 if plan.registers >= 32 else 4)
        distance, pitch = b.mul(self.rows, i64(lanes * item)), i64(term.pitch * item)
        for start, groups, width, last in _groups(plan.blocks(right), lanes, size(right) % lanes or lanes):
            with loop(b, i64(0), i64(groups)) as group:
                column = b.add(b.mul(group, i64(width)), i64(start))
                vectors = self._vectors(term.right, column)
                shift = b.add(b.mul(column, i64(lanes)), i64(term.start))
                out = at(b, self.buffers["total", term.total], b.mul(shift, i64(item)))
                for number, count in self._shared(left):
                    for lane in range(0, count, rows):
                        function = gemm.accumulate(b.module, vector, min(rows, count - lane), width, last)
                        numbers = at(b, self._vectors(term.left, number), lane * item)
                        target = at(b, out, b.mul(b.add(b.mul(number, i64(lanes)), i64(lane)), pitch))
                        b.call(function, [numbers, vectors, distance, target, pitch, self.depth, self.fresh])


def _groups(count: int, lanes: int, last: int) -> list[tuple[int, int, int, int]]:
    """Vectors in groups that are as equal as can be: (first vector, groups, vectors of each, numbers of its last vector).

    All vectors have as many numbers as there are ``lanes``, but for the ``last`` of all.
    """
    groups = -(-count // gemm.WIDTH)
    narrow, wider = divmod(count, groups)
    found = [(0, wider, narrow + 1), (wider * (narrow + 1), groups - wider, narrow)]
    start, some, width = found.pop()
    found += [(start, some - 1, width), (count - width, 1, width)]
    return [(*group, last if n == 2 else lanes) for n, group in enumerate(found) if group[1]]
