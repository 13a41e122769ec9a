"""The handler of one kernel: it checks the arrays of a call, and starts the thread team.

It compares number, dtype and size of all arrays with the plan of the kernel. A wrong array gives an
error of XLA, not a crash. `noria.backends.native.runtime.team` has the work itself.
"""

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from noria.backends.native.codegen.addresses import bytes_of_rows, bytes_of_share
from noria.backends.native.codegen.llvm import (
    I32,
    I64,
    POINTER,
    VOID,
    advance,
    begin_function,
    declared,
    i64,
    loop,
    stack,
)
from noria.backends.native.plan.panels import item_of
from noria.backends.native.plan.schedule import INPUTS, RESULTS
from noria.backends.native.plan.tiling import KernelPlan
from noria.backends.native.runtime.frame import (
    Frame,
    address_of,
    load_field,
    small_function,
)
from noria.backends.native.runtime.phases import Phases
from noria.backends.native.runtime.resident import RUN_TEAM, RUN_TEAM_TYPE, RUN_WITH_HELPERS
from noria.backends.native.runtime.xla_abi import Buffer
from noria.ir.graph import size

_MADV_HUGEPAGE = 14  # of <sys/mman.h> on Linux
_HUGE_PAGE = 2**21

#: XLA_FFI_DataType, by the names of NumPy.
DTYPES = {
    "bool": 1,
    "int8": 2,
    "int16": 3,
    "int32": 4,
    "int64": 5,
    "uint8": 6,
    "uint16": 7,
    "uint32": 8,
    "uint64": 9,
    "float32": 11,
    "float64": 12,
}

#: The first array of each call, by position. A flag for each input follows: is it one array for
#: each model?
SIZES = ("time", "batch", "reverse", "block_steps", "shares", "models")


def sizes(
    time: int,
    batch: int,
    reverse: bool,
    block_steps: int,
    shares: int,
    models: int,
    by_model: Sequence[bool],
) -> np.ndarray:
    """The first array of a call."""
    return np.array([time, batch, reverse, block_steps, shares, models, *by_model], np.int32)


#: What is known of a buffer: its dtype, the size of its value, the axes before the value, the bytes
#: of a number, and the messages for a wrong dtype and a wrong size.
_COLUMNS = I64, I64, I64, I64, POINTER, POINTER


