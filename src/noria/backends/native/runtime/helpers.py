"""Threads of our own, for calls that do not go through XLA.

A *helper* waits for tasks in a `Mailbox`. It polls for a while, in which a caller who makes one
step after the other finds it awake, and then sleeps. Somebody who calls now and then (`SOON`) had
better compute alone: to wake a thread takes 10 to 60 microseconds, and after a longer pause Linux
may run it on the core of the caller. In C::

    void *hand_over(args) {                 // XLA_FFI_ThreadPool_Schedule of our frames
        for (box in args.context)
            if (compare_and_swap(&box.is_taken, 0, 1)) {
                box.data = args.data;
                box.task = args.task;       // sequentially consistent, as is_asleep
                if (box.is_asleep) {
                    lock(&box.mutex); signal(&box.condition); unlock(&box.mutex);
                }
                return NULL;
            }
        return an error;                    // the caller does the work
    }

    void serve(box) {
        for (polls = 0;; polls++) {
            if (box.task) {
                box.task(box.data);
                box.task = NULL; box.is_taken = 0; polls = 0;
            } else if (polls < POLLS_AWAKE) {
                pause(); every POLLS polls: sched_yield();
            } else {
                lock(&box.mutex);
                box.is_asleep = 1;
                while (!box.task) wait(&box.condition, &box.mutex);
                box.is_asleep = 0; polls = 0;
                unlock(&box.mutex);
            }
        }
    }

A helper never ends. No call waits for one: the leader of a team does the work that no worker has
claimed (`noria.backends.native.runtime.team`). So a process that was forked, without the threads of
its parent, computes alone.
"""

import ctypes
import threading
import time
from collections.abc import Callable

from llvmlite import ir

from noria.backends.native.codegen.llvm import (
    I32,
    I64,
    POINTER,
    VOID,
    advance,
    begin_function,
    call_pointer,
    declared,
    i64,
    loop,
    stack,
)
from noria.backends.native.plan.cores import cores
from noria.backends.native.runtime.frame import NULL, address_of, load_field, store_field
from noria.backends.native.runtime.state import Mailbox, Mailboxes
from noria.backends.native.runtime.team import POLLS, pause
from noria.backends.native.runtime.xla_abi import Api, ScheduleArgs, offset_of

#: How often a helper looks for a task before it sleeps: 0.1 to 0.5 ms, by the processor.
POLLS_AWAKE = 10_000

#: A call that begins so soon after the end of the call before it, in seconds, should have helpers.
SOON = 1e-4

_TASK = ir.FunctionType(VOID, [POINTER])


