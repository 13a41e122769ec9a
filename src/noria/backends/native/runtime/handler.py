"""The handler of a kernel: ``XLA_FFI_Error* handler(XLA_FFI_CallFrame*)``, in LLVM's language.

The layout of the structures is that of ``xla/ffi/api/c_api.h`` (`jax.ffi.include_dir`). A handler
checks number, dtype and size of all arrays, and then runs the kernel. An array that is not as it
should be is an error of XLA's, not a crash.

The work itself is shared out by `noria.backends.native.runtime.team.ThreadTeam`.
"""

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from noria.backends.native.codegen.addresses import bytes_of_rows
from noria.backends.native.codegen.llvm import I32, I64, POINTER, at, declared, i64, loop
from noria.backends.native.lower.legalize import size
from noria.backends.native.plan.schedule import INPUTS, RESULTS
from noria.backends.native.plan.tiling import KernelPlan, item_of
from noria.backends.native.runtime.frame import Frame, address_of
from noria.backends.native.runtime.resident import WORK, WORK_TYPE
from noria.backends.native.runtime.team import Phases
from noria.backends.native.runtime.xla_abi import Buffer, CallFrame

_MADV_HUGEPAGE = 14

_DTYPES = {
    **{
        "bool": 1,
        "int8": 2,
        "int16": 3,
        "int32": 4,
        "int64": 5,
        "uint8": 6,
        "uint16": 7,
        "uint32": 8,
        "uint64": 9,
    },
    **{"float32": 11, "float64": 12},
}

#: The sizes that each call is given as its first array: time, batch, reverse, stretch, shares.
SIZES = 5


class Handler(Frame):
    """Adds to a module the function ``handler``."""

    def __init__(self, plan: KernelPlan, module: ir.Module):
        super().__init__(module)
        self.plan = plan

    def emit(self) -> None:
        self.phases = Phases(self.plan, self.module)
        self.phases.emit()
        self.function("handler", POINTER, POINTER)
        b = self.b
        inputs, outputs = (
            [(kind, v) for kind in kinds for v in self.plan.schedule.values(kind)]
            for kinds in (INPUTS, RESULTS)
        )
        arguments = self._items("args", len(inputs) + 1)
        results = self._items("rets", len(outputs) + 1)
        self._expect(arguments[0], "sizes", "int32", i64(SIZES))
        sizes = self.field(arguments[0], Buffer, "data")
        self.time, self.batch, self.reverse, self.stretch, self.shares = (
            b.sext(b.load(at(b, sizes, 4 * i), typ=I32, align=4), I64) for i in range(SIZES)
        )
        for name in ("time", "batch", "stretch", "shares"):
            self.fail_if(
                b.icmp_signed("<", getattr(self, name), i64(1)), f"{name} must be at least one"
            )
        for i, (item, (kind, value)) in enumerate(zip(arguments[1:], inputs, strict=True)):
            self._expect(item, f"input {i}", value.aval.dtype.name, self._elements(kind, value))
        large = []
        for i, (item, (kind, value)) in enumerate(zip(results[:-1], outputs, strict=True)):
            elements = self._elements(kind, value)
            self._expect(item, f"output {i}", value.aval.dtype.name, elements)
            if kind == "emitted":
                large.append((item, b.mul(elements, i64(item_of(value)))))
        scratch = self._scratch()
        self._expect(results[-1], "scratch memory", "uint8", scratch)
        self._start([*arguments[1:], *results], [*large, (results[-1], scratch)])

    # --- pieces -----------------------------------------------------------------------------------------------------

    def _items(self, which: str, count: int) -> list[ir.Value]:
        """The buffers of a call."""
        b = self.b
        found = self.field(self.frame, CallFrame, which, "count", kind=I64)
        self.fail_if(b.icmp_signed("!=", found, i64(count)), f"expected {count} {which}")
        items = self.field(self.frame, CallFrame, which, "items")
        return [b.load(at(b, items, 8 * i), typ=POINTER, align=8) for i in range(count)]

    def _expect(self, item: ir.Value, name: str, dtype: str, elements: ir.Value) -> None:
        b = self.b
        code = self.field(item, Buffer, "dtype", kind=I32)
        self.fail_if(
            b.icmp_signed("!=", code, ir.Constant(I32, _DTYPES[dtype])),
            f"{name} is not of dtype {dtype}",
        )
        total = self.local(8)
        b.store(i64(1), total)
        dims = self.field(item, Buffer, "dims")
        with loop(b, i64(0), self.field(item, Buffer, "rank", kind=I64)) as i:
            dim = b.load(b.gep(dims, [i], source_etype=I64), typ=I64, align=8)
            b.store(b.mul(b.load(total, typ=I64), dim), total)
        wrong = b.icmp_signed("!=", b.load(total, typ=I64), elements)
        self.fail_if(wrong, f"{name} has another size than the kernel was made for")

    def _elements(self, kind: str, value: Any) -> ir.Value:
        count: ir.Value = i64(size(value))
        if kind not in ("shared", "accumulator"):
            count = self.b.mul(count, self.batch)
        return self.b.mul(count, self.time) if kind in ("step", "emitted") else count

    def _scratch(self) -> ir.Value:
        b, total = self.b, i64(self.plan.panel_bytes)
        for width in self.plan.scratch_widths():
            total = b.add(total, bytes_of_rows(b, self.batch, width))
        for width in self.plan.block_widths():
            total = b.add(total, bytes_of_rows(b, b.mul(self.batch, self.stretch), width))
        return total

    # --- work -------------------------------------------------------------------------------------------------------

    def _start(
        self, buffers: Sequence[ir.Value], results: Sequence[tuple[ir.Value, ir.Value]]
    ) -> None:
        """Do the work; ``results`` are what may be large, with their sizes in bytes."""
        b = self.b
        table = self.local(8 * len(buffers))
        for i, item in enumerate(buffers):
            b.store(self.field(item, Buffer, "data"), at(b, table, 8 * i), align=8)
        if platform.system() == "Linux":
            for item, size in results:
                self._prefer_huge_pages(self.field(item, Buffer, "data"), size)
        sizes = self.time, self.batch, self.reverse, self.stretch, self.shares
        work = declared(self.module, WORK, WORK_TYPE.return_type, *WORK_TYPE.args)
        perform = address_of(self.module.globals["perform"])
        b.ret(
            b.call(
                work, [self.frame, table, *sizes, self.phases.of_stretch(b, self.stretch), perform]
            )
        )

    def _prefer_huge_pages(self, address: ir.Value, size: ir.Value) -> None:
        """Ask for pages of two megabytes: memory that XLA got anew from the system is then touched 512 times less often."""
        b, page = self.b, 2**21
        start = b.and_(b.add(b.ptrtoint(address, I64), i64(page - 1)), i64(-page))
        end = b.and_(b.add(b.ptrtoint(address, I64), size), i64(-page))
        with b.if_then(b.icmp_signed(">", b.sub(end, start), i64(page))):
            advise = declared(self.module, "madvise", I32, POINTER, I64, I32)
            b.call(
                advise,
                [b.inttoptr(start, POINTER), b.sub(end, start), ir.Constant(I32, _MADV_HUGEPAGE)],
            )


def sizes(time: int, batch: int, reverse: bool, stretch: int, shares: int) -> np.ndarray:
    """The first array of a call."""
    return np.array([time, batch, reverse, stretch, shares], np.int32)
