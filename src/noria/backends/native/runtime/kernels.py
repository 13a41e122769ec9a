"""The kernels of the process: compiled when a program first needs them, shared, and then released.

A kernel is held by each `Kernel` in Python, that is by the call that asked for it, and by each
executable of XLA's with a call of it (see `noria.backends.native.runtime.resident`). Equal kernels are the
same one while it is held. Its memory goes back to the system when nobody holds it.
"""

import atexit
import ctypes
import functools
import hashlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from llvmlite import ir

from noria.backends.native.codegen.kernel import emit
from noria.backends.native.plan.tiling import KernelPlan
from noria.backends.native.runtime.handler import Handler
from noria.backends.native.runtime.header import api_version
from noria.backends.native.runtime.resident import WORK, Resident
from noria.backends.native.runtime.target import (
    Isa,
    Library,
    chosen,
    compile_module,
    define,
    processor,
)
from noria.backends.native.runtime.xla_abi import Record, TypeInfo

#: The name of the handler of all kernels.
TARGET = "noria_native"

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_records: dict[str, Record] = {}
_libraries: dict[str, Library] = {}
_is_asked = False


class Kernel:
    """A kernel that is not released as long as this object lives.

    Attributes:
        name: follows from its content.
    """

    def __init__(self, name: str, record: Record):
        self.name = name
        weakref.finalize(self, _resident().drop, ctypes.addressof(record)).atexit = False


def kernel_of(plan: KernelPlan, isa: Isa) -> Kernel:
    """The kernel for a plan, compiled if the process does not have it.

    Raises:
        RuntimeError: if the process has almost as many memory maps as the system lets it have.
    """
    module = emit(plan)
    Handler(plan, module).emit()
    content = "\n".join([str(module), isa.name, processor(isa), str(api_version())])
    name = hashlib.sha256(content.encode()).hexdigest()[: Record.name.size]
    resident = _resident()
    with _lock:
        check_maps()
        record = _records.get(name) or _enlisted(name)
        if not resident.hold(ctypes.addressof(record)):
            began = time.perf_counter()
            library = compile_module(module, isa)
            _log.debug("%s: LLVM took %.3f s", name, time.perf_counter() - began)
            _libraries[name], record.handler = library, library.address("handler")
            resident.publish(ctypes.addressof(record))
        kernel = Kernel(name, record)
    release_unused()  # also what could not be while the lock was held
    return kernel


def _enlisted(name: str) -> Record:
    record = _records[name] = Record(name=name.encode())
    _resident().enlist(ctypes.addressof(record))
    return record


def alive() -> list[str]:
    """The names of the kernels that are in memory."""
    return list(_libraries)


def release_unused(*_: Any) -> int:
    """Release the kernels that nobody holds.

    Python's main thread runs this soon after a kernel is let go, whatever it does at that time. So it
    does not wait for the lock. Who has the lock looks again.
    """
    global _is_asked
    _is_asked = True
    while _is_asked and _lock.acquire(blocking=False):
        try:
            _is_asked = False
            for name in list(_libraries):
                if _resident().retire(ctypes.addressof(_records[name])):
                    _libraries.pop(name).close()
                    _log.debug("%s: released", name)
        finally:
            _lock.release()
    return 0


# --- what stays -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Functions:
    """Those of `Resident` that Python calls."""

    enlist: Callable[[int], None]
    publish: Callable[[int], None]
    hold: Callable[[int], int]
    drop: Callable[[int], None]
    retire: Callable[[int], int]
    listen: Callable[[Any, Any], None]


_starts = threading.Lock()


def _resident() -> _Functions:
    with _starts:
        return _started()


@functools.cache
def _started() -> _Functions:
    """Compile the code that stays, and register it with XLA."""
    type_id = _immortal(ctypes.c_int64(0))
    module = ir.Module("resident")
    Resident(module, ctypes.addressof(type_id)).emit()
    library = _immortal(compile_module(module, chosen()))
    define(WORK, library.address(WORK))
    _register_type(type_id, library.address("drop"))
    handlers = {
        stage: ctypes.c_void_p(library.address(stage)) for stage in ("instantiate", "execute")
    }
    jax.ffi.register_ffi_target(
        TARGET, {s: jax.ffi.pycapsule(h) for s, h in handlers.items()}, platform="cpu"
    )

    def function(name: str, result: Any, *kinds: Any) -> Any:
        return ctypes.CFUNCTYPE(result, *kinds)(library.address(name))

    integer, pointer = ctypes.c_int, ctypes.c_void_p
    functions = _Functions(
        enlist=function("enlist", None, pointer),
        publish=function("publish", None, pointer),
        hold=function("hold", integer, pointer),
        drop=function("drop", None, pointer),
        retire=function("retire", integer, pointer),
        listen=function("listen", None, pointer, pointer),
    )
    release = _immortal(ctypes.CFUNCTYPE(integer, pointer)(release_unused))
    later = ctypes.cast(ctypes.pythonapi.Py_AddPendingCall, pointer)
    functions.listen(later, ctypes.cast(release, pointer))
    atexit.register(functions.listen, None, None)  # XLA may free executables when Python is no more
    return functions


def _register_type(type_id: ctypes.c_int64, deleter: int) -> None:
    """Tell XLA how to let go of a record."""
    info = _immortal(TypeInfo(struct_size=ctypes.sizeof(TypeInfo), deleter=deleter))
    identity, described = (jax.ffi.pycapsule(ctypes.pointer(thing)) for thing in (type_id, info))
    jax.ffi.register_ffi_type(
        "noria_record", {"type_id": identity, "type_info": described}, platform="cpu"
    )


def _immortal(thing: Any) -> Any:
    """What XLA may use until the process ends: Python never frees it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    return thing


# --- the limit of the system ------------------------------------------------------------------------------


def memory_maps() -> tuple[int, int]:
    """How many memory maps the process has, and how many Linux allows; zeros on other systems."""
    maps, limit = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
    if not (maps.exists() and limit.exists()):
        return 0, 0
    return maps.read_bytes().count(b"\n"), int(limit.read_text())


def check_maps() -> None:
    """Raise an error if LLVM or XLA, which would crash, may find no memory for the next program.

    Raises:
        RuntimeError: if the process has more than 15/16 of the memory maps that it may have.
    """
    count, most = memory_maps()
    if count > most - most // 16:
        raise RuntimeError(
            f"This process has {count} memory maps; Linux allows {most} (vm.max_map_count), and too few "
            "may be left to compile another program. Call jax.clear_caches() now and then, for example "
            "after each 100 shapes, to give up compiled programs; or pad inputs, so that there are fewer "
            f"shapes; or raise the limit: sysctl vm.max_map_count={4 * most}"
        )