class Helpers:
    """Adds to a module the functions

    ====================== ====================================================================
    ``hand_over(args)``    give a task to a helper; an error if all are busy
    ``help_soon(args)``    the same, if a call with several threads has just ended (`SOON`)
    ``note_end()``         such a call has ended
    ``set_helpers(boxes)`` the `Mailboxes` of the helpers
    ``serve(mailbox)``     the work of a helper, without an end
    ``make_error(args)``   an error, which has no content
    ``drop_error(args)``   forget an error
    ====================== ====================================================================
    """

    def __init__(self, module: ir.Module):
        self.module = module

    def emit(self) -> None:
        for name, error in (("make_error", i64(1)), ("drop_error", i64(0))):
            b, _ = begin_function(self.module, name, POINTER, POINTER)
            b.ret(b.inttoptr(error, POINTER))
        helpers = ir.GlobalVariable(self.module, POINTER, "helpers")
        helpers.linkage, helpers.initializer = "internal", NULL
        self._helpers = address_of(helpers)
        self._hand_over()
        self._help_soon()
        self._note_end()
        self._set_helpers()
        self._serve()

    def _help_soon(self) -> None:
        b, (args,) = begin_function(self.module, "help_soon", POINTER, POINTER)
        boxes = b.load_atomic(self._helpers, "acquire", 8, typ=POINTER)
        with b.if_then(b.icmp_unsigned("!=", boxes, NULL)):
            ended = load_field(b, boxes, Mailboxes, "ended", kind=I64)
            pause = b.sub(self._now(b), ended)
            with b.if_then(b.icmp_signed("<", pause, i64(int(SOON * 1e9)))):
                store_field(b, boxes, args, ScheduleArgs, "context")
                b.ret(b.call(self.module.globals["hand_over"], [args]))
        b.ret(b.inttoptr(i64(1), POINTER))

    def _note_end(self) -> None:
        b, _ = begin_function(self.module, "note_end", VOID)
        boxes = b.load_atomic(self._helpers, "acquire", 8, typ=POINTER)
        with b.if_then(b.icmp_unsigned("!=", boxes, NULL)):
            store_field(b, self._now(b), boxes, Mailboxes, "ended")
        b.ret_void()

    def _set_helpers(self) -> None:
        b, (boxes,) = begin_function(self.module, "set_helpers", VOID, POINTER)
        b.atomic_rmw("xchg", self._helpers, b.ptrtoint(boxes, I64), "release")
        b.ret_void()

    def _now(self, b: ir.IRBuilder) -> ir.Value:
        """Nanoseconds of a clock that only goes forwards."""
        found = stack(b, 16, 16)
        clock = declared(self.module, "clock_gettime", I32, I32, POINTER)
        b.call(clock, [ir.Constant(I32, time.CLOCK_MONOTONIC), found])
        seconds, rest = (b.load(advance(b, found, n), typ=I64, align=8) for n in (0, 8))
        return b.add(b.mul(seconds, i64(10**9)), rest)

    def _hand_over(self) -> None:
        b, (args,) = begin_function(self.module, "hand_over", POINTER, POINTER)
        boxes = load_field(b, args, ScheduleArgs, "context")
        count = load_field(b, boxes, Mailboxes, "count", kind=I64)
        first = load_field(b, boxes, Mailboxes, "first")
        with loop(b, i64(0), count) as n:
            box = advance(b, first, b.mul(n, i64(ctypes.sizeof(Mailbox))))
            found = b.cmpxchg(_field(b, box, "is_taken"), i64(0), i64(1), "acq_rel", "acquire")
            with b.if_then(b.extract_value(found, 1)):
                self._put(b, args, box)
                b.ret(NULL)
        b.ret(b.inttoptr(i64(1), POINTER))

    def _put(self, b: ir.IRBuilder, args: ir.Value, box: ir.Value) -> None:
        store_field(b, load_field(b, args, ScheduleArgs, "data"), box, Mailbox, "data")
        task = b.ptrtoint(load_field(b, args, ScheduleArgs, "task"), I64)
        b.atomic_rmw("xchg", _field(b, box, "task"), task, "seq_cst")
        asleep = b.load_atomic(_field(b, box, "is_asleep"), "seq_cst", 8, typ=I64)
        with b.if_then(b.icmp_signed("!=", asleep, i64(0))):
            self._pthread(b, "mutex_lock", box, "mutex")
            self._pthread(b, "cond_signal", box, "condition")
            self._pthread(b, "mutex_unlock", box, "mutex")

    def _serve(self) -> None:
        b, (box,) = begin_function(self.module, "serve", VOID, POINTER)
        task_at, before = _field(b, box, "task"), b.block
        check, work, idle, rest, sleep, look, wait, wake = map(
            b.append_basic_block,
            ("check", "work", "idle", "rest", "sleep", "look", "wait", "wake"),
        )
        b.branch(check)
        b.position_at_end(check)
        polls = b.phi(I64)
        polls.add_incoming(i64(0), before)
        task = b.load_atomic(task_at, "acquire", 8, typ=I64)
        b.cbranch(b.icmp_signed("!=", task, i64(0)), work, idle)

        b.position_at_end(work)
        call_pointer(b, b.inttoptr(task, POINTER), _TASK, [load_field(b, box, Mailbox, "data")])
        b.atomic_rmw("xchg", task_at, i64(0), "release")
        b.atomic_rmw("xchg", _field(b, box, "is_taken"), i64(0), "release")
        polls.add_incoming(i64(0), b.block)
        b.branch(check)

        b.position_at_end(idle)
        b.cbranch(b.icmp_signed("<", polls, i64(POLLS_AWAKE)), rest, sleep)

        b.position_at_end(rest)
        pause(b)
        with b.if_then(b.icmp_signed("==", b.urem(polls, i64(POLLS)), i64(0))):
            b.call(declared(b.module, "sched_yield", I32), [])
        polls.add_incoming(b.add(polls, i64(1)), b.block)
        b.branch(check)

        b.position_at_end(sleep)
        self._pthread(b, "mutex_lock", box, "mutex")
        b.atomic_rmw("xchg", _field(b, box, "is_asleep"), i64(1), "seq_cst")
        b.branch(look)
        b.position_at_end(look)
        task = b.load_atomic(task_at, "seq_cst", 8, typ=I64)
        b.cbranch(b.icmp_signed("!=", task, i64(0)), wake, wait)
        b.position_at_end(wait)
        self._pthread(b, "cond_wait", box, "condition", "mutex")
        b.branch(look)
        b.position_at_end(wake)
        b.atomic_rmw("xchg", _field(b, box, "is_asleep"), i64(0), "seq_cst")
        self._pthread(b, "mutex_unlock", box, "mutex")
        polls.add_incoming(i64(0), b.block)
        b.branch(check)

    def _pthread(self, b: ir.IRBuilder, name: str, box: ir.Value, *fields: str) -> None:
        """Call a function of POSIX threads."""
        function = declared(self.module, f"pthread_{name}", I32, *[POINTER] * len(fields))
        b.call(function, [_field(b, box, field) for field in fields])


def _field(b: ir.IRBuilder, box: ir.Value, name: str) -> ir.Value:
    return advance(b, box, offset_of(Mailbox, name))


# --- Python ---------------------------------------------------------------------------------------


class Pool:
    """Helpers, and what a frame needs to reach them.

    Args:
        address: the address of a function of `Helpers`, by name.

    Attributes:
        api: XLA's table of functions, of which a kernel calls those that are here.
        boxes: the context of a frame.
    """

    def __init__(self, address: Callable[[str], int]):
        self.api = Api(
            schedule=address("hand_over"),
            error_create=address("make_error"),
            error_destroy=address("drop_error"),
        )
        self.boxes, self._lock = Mailboxes(), threading.Lock()
        self._serve, self._set_helpers = (
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address(name))
            for name in ("serve", "set_helpers")
        )

    def start(self) -> None:
        """Start the helpers, if they are not there: one for each core but that of the caller."""
        with self._lock:
            if self.boxes.count:
                return
            self._mailboxes = (Mailbox * max(1, cores() - 1))()
            for n, box in enumerate(self._mailboxes):
                for name, kind in (("mutex", "mutex"), ("condition", "cond")):
                    field = ctypes.addressof(box) + offset_of(Mailbox, name)
                    ctypes.pythonapi[f"pthread_{kind}_init"](ctypes.c_void_p(field), None)
                threading.Thread(
                    target=self._serve, args=[ctypes.addressof(box)], name=f"noria-{n}", daemon=True
                ).start()
            self.boxes.first = ctypes.addressof(self._mailboxes)
            self.boxes.count = len(self._mailboxes)
            self._set_helpers(ctypes.addressof(self.boxes))
