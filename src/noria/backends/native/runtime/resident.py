"""Machine code that stays for the life of the process, and looks after the kernels, which do not.

XLA's registry has no way to remove a handler. So it gets one handler for all kernels, which finds
the kernel of a call by its name, an attribute of the call. When XLA makes an executable, each call in
it takes hold of its kernel; when XLA frees the executable, even in a thread of its own, each call lets
go. So a kernel can be released when nobody holds it, and not before. None of this needs Python.
"""

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
    loop,
)
from noria.backends.native.runtime.frame import HANDLER, NULL, Frame, address_of
from noria.backends.native.runtime.team import ThreadTeam
from noria.backends.native.runtime.xla_abi import (
    CallFrame,
    DestroyArgs,
    Record,
    ScheduleArgs,
    StateArgs,
    Text,
    offset_of,
)

#: The function that a kernel calls to do its work: a symbol of the process.
WORK = "noria_work"

#: Its type, see `Resident`.
WORK_TYPE = ir.FunctionType(POINTER, [POINTER, POINTER, *[I64] * 6, POINTER])

_INSTANTIATE, _EXECUTE = 0, 3

_STRING = 4

_RELEASED = (
    "this process does not have it, or has released it because no live program used it; "
    "trace and compile the function again: a serialized program cannot bring its kernels along"
)


