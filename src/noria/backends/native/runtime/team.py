"""The thread team of a call: how shares of its work are claimed, run and waited for.

The work of a call consists of *phases*, each of which is cut into the same number of shares
(`noria.backends.native.runtime.phases`). All shares of a phase are done before the next begins. The
thread that makes the call is the *leader*; it owns share 0. XLA's thread pool is asked to run a
*worker* for each other share. In C::

    void run_leader(team) {
        for (phase = 0; phase < team.phases; phase++) {
            wait(team, phase);
            execute_share(team, phase, 0);
            for (share = 1; share < team.shares; share++)
                if (claim(team, share, phase)) execute_share(team, phase, share);
        }
        wait(team, team.phases);
        release_team(team);
    }

    void run_worker(team) {
        share = ++team.arrived;
        while ((phase = team.state[share].claimed) < team.phases) {
            wait(team, phase);
            if (claim(team, share, phase)) execute_share(team, phase, share);
        }
        release_team(team);
    }

    bool claim(team, share, phase) {         // one of the two threads that may want it gets it
        return compare_and_swap(&team.state[share].claimed, phase, phase + 1);
    }

    void wait(team, phase) {                 // until all earlier phases are done
        for (share = 0; share < team.shares; share++)
            while (team.state[share].done < phase) pause();
    }

    void execute_share(team, phase, share) {
        perform(team, phase, share);
        team.state[share].done = phase + 1;
    }

XLA gives no guarantee that a task of its pool ever runs. So the leader never waits for a share that
is not claimed: it claims that share and does the work itself. `wait` blocks only on claimed shares,
each of which has a running thread. A worker keeps its share from phase to phase, and so the weights
of that share stay in the cache of its core. The last thread to release the team frees it.

A call may have several *models*: the same loop, with weights and arrays of its own for each. With
at least as many models as shares, a share is some models, each of which goes through all phases
without a barrier. With fewer, the models take turns, and a share is a part of each::

    void perform(team, phase, share) {       // an array of a model: its base, and a stride
        if (team.models >= team.shares)      // the team has one phase
            for (model in models of share)
                for (phase = 0; phase < team.phases_of_model; phase++)
                    kernel(team, table of model, phase, 0, 1);
        else
            kernel(team, table of phase / phases_of_model, phase % phases_of_model, share, shares);
    }

Scratch memory is an array of its own for each share in the first case. In the second case it is one
array.
"""

import ctypes
import platform
from collections.abc import Callable

from llvmlite import ir

from noria.backends.native.codegen.llvm import (
    I8,
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
    share_of,
    stack,
)
from noria.backends.native.runtime.state import ShareState, TeamState
from noria.backends.native.runtime.xla_abi import offset_of

#: The type of ``perform(team, table, phase, share, shares)`` of a kernel.
_PERFORM = ir.FunctionType(VOID, [POINTER, POINTER, *[I64] * 3])

#: How often a thread polls a counter before it yields its core, in case more threads run than
#: there are cores. With a pause instruction each, that takes about as long as a short phase.
#: ``python benchmarks/tuning.py POLLS`` repeats the measurement.
POLLS = 100

#: Bits 15 and 6 of the register MXCSR of x86: flush to zero, and denormals are zero.
_FLUSH_DENORMALS = 0x8040


class Team:
    """The `TeamState` at an address, for the function which ``b`` emits."""

    def __init__(self, b: ir.IRBuilder, pointer: ir.Value):
        self.b, self.pointer = b, pointer

    def address(self, name: str) -> ir.Value:
        """The address of a field."""
        return advance(self.b, self.pointer, offset_of(TeamState, name))

    def load(self, name: str) -> ir.Value:
        """Load a field."""
        return self.b.load(self.address(name), typ=I64, align=8)

    def counter(self, share: ir.Value, name: str) -> ir.Value:
        """The address of a counter in the `ShareState` of a share."""
        b = self.b
        first = ctypes.sizeof(TeamState) + offset_of(ShareState, name)
        return advance(
            b, self.pointer, b.add(b.mul(share, i64(ctypes.sizeof(ShareState))), i64(first))
        )

    def claim(self, share: ir.Value, phase: ir.Value) -> ir.Value:
        """Whether this thread claims a phase of a share: it is the first to advance the counter."""
        b = self.b
        claimed = self.counter(share, "claimed")
        found = b.cmpxchg(claimed, phase, b.add(phase, i64(1)), "acq_rel", "acquire")
        return b.extract_value(found, 1)

    def wait(self, phase: ir.Value) -> None:
        """Wait until all shares of the phases before this one are done."""
        b = self.b
        with loop(b, i64(0), self.load("shares")) as share:
            done, before = self.counter(share, "done"), b.block
            check, rest, poll, sleep, ready = map(
                b.append_basic_block, ("check", "rest", "poll", "sleep", "ready")
            )
            b.branch(check)
            b.position_at_end(check)
            polls = b.phi(I64)
            polls.add_incoming(i64(0), before)
            b.cbranch(
                b.icmp_signed("<", b.load_atomic(done, "acquire", 8, typ=I64), phase), rest, ready
            )
            b.position_at_end(rest)
            more = b.add(polls, i64(1))
            b.cbranch(b.icmp_signed("<", polls, i64(POLLS)), poll, sleep)
            b.position_at_end(poll)
            pause(b)
            b.branch(check)
            b.position_at_end(sleep)
            b.call(declared(b.module, "sched_yield", I32), [])
            b.branch(check)
            for block in (poll, sleep):
                polls.add_incoming(more, block)
            b.position_at_end(ready)


