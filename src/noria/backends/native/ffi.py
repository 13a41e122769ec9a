"""A kernel as an XLA FFI handler: ``XLA_FFI_Error* handler(XLA_FFI_CallFrame*)``, in LLVM's language.

The layout of the structures is that of ``xla/ffi/api/c_api.h`` (`jax.ffi.include_dir`); its version is read from there. A handler
answers what version it was made for, checks number, dtype and size of all arrays, and then runs the kernel. An array that is not what it
should be is an error of XLA's, not a crash.

The work itself is done by a `noria.backends.native.threads.Crew`.
"""

import ctypes
import functools
import hashlib
import logging
import platform
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from llvmlite import ir

from noria.backends.native.emit import emit
from noria.backends.native.expressible import size
from noria.backends.native.instructions import I8, I32, I64, POINTER, at, declared, i64, loop, stack
from noria.backends.native.layout import Plan, bytes_of_rows, item_of
from noria.backends.native.program import INPUTS, RESULTS
from noria.backends.native.structures import (
    Api,
    Buffer,
    CallFrame,
    DestroyArgs,
    ErrorArgs,
    Extension,
    Metadata,
    MetadataExtension,
    ScheduleArgs,
    offset_of,
)
from noria.backends.native.target import Isa, Library, NoSuchMachine, compile_module, processor
from noria.backends.native.threads import Crew

_NULL = ir.Constant(POINTER, None)

_MADV_HUGEPAGE = 14

_METADATA, _EXECUTE, _INVALID_ARGUMENT = 1, 3, 3

_DTYPES = {
    **{"bool": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint8": 6, "uint16": 7, "uint32": 8, "uint64": 9},
    **{"float32": 11, "float64": 12},
}

#: The sizes that each call is given as its first array: time, batch, reverse, stretch, shares.
SIZES = 5


@functools.cache
def api_version() -> tuple[int, int]:
    """The version of the interface that the installed JAX has.

    Raises:
        NoSuchMachine: if it is not known here.
    """
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    found = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header.read_text() if header.exists() else ""))
    if int(found.get("MAJOR", -1)) != 0:
        raise NoSuchMachine(f"XLA's foreign function interface has version {found.get('MAJOR', 'unknown')}, not 0")
    return 0, int(found["MINOR"])


_log = logging.getLogger(__name__)
_lock = threading.Lock()
_libraries: dict[str, Library] = {}


def register(plan: Plan, isa: Isa) -> str:
    """Make a handler and register it with XLA; its name, which follows from its content."""
    module = emit(plan)
    Handler(plan, module).emit()
    content = "\n".join([str(module), isa.name, processor(isa), str(api_version())])
    name = "noria_" + hashlib.sha256(content.encode()).hexdigest()[:24]
    with _lock:
        if name not in _libraries:
            began = time.perf_counter()
            library = compile_module(module, isa)
            _log.debug("%s: LLVM took %.3f s", name, time.perf_counter() - began)
            function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(library.address("handler"))
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
            _libraries[name] = library
    return name


class _Callee:
    """An address that is called: llvmlite asks it for the type of the function."""

    def __init__(self, address: ir.Value):
        self.function_type = self.type = ir.FunctionType(POINTER, [POINTER])
        self.get_reference = address.get_reference


def _address_of(symbol: ir.GlobalValue) -> ir.Constant:
    return ir.FormattedConstant(POINTER, symbol.get_reference())