class Resident(Frame):
    """Adds to a module the functions

    ===================================================== =======================================================
    ``instantiate(frame)``, ``execute(frame)``            XLA's handlers
    ``noria_work(frame, table, *sizes, phases, perform)`` send for threads, and lead them
    ``enlist(record)``                                    a new `Record`, that nobody holds yet
    ``publish(record)``                                   its handler is there, and the caller holds it
    ``hold(record)``                                      whether the caller holds it now, since it was there
    ``drop(record)``                                      hold it no longer
    ``retire(record)``                                    whether it is gone now, since nobody held it
    ``listen(function, argument)``                        call this when a record is no longer held
    ===================================================== =======================================================

    ``type_id`` is the address of the number that XLA knows the type of a record by.
    """

    def __init__(self, module: ir.Module, type_id: int):
        super().__init__(module)
        self.type_id = type_id

    def emit(self) -> None:
        self.variables = {name: self._variable(name) for name in ("records", "notify", "argument")}
        ThreadTeam(self.module).emit()
        self._work()
        self._listen()
        self._enlist()
        self._find()
        self._publish()
        self._hold()
        self._drop()
        self._retire()
        self._instantiate()
        self._execute()

    # --- pieces -----------------------------------------------------------------------------------------------

    def _variable(self, name: str) -> ir.Value:
        variable = ir.GlobalVariable(self.module, POINTER, name)
        variable.linkage, variable.initializer = "internal", NULL
        return address_of(variable)

    def _read(self, name: str) -> ir.Value:
        return self.b.load_atomic(self.variables[name], "acquire", 8, typ=POINTER)

    def _set(self, name: str, value: ir.Value) -> None:
        self.b.atomic_rmw("xchg", self.variables[name], self.b.ptrtoint(value, I64), "release")

    def _holders(self, record: ir.Value) -> ir.Value:
        return at(self.b, record, offset_of(Record, "holders"))

    def _called(self, name: str, *values: ir.Value) -> ir.Value:
        return self.b.call(self.module.globals[name], values)

    # --- records ----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        function, argument = self.function("listen", VOID, POINTER, POINTER)
        self._set("argument", argument)
        self._set("notify", function)
        self.b.ret_void()

    def _enlist(self) -> None:
        """Records are enlisted by one thread at a time."""
        (record,) = self.function("enlist", VOID, POINTER)
        self.store(self._read("records"), record, Record, "next")
        self.store(i64(-1), record, Record, "holders")
        self._set("records", record)
        self.b.ret_void()

    def _find(self) -> None:
        """``find(start, length)``: the record of a name, or null."""
        start, length = self.function("find", POINTER, POINTER, I64)
        b = self.b
        first, size = self._read("records"), i64(Record.name.size)
        before, (look, compare, further, found, none) = (
            b.block,
            (b.append_basic_block() for _ in range(5)),
        )
        b.cbranch(b.icmp_signed("==", length, size), look, none)
        b.position_at_end(look)
        record = b.phi(POINTER)
        record.add_incoming(first, before)
        b.cbranch(b.icmp_unsigned("==", record, NULL), none, compare)
        b.position_at_end(compare)
        differ = b.call(
            declared(self.module, "memcmp", I32, POINTER, POINTER, I64), [record, start, size]
        )
        b.cbranch(b.icmp_signed("==", differ, ir.Constant(I32, 0)), found, further)
        b.position_at_end(further)
        record.add_incoming(self.field(record, Record, "next"), further)
        b.branch(look)
        b.position_at_end(found)
        b.ret(record)
        b.position_at_end(none)
        b.ret(NULL)

    def _publish(self) -> None:
        (record,) = self.function("publish", VOID, POINTER)
        self.b.atomic_rmw("xchg", self._holders(record), i64(1), "release")
        self.b.ret_void()

    def _hold(self) -> None:
        (record,) = self.function("hold", I32, POINTER)
        b, before = self.b, self.b.block
        holders = self._holders(record)
        seen = b.load_atomic(holders, "acquire", 8, typ=I64)
        check, take, gone, done = (b.append_basic_block() for _ in range(4))
        b.branch(check)
        b.position_at_end(check)
        count = b.phi(I64)
        count.add_incoming(seen, before)
        b.cbranch(b.icmp_signed("<", count, i64(0)), gone, take)
        b.position_at_end(take)
        pair = b.cmpxchg(holders, count, b.add(count, i64(1)), "acq_rel", "acquire")
        count.add_incoming(b.extract_value(pair, 0), take)
        b.cbranch(b.extract_value(pair, 1), done, check)
        for block, answer in ((gone, 0), (done, 1)):
            b.position_at_end(block)
            b.ret(ir.Constant(I32, answer))

    def _drop(self) -> None:
        (record,) = self.function("drop", VOID, POINTER)
        b = self.b
        before = b.atomic_rmw("sub", self._holders(record), i64(1), "acq_rel")
        with b.if_then(b.icmp_signed("==", before, i64(1))):
            notify = self._read("notify")
            with b.if_then(b.icmp_unsigned("!=", notify, NULL)):
                kind = ir.FunctionType(I32, [POINTER, POINTER])
                b.call(Callee(notify, kind), [self._read("argument"), NULL])
        b.ret_void()

    def _retire(self) -> None:
        (record,) = self.function("retire", I32, POINTER)
        b = self.b
        pair = b.cmpxchg(self._holders(record), i64(0), i64(-1), "acq_rel", "acquire")
        b.ret(b.zext(b.extract_value(pair, 1), I32))

    # --- handlers ---------------------------------------------------------------------------------------------

    def _instantiate(self) -> None:
        (frame,) = self.function("instantiate", POINTER, POINTER)
        b = self.b
        self.answer_version()
        count = self.field(frame, CallFrame, "attributes", "count", kind=I64)
        self.fail_if(b.icmp_signed("!=", count, i64(1)), "expected one attribute, its name")
        kinds, items = (
            self.field(frame, CallFrame, "attributes", name) for name in ("kinds", "items")
        )
        is_text = b.icmp_signed("==", b.load(kinds, typ=I32, align=4), ir.Constant(I32, _STRING))
        self.fail_if(b.not_(is_text), "its name is not a string")
        text = b.load(items, typ=POINTER, align=8)
        record = self._called(
            "find", self.field(text, Text, "start"), self.field(text, Text, "length", kind=I64)
        )
        self.fail_if(b.icmp_unsigned("==", record, NULL), _RELEASED)
        is_held = b.icmp_signed("!=", self._called("hold", record), ir.Constant(I32, 0))
        self.fail_if(b.not_(is_held), _RELEASED)
        argument = self._state()
        self.store(record, argument, StateArgs, "state")
        error = self.call("state_set", argument)
        with b.if_then(b.icmp_unsigned("!=", error, NULL)):
            self._called("drop", record)
        b.ret(error)

    def _execute(self) -> None:
        (frame,) = self.function("execute", POINTER, POINTER)
        b = self.b
        self.answer_version()
        stage = self.field(frame, CallFrame, "stage", kind=I32)
        with b.if_then(b.icmp_signed("!=", stage, ir.Constant(I32, _EXECUTE))):
            b.ret(NULL)
        argument = self._state()
        error = self.call("state_get", argument)
        with b.if_then(b.icmp_unsigned("!=", error, NULL)):
            b.ret(error)
        record = self.field(argument, StateArgs, "state")
        b.ret(b.call(Callee(self.field(record, Record, "handler"), HANDLER), [frame]))

    def _state(self) -> ir.Value:
        """An argument about what XLA keeps for a call: its record."""
        argument = self.arguments(StateArgs)
        self.store(self.field(self.frame, CallFrame, "context"), argument, StateArgs, "context")
        self.store(ir.Constant(I32, _INSTANTIATE), argument, StateArgs, "stage")
        self.store(i64(self.type_id), argument, StateArgs, "type_id")
        return argument

    def _work(self) -> None:
        arguments = self.function(WORK, WORK_TYPE.return_type, *WORK_TYPE.args)
        b, shares = self.b, arguments[6]
        job = self._called("hire", *arguments[1:])
        self.fail_if(b.icmp_unsigned("==", job, NULL), "out of memory")
        with loop(b, i64(1), shares):
            argument = self.arguments(ScheduleArgs)
            self.store(
                self.field(self.frame, CallFrame, "context"), argument, ScheduleArgs, "context"
            )
            self.store(address_of(self.module.globals["help"]), argument, ScheduleArgs, "task")
            self.store(job, argument, ScheduleArgs, "data")
            error = self.call("schedule", argument)
            with b.if_then(
                b.icmp_unsigned("!=", error, NULL)
            ):  # no such thread: the caller does all
                destroy = self.arguments(DestroyArgs)
                self.store(error, destroy, DestroyArgs, "error")
                self.call("error_destroy", destroy)
                self._called("leave", job)
        self._called("lead", job)
        b.ret(NULL)
