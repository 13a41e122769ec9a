"""Machine code that stays for the life of the process, and manages the kernels, which do not.

XLA's registry cannot remove a handler. So XLA knows one handler for all kernels, which finds the
kernel of a call by its name, an attribute of the call. When XLA makes an executable, each call in
it takes a reference to its kernel; when XLA frees the executable, each call gives it up, possibly
in a thread of XLA. A kernel can be released when its reference count is zero. None of this needs
the interpreter of Python.
"""

from collections.abc import Sequence

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
)
from noria.backends.native.runtime.frame import (
    HANDLER,
    NULL,
    Frame,
    address_of,
    load_field,
    store_field,
)
from noria.backends.native.runtime.helpers import Helpers
from noria.backends.native.runtime.state import Record
from noria.backends.native.runtime.team import ThreadTeam
from noria.backends.native.runtime.xla_abi import (
    DestroyArgs,
    ScheduleArgs,
    StateArgs,
    Text,
    offset_of,
)

#: The functions that the handler of a kernel calls, symbols of the process: workers are threads of
#: XLA, or helpers if they are likely to be awake.
RUN_TEAM, RUN_WITH_HELPERS = "noria_run_team", "noria_run_with_helpers"

#: Their type, see `Resident`.
RUN_TEAM_TYPE = ir.FunctionType(POINTER, [POINTER, POINTER, *[I64] * 8, POINTER])

#: The variable with the number by which XLA knows the type of a record.
TYPE_ID = "noria_type_id"

# Enumerators of c_api.h: XLA_FFI_ExecutionStage_INSTANTIATE and _EXECUTE, and the type of an
# attribute that is a string, XLA_FFI_AttrType_STRING.
_INSTANTIATE, _EXECUTE = 0, 3
_STRING = 4

_RELEASED = (
    "this process does not have it, or has released it because no live program used it; "
    "trace and compile the function again: a serialized program cannot bring its kernels along"
)