class _TableOfModel:
    """The table of the buffers of one model; that of the call itself if there is one model."""

    def __init__(self, team: Team):
        b = self.b = team.b
        self.whole, buffers = b.inttoptr(team.load("table"), POINTER), team.load("buffers")
        is_one = b.icmp_signed("==", team.load("models"), i64(1))
        self.count = b.select(is_one, i64(0), buffers)
        self.strides = advance(b, self.whole, b.mul(buffers, i64(8)))
        own = b.alloca(I8, b.mul(buffers, i64(8)))
        own.align, own.type = 16, POINTER
        self.pointer = b.select(is_one, self.whole, own)

    def fill(self, model: ir.Value, scratch: ir.Value) -> None:
        """Write the addresses of a model, and of a part of the scratch memory."""
        b = self.b
        final = b.sub(self.count, i64(1))
        with loop(b, i64(0), self.count) as n:
            base, stride = (
                b.load(b.gep(table, [n], source_etype=I64), typ=I64, align=8)
                for table in (self.whole, self.strides)
            )
            number = b.select(b.icmp_signed("==", n, final), scratch, model)
            there = b.gep(self.pointer, [n], source_etype=I64)
            b.store(b.add(base, b.mul(number, stride)), there, align=8)


class ThreadTeam:
    """Adds to a module the functions

    ====================================== ====================================================
    ``create_team(table, *sizes, shares,   a `TeamState` with a reference for each share;
    models, buffers, phases, perform)``    null if there is no memory
    ``run_leader(team)``                   do the work, together with the workers that come
    ``run_worker(team)``                   a task for XLA's thread pool
    ``release_team(team)``                 give up a reference, also for a worker that XLA refused
    ====================================== ====================================================

    ``phases`` is the number of phases of a time block. ``perform(team, table, phase, share,
    shares)`` does a share of a phase of a model; the module of the kernel has it
    (`noria.backends.native.runtime.phases.Phases`). The table has the addresses of all
    ``buffers``, scratch memory last, and after them their strides in bytes from model to model.

    These functions stay in memory for the life of the process: a worker can come when all work is
    done, the call is over, and the kernel is released. It calls ``perform`` only for a phase that
    it has claimed, and the leader waits for each claimed phase.
    """

    def __init__(self, module: ir.Module):
        self.module = module

    def emit(self) -> None:
        self._create_team()
        self._release_team()
        self._execute_share()
        self._run_leader()
        self._run_worker()

    def _create_team(self) -> None:
        b, arguments = begin_function(
            self.module, "create_team", POINTER, POINTER, *[I64] * 8, POINTER
        )
        table, time, batch, reverse, block_steps, shares, models, buffers, phases, perform = (
            arguments
        )
        blocks = b.udiv(b.add(time, b.sub(block_steps, i64(1))), block_steps)
        bytes_ = b.add(i64(ctypes.sizeof(TeamState)), b.mul(shares, i64(ctypes.sizeof(ShareState))))
        pointer = b.call(declared(self.module, "malloc", POINTER, I64), [bytes_])
        with b.if_then(b.icmp_unsigned("==", pointer, ir.Constant(POINTER, None))):
            b.ret(pointer)
        team = Team(b, pointer)
        of_model = b.add(b.mul(blocks, phases), i64(1))
        by_models = b.icmp_signed(">=", models, shares)
        for name, value in {
            "arrived": i64(0),
            "refcount": shares,
            "shares": shares,
            "phases": b.select(by_models, i64(1), b.mul(models, of_model)),
            "phases_of_model": of_model,
            "phases_of_block": phases,
            "perform": b.ptrtoint(perform, I64),
            "table": b.ptrtoint(table, I64),
            "time": time,
            "batch": batch,
            "reverse": reverse,
            "block_steps": block_steps,
            "models": models,
            "buffers": buffers,
        }.items():
            b.store(value, team.address(name), align=8)
        with loop(b, i64(0), shares) as share:
            for name in ("claimed", "done"):
                b.store(i64(0), team.counter(share, name), align=8)
        b.ret(pointer)

    def _release_team(self) -> None:
        b, (pointer,) = begin_function(self.module, "release_team", VOID, POINTER)
        before = b.atomic_rmw("sub", Team(b, pointer).address("refcount"), i64(1), "acq_rel")
        with b.if_then(b.icmp_signed("==", before, i64(1))):
            b.call(declared(self.module, "free", VOID, POINTER), [pointer])
        b.ret_void()

    def _execute_share(self) -> None:
        b, arguments = begin_function(self.module, "execute_share", VOID, POINTER, I64, I64)
        pointer, phase, share = arguments
        team = Team(b, pointer)
        shares, models, phases = map(team.load, ("shares", "models", "phases_of_model"))
        by_models = b.icmp_signed(">=", models, shares)

        def choose(one: ir.Value, other: ir.Value) -> ir.Value:
            return b.select(by_models, one, other)

        first, last = share_of(b, models, share, shares)
        turn = b.udiv(phase, phases)
        first, last = choose(first, turn), choose(last, b.add(turn, i64(1)))
        begin = choose(i64(0), b.urem(phase, phases))
        end = choose(phases, b.add(begin, i64(1)))
        part = choose(i64(0), share), choose(i64(1), shares)
        table = _TableOfModel(team)
        perform = b.inttoptr(team.load("perform"), POINTER)
        with loop(b, first, last) as model:
            table.fill(model, choose(share, i64(0)))
            with loop(b, begin, end) as n:
                call_pointer(b, perform, _PERFORM, [pointer, table.pointer, n, *part])
        b.atomic_rmw("xchg", team.counter(share, "done"), b.add(phase, i64(1)), "release")
        b.ret_void()

    def _run_leader(self) -> None:
        b, (pointer,) = begin_function(self.module, "run_leader", VOID, POINTER)
        team, execute_share = Team(b, pointer), self.module.globals["execute_share"]
        restore = _flush_denormals(b)
        shares, phases = team.load("shares"), team.load("phases")
        with loop(b, i64(0), phases) as phase:
            team.wait(phase)
            b.call(execute_share, [pointer, phase, i64(0)])
            with loop(b, i64(1), shares) as share, b.if_then(team.claim(share, phase)):
                b.call(execute_share, [pointer, phase, share])
        team.wait(phases)
        restore()
        b.call(self.module.globals["release_team"], [pointer])
        b.ret_void()

    def _run_worker(self) -> None:
        b, (pointer,) = begin_function(self.module, "run_worker", VOID, POINTER)
        team, execute_share = Team(b, pointer), self.module.globals["execute_share"]
        restore = _flush_denormals(b)
        phases = team.load("phases")
        before = b.atomic_rmw("add", team.address("arrived"), i64(1), "acq_rel")
        share = b.add(before, i64(1))
        look, take, done = (b.append_basic_block(name) for name in ("look", "take", "done"))
        b.branch(look)
        b.position_at_end(look)
        phase = b.load_atomic(team.counter(share, "claimed"), "acquire", 8, typ=I64)
        b.cbranch(b.icmp_signed("<", phase, phases), take, done)
        b.position_at_end(take)
        team.wait(phase)
        with b.if_then(team.claim(share, phase)):
            b.call(execute_share, [pointer, phase, share])
        b.branch(look)
        b.position_at_end(done)
        restore()
        b.call(self.module.globals["release_team"], [pointer])
        b.ret_void()


def pause(b: ir.IRBuilder) -> None:
    """Leave the core to its other thread for some cycles, in a loop that waits."""
    if _is_x86():
        b.call(declared(b.module, "llvm.x86.sse2.pause", VOID), [])


def _flush_denormals(b: ir.IRBuilder) -> Callable[[], None]:
    """Take denormal numbers for zero, as XLA's own threads do; a function that emits the way back.

    The mode belongs to the thread, which is the caller's: NumPy must find it as it was.
    """
    if not _is_x86():
        return lambda: None
    get, put = (
        declared(b.module, f"llvm.x86.sse.{name}", VOID, POINTER) for name in ("stmxcsr", "ldmxcsr")
    )
    before, now = stack(b, 4, 16), stack(b, 4, 16)
    b.call(get, [before])
    b.store(b.or_(b.load(before, typ=I32), ir.Constant(I32, _FLUSH_DENORMALS)), now)
    b.call(put, [now])

    def restore() -> None:
        b.call(put, [before])

    return restore


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")
