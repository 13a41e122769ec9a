"""A program as LLVM code: ``pack`` makes panels of the weights, ``run`` takes some rows of the batch through all steps.

    void pack(void** buffers)
    void run(void** buffers, int64 time, int64 batch, int64 reverse, int64 first, int64 last)

The buffers are those of `Program`: shared, steps, the state before the first step; then the final state, what is emitted, and scratch
memory. Arrays of steps and what is emitted have the axes time and batch in front, the states the batch. In scratch
memory stand the panels, then for each state two arrays between which steps alternate, then values of single steps.

A stage goes over blocks of features. For each block the rows of the batch are taken a few at a time: their products with a panel
go to a tile on the stack, and then row by row the element-wise part reads the tile and stores what is asked for.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from noria.backends.native import gemm
from noria.backends.native.elementwise import ELEMENTWISE, constant, element, in_memory
from noria.backends.native.gemm import I64, POINTER, at, i64, loop, splat
from noria.backends.native.program import Apply, Dot, Load, Number, Place, Product, Program, Stage, size
from noria.backends.native.target import Isa

_ALIGN = 64
I32 = ir.IntType(32)


def _aligned(number: int) -> int:
    return -(-number // _ALIGN) * _ALIGN


def _item(value: Any) -> int:
    return int(np.dtype(value.aval.dtype).itemsize)


@dataclass(frozen=True)
class Group:
    """Columns that multiply the same row: ``products[c]`` gives vector ``first + c`` of the tile."""

    dot: Dot
    products: tuple[tuple[Product, int], ...]
    first: int
    panel: int  # bytes from the start of the scratch memory


@dataclass(frozen=True)
class Layout:
    """How a stage is cut: blocks of ``vectors`` vectors of features; the products of a block in groups."""

    stage: Stage
    vectors: int
    groups: tuple[Group, ...]

    @property
    def width(self) -> int:
        """Vectors in a row of the tile."""
        return sum(len(group.products) for group in self.groups)


class Kernel:
    """The code of a program for one instruction set."""

    def __init__(self, program: Program, isa: Isa):
        self.program = program
        values = [*program.places, *program.maker, *program.outputs]
        wide = max([4, *(_item(v) for v in values if v.aval.dtype != bool and v.aval.shape)])
        self.lanes = isa.bits // (8 * wide)
        self.registers = isa.registers
        self.panels = 0
        self.layouts = [self._layout(stage) for stage in program.stages]
        self.sums = [pair for stage in program.stages for pair in stage.sums]
        self.module = ir.Module("noria")
        self._pack()
        _Run(self).emit()

    def scratch_bytes(self, batch: int) -> int:
        """Bytes of scratch memory for a batch."""
        return self.panels + sum(_aligned(batch * width) for width in self.scratch_widths())

    def scratch_widths(self) -> Iterator[int]:
        """Bytes that one row takes in each array of the scratch memory."""
        for value in self.program.state:
            yield from [size(value) * _item(value)] * 2
        for value in self.program.scratch:
            yield size(value) * _item(value)
        for equation, _ in self.sums:
            yield self.lanes * _item(equation.inputs[0])

    def vector(self, dtype: Any) -> ir.VectorType:
        return ir.VectorType(element(dtype), self.lanes)

    # --- products ---------------------------------------------------------------------------------------------------

    def _layout(self, stage: Stage) -> Layout:
        most = 4 if self.registers >= 32 else 2
        vectors = max(1, most // len(stage.columns)) if stage.columns else 2
        vectors = min(vectors, -(-stage.extent // self.lanes))
        by_row: dict[tuple[Any, int], list[Product]] = {}
        for column in stage.columns:
            dot = self.program.dots[column.equation]
            by_row.setdefault((dot.row.value, dot.row.offset), []).append(column)
        groups, first = [], 0
        for columns in by_row.values():
            pairs = [(column, v) for column in columns for v in range(vectors)]
            count = -(-len(pairs) // most)
            width = -(-len(pairs) // count)
            for start in range(0, len(pairs), width):
                some = tuple(pairs[start : start + width])
                dot = self.program.dots[some[0][0].equation]
                groups.append(Group(dot, some, first, self.panels))
                first += len(some)
                blocks = -(-stage.extent // (vectors * self.lanes))
                item = _item(some[0][0].equation.outputs[0])
                self.panels += _aligned(blocks * dot.depth * len(some) * self.lanes * item)
        return Layout(stage, vectors, tuple(groups))

    def counts(self, layout: Layout) -> tuple[int, list[int]]:
        """Full blocks of a stage, and how many features each vector of the last block has, if it is not full."""
        block = layout.vectors * self.lanes
        full, left = divmod(layout.stage.extent, block)
        rest = [max(0, min(self.lanes, left - v * self.lanes)) for v in range(layout.vectors)]
        return full, rest if left else []

    def _pack(self) -> None:
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [POINTER]), "pack")
        b = ir.IRBuilder(function.append_basic_block("entry"))
        buffers = Buffers(b, function.args[0], self.program)
        for layout in self.layouts:
            full, rest = self.counts(layout)
            for group in layout.groups:
                self._pack_group(b, buffers, layout, group, full, rest)
        b.ret_void()

    def _pack_group(
        self, b: ir.IRBuilder, buffers: "Buffers", layout: Layout, group: Group, full: int, rest: list[int]
    ) -> None:
        dots = [self.program.dots[p.equation] for p, _ in group.products]
        vector = self.vector(group.products[0][0].equation.outputs[0].aval.dtype)
        block = layout.vectors * self.lanes

        def lines(j: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
            start = b.mul(j, i64(block))
            return [
                (buffers["shared", dot.weight], b.add(start, i64(p.offset + v * self.lanes)))
                for dot, (p, v) in zip(dots, group.products, strict=True)
            ]

        gemm.pack(
            b,
            vector,
            at(b, buffers.scratch, group.panel),
            [self.program.shared[dot.weight].aval.shape for dot in dots],
            [dot.along for dot in dots],
            lines,
            full,
            [rest[v] for _, v in group.products] if rest else [],
        )


class Buffers:
    """The addresses of all buffers, by kind and index."""

    def __init__(self, b: ir.IRBuilder, table: ir.Value, program: Program):
        found = []
        width = len(program.state)
        kinds = [("shared", len(program.shared)), ("step", len(program.steps)), ("state", width), ("final", width)]
        kinds += [("emitted", len(program.outputs) - width), ("scratch", 1)]
        for kind, count in kinds:
            found += [(kind, i) for i in range(count)]
        self._table = {
            key: b.load(at(b, table, 8 * i), typ=POINTER, align=8) for i, key in enumerate(found)
        }

    def __getitem__(self, key: tuple[str, int]) -> ir.Value:
        return self._table[key]

    @property
    def scratch(self) -> ir.Value:
        return self._table["scratch", 0]


class _Run:
    """The function ``run``."""

    def __init__(self, kernel: Kernel):
        self.kernel, self.program = kernel, kernel.program
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I64, I64, I64, I64, I64])
        self.function = ir.Function(kernel.module, kind, "run")
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.table, self.time, self.batch, self.reverse, self.first, self.last = self.function.args
        self.buffers = Buffers(self.b, self.table, self.program)
        # Where the row of an example begins in each buffer: the array of this step, and the bytes of a row.
        self.bases: dict[tuple[str, int], ir.Value] = {}
        self.tile = self._stack()

    def _stack(self) -> ir.Value:
        wide = max((layout.width for layout in self.kernel.layouts), default=0)
        slot = self.b.alloca(ir.IntType(8), max(1, 8 * wide * _ALIGN))
        slot.align = _ALIGN
        slot.type = POINTER
        return slot

    def emit(self) -> None:
        b, kernel = self.b, self.kernel
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
        odd = b.trunc(i, ir.IntType(1))
        following = [b.select(odd, two, one) for one, two in pairs]
        self._bind(i, states, following)
        for layout in kernel.layouts:
            self._stage(layout)
        i.add_incoming(b.add(i, i64(1)), b.block)
        for state, new in zip(states, following, strict=True):
            state.add_incoming(new, b.block)
        b.branch(head)
        b.position_at_end(done)
        for n, (value, state) in enumerate(zip(self.program.state, states, strict=True)):
            self._copy(state, self.buffers["final", n], size(value) * _item(value))
        b.ret_void()

    def _scratch(self) -> tuple[list[tuple[ir.Value, ir.Value]], dict[tuple[str, int], ir.Value]]:
        """The two arrays of each state, and all other arrays of the scratch memory."""
        b, kernel = self.b, self.kernel
        place, found = at(b, self.buffers.scratch, kernel.panels), []
        for width in kernel.scratch_widths():
            found.append(place)
            taken = b.and_(b.add(b.mul(self.batch, i64(width)), i64(_ALIGN - 1)), i64(-_ALIGN))
            place = at(b, place, taken)
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
                self.bases[kind, n] = at(b, self.buffers[kind, n], b.mul(rows, i64(size(value) * _item(value))))
        for n in range(len(self.program.shared)):
            self.bases["shared", n] = self.buffers["shared", n]
        self.bases |= {("state", n): a for n, a in enumerate(states)}
        self.bases |= {("next", n): a for n, a in enumerate(following)}

    def _copy(self, source: ir.Value, target: ir.Value, width: int) -> None:
        b = self.b
        name = "llvm.memcpy.p0.p0.i64"
        kind = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64, ir.IntType(1)])
        copy = b.module.globals.get(name) or ir.Function(b.module, kind, name)
        start = b.mul(self.first, i64(width))
        count = b.mul(b.sub(self.last, self.first), i64(width))
        b.call(copy, [at(b, target, start), at(b, source, start), count, ir.Constant(ir.IntType(1), 0)])

    # --- stages -----------------------------------------------------------------------------------------------------

    def _stage(self, layout: Layout) -> None:
        b, kernel = self.b, self.kernel
        full, rest = kernel.counts(layout)
        self._start_sums(layout.stage)
        complete = [kernel.lanes] * layout.vectors
        if layout.groups:
            with loop(b, i64(0), i64(full)) as j:
                self._tiles(layout, j, complete)
            if rest:
                self._tiles(layout, i64(full), rest)
        else:
            with loop(b, self.first, self.last) as row:
                with loop(b, i64(0), i64(full)) as j:
                    _Row(self, layout, row, j, None).emit(complete)
                if rest:
                    _Row(self, layout, row, i64(full), None).emit(rest)
        self._finish_sums(layout.stage)

    def _tiles(self, layout: Layout, j: ir.Value, counts: list[int]) -> None:
        """One block of features: the rows of the batch in tiles that are as equal as can be."""
        b = self.b
        most = min(gemm.most_rows(self.kernel.registers, len(group.products)) for group in layout.groups)
        rows = b.sub(self.last, self.first)
        tiles = b.udiv(b.add(rows, i64(most - 1)), i64(most))
        with loop(b, i64(0), tiles) as n:
            start = b.add(self.first, b.udiv(b.mul(n, rows), tiles))
            stop = b.add(self.first, b.udiv(b.mul(b.add(n, i64(1)), rows), tiles))
            pitch = 0
            for group in layout.groups:
                pitch = self._product(layout, group, j, start, b.sub(stop, start), most)
            with loop(b, start, stop) as row:
                line = at(b, self.tile, b.mul(b.sub(row, start), i64(pitch)))
                _Row(self, layout, row, j, line).emit(counts)

    def _product(self, layout: Layout, group: Group, j: Any, start: ir.Value, count: ir.Value, most: int) -> int:
        b, kernel = self.b, self.kernel
        value = group.products[0][0].equation.outputs[0]
        vector, item = kernel.vector(value.aval.dtype), _item(value)
        row = group.dot.row
        line = self.address(row.value, row.offset, start)
        stride = 0 if row.value in self.program.shared else size(row.value) * item
        width, pitch = len(group.products), layout.width * kernel.lanes * item
        panel = at(b, self.buffers.scratch, group.panel)
        panel = at(b, panel, b.mul(j, i64(group.dot.depth * width * kernel.lanes * item)))
        tile = at(b, self.tile, group.first * kernel.lanes * item)
        function = gemm.product(b.module, vector, width, most)
        b.call(function, [count, line, i64(stride), panel, tile, i64(pitch), i64(group.dot.depth)])
        return pitch

    def address(self, value: Any, offset: int | ir.Value, row: ir.Value, place: Place | None = None) -> ir.Value:
        """Where a value stands for an example, from an offset on."""
        b = self.b
        place = place or self.program.places[value]
        holder = self.program.values(place.kind)[place.index]
        item = _item(holder)
        base = self.bases[place.kind, place.index]
        if place.kind != "shared":
            base = at(b, base, b.mul(row, i64(size(holder) * item)))
        if isinstance(offset, int):
            return at(b, base, (place.offset + offset) * item)
        return at(b, base, b.mul(b.add(offset, i64(place.offset)), i64(item)))

    # --- sums over features -----------------------------------------------------------------------------------------

    def sum_at(self, equation: Any, row: ir.Value) -> ir.Value:
        """Where the partial sums of an example stand, one for each lane."""
        n = next(n for n, (e, _) in enumerate(self.kernel.sums) if e is equation)
        width = self.kernel.lanes * _item(equation.inputs[0])
        return at(self.b, self.bases["sum", n], self.b.mul(row, i64(width)))

    def _start_sums(self, stage: Stage) -> None:
        if not stage.sums:
            return
        with loop(self.b, self.first, self.last) as row:
            for equation, _ in stage.sums:
                vector = self.kernel.vector(equation.inputs[0].aval.dtype)
                self.b.store(constant(vector, neutral(equation)), self.sum_at(equation, row), align=4)

    def _finish_sums(self, stage: Stage) -> None:
        if not stage.sums:
            return
        b, lanes = self.b, self.kernel.lanes
        with loop(b, self.first, self.last) as row:
            for equation, places in stage.sums:
                kind = element(equation.inputs[0].aval.dtype)
                total = b.load(self.sum_at(equation, row), typ=ir.VectorType(kind, lanes), align=4)
                width = lanes
                while width > 1:
                    width //= 2
                    halves = [
                        b.shuffle_vector(total, total, ir.Constant(ir.VectorType(I32, width), list(range(s, s + width))))
                        for s in (0, width)
                    ]
                    total = combine(b, equation, *halves)
                number = b.extract_element(total, ir.Constant(I32, 0))
                for place in places:
                    b.store(number, self.address(None, 0, row, place), align=_item(equation.inputs[0]))


_COMBINE = {"reduce_sum": "add", "reduce_max": "max", "reduce_min": "min"}


def combine(b: ir.IRBuilder, equation: Any, one: ir.Value, other: ir.Value) -> ir.Value:
    """The operation that a reduction repeats."""
    return ELEMENTWISE[_COMBINE[equation.name]].rule(b, equation, [one, other])


def neutral(equation: Any) -> Any:
    """What a reduction begins with."""
    dtype = equation.inputs[0].aval.dtype
    if equation.name == "reduce_sum":
        return 0
    lowest = equation.name == "reduce_max"
    if dtype.kind == "f":
        return -math.inf if lowest else math.inf
    return np.iinfo(dtype).min if lowest else np.iinfo(dtype).max


class _Row:
    """The element-wise part of a stage for one block of features of one example."""

    def __init__(self, run: _Run, layout: Layout, row: ir.Value, block: ir.Value, tile: ir.Value | None):
        self.run, self.b, self.lanes = run, run.b, run.kernel.lanes
        self.program, self.layout, self.stage = run.program, layout, layout.stage
        self.row, self.tile = row, tile
        self.start = self.b.mul(block, i64(layout.vectors * self.lanes))

    def emit(self, counts: Sequence[int]) -> None:
        """Store all that the stage stores; ``counts`` are the features of each vector."""
        for vector, count in enumerate(counts):
            if not count:
                continue
            self.vector, self.count = vector, count
            self.at = self.b.add(self.start, i64(vector * self.lanes))
            self.known: dict[tuple[Any, int], ir.Value] = {}
            for atom, places in self.stage.stores:
                value = self.value(atom, 0)
                for place in places:
                    self._store(value, place)
            for equation, _ in self.stage.sums:
                self._add(equation)

    def value(self, atom: Any, offset: int) -> ir.Value:
        """The vector of ``atom`` here; each is computed once."""
        key = (id(atom), offset)  # numbers are not hashable
        if key not in self.known:
            self.known[key] = self._value(self.program.look(atom, offset, self.stage.extent, self.stage.own.__contains__))
        return self.known[key]

    def _value(self, node: Any) -> ir.Value:
        if isinstance(node, Number):
            return constant(self.run.kernel.vector(node.dtype), node.value)
        if isinstance(node, Load):
            return self._load(node)
        if isinstance(node, Product):
            return self._of_tile(node)
        assert isinstance(node, Apply)
        args = [self.value(atom, offset) for atom, offset in node.operands]
        return ELEMENTWISE[node.equation.name].rule(self.b, node.equation, args)

    def _of_tile(self, product: Product) -> ir.Value:
        for group in self.layout.groups:
            if (product, self.vector) in group.products:
                kind = self.run.kernel.vector(product.equation.outputs[0].aval.dtype)
                item = _item(product.equation.outputs[0])
                index = group.first + group.products.index((product, self.vector))
                assert self.tile is not None
                return self.b.load(at(self.b, self.tile, index * self.lanes * item), typ=kind, align=self.lanes * item)
        raise AssertionError(product)

    def _load(self, node: Load) -> ir.Value:
        b, dtype = self.b, node.value.aval.dtype
        kind = in_memory(dtype)
        if size(node.value) == 1:
            number = b.load(self.run.address(node.value, 0, self.row), typ=kind, align=_item(node.value))
            found = splat(b, number, self.lanes)
        else:
            address = self.run.address(node.value, b.add(self.at, i64(node.offset)), self.row)
            found = self._read(address, ir.VectorType(kind, self.lanes), _item(node.value))
        if dtype == bool:
            found = b.icmp_unsigned("!=", found, constant(found.type, 0))
        return found

    def _store(self, value: ir.Value, place: Place) -> None:
        b = self.b
        holder = self.program.values(place.kind)[place.index]
        if holder.aval.dtype == bool:
            value = b.zext(value, ir.VectorType(ir.IntType(8), self.lanes))
        self._write(value, self.run.address(None, self.at, self.row, place), _item(holder))

    def _add(self, equation: Any) -> None:
        b = self.b
        value = self.value(equation.inputs[0], 0)
        if self.count < self.lanes:
            value = b.select(self._mask(), value, constant(value.type, neutral(equation)))
        address = self.run.sum_at(equation, self.row)
        b.store(combine(b, equation, b.load(address, typ=value.type, align=4), value), address, align=4)

    # --- memory: whole vectors, or as many numbers as there are -----------------------------------------------------

    def _mask(self) -> ir.Constant:
        return ir.Constant(ir.VectorType(ir.IntType(1), self.lanes), [lane < self.count for lane in range(self.lanes)])

    def _read(self, address: ir.Value, kind: ir.VectorType, align: int) -> ir.Value:
        if self.count == self.lanes:
            return self.b.load(address, typ=kind, align=align)
        function = self._masked("load", kind, kind, [POINTER, I32, self._mask().type, kind])
        return self.b.call(function, [address, ir.Constant(I32, align), self._mask(), constant(kind, 0)])

    def _write(self, value: ir.Value, address: ir.Value, align: int) -> None:
        if self.count == self.lanes:
            self.b.store(value, address, align=align)
            return
        function = self._masked("store", value.type, ir.VoidType(), [value.type, POINTER, I32, self._mask().type])
        self.b.call(function, [value, address, ir.Constant(I32, align), self._mask()])

    def _masked(self, name: str, kind: ir.VectorType, result: ir.Type, args: list[ir.Type]) -> ir.Function:
        one = kind.element
        letter = f"i{one.width}" if isinstance(one, ir.IntType) else "f32" if isinstance(one, ir.FloatType) else "f64"
        full = f"llvm.masked.{name}.v{kind.count}{letter}.p0"
        module = self.b.module
        return module.globals.get(full) or ir.Function(module, ir.FunctionType(result, args), full)