class Handler:
    """Adds to the module of a kernel the function ``handler(frame)``."""

    def __init__(self, plan: KernelPlan, module: ir.Module):
        self.plan, self.phases = plan, Phases(plan, module)
        self.phases.emit()
        self.b, (pointer,) = begin_function(module, "handler", POINTER, POINTER)
        self.frame = Frame(self.b, pointer)

    def emit(self) -> None:
        b, fail_if, schedule = self.b, self.frame.fail_if, self.plan.schedule
        inputs, outputs = (
            [(kind, v) for kind in kinds for v in schedule.values(kind)]
            for kinds in (INPUTS, RESULTS)
        )
        arguments = self._items("args", len(inputs) + 1)
        results = self._items("rets", len(outputs) + 1)
        first = b.load(arguments, typ=POINTER, align=8)
        self._check(first, "sizes", "int32", i64(len(SIZES) + len(inputs)))
        numbers = load_field(b, first, Buffer, "data")
        given = [_load_number(b, numbers, i64(i)) for i in range(len(SIZES))]
        self.time, self.batch, _, self.block_steps, shares, models = given
        for name, number in zip(SIZES, given, strict=True):
            if name != "reverse":
                fail_if(b.icmp_signed("<", number, i64(1)), f"{name} must be at least one")
        count = len(inputs) + len(outputs) + 1
        self.table = stack(b, 16 * count, 16)
        self.strides = advance(b, self.table, 8 * count)
        self.scales = stack(b, 24, 16)  # of `_axes`
        for n, scale in enumerate((i64(1), self.batch, b.mul(self.batch, self.time))):
            b.store(scale, advance(b, self.scales, 8 * n), align=8)
        by_model = advance(b, numbers, 4 * len(SIZES))
        self._take(inputs, "input", advance(b, arguments, 8), 0, models, by_model)
        self._take(outputs, "output", results, len(inputs), models)
        large = []
        for n, (kind, _) in enumerate(outputs, len(inputs)):
            if kind == "emitted":
                large.append((self._entry(n), b.mul(self._stride(n), models)))
        one_by_one = b.icmp_signed(">=", models, shares)
        stride = self._scratch_bytes(b.select(one_by_one, i64(1), shares))
        scratch = b.mul(stride, b.select(one_by_one, shares, i64(1)))
        item = b.load(advance(b, results, 8 * len(outputs)), typ=POINTER, align=8)
        self._check(item, "scratch memory", "uint8", scratch)
        self._fill(i64(count - 1), item, stride)
        large.append((self._entry(count - 1), scratch))
        self._run(count, large, given)

    # --- checks -------------------------------------------------------------------------------

    def _items(self, which: str, count: int) -> ir.Value:
        """The addresses of the buffers of a call, ``args`` or ``rets``."""
        found = self.frame.load(which, "count", kind=I64)
        wrong = self.b.icmp_signed("!=", found, i64(count))
        self.frame.fail_if(wrong, f"expected {count} {which}")
        return self.frame.load(which, "items")

    def _take(
        self,
        values: Sequence[tuple[str, Any]],
        name: str,
        items: ir.Value,
        first: int,
        models: ir.Value,
        by_model: ir.Value | None = None,
    ) -> None:
        """Check buffers, and write them into the table, from number ``first`` on.

        Args:
            values: the kind and the value of each.
            name: what they are.
            items: the addresses of XLA's descriptions.
            first: the number of the first one.
            models: the number of models.
            by_model: the flags that say whether there is one for each model; or all are.
        """
        b = self.b
        rows = [
            [
                i64(DTYPES[v.aval.dtype.name]),
                i64(size(v)),
                i64(self._axes(kind, v)),
                i64(item_of(v)),
                *self._complaints(f"{name} {n}", v.aval.dtype.name),
            ]
            for n, (kind, v) in enumerate(values)
        ]
        table = _constant_table(b.module, f"{name}s", rows)
        with loop(b, i64(0), i64(len(rows))) as n:
            row = advance(b, table, b.mul(n, i64(8 * len(_COLUMNS))))
            code, numbers, axes, width, wrong_dtype, wrong_size = (
                b.load(advance(b, row, 8 * i), typ=kind, align=8) for i, kind in enumerate(_COLUMNS)
            )
            item = b.load(b.gep(items, [n], source_etype=I64), typ=POINTER, align=8)
            scale = b.load(b.gep(self.scales, [axes], source_etype=I64), typ=I64, align=8)
            flag = i64(1) if by_model is None else _load_number(b, by_model, n)
            elements = b.mul(numbers, scale)
            arrays = b.select(b.icmp_signed("==", flag, i64(0)), i64(1), models)
            self._compare(item, code, b.mul(elements, arrays), wrong_dtype, wrong_size)
            self._fill(b.add(n, i64(first)), item, b.mul(b.mul(elements, width), flag))

    def _axes(self, kind: str, value: Any) -> int:
        """The axes in front of a value in its buffer: none, the batch, or the batch and time."""
        if kind in ("shared", "accumulator"):
            return 0
        is_unchanged = kind == "step" and value in self.plan.schedule.unchanged
        return 2 if kind in ("step", "emitted") and not is_unchanged else 1

    def _check(self, item: ir.Value, name: str, dtype: str, elements: ir.Value) -> None:
        """Fail unless a buffer has this dtype and so many elements."""
        self._compare(item, i64(DTYPES[dtype]), elements, *self._complaints(name, dtype))

    def _complaints(self, name: str, dtype: str) -> tuple[ir.Constant, ir.Constant]:
        """The messages for a buffer with another dtype, and with another size."""
        texts = f"is not of dtype {dtype}", "has another size than the kernel was made for"
        wrong_dtype, wrong_size = (self.frame.message(f"{name} {text}") for text in texts)
        return wrong_dtype, wrong_size

    def _compare(
        self,
        item: ir.Value,
        dtype: ir.Value,
        elements: ir.Value,
        wrong_dtype: ir.Value,
        wrong_size: ir.Value,
    ) -> None:
        b = self.b
        code = b.sext(load_field(b, item, Buffer, "dtype", kind=I32), I64)
        self.frame.fail_if(b.icmp_signed("!=", code, dtype), wrong_dtype)
        found = b.call(_count_elements(b.module), [item])
        self.frame.fail_if(b.icmp_signed("!=", found, elements), wrong_size)

    def _fill(self, n: ir.Value, item: ir.Value, stride: ir.Value) -> None:
        """Write a buffer into the table, and its stride."""
        b = self.b
        data = load_field(b, item, Buffer, "data")
        b.store(data, b.gep(self.table, [n], source_etype=I64), align=8)
        b.store(stride, b.gep(self.strides, [n], source_etype=I64), align=8)

    def _scratch_bytes(self, shares: ir.Value) -> ir.Value:
        """The scratch memory of one model, as `KernelPlan.scratch_bytes` computes it."""
        b, plan = self.b, self.plan
        of_shares = b.mul(shares, bytes_of_share(b, plan, self.batch))
        total = b.add(i64(plan.panel_bytes + plan.spare_bytes), of_shares)
        for width in self.plan.scratch_widths():
            total = b.add(total, bytes_of_rows(b, self.batch, width))
        for width in self.plan.block_widths():
            total = b.add(total, bytes_of_rows(b, b.mul(self.batch, self.block_steps), width))
        return total

    # --- work ---------------------------------------------------------------------------------

    def _run(
        self,
        count: int,
        large: Sequence[tuple[ir.Value, ir.Value]],
        given: Sequence[ir.Value],
    ) -> None:
        """Run the team on the table of ``count`` buffers.

        Args:
            count: the number of buffers in the table.
            large: the results that may be large, and their sizes in bytes.
            given: the numbers of `SIZES`.
        """
        b, module = self.b, self.b.module
        if platform.system() == "Linux":
            for address, bytes_ in large:
                b.call(_prefer_huge_pages(module), [address, bytes_])
        # A program with constant weights is for inference: little happens between its calls. In
        # training the threads of XLA would have to share the cores with helpers that look for work.
        name = RUN_TEAM if self.plan.given_panels is None else RUN_WITH_HELPERS
        run_team = declared(module, name, RUN_TEAM_TYPE.return_type, *RUN_TEAM_TYPE.args)
        perform = address_of(module.globals["perform"])
        phases = self.phases.of_block(b, self.block_steps)
        sizes = [*given, i64(count), phases]
        b.ret(b.call(run_team, [self.frame.pointer, self.table, *sizes, perform]))

    def _entry(self, n: int) -> ir.Value:
        """The address of a buffer in the table."""
        return self.b.load(advance(self.b, self.table, 8 * n), typ=POINTER, align=8)

    def _stride(self, n: int) -> ir.Value:
        """The stride of a buffer in the table."""
        return self.b.load(advance(self.b, self.strides, 8 * n), typ=I64, align=8)


