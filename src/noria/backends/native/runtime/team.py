"""How the work of a call is shared out to XLA's threads, which need not ever run, as functions in LLVM's language.

The work is done in *phases*, each in as many shares as there are: one packs the weights; then for a stretch of steps come what is prepared for them, if anything, those of the
loop, and what is left to finish, if anything; and so on until the last step. All shares of a phase are done before the next begins.

The first share is the caller's, who *leads*. Each other share is that of a thread, if one comes (*helps*). Who counts a phase of a share as begun
does it: the thread, as soon as the phase before is done; or the leader, when it has done its own share and finds another not begun. So nobody waits for a
thread that does not run, and one that does keeps its share, whose weights are in its cache. What the threads share is freed by the last to leave.
"""

import ctypes
import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from noria.backends.native.codegen.llvm import (
    I32,
    I64,
    POINTER,
    VOID,
    Callee,
    at,
    declared,
    i64,
    least,
    loop,
    share_of,
    stack,
)
from noria.backends.native.plan.tiling import KernelPlan
from noria.backends.native.runtime.xla_abi import ShareState, TeamState, offset_of

#: The type of ``perform(job, phase, share)``.
_PERFORM = ir.FunctionType(VOID, [POINTER, I64, I64])

#: How often to look before the processor is left to others.
_LOOKS = 100


class _Functions:
    """Functions of a module that deal with a `TeamState`."""

    def __init__(self, module: ir.Module):
        self.module = module

    def _function(self, name: str, result: ir.Type, *kinds: ir.Type) -> Any:
        function = ir.Function(self.module, ir.FunctionType(result, kinds), name)
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        return function.args

    def _field(self, job: ir.Value, name: str) -> ir.Value:
        return self.b.load(at(self.b, job, offset_of(TeamState, name)), typ=I64, align=8)


