"""The kernels of the process: compiled or loaded when a program needs them, shared, and released.

Each `Kernel` in Python holds a reference to its kernel, and so does each executable of XLA that
calls it (`noria.backends.native.runtime.resident`). Programs with equal code share one kernel. Its
memory goes back to the system when there are no more references.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import hashlib
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from llvmlite import ir

from noria.backends.native.codegen.kernel import emit
from noria.backends.native.machine import Isa
from noria.backends.native.plan.fingerprint import NoFingerprint, fingerprint
from noria.backends.native.plan.panels import ALIGN
from noria.backends.native.plan.schedule import INPUTS, RESULTS
from noria.backends.native.plan.tiling import KernelPlan
from noria.backends.native.runtime import cache
from noria.backends.native.runtime.handler import Handler
from noria.backends.native.runtime.helpers import Pool
from noria.backends.native.runtime.resident import RUN_TEAM, RUN_WITH_HELPERS, TYPE_ID, Resident
from noria.backends.native.runtime.state import Record
from noria.backends.native.runtime.target import (
    Library,
    add_symbol,
    chosen,
    library_of,
    object_code,
    processor,
)
from noria.backends.native.runtime.xla_abi import TypeInfo
from noria.ir.graph import size
from noria.ir.source import origin

#: The name by which XLA knows the one handler of all kernels.
TARGET = "noria_native"

#: A kernel that takes longer to compile is reported on the logger ``noria``.
SLOW_SECONDS = 2.0

_capsule: Callable[[Any], Any] = jax.ffi.pycapsule  # JAX does not annotate it
_log = logging.getLogger(__name__)
_lock = threading.Lock()
_records: dict[str, Record] = {}
_libraries: dict[str, Library] = {}
_is_release_requested = False


class Kernel:
    """A reference to a kernel, which is not released as long as this object lives.

    Attributes:
        name: the hash of all that decides its code.
    """

    def __init__(self, name: str, record: Record):
        self.name = name
        release = _resident().release_record
        weakref.finalize(self, release, ctypes.addressof(record)).atexit = False


def kernel_of(plan: KernelPlan, isa: Isa) -> Kernel:
    """The kernel for a plan; compiled, if neither the process nor the disk has it.

    Raises:
        RuntimeError: if the process has almost as many memory maps as the system allows.
    """
    try:
        content = fingerprint(plan)
    except NoFingerprint as error:
        _log.debug("%s; its code names the kernel", str(error))
        content = str(_module_of(plan))
    name, resident = _name(content, isa), _resident()
    with _lock:
        check_maps()
        record = _records.get(name) or _new_record(name)
        if not resident.retain_record(ctypes.addressof(record)):
            began = time.perf_counter()
            library = _loaded(name, functools.partial(_module_of, plan), isa)
            _say_if_slow(plan, time.perf_counter() - began)
            _libraries[name], record.handler = library, library.address("handler")
            resident.publish_record(ctypes.addressof(record))
        kernel = Kernel(name, record)
    release_unused()  # a request that came while this thread had the lock was left for it
    return kernel


def packed(kernel: Kernel, plan: KernelPlan, weights: Mapping[int, np.ndarray]) -> np.ndarray:
    """The panels that a kernel takes as an argument, as bytes.

    Args:
        kernel: the kernel for the plan.
        plan: a plan with given panels.
        weights: the arrays of shared values by number; those that are in panels suffice.
    """
    schedule, given = plan.schedule, plan.given_panels
    assert given is not None
    panels = aligned((size(schedule.shared[given]),), np.uint8)
    # The buffers begin with the shared arrays. No other one is read.
    table = (ctypes.c_void_p * (len(schedule.buffers((*INPUTS, *RESULTS))) + 1))()
    for number, array in {**weights, given: panels}.items():
        table[number] = array.ctypes.data
    address = _libraries[kernel.name].address("pack")
    pack = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
    pack(ctypes.addressof(table), 0, 1)
    return panels


def aligned(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Zeros at an address that suits a kernel, which loads and stores whole vectors."""
    bytes_ = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(bytes_ + ALIGN, np.uint8)
    start = -memory.ctypes.data % ALIGN
    return memory[start : start + bytes_].view(dtype).reshape(shape)


def handler_of(kernel: Kernel) -> Callable[[int], int | None]:
    """The handler of a kernel as a function of the address of a frame: null, or an error of XLA."""
    address = _libraries[kernel.name].address("handler")
    return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address)


def helpers() -> Pool:
    """The helpers of calls that do not go through XLA."""
    return _resident().helpers


def _module_of(plan: KernelPlan) -> ir.Module:
    module = emit(plan)
    Handler(plan, module).emit()
    return module


def _name(content: str, isa: Isa) -> str:
    """The name of the machine code of ``content``."""
    parts = content, isa.name, processor(isa), cache.code_version()
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[: Record.name.size]


def _loaded(name: str, emit_module: Callable[[], ir.Module], isa: Isa) -> Library:
    """The machine code of a name, from the disk or else from LLVM."""
    code = cache.load(name)
    if code is None:
        with _without_collection():
            code = _object_code(name, emit_module(), isa)
        cache.save(name, code)
    return library_of(code, isa)


