"""The native runtime at the level of its LLVM functions: shares, the thread team, the mode.

A team is led here without XLA: ``perform``, the table of XLA's functions and the allocator are
callbacks, so that a test sees every call, and can refuse a task as XLA may.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from time import sleep
from typing import Any

import pytest
from models import AUTO

pytest.importorskip("llvmlite")

from llvmlite import ir
from llvmlite.binding import add_symbol

from noria.backends.native.codegen.llvm import I32, I64, POINTER, VOID, declared, share_of, stack
from noria.backends.native.runtime import target, xla_abi
from noria.backends.native.runtime.resident import RUN_TEAM, Resident
from noria.backends.native.runtime.state import CACHE_LINE, ShareState

pytestmark = pytest.mark.skipif(AUTO != "native", reason="there is no machine code here")

ADDRESS = ctypes.c_void_p
PERFORM = ctypes.CFUNCTYPE(None, ADDRESS, ADDRESS, *[ctypes.c_int64] * 3)
OF_XLA = ctypes.CFUNCTYPE(ADDRESS, ADDRESS)

#: Denormals are zero, and results that would be denormal are flushed to zero.
FLUSH = 0x8040

needs_x86 = pytest.mark.skipif(
    AUTO != "native" or target.available()[-1].name != "sse", reason="the mode is a register of x86"
)


# --- shares -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def share() -> Callable[[int, int, int], tuple[int, int]]:
    """``share(count, share, shares)``: the first of a share, and its end."""
    module = ir.Module("share")
    function = ir.Function(module, ir.FunctionType(I64, [I64] * 4), "share")
    b = ir.IRBuilder(function.append_basic_block())
    count, number, shares, wants_end = function.args
    first, end = share_of(b, count, number, shares)
    b.ret(b.select(b.trunc(wants_end, ir.IntType(1)), end, first))
    library = target.compile_module(module, target.chosen())
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)(library.address("share"))

    def share(count: int, number: int, shares: int, library: Any = library) -> tuple[int, int]:
        return call(count, number, shares, 0), call(count, number, shares, 1)

    return share


@pytest.mark.parametrize("shares", [1, 2, 3, 7, 16])
def test_shares_are_as_equal_as_can_be_and_the_first_is_the_largest(share, shares):
    for count in range(40):
        borders = [share(count, n, shares) for n in range(shares)]
        assert borders[0][0] == 0
        assert borders[-1][1] == count
        assert all(end == first for (_, end), (first, _) in pairwise(borders))
        sizes = [end - first for first, end in borders]
        assert max(sizes) - min(sizes) <= 1
        assert sizes[0] == max(sizes), "the calling thread starts before the others"


def test_counters_of_a_share_have_a_cache_line_each():
    claimed, done = (xla_abi.offset_of(ShareState, name) for name in ("claimed", "done"))
    assert done - claimed >= CACHE_LINE
    assert ctypes.sizeof(ShareState) - done >= CACHE_LINE


# --- a team without XLA -------------------------------------------------------------------------


@dataclass
class Calls:
    """What a team did: phases and shares in order, with the mode of the thread that ran them.

    ``places`` has the model, the part of scratch memory, the phase and the share.
    """

    performed: list[tuple[int, int]] = field(default_factory=list)
    finished: list[tuple[int, int]] = field(default_factory=list)
    places: list[tuple[int, ...]] = field(default_factory=list)
    early: int = 0
    modes: list[int] = field(default_factory=list)
    modes_after: list[int] = field(default_factory=list)
    scheduled: int = 0
    destroyed: int = 0
    allocated: int = 0
    freed: int = 0


class Mode:
    """MXCSR, the register of the floating-point mode; on other machines always zero."""

    DEFAULT = 0x1F80

    def __init__(self, library: Any):
        self.get = ctypes.CFUNCTYPE(ctypes.c_int32)(library.address("mode"))
        self.put = ctypes.CFUNCTYPE(None, ctypes.c_int32)(library.address("set_mode"))

    @staticmethod
    def emit(module: ir.Module) -> None:
        """Add ``i32 mode()`` and ``void set_mode(i32)`` to a module."""
        is_x86 = target.available()[-1].name == "sse"
        kinds = {"mode": ir.FunctionType(I32, []), "set_mode": ir.FunctionType(VOID, [I32])}
        for (name, kind), register in zip(kinds.items(), ("stmxcsr", "ldmxcsr"), strict=True):
            function = ir.Function(module, kind, name)
            b = ir.IRBuilder(function.append_basic_block())
            slot = stack(b, 4, 16)
            b.store(function.args[0] if function.args else I32(0), slot)
            if is_x86:
                b.call(declared(module, f"llvm.x86.sse.{register}", VOID, POINTER), [slot])
            b.ret(b.load(slot, typ=I32)) if name == "mode" else b.ret_void()


@pytest.fixture(scope="module")
def library() -> Any:
    """The resident code, with an allocator that calls back, and functions for the mode."""
    module = ir.Module("team")
    Resident(module).emit()
    for name in ("malloc", "free"):
        module.globals[name].name = f"counted_{name}"
        address = ctypes.cast(ALLOCATOR[name], ADDRESS).value
        add_symbol(f"counted_{name}", address)
    Mode.emit(module)
    return target.compile_module(module, target.chosen())


_C = ctypes.CDLL(None)
_C.malloc.restype, _C.malloc.argtypes, _C.free.argtypes = ADDRESS, [ctypes.c_size_t], [ADDRESS]
_calls = Calls()


@ctypes.CFUNCTYPE(ADDRESS, ctypes.c_int64)
def _malloc(size: int) -> int:
    _calls.allocated += 1
    return int(_C.malloc(size))


@ctypes.CFUNCTYPE(None, ADDRESS)
def _free(address: int) -> None:
    _calls.freed += 1
    _C.free(address)


ALLOCATOR = {"malloc": _malloc, "free": _free}


@contextmanager
def xla(library: Any, refuses: Callable[[int], bool]) -> Iterator[xla_abi.CallFrame]:
    """A frame whose table of functions runs tasks in threads, or ``refuses`` some of them."""
    threads, mode = list[threading.Thread](), Mode(library)

    def schedule(argument: int) -> int:
        wanted = xla_abi.ScheduleArgs.from_address(argument)
        number, _calls.scheduled = _calls.scheduled, _calls.scheduled + 1
        if refuses(number):
            return 1 + number
        task, data = ctypes.CFUNCTYPE(None, ADDRESS)(wanted.task), wanted.data

        def work() -> None:
            mode.put(Mode.DEFAULT)
            task(data)
            _calls.modes_after.append(mode.get())

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return 0

    def destroy(argument: int) -> int:
        assert xla_abi.DestroyArgs.from_address(argument).error
        _calls.destroyed += 1
        return 0

    functions = {"schedule": OF_XLA(schedule), "error_destroy": OF_XLA(destroy)}
    table = {name: ctypes.cast(f, ADDRESS) for name, f in functions.items()}
    api = xla_abi.Api(**table)
    yield xla_abi.CallFrame(api=ctypes.addressof(api))
    for thread in threads:
        thread.join()


def lead(
    library: Any,
    shares: int,
    refuses: Callable[[int], bool] = lambda task: False,
    time: int = 3,
    models: int = 1,
) -> Calls:
    """One call: packing, and two phases for each of ``time`` blocks of one step."""
    global _calls
    _calls, mode = Calls(), Mode(library)
    buffers = (ctypes.c_int64 * 4)(0, 0, 1, 1)  # two addresses and their strides

    @PERFORM
    def perform(job: int, table: int, phase: int, share: int, shares: int) -> None:
        _calls.early += len(_calls.finished) < phase * shares
        _calls.performed.append((phase, share))
        place = (ctypes.c_int64 * 2).from_address(table)
        _calls.places.append((*place, phase, share))
        if share % 2:
            sleep(2e-4)  # a slow thread, for which the others must wait
        _calls.modes.append(mode.get())
        _calls.finished.append((phase, share))

    integers = [ctypes.c_int64] * 8
    work = ctypes.CFUNCTYPE(ADDRESS, ADDRESS, ADDRESS, *integers, ADDRESS)(
        library.address(RUN_TEAM)
    )
    with xla(library, refuses) as frame:
        mode.put(Mode.DEFAULT)
        sizes = time, 8, 0, 1, shares, models, 2, 2
        given = ctypes.addressof(frame), ctypes.addressof(buffers), *sizes
        assert not work(*given, ctypes.cast(perform, ADDRESS))
        _calls.modes_after.append(mode.get())
    return _calls


REFUSED: dict[str, Callable[[int], bool]] = {
    "no task": lambda task: False,
    "every task": lambda task: True,
    "every other task": lambda task: task % 2 == 0,
}


@pytest.mark.parametrize("refused", REFUSED)
@pytest.mark.parametrize("shares", [1, 2, 5])
def test_a_team_does_all_work_once_and_frees_its_memory(library, shares, refused):
    """In the order of the phases, also where XLA refuses to run a task."""
    calls = lead(library, shares, REFUSED[refused])
    assert sorted(calls.performed) == [(p, s) for p in range(7) for s in range(shares)]
    assert not calls.early, "a phase began before the phase before was done"
    assert calls.scheduled == shares - 1
    assert calls.destroyed == sum(map(REFUSED[refused], range(shares - 1)))
    assert (calls.allocated, calls.freed) == (1, 1)


@pytest.mark.parametrize("refused", REFUSED)
@pytest.mark.parametrize(("models", "shares"), [(4, 1), (2, 2), (7, 3), (2, 5)])
def test_a_team_runs_models_side_by_side_or_in_turns(library, models, shares, refused):
    """Every part of every model once, and no part of scratch memory in two models at a time."""
    calls = lead(library, shares, REFUSED[refused], models=models)
    parts = 1 if models >= shares else shares
    found = [(model, phase, share) for model, _, phase, share in calls.places]
    expected = [(m, p, s) for m in range(models) for p in range(7) for s in range(parts)]
    assert sorted(found) == expected
    if models < shares:
        assert found == sorted(found, key=lambda part: part[:2]), "the models take turns"
        assert {place for _, place, *_ in calls.places} == {0}
        return
    assert {place for _, place, *_ in calls.places} == {*range(shares)}
    for part in range(shares):
        here = [(model, phase) for model, place, phase, *_ in calls.places if place == part]
        assert here == sorted(here), "one model after the other, through all phases"
    assert (calls.allocated, calls.freed) == (1, 1)


@needs_x86
@pytest.mark.parametrize("refused", REFUSED)
def test_work_runs_with_denormals_as_zero_and_leaves_the_mode_as_it_was(library, refused):
    """In the calling thread, and in the threads that help."""
    calls = lead(library, 4, REFUSED[refused], time=50)
    assert all(mode & FLUSH == FLUSH for mode in calls.modes)
    assert len(calls.modes_after) == 1 + calls.scheduled - calls.destroyed
    exceptions = 0x3F  # the bits that say which have occurred
    assert {mode & ~exceptions for mode in calls.modes_after} == {Mode.DEFAULT}