class ThreadTeam(_Functions):
    """Adds to a module the functions

    ============================================================ ====================================================
    ``hire(table, *sizes, shares, phases, perform) -> job``      the job of the threads; null if there is no memory
    ``lead(job)``                                                do the work, with whoever helps
    ``help(job)``                                                the work of another thread
    ``leave(job)``                                               for a thread that will not come
    ============================================================ ====================================================

    ``phases`` are those of a stretch, and ``perform(job, phase, share)`` does one of them, as `Phases` emits it.

    These functions stay in memory for the life of the process: a thread can come when all work is done, the
    call is over, and the kernel is released. A thread is in ``perform`` only while its leader waits for it.
    """

    def emit(self) -> None:
        self._hire()
        self._leave()
        self._perform()
        self._lead()
        self._help()

    # --- pieces -----------------------------------------------------------------------------------------------------

    def _seat(self, job: ir.Value, share: ir.Value, name: str) -> ir.Value:
        b = self.b
        shift = b.add(
            b.mul(share, i64(ctypes.sizeof(ShareState))),
            i64(ctypes.sizeof(TeamState) + offset_of(ShareState, name)),
        )
        return at(b, job, shift)

    def _take(self, job: ir.Value, share: ir.Value, phase: ir.Value) -> ir.Value:
        """Whether this phase of a share is ours to do."""
        address = self._seat(job, share, "begun")
        found = self.b.cmpxchg(address, phase, self.b.add(phase, i64(1)), "acq_rel", "acquire")
        return self.b.extract_value(found, 1)

    def _wait(self, job: ir.Value, phase: ir.Value) -> None:
        """Until all shares of the phases before this one are done."""
        b = self.b
        with loop(b, i64(0), self._field(job, "shares")) as share:
            done, before = self._seat(job, share, "done"), b.block
            check, rest, pause, sleep, ready = map(
                b.append_basic_block, ("check", "rest", "pause", "sleep", "ready")
            )
            b.branch(check)
            b.position_at_end(check)
            looks = b.phi(I64)
            looks.add_incoming(i64(0), before)
            b.cbranch(
                b.icmp_signed("<", b.load_atomic(done, "acquire", 8, typ=I64), phase), rest, ready
            )
            b.position_at_end(rest)
            more = b.add(looks, i64(1))
            b.cbranch(b.icmp_signed("<", looks, i64(_LOOKS)), pause, sleep)
            b.position_at_end(pause)
            if _is_x86():
                b.call(declared(self.module, "llvm.x86.sse2.pause", VOID), [])
            b.branch(check)
            b.position_at_end(sleep)
            b.call(declared(self.module, "sched_yield", I32), [])
            b.branch(check)
            for block in (pause, sleep):
                looks.add_incoming(more, block)
            b.position_at_end(ready)

    def _with_denormals_as_zero(self) -> Callable[[], None]:
        """As in XLA's own threads; what is returned emits code that sets the mode back."""
        b = self.b
        if not _is_x86():
            return lambda: None
        get, put = (
            declared(self.module, f"llvm.x86.sse.{name}", VOID, POINTER)
            for name in ("stmxcsr", "ldmxcsr")
        )
        before, now = stack(b, 4, 16), stack(b, 4, 16)
        b.call(get, [before])
        b.store(
            b.or_(b.load(before, typ=I32), ir.Constant(I32, 0x8040)), now
        )  # flush to zero, denormals are zero
        b.call(put, [now])

        def restore() -> None:
            b.call(put, [before])

        return restore

    # --- functions --------------------------------------------------------------------------------------------------

    def _hire(self) -> None:
        table, time, batch, reverse, stretch, shares, phases, perform = self._function(
            "hire", POINTER, POINTER, *[I64] * 6, POINTER
        )
        b = self.b
        stretches = b.udiv(b.add(time, b.sub(stretch, i64(1))), stretch)
        bytes_ = b.add(i64(ctypes.sizeof(TeamState)), b.mul(shares, i64(ctypes.sizeof(ShareState))))
        job = b.call(declared(self.module, "malloc", POINTER, I64), [bytes_])
        with b.if_then(b.icmp_unsigned("==", job, ir.Constant(POINTER, None))):
            b.ret(job)
        for name, value in {
            "arrived": i64(0),
            "holders": shares,
            "shares": shares,
            "phases": b.add(b.mul(stretches, phases), i64(1)),
            "phases_of_stretch": phases,
            "perform": b.ptrtoint(perform, I64),
            "table": b.ptrtoint(table, I64),
            "time": time,
            "batch": batch,
            "reverse": reverse,
            "stretch": stretch,
        }.items():
            b.store(value, at(b, job, offset_of(TeamState, name)), align=8)
        with loop(b, i64(0), shares) as share:
            for name in ("begun", "done"):
                b.store(i64(0), self._seat(job, share, name), align=8)
        b.ret(job)

    def _leave(self) -> None:
        (job,) = self._function("leave", VOID, POINTER)
        b = self.b
        before = b.atomic_rmw("sub", at(b, job, offset_of(TeamState, "holders")), i64(1), "acq_rel")
        with b.if_then(b.icmp_signed("==", before, i64(1))):
            b.call(declared(self.module, "free", VOID, POINTER), [job])
        b.ret_void()

    def _perform(self) -> None:
        """``work(job, phase, share)``: do a share of a phase, and say so."""
        job, phase, share = self._function("work", VOID, POINTER, I64, I64)
        b = self.b
        perform = b.inttoptr(self._field(job, "perform"), POINTER)
        b.call(Callee(perform, _PERFORM), [job, phase, share])
        b.atomic_rmw("xchg", self._seat(job, share, "done"), b.add(phase, i64(1)), "release")
        b.ret_void()

    def _lead(self) -> None:
        (job,) = self._function("lead", VOID, POINTER)
        b, perform = self.b, self.module.globals["work"]
        restore = self._with_denormals_as_zero()
        shares, phases = self._field(job, "shares"), self._field(job, "phases")
        with loop(b, i64(0), phases) as phase:
            self._wait(job, phase)
            b.call(perform, [job, phase, i64(0)])
            with loop(b, i64(1), shares) as share, b.if_then(self._take(job, share, phase)):
                b.call(perform, [job, phase, share])
        self._wait(job, phases)
        restore()
        b.call(self.module.globals["leave"], [job])
        b.ret_void()

    def _help(self) -> None:
        (job,) = self._function("help", VOID, POINTER)
        b, perform = self.b, self.module.globals["work"]
        restore = self._with_denormals_as_zero()
        phases = self._field(job, "phases")
        share = b.add(
            b.atomic_rmw("add", at(b, job, offset_of(TeamState, "arrived")), i64(1), "acq_rel"),
            i64(1),
        )
        look, take, done = (b.append_basic_block(name) for name in ("look", "take", "done"))
        b.branch(look)
        b.position_at_end(look)
        phase = b.load_atomic(self._seat(job, share, "begun"), "acquire", 8, typ=I64)
        b.cbranch(b.icmp_signed("<", phase, phases), take, done)
        b.position_at_end(take)
        self._wait(job, phase)
        with b.if_then(self._take(job, share, phase)):
            b.call(perform, [job, phase, share])
        b.branch(look)
        b.position_at_end(done)
        restore()
        b.call(self.module.globals["leave"], [job])
        b.ret_void()