def _object_code(name: str, module: ir.Module, isa: Isa) -> bytes:
    began = time.perf_counter()
    code = object_code(module, isa)
    _log.debug("%s: LLVM took %.3f s", name, time.perf_counter() - began)
    return code


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """No search of Python for unused objects, for the time of one compilation.

    A module is many small objects that refer to each other. If Python searches them while they are
    in use, they grow old, and there are so many that it searches all objects of the process too:
    this took as long as to make the module. After the compilation they are unused, and still young.
    The switch belongs to the process: a thread that switches the search off meanwhile will find it
    on again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _say_if_slow(plan: KernelPlan, seconds: float) -> None:
    if seconds < SLOW_SECONDS:
        return
    equations = plan.schedule.equations
    lines = (f"{path}:{line}" for path, line in map(origin, equations) if path)
    logging.getLogger("noria").info(
        "Machine code for a loop of %d operations took %.1f s to compile; the first is in %s",
        *(len(equations), seconds, next(lines, "no line of a cell")),
    )


def _new_record(name: str) -> Record:
    record = _records[name] = Record(name=name.encode())
    _resident().add_record(ctypes.addressof(record))
    return record


def alive() -> list[str]:
    """The names of the kernels that are in memory."""
    return list(_libraries)


def release_unused(*_: Any) -> int:
    """Release the kernels without references.

    Python's main thread runs this soon after a reference was given up, between any two of its
    instructions. So it may have the lock already, and must not wait for it: the thread that has
    the lock looks at the request again.
    """
    global _is_release_requested
    _is_release_requested = True
    while _is_release_requested and _lock.acquire(blocking=False):
        try:
            _is_release_requested = False
            for name in list(_libraries):
                if _resident().retire_record(ctypes.addressof(_records[name])):
                    _libraries.pop(name).close()
                    _log.debug("%s: released", name)
        finally:
            _lock.release()
    return 0


# --- resident code ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Functions:
    """The functions of `Resident` that Python calls."""

    add_record: Callable[[int], None]
    publish_record: Callable[[int], None]
    retain_record: Callable[[int], int]
    release_record: Callable[[int], None]
    retire_record: Callable[[int], int]
    set_listener: Callable[[Any, Any], None]
    helpers: Pool


_start_lock = threading.Lock()


def _resident() -> _Functions:
    with _start_lock:
        return _started()


@functools.cache
def _started() -> _Functions:
    """Compile the resident code, and register it with XLA."""
    isa = chosen()
    library = _immortal(_loaded(_name("resident", isa), _resident_module, isa))
    for name in (RUN_TEAM, RUN_WITH_HELPERS):
        add_symbol(name, library.address(name))
    type_id = ctypes.c_int64.from_address(library.variable(TYPE_ID))
    _register_type(type_id, library.address("release_record"))
    handlers = {
        stage: ctypes.c_void_p(library.address(stage)) for stage in ("instantiate", "execute")
    }
    jax.ffi.register_ffi_target(
        TARGET, {s: _capsule(h) for s, h in handlers.items()}, platform="cpu"
    )

    def function(name: str, result: Any, *kinds: Any) -> Any:
        return ctypes.CFUNCTYPE(result, *kinds)(library.address(name))

    integer, pointer = ctypes.c_int, ctypes.c_void_p
    functions = _Functions(
        add_record=function("add_record", None, pointer),
        publish_record=function("publish_record", None, pointer),
        retain_record=function("retain_record", integer, pointer),
        release_record=function("release_record", None, pointer),
        retire_record=function("retire_record", integer, pointer),
        set_listener=function("set_listener", None, pointer, pointer),
        helpers=_immortal(Pool(library.address)),
    )
    release = _immortal(ctypes.CFUNCTYPE(integer, pointer)(release_unused))
    later = ctypes.cast(ctypes.pythonapi.Py_AddPendingCall, pointer)
    functions.set_listener(later, ctypes.cast(release, pointer))
    # XLA may free executables after the interpreter has ended.
    atexit.register(functions.set_listener, None, None)
    return functions


def _resident_module() -> ir.Module:
    module = ir.Module("resident")
    Resident(module).emit()
    return module


def _register_type(type_id: ctypes.c_int64, deleter: int) -> None:
    """Register the type of a record with XLA; ``deleter`` gives up a reference."""
    info = _immortal(TypeInfo(struct_size=ctypes.sizeof(TypeInfo), deleter=deleter))
    identity, described = (_capsule(ctypes.pointer(thing)) for thing in (type_id, info))
    jax.ffi.register_ffi_type(
        "noria_record", {"type_id": identity, "type_info": described}, platform="cpu"
    )


def _immortal(thing: Any) -> Any:
    """An object that Python never frees, since XLA may use it until the process ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return thing


# --- the limit of the system ------------------------------------------------------------------


def memory_maps() -> tuple[int, int]:
    """The memory maps of the process, and the limit of Linux; zeros on other systems."""
    maps, limit = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
    if not (maps.exists() and limit.exists()):
        return 0, 0
    return maps.read_bytes().count(b"\n"), int(limit.read_text())


def check_maps() -> None:
    """Raise an error before LLVM or XLA crashes because it finds no memory for another program.

    Raises:
        RuntimeError: if the process has more than 15/16 of the memory maps that it may have.
    """
    count, most = memory_maps()
    if count > most - most // 16:
        raise RuntimeError(
            f"This process has {count} memory maps; Linux allows {most} (vm.max_map_count), and "
            "too few may be left to compile another program. Call jax.clear_caches() now and then, "
            "for example after each 100 shapes, to give up compiled programs; or pad inputs, so "
            f"that there are fewer shapes; or raise the limit: sysctl vm.max_map_count={4 * most}"
        )
