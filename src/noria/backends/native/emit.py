"""A program as LLVM code: ``pack`` makes panels of the weights, ``run`` takes some rows of the batch through all steps.

    void pack(void** buffers)
    void run(void** buffers, int64 time, int64 batch, int64 reverse, int64 first, int64 last)

The buffers are those of `Program`: shared, steps, the state before the first step; then the final state, what is emitted, and scratch
memory. Arrays of steps and what is emitted have the axes time and batch in front, the states the batch. In scratch
memory stand the panels, then for each state two arrays between which steps alternate, then values of single steps.

A stage goes over blocks of features. For each block the rows of the batch are taken a few at a time: their products with a panel
go to a tile on the stack, and then row by row the element-wise part reads the tile and stores what is asked for.
"""

from typing import Any

from llvmlite import ir

from noria.backends.native import gemm
from noria.backends.native.elementwise import element
from noria.backends.native.expressible import size
from noria.backends.native.instructions import I1, I32, I64, POINTER, VOID, at, constant, i64, intrinsic, loop, stack
from noria.backends.native.layout import ALIGN, Group, Layout, Plan, bytes_of_rows, item_of
from noria.backends.native.program import INPUTS, RESULTS, Place, Program, Stage
from noria.backends.native.row import Row, combine, neutral


def emit(plan: Plan) -> ir.Module:
    """A module with the functions ``pack`` and ``run``."""
    module = ir.Module("noria")
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "pack")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    buffers = Buffers(b, function.args[0], plan.program)
    for layout in plan.layouts:
        for group in layout.groups:
            _pack(b, buffers, plan, layout, group)
    b.ret_void()
    Run(plan, module).emit()
    return module