class Phases(_Functions):
    """Adds to the module of a kernel the function ``perform(job, phase, share)``."""

    def __init__(self, plan: KernelPlan, module: ir.Module):
        super().__init__(module)
        self.plan = plan

    def emit(self) -> None:
        self._perform()

    def of_stretch(self, b: ir.IRBuilder, stretch: ir.Value) -> ir.Value:
        """How many there are in a stretch of steps."""
        loops = b.mul(stretch, i64(len(self.plan.tilings))) if self.plan.by_features else i64(1)
        return b.add(
            loops,
            i64(sum(name in self.module.globals for name in ("block_prologue", "block_epilogue"))),
        )

    def _perform(self) -> None:
        """``perform(job, phase, share)``: do a share of a phase."""
        job, phase, share = self._function("perform", VOID, POINTER, I64, I64)
        b, shares = self.b, self._field(job, "shares")
        table = b.inttoptr(self._field(job, "table"), POINTER)
        with b.if_else(b.icmp_signed("==", phase, i64(0))) as (first, other):
            with first:
                b.call(self.module.globals["pack"], [table, share, shares])
            with other:
                self._steps(job, table, b.sub(phase, i64(1)), share, shares)
        b.ret_void()

    def _steps(
        self, job: ir.Value, table: ir.Value, phase: ir.Value, share: ir.Value, shares: ir.Value
    ) -> None:
        """A share of a phase of the loop, or of the totals."""
        b, functions = self.b, self.module.globals
        sizes = [self._field(job, name) for name in ("time", "batch", "reverse", "stretch")]
        time, batch, _, stretch = sizes
        phases = self._field(job, "phases_of_stretch")
        number, begin = b.urem(phase, phases), b.mul(b.udiv(phase, phases), stretch)
        end = least(b, b.add(begin, stretch), time)

        def advance(number: ir.Value) -> None:
            if not self.plan.by_features:
                b.call(
                    functions["run"],
                    [table, *sizes, begin, end, *share_of(b, batch, share, shares)],
                )
                return
            stages = i64(len(self.plan.tilings))
            step = b.add(begin, b.udiv(number, stages))
            with b.if_then(b.icmp_signed("<", step, end)):
                b.call(
                    functions["run"], [table, *sizes, step, b.urem(number, stages), share, shares]
                )

        before, after = ("block_prologue" in functions, "block_epilogue" in functions)
        done = b.append_basic_block("done")
        for name, number_of_it in [("block_prologue", i64(0))] * before + [
            ("block_epilogue", b.sub(phases, i64(1)))
        ] * after:
            with b.if_then(b.icmp_signed("==", number, number_of_it)):
                b.call(functions[name], [table, *sizes, begin, end, share, shares])
                b.branch(done)
        advance(b.sub(number, i64(int(before))))
        b.branch(done)
        b.position_at_end(done)


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")