def _load_number(b: ir.IRBuilder, numbers: ir.Value, n: ir.Value) -> ir.Value:
    """Number ``n`` of an array of 32-bit integers."""
    return b.sext(b.load(b.gep(numbers, [n], source_etype=I32), typ=I32, align=4), I64)


def _constant_table(
    module: ir.Module, name: str, rows: Sequence[Sequence[ir.Constant]]
) -> ir.Constant:
    """The address of constant rows of `_COLUMNS`."""
    kind = ir.ArrayType(ir.LiteralStructType(_COLUMNS), len(rows))
    table = ir.GlobalVariable(module, kind, name)
    table.global_constant, table.linkage = True, "internal"
    table.initializer = ir.Constant(kind, [ir.Constant.literal_struct(row) for row in rows])
    return address_of(table)


def _prefer_huge_pages(module: ir.Module) -> ir.Function:
    """``prefer_huge_pages(address, bytes)``: ask Linux for pages of two megabytes.

    XLA gets a large buffer anew from the system in each call. The first access to each page
    costs a page fault; larger pages have 512 times fewer of them. The buffers of a program are
    parts of one piece of memory, so pages at the ends are shared with others.
    """

    def emit(b: ir.IRBuilder, address: ir.Value, bytes_: ir.Value) -> None:
        page, first = _HUGE_PAGE, b.ptrtoint(address, I64)
        start = b.and_(first, i64(-page))
        end = b.and_(b.add(b.add(first, bytes_), i64(page - 1)), i64(-page))
        with b.if_then(b.icmp_signed(">", bytes_, i64(page))):
            advise = declared(b.module, "madvise", I32, POINTER, I64, I32)
            count = b.sub(end, start)
            b.call(advise, [b.inttoptr(start, POINTER), count, ir.Constant(I32, _MADV_HUGEPAGE)])
        b.ret_void()

    return small_function(module, "prefer_huge_pages", VOID, [POINTER, I64], emit)


def _count_elements(module: ir.Module) -> ir.Function:
    """``count_elements(buffer)``: the number of elements of an XLA buffer."""

    def emit(b: ir.IRBuilder, item: ir.Value) -> None:
        total = stack(b, 8, 16)
        b.store(i64(1), total)
        dims = load_field(b, item, Buffer, "dims")
        with loop(b, i64(0), load_field(b, item, Buffer, "rank", kind=I64)) as i:
            dim = b.load(b.gep(dims, [i], source_etype=I64), typ=I64, align=8)
            b.store(b.mul(b.load(total, typ=I64), dim), total)
        b.ret(b.load(total, typ=I64))

    return small_function(module, "count_elements", I64, [POINTER], emit)