class Resident:
    """Adds to a module the functions

    ============================================ ==============================================
    ``instantiate(frame)``, ``execute(frame)``   XLA's handlers
    ``noria_run_team(frame, table, *sizes,       ask XLA for workers, and lead them
    buffers, phases, perform)``
    ``noria_run_with_helpers(...)``              the same, but ask helpers first
    ``add_record(record)``                       a new `Record`, without a handler
    ``publish_record(record)``                   it has a handler now, and one reference
    ``retain_record(record)``                    take a reference; whether there was a handler
    ``release_record(record)``                   give up a reference
    ``retire_record(record)``                    whether it had no references, and is now without
                                                 a handler
    ``set_listener(function, argument)``         call this when a record has no more references
    ============================================ ==============================================

    those of `Helpers`, and the variable `TYPE_ID`.
    """

    def __init__(self, module: ir.Module):
        self.module = module

    def emit(self) -> None:
        self.variables = {
            name: self._variable(name) for name in ("records", "listener", "argument")
        }
        type_id = ir.GlobalVariable(self.module, I64, TYPE_ID)
        type_id.initializer, type_id.align = i64(0), 8
        self.variables[TYPE_ID] = address_of(type_id)
        ThreadTeam(self.module).emit()
        Helpers(self.module).emit()
        self._run_team(RUN_TEAM)
        self._run_team(RUN_WITH_HELPERS)
        self._set_listener()
        self._add_record()
        self._find_record()
        self._publish_record()
        self._retain_record()
        self._release_record()
        self._retire_record()
        self._instantiate()
        self._execute()

    # --- parts --------------------------------------------------------------------------------

    def _variable(self, name: str) -> ir.Value:
        variable = ir.GlobalVariable(self.module, POINTER, name)
        variable.linkage, variable.initializer = "internal", NULL
        return address_of(variable)

    def _get(self, b: ir.IRBuilder, name: str) -> ir.Value:
        return b.load_atomic(self.variables[name], "acquire", 8, typ=POINTER)

    def _set(self, b: ir.IRBuilder, name: str, value: ir.Value) -> None:
        b.atomic_rmw("xchg", self.variables[name], b.ptrtoint(value, I64), "release")

    def _begin(
        self, name: str, result: ir.Type, *kinds: ir.Type
    ) -> tuple[ir.IRBuilder, Sequence[ir.Value]]:
        return begin_function(self.module, name, result, *kinds)

    def _call(self, b: ir.IRBuilder, name: str, *values: ir.Value) -> ir.Value:
        return b.call(self.module.globals[name], values)

    # --- records ------------------------------------------------------------------------------

    def _set_listener(self) -> None:
        b, (function, argument) = self._begin("set_listener", VOID, POINTER, POINTER)
        self._set(b, "argument", argument)
        self._set(b, "listener", function)
        b.ret_void()

    def _add_record(self) -> None:
        """Only one thread at a time may call this."""
        b, (record,) = self._begin("add_record", VOID, POINTER)
        store_field(b, self._get(b, "records"), record, Record, "next")
        store_field(b, i64(-1), record, Record, "refcount")
        self._set(b, "records", record)
        b.ret_void()

    def _find_record(self) -> None:
        """``find_record(start, length)``: the record of a name, or null."""
        b, (start, length) = self._begin("find_record", POINTER, POINTER, I64)
        newest, bytes_ = self._get(b, "records"), i64(Record.name.size)
        before, (look, compare, further, found, none) = (
            b.block,
            (b.append_basic_block() for _ in range(5)),
        )
        b.cbranch(b.icmp_signed("==", length, bytes_), look, none)
        b.position_at_end(look)
        record = b.phi(POINTER)
        record.add_incoming(newest, before)
        b.cbranch(b.icmp_unsigned("==", record, NULL), none, compare)
        b.position_at_end(compare)
        differ = b.call(
            declared(self.module, "memcmp", I32, POINTER, POINTER, I64), [record, start, bytes_]
        )
        b.cbranch(b.icmp_signed("==", differ, ir.Constant(I32, 0)), found, further)
        b.position_at_end(further)
        record.add_incoming(load_field(b, record, Record, "next"), further)
        b.branch(look)
        b.position_at_end(found)
        b.ret(record)
        b.position_at_end(none)
        b.ret(NULL)

    def _publish_record(self) -> None:
        b, (record,) = self._begin("publish_record", VOID, POINTER)
        b.atomic_rmw("xchg", _refcount(b, record), i64(1), "release")
        b.ret_void()

    def _retain_record(self) -> None:
        b, (record,) = self._begin("retain_record", I32, POINTER)
        before, refcount = b.block, _refcount(b, record)
        seen = b.load_atomic(refcount, "acquire", 8, typ=I64)
        check, take, gone, done = (b.append_basic_block() for _ in range(4))
        b.branch(check)
        b.position_at_end(check)
        count = b.phi(I64)
        count.add_incoming(seen, before)
        b.cbranch(b.icmp_signed("<", count, i64(0)), gone, take)
        b.position_at_end(take)
        pair = b.cmpxchg(refcount, count, b.add(count, i64(1)), "acq_rel", "acquire")
        count.add_incoming(b.extract_value(pair, 0), take)
        b.cbranch(b.extract_value(pair, 1), done, check)
        for block, answer in ((gone, 0), (done, 1)):
            b.position_at_end(block)
            b.ret(ir.Constant(I32, answer))

    def _release_record(self) -> None:
        b, (record,) = self._begin("release_record", VOID, POINTER)
        before = b.atomic_rmw("sub", _refcount(b, record), i64(1), "acq_rel")
        with b.if_then(b.icmp_signed("==", before, i64(1))):
            listener = self._get(b, "listener")
            with b.if_then(b.icmp_unsigned("!=", listener, NULL)):
                signature = ir.FunctionType(I32, [POINTER, POINTER])
                call_pointer(b, listener, signature, [self._get(b, "argument"), NULL])
        b.ret_void()

    def _retire_record(self) -> None:
        b, (record,) = self._begin("retire_record", I32, POINTER)
        pair = b.cmpxchg(_refcount(b, record), i64(0), i64(-1), "acq_rel", "acquire")
        b.ret(b.zext(b.extract_value(pair, 1), I32))

    # --- handlers -----------------------------------------------------------------------------

    def _instantiate(self) -> None:
        b, (pointer,) = self._begin("instantiate", POINTER, POINTER)
        frame = Frame(b, pointer)
        frame.answer_version()
        count = frame.load("attributes", "count", kind=I64)
        frame.fail_if(b.icmp_signed("!=", count, i64(1)), "expected one attribute, its name")
        kinds, items = (frame.load("attributes", name) for name in ("kinds", "items"))
        is_text = b.icmp_signed("==", b.load(kinds, typ=I32, align=4), ir.Constant(I32, _STRING))
        frame.fail_if(b.not_(is_text), "its name is not a string")
        text = b.load(items, typ=POINTER, align=8)
        start, length = (
            load_field(b, text, Text, "start"),
            load_field(b, text, Text, "length", kind=I64),
        )
        record = self._call(b, "find_record", start, length)
        frame.fail_if(b.icmp_unsigned("==", record, NULL), _RELEASED)
        retained = self._call(b, "retain_record", record)
        is_alive = b.icmp_signed("!=", retained, ir.Constant(I32, 0))
        frame.fail_if(b.not_(is_alive), _RELEASED)
        argument = self._state(frame)
        store_field(b, record, argument, StateArgs, "state")
        error = frame.call("state_set", argument)
        with b.if_then(b.icmp_unsigned("!=", error, NULL)):
            self._call(b, "release_record", record)
        b.ret(error)

    def _execute(self) -> None:
        b, (pointer,) = self._begin("execute", POINTER, POINTER)
        frame = Frame(b, pointer)
        frame.answer_version()
        stage = frame.load("stage", kind=I32)
        with b.if_then(b.icmp_signed("!=", stage, ir.Constant(I32, _EXECUTE))):
            b.ret(NULL)
        argument = self._state(frame)
        error = frame.call("state_get", argument)
        with b.if_then(b.icmp_unsigned("!=", error, NULL)):
            b.ret(error)
        record = load_field(b, argument, StateArgs, "state")
        b.ret(call_pointer(b, load_field(b, record, Record, "handler"), HANDLER, [pointer]))

    def _state(self, frame: Frame) -> ir.Value:
        """An argument about the state that XLA keeps for a call: its record."""
        b, argument = frame.b, frame.arguments(StateArgs)
        store_field(b, frame.load("context"), argument, StateArgs, "context")
        store_field(b, ir.Constant(I32, _INSTANTIATE), argument, StateArgs, "stage")
        store_field(b, self.variables[TYPE_ID], argument, StateArgs, "type_id")
        return argument

    def _run_team(self, name: str) -> None:
        b, (pointer, *arguments) = self._begin(name, RUN_TEAM_TYPE.return_type, *RUN_TEAM_TYPE.args)
        frame, shares, is_helped = Frame(b, pointer), arguments[5], name == RUN_WITH_HELPERS
        team = self._call(b, "create_team", *arguments)
        frame.fail_if(b.icmp_unsigned("==", team, NULL), "out of memory")
        run_worker = address_of(self.module.globals["run_worker"])
        with loop(b, i64(1), shares):
            argument = frame.arguments(ScheduleArgs)
            store_field(b, run_worker, argument, ScheduleArgs, "task")
            store_field(b, team, argument, ScheduleArgs, "data")
            if is_helped:
                error = self._call(b, "help_soon", argument)
                with b.if_then(b.icmp_unsigned("!=", error, NULL)):
                    self._ask_xla(frame, team, argument)
            else:
                self._ask_xla(frame, team, argument)
        self._call(b, "run_leader", team)
        if is_helped:
            with b.if_then(b.icmp_signed(">", shares, i64(1))):
                self._call(b, "note_end")
        b.ret(NULL)

    def _ask_xla(self, frame: Frame, team: ir.Value, argument: ir.Value) -> None:
        """Ask XLA for a worker. It may have none: then the leader does the share of this worker."""
        b = frame.b
        store_field(b, frame.load("context"), argument, ScheduleArgs, "context")
        error = frame.call("schedule", argument)
        with b.if_then(b.icmp_unsigned("!=", error, NULL)):
            destroy = frame.arguments(DestroyArgs)
            store_field(b, error, destroy, DestroyArgs, "error")
            frame.call("error_destroy", destroy)
            self._call(b, "release_team", team)


def _refcount(b: ir.IRBuilder, record: ir.Value) -> ir.Value:
    return advance(b, record, offset_of(Record, "refcount"))