def _pack(b: ir.IRBuilder, buffers: "Buffers", plan: Plan, layout: Layout, group: Group) -> None:
    full, rest = plan.counts(layout)
    dots = [plan.program.dots[p.equation] for p, _ in group.products]
    block = layout.vectors * plan.lanes

    def lines(j: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
        start = b.mul(j, i64(block))
        return [
            (buffers["shared", dot.weight], b.add(start, i64(p.offset + v * plan.lanes)))
            for dot, (p, v) in zip(dots, group.products, strict=True)
        ]

    gemm.pack(
        b,
        plan.vector(group.products[0][0].equation.outputs[0].aval.dtype),
        at(b, buffers.scratch, group.panel),
        [plan.program.shared[dot.weight].aval.shape for dot in dots],
        [dot.along for dot in dots],
        lines,
        full,
        [rest[v] for _, v in group.products] if rest else [],
    )


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


class Run:
    """The function ``run``."""

    def __init__(self, plan: Plan, module: ir.Module):
        self.plan, self.program = plan, plan.program
        kind = ir.FunctionType(VOID, [POINTER, I64, I64, I64, I64, I64])
        function = ir.Function(module, kind, "run")
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        table, self.time, self.batch, self.reverse, self.first, self.last = function.args
        self.buffers = Buffers(self.b, table, self.program)
        # Where the row of an example begins in each buffer: the array of this step, and the bytes of a row.
        self.bases: dict[tuple[str, int], ir.Value] = {}
        pitch = max((layout.pitch for layout in plan.layouts), default=0)
        self.tile = stack(self.b, max(1, gemm.MOST_ROWS * pitch), ALIGN)

    def emit(self) -> None:
        b, plan = self.b, self.plan
        pairs, self.bases = self._scratch()
        entry = b.block
        head, body, done = (b.append_basic_block(name) for name in ("steps", "step", "end"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(i64(0), entry)
        states = []
        for n in range(len(self.program.state)):
            states.append(b.phi(POINTER))
            states[n].add_incoming(self.buffers["state", n], entry)
        b.cbranch(b.icmp_signed("<", i, self.time), body, done)
        b.position_at_end(body)
        odd = b.trunc(i, I1)
        following = [b.select(odd, two, one) for one, two in pairs]
        self._bind(i, states, following)
        for layout in plan.layouts:
            self._stage(layout)
        i.add_incoming(b.add(i, i64(1)), b.block)
        for state, new in zip(states, following, strict=True):
            state.add_incoming(new, b.block)
        b.branch(head)
        b.position_at_end(done)
        for n, (value, state) in enumerate(zip(self.program.state, states, strict=True)):
            self._copy(state, self.buffers["next", n], size(value) * item_of(value))
        b.ret_void()

    def _scratch(self) -> tuple[list[tuple[ir.Value, ir.Value]], dict[tuple[str, int], ir.Value]]:
        """The two arrays of each state, and all other arrays of the scratch memory."""
        b, plan = self.b, self.plan
        place, found = at(b, self.buffers.scratch, plan.panels), []
        for width in plan.scratch_widths():
            found.append(place)
            place = at(b, place, bytes_of_rows(b, self.batch, width))
        count = 2 * len(self.program.state)
        pairs = [(found[n], found[n + 1]) for n in range(0, count, 2)]
        bases = {("scratch", n): a for n, a in enumerate(found[count : count + len(self.program.scratch)])}
        bases |= {("sum", n): a for n, a in enumerate(found[count + len(self.program.scratch) :])}
        return pairs, bases

    def _bind(self, i: ir.Value, states: list[ir.Value], following: list[ir.Value]) -> None:
        """The arrays of step ``i``."""
        b = self.b
        last = b.sub(b.sub(self.time, i64(1)), i)
        t = b.select(b.icmp_signed("!=", self.reverse, i64(0)), last, i)
        rows = b.mul(t, self.batch)
        for kind in ("step", "emitted"):
            for n, value in enumerate(self.program.values(kind)):
                self.bases[kind, n] = at(b, self.buffers[kind, n], b.mul(rows, i64(size(value) * item_of(value))))
        for n in range(len(self.program.shared)):
            self.bases["shared", n] = self.buffers["shared", n]
        self.bases |= {("state", n): a for n, a in enumerate(states)}
        self.bases |= {("next", n): a for n, a in enumerate(following)}

    def _copy(self, source: ir.Value, target: ir.Value, width: int) -> None:
        b = self.b
        start = b.mul(self.first, i64(width))
        count = b.mul(b.sub(self.last, self.first), i64(width))
        operands = at(b, target, start), at(b, source, start), count, ir.Constant(I1, 0)
        intrinsic(b, "memcpy", *operands, result=VOID, of=(POINTER, POINTER, I64))

    # --- stages -----------------------------------------------------------------------------------------------------

    def _stage(self, layout: Layout) -> None:
        b, plan = self.b, self.plan
        full, rest = plan.counts(layout)
        self._start_sums(layout.stage)
        complete = [plan.lanes] * layout.vectors
        if layout.groups:
            with loop(b, i64(0), i64(full)) as j:
                self._tiles(layout, j, complete)
            if rest:
                self._tiles(layout, i64(full), rest)
        else:
            with loop(b, self.first, self.last) as row:
                with loop(b, i64(0), i64(full)) as j:
                    Row(self, layout, row, j, None).emit(complete)
                if rest:
                    Row(self, layout, row, i64(full), None).emit(rest)
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
        value = group.products[0][0].equation.outputs[0]
        vector, item = plan.vector(value.aval.dtype), item_of(value)
        row = group.dot.row
        line = self.address(self.program.places[row.value], row.offset, start)
        stride = 0 if row.value in self.program.shared else size(row.value) * item
        width = len(group.products)
        panel = at(b, self.buffers.scratch, group.panel)
        panel = at(b, panel, b.mul(j, i64(group.dot.depth * width * plan.lanes * item)))
        tile = at(b, self.tile, group.place)
        function = gemm.product(b.module, vector, width, most)
        b.call(function, [count, line, i64(stride), panel, tile, i64(layout.pitch), i64(group.dot.depth)])

    def address(self, place: Place, offset: int | ir.Value, row: ir.Value) -> ir.Value:
        """Where what stands at a place stands for an example, from an offset on."""
        b, holder = self.b, self.program.values(place.kind)[place.number]
        base, item = self.bases[place.kind, place.number], item_of(holder)
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