class Handler:
    """Adds to a module the function ``handler``."""

    def __init__(self, plan: Plan, module: ir.Module):
        self.plan, self.module = plan, module

    def emit(self) -> None:
        Crew(self.plan, self.module).emit()
        function = ir.Function(self.module, ir.FunctionType(POINTER, [POINTER]), "handler")
        self.b = b = ir.IRBuilder(function.append_basic_block("entry"))
        self.frame = function.args[0]
        self._answer_version()
        stage = self._field(self.frame, CallFrame, "stage", kind=I32)
        with b.if_then(b.icmp_signed("!=", stage, ir.Constant(I32, _EXECUTE))):
            b.ret(_NULL)
        inputs, outputs = (
            [(kind, v) for kind in kinds for v in self.plan.program.values(kind)] for kinds in (INPUTS, RESULTS)
        )
        arguments = self._items("args", len(inputs) + 1)
        results = self._items("rets", len(outputs) + 1)
        self._expect(arguments[0], "sizes", "int32", i64(SIZES))
        sizes = self._field(arguments[0], Buffer, "data")
        self.time, self.batch, self.reverse, self.stretch, self.shares = (
            b.sext(b.load(at(b, sizes, 4 * i), typ=I32, align=4), I64) for i in range(SIZES)
        )
        for name in ("time", "batch", "stretch", "shares"):
            self._fail_if(b.icmp_signed("<", getattr(self, name), i64(1)), f"{name} must be at least one")
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

    def _field(self, pointer: ir.Value, structure: Any, *path: str, kind: ir.Type = POINTER) -> ir.Value:
        return self.b.load(at(self.b, pointer, offset_of(structure, *path)), typ=kind, align=4)

    def _store(self, value: ir.Value, pointer: ir.Value, structure: Any, *path: str) -> None:
        self.b.store(value, at(self.b, pointer, offset_of(structure, *path)), align=4)

    def _local(self, size: int) -> ir.Value:
        return stack(self.b, size, 16)

    def _arguments(self, structure: Any) -> ir.Value:
        """Memory for the argument of one of XLA's functions."""
        slot = self._local(ctypes.sizeof(structure))
        self._store(i64(ctypes.sizeof(structure)), slot, structure, "struct_size")
        self._store(_NULL, slot, structure, "extension")
        return slot

    def _call(self, name: str, argument: ir.Value) -> ir.Value:
        api = self._field(self.frame, CallFrame, "api")
        return self.b.call(_Callee(self._field(api, Api, name)), [argument])

    def _answer_version(self) -> None:
        b = self.b
        extension = self._field(self.frame, CallFrame, "extension")
        with b.if_then(b.icmp_unsigned("!=", extension, _NULL)):
            kind = self._field(extension, Extension, "kind", kind=I32)
            with b.if_then(b.icmp_signed("==", kind, ir.Constant(I32, _METADATA))):
                metadata = self._field(extension, MetadataExtension, "metadata")
                for name, number in zip(("major", "minor"), api_version(), strict=True):
                    self._store(ir.Constant(I32, number), metadata, Metadata, "version", name)
                self._store(ir.Constant(I32, 0), metadata, Metadata, "traits")
                b.ret(_NULL)

    def _items(self, which: str, count: int) -> list[ir.Value]:
        """The buffers of a call."""
        b = self.b
        found = self._field(self.frame, CallFrame, which, "count", kind=I64)
        self._fail_if(b.icmp_signed("!=", found, i64(count)), f"expected {count} {which}")
        items = self._field(self.frame, CallFrame, which, "items")
        return [b.load(at(b, items, 8 * i), typ=POINTER, align=8) for i in range(count)]

    def _expect(self, item: ir.Value, name: str, dtype: str, elements: ir.Value) -> None:
        b = self.b
        code = self._field(item, Buffer, "dtype", kind=I32)
        self._fail_if(b.icmp_signed("!=", code, ir.Constant(I32, _DTYPES[dtype])), f"{name} is not of dtype {dtype}")
        total = self._local(8)
        b.store(i64(1), total)
        dims = self._field(item, Buffer, "dims")
        with loop(b, i64(0), self._field(item, Buffer, "rank", kind=I64)) as i:
            dim = b.load(b.gep(dims, [i], source_etype=I64), typ=I64, align=8)
            b.store(b.mul(b.load(total, typ=I64), dim), total)
        wrong = b.icmp_signed("!=", b.load(total, typ=I64), elements)
        self._fail_if(wrong, f"{name} has another size than the kernel was made for")

    def _elements(self, kind: str, value: Any) -> ir.Value:
        count: ir.Value = i64(size(value))
        if kind not in ("shared", "total"):
            count = self.b.mul(count, self.batch)
        return self.b.mul(count, self.time) if kind in ("step", "emitted") else count

    def _scratch(self) -> ir.Value:
        b, total = self.b, i64(self.plan.panels)
        for width in self.plan.scratch_widths():
            total = b.add(total, bytes_of_rows(b, self.batch, width))
        for width in self.plan.stretch_widths():
            total = b.add(total, bytes_of_rows(b, b.mul(self.batch, self.stretch), width))
        return total

    def _fail_if(self, condition: ir.Value, message: str) -> None:
        b = self.b
        with b.if_then(condition):
            text = bytearray(f"noria's native kernel: {message}\0".encode())
            kind = ir.ArrayType(I8, len(text))
            constant = ir.GlobalVariable(self.module, kind, self.module.get_unique_name("message"))
            constant.global_constant, constant.linkage = True, "internal"
            constant.initializer = ir.Constant(kind, text)
            argument = self._arguments(ErrorArgs)
            self._store(_address_of(constant), argument, ErrorArgs, "message")
            self._store(ir.Constant(I32, _INVALID_ARGUMENT), argument, ErrorArgs, "code")
            b.ret(self._call("error_create", argument))

    # --- work -------------------------------------------------------------------------------------------------------

    def _start(self, buffers: Sequence[ir.Value], results: Sequence[tuple[ir.Value, ir.Value]]) -> None:
        """Send for threads, and lead them; ``results`` are what may be large, with their sizes in bytes."""
        b = self.b
        table = self._local(8 * len(buffers))
        for i, item in enumerate(buffers):
            b.store(self._field(item, Buffer, "data"), at(b, table, 8 * i), align=8)
        if platform.system() == "Linux":
            for item, size in results:
                self._prefer_huge_pages(self._field(item, Buffer, "data"), size)
        arguments = table, self.time, self.batch, self.reverse, self.stretch, self.shares
        job = b.call(self.module.globals["hire"], arguments)
        self._fail_if(b.icmp_unsigned("==", job, _NULL), "out of memory")
        with loop(b, i64(1), self.shares):
            argument = self._arguments(ScheduleArgs)
            self._store(self._field(self.frame, CallFrame, "context"), argument, ScheduleArgs, "context")
            self._store(_address_of(self.module.globals["help"]), argument, ScheduleArgs, "task")
            self._store(job, argument, ScheduleArgs, "data")
            error = self._call("schedule", argument)
            with b.if_then(b.icmp_unsigned("!=", error, _NULL)):  # no such thread: the caller does all
                destroy = self._arguments(DestroyArgs)
                self._store(error, destroy, DestroyArgs, "error")
                self._call("error_destroy", destroy)
                b.call(self.module.globals["leave"], [job])
        b.call(self.module.globals["lead"], [job])
        b.ret(_NULL)

    def _prefer_huge_pages(self, address: ir.Value, size: ir.Value) -> None:
        """Ask for pages of two megabytes: memory that XLA got anew from the system is then touched 512 times less often."""
        b, page = self.b, 2**21
        start = b.and_(b.add(b.ptrtoint(address, I64), i64(page - 1)), i64(-page))
        end = b.and_(b.add(b.ptrtoint(address, I64), size), i64(-page))
        with b.if_then(b.icmp_signed(">", b.sub(end, start), i64(page))):
            advise = declared(self.module, "madvise", I32, POINTER, I64, I32)
            b.call(advise, [b.inttoptr(start, POINTER), b.sub(end, start), ir.Constant(I32, _MADV_HUGEPAGE)])


def sizes(time: int, batch: int, reverse: bool, stretch: int, shares: int) -> np.ndarray:
    """The first array of a call."""
    return np.array([time, batch, reverse, stretch, shares], np.int32)
