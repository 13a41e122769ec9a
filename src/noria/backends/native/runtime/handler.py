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


class Handler:
    """Adds to the module of a kernel the function ``handler(frame)``."""

    def __init__(self, plan: KernelPlan, module: ir.Module):
        self.plan, self.phases = plan, Phases(plan, module)
        self.phases.emit()
        self.b, (pointer,) = begin_function(module, "handler", POINTER, POINTER)
        self.frame = Frame(self.b, pointer)

    def emit(self) -> None:
        b, fail_if = self.b, self.frame.fail_if
        inputs, outputs = (
            [(kind, v) for kind in kinds for v in self.plan.schedule.values(kind)]
            for kinds in (INPUTS, RESULTS)
        )
        arguments = self._buffers("args", len(inputs) + 1)
        results = self._buffers("rets", len(outputs) + 1)
        count = len(SIZES) + len(inputs)
        self._check(arguments[0], "sizes", "int32", i64(count))
        data = load_field(b, arguments[0], Buffer, "data")
        numbers = [
            b.sext(b.load(advance(b, data, 4 * i), typ=I32, align=4), I64) for i in range(count)
        ]
        given, by_model = numbers[: len(SIZES)], numbers[len(SIZES) :]
        self.time, self.batch, _, self.block_steps, shares, models = given
        for name, number in zip(SIZES, given, strict=True):
            if name != "reverse":
                fail_if(b.icmp_signed("<", number, i64(1)), f"{name} must be at least one")
        strides, large = [], []
        for i, (item, (kind, value)) in enumerate(zip(arguments[1:], inputs, strict=True)):
            elements = self._elements(kind, value)
            strides.append(b.mul(b.mul(elements, i64(item_of(value))), by_model[i]))
            arrays = b.select(b.icmp_signed("==", by_model[i], i64(0)), i64(1), models)
            self._check(item, f"input {i}", value.aval.dtype.name, b.mul(elements, arrays))
        for i, (item, (kind, value)) in enumerate(zip(results[:-1], outputs, strict=True)):
            elements = self._elements(kind, value)
            strides.append(b.mul(elements, i64(item_of(value))))
            self._check(item, f"output {i}", value.aval.dtype.name, b.mul(elements, models))
            if kind == "emitted":
                large.append((item, b.mul(strides[-1], models)))
        one_by_one = b.icmp_signed(">=", models, shares)
        strides.append(self._scratch_bytes(b.select(one_by_one, i64(1), shares)))
        parts = b.select(one_by_one, shares, i64(1))
        scratch = b.mul(strides[-1], parts)
        self._check(results[-1], "scratch memory", "uint8", scratch)
        large.append((results[-1], scratch))
        self._run([*arguments[1:], *results], strides, large, given)

    # --- checks -------------------------------------------------------------------------------

    def _buffers(self, which: str, count: int) -> list[ir.Value]:
        """The buffers of a call, ``args`` or ``rets``."""
        b = self.b
        found = self.frame.load(which, "count", kind=I64)
        self.frame.fail_if(b.icmp_signed("!=", found, i64(count)), f"expected {count} {which}")
        items = self.frame.load(which, "items")
        return [b.load(advance(b, items, 8 * i), typ=POINTER, align=8) for i in range(count)]

    def _check(self, item: ir.Value, name: str, dtype: str, elements: ir.Value) -> None:
        """Fail unless a buffer has this dtype and so many elements."""
        b = self.b
        code = load_field(b, item, Buffer, "dtype", kind=I32)
        self.frame.fail_if(
            b.icmp_signed("!=", code, ir.Constant(I32, DTYPES[dtype])),
            f"{name} is not of dtype {dtype}",
        )
        found = b.call(_count_elements(b.module), [item])
        wrong = b.icmp_signed("!=", found, elements)
        self.frame.fail_if(wrong, f"{name} has another size than the kernel was made for")

    def _elements(self, kind: str, value: Any) -> ir.Value:
        """The number of elements of a buffer for one model."""
        count: ir.Value = i64(size(value))
        if kind not in ("shared", "accumulator"):
            count = self.b.mul(count, self.batch)
        is_unchanged = kind == "step" and value in self.plan.schedule.unchanged
        has_time = kind in ("step", "emitted") and not is_unchanged
        return self.b.mul(count, self.time) if has_time else count

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
        buffers: Sequence[ir.Value],
        strides: Sequence[ir.Value],
        large: Sequence[tuple[ir.Value, ir.Value]],
        given: Sequence[ir.Value],
    ) -> None:
        """Run the team.

        Args:
            buffers: the inputs and results of the call.
            strides: the bytes from model to model in each; of scratch memory, from share to share.
            large: the results that may be large, and their sizes in bytes.
            given: the numbers of `SIZES`.
        """
        b, module, count = self.b, self.b.module, len(buffers)
        table = stack(b, 16 * count, 16)
        for i, (item, stride) in enumerate(zip(buffers, strides, strict=True)):
            b.store(load_field(b, item, Buffer, "data"), advance(b, table, 8 * i), align=8)
            b.store(stride, advance(b, table, 8 * (count + i)), align=8)
        if platform.system() == "Linux":
            for item, bytes_ in large:
                self._prefer_huge_pages(load_field(b, item, Buffer, "data"), bytes_)
        # A program with constant weights is for inference: little happens between its calls. In
        # training the threads of XLA would have to share the cores with helpers that look for work.
        name = RUN_TEAM if self.plan.given_panels is None else RUN_WITH_HELPERS
        run_team = declared(module, name, RUN_TEAM_TYPE.return_type, *RUN_TEAM_TYPE.args)
        perform = address_of(module.globals["perform"])
        phases = self.phases.of_block(b, self.block_steps)
        sizes = [*given, i64(count), phases]
        b.ret(b.call(run_team, [self.frame.pointer, table, *sizes, perform]))

    def _prefer_huge_pages(self, address: ir.Value, bytes_: ir.Value) -> None:
        """Ask Linux for pages of two megabytes.

        XLA gets a large buffer anew from the system in each call. The first access to each page
        costs a page fault; larger pages have 512 times fewer of them. The buffers of a program are
        parts of one piece of memory, so pages at the ends are shared with others.
        """
        b, page = self.b, _HUGE_PAGE
        first = b.ptrtoint(address, I64)
        start = b.and_(first, i64(-page))
        end = b.and_(b.add(b.add(first, bytes_), i64(page - 1)), i64(-page))
        with b.if_then(b.icmp_signed(">", bytes_, i64(page))):
            advise = declared(b.module, "madvise", I32, POINTER, I64, I32)
            b.call(
                advise,
                [b.inttoptr(start, POINTER), b.sub(end, start), ir.Constant(I32, _MADV_HUGEPAGE)],
            )


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
