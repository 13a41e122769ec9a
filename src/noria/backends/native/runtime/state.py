"""Structures in memory that threads share: the team of a call, its shares, and records of kernels.

Compiled code and Python both use these layouts.
"""

import ctypes
from typing import Any, ClassVar

#: Bytes of a cache line, on x86-64 and on most ARM cores.
CACHE_LINE = 64

_PADDING = CACHE_LINE // ctypes.sizeof(ctypes.c_int64) - 1


class TeamState(ctypes.Structure):
    """The state of the threads of one call; a `ShareState` for each share follows it in memory.

    Workers that have arrived, references, shares, phases of the call, of one model and of one time
    block, the function of the kernel, its table of buffers and their number, and the sizes of the
    call.
    """

    _fields_: ClassVar[Any] = tuple(
        (name, ctypes.c_int64)
        for name in (
            "arrived refcount shares phases phases_of_model phases_of_block perform table buffers "
            "time batch reverse block_steps models"
        ).split()
    )


class ShareState(ctypes.Structure):
    """Of one share, how many phases are claimed, and how many are done.

    Different threads write the two counters, and all threads poll the second. They are a cache
    line apart, so that a write of one does not take the other from the caches of other cores.
    """

    _fields_: ClassVar[Any] = (
        ("claimed", ctypes.c_int64),
        ("padding_of_claimed", ctypes.c_int64 * _PADDING),
        ("done", ctypes.c_int64),
        ("padding_of_done", ctypes.c_int64 * _PADDING),
    )


class Mailbox(ctypes.Structure):
    """Where a helper gets its tasks: in the first cache line from a caller, in the second its own.

    Whether somebody has taken the helper, the task and its argument; whether the helper sleeps, and
    what wakes it: a mutex and a condition of POSIX threads, which have at most 64 bytes.
    """

    _fields_: ClassVar[Any] = (
        *((name, ctypes.c_int64) for name in ("is_taken", "task")),
        ("data", ctypes.c_void_p),
        ("padding_of_task", ctypes.c_int64 * (_PADDING - 2)),
        ("is_asleep", ctypes.c_int64),
        ("padding_of_sleep", ctypes.c_int64 * _PADDING),
        *((name, ctypes.c_int64 * (_PADDING + 1)) for name in ("mutex", "condition")),
    )


class Mailboxes(ctypes.Structure):
    """How many mailboxes there are, the first, and when a call with helpers has ended last."""

    _fields_: ClassVar[Any] = (
        ("count", ctypes.c_int64),
        ("first", ctypes.c_void_p),
        ("ended", ctypes.c_int64),
    )


class Record(ctypes.Structure):
    """A kernel that the process has, or had: its name, its handler, and its references.

    The reference count is -1 while there is no handler. A record is never freed, so that compiled
    code can walk the list of all records without a lock.
    """

    _fields_: ClassVar[Any] = (
        ("name", ctypes.c_char * 24),
        ("refcount", ctypes.c_int64),
        ("handler", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
    )
