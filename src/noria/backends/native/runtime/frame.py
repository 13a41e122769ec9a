"""Code for a function that XLA calls: ``XLA_FFI_Error* handler(XLA_FFI_CallFrame*)``."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from noria.backends.native.codegen.llvm import (
    I8,
    I32,
    POINTER,
    advance,
    begin_function,
    call_pointer,
    i64,
    stack,
)
from noria.backends.native.runtime.header import api_version
from noria.backends.native.runtime.xla_abi import (
    Api,
    CallFrame,
    ErrorArgs,
    Extension,
    Metadata,
    MetadataExtension,
    offset_of,
)

NULL = ir.Constant(POINTER, None)

#: The type of a handler, and of each function in XLA's table of functions.
HANDLER = ir.FunctionType(POINTER, [POINTER])

# Enumerators of c_api.h: XLA_FFI_Extension_Metadata and XLA_FFI_Error_Code_INVALID_ARGUMENT.
_METADATA, _INVALID_ARGUMENT = 1, 3


def address_of(symbol: ir.GlobalValue) -> ir.Constant:
    """The address of a function or a variable of the module."""
    return ir.FormattedConstant(POINTER, symbol.get_reference())


def load_field(
    b: ir.IRBuilder, pointer: ir.Value, structure: Any, *path: str, kind: ir.Type = POINTER
) -> ir.Value:
    """Load a field of a structure, or a field of a field."""
    return b.load(advance(b, pointer, offset_of(structure, *path)), typ=kind, align=4)


def store_field(
    b: ir.IRBuilder, value: ir.Value, pointer: ir.Value, structure: Any, *path: str
) -> None:
    """Store a value in a field of a structure."""
    b.store(value, advance(b, pointer, offset_of(structure, *path)), align=4)


class Frame:
    """The call frame that XLA passes to the function which ``b`` emits."""

    def __init__(self, b: ir.IRBuilder, pointer: ir.Value):
        self.b, self.pointer = b, pointer

    def load(self, *path: str, kind: ir.Type = POINTER) -> ir.Value:
        """Load a field of the frame."""
        return load_field(self.b, self.pointer, CallFrame, *path, kind=kind)

    def arguments(self, structure: Any) -> ir.Value:
        """Allocate the argument of one of XLA's functions on the stack."""
        slot = stack(self.b, ctypes.sizeof(structure), 16)
        store_field(self.b, i64(ctypes.sizeof(structure)), slot, structure, "struct_size")
        store_field(self.b, NULL, slot, structure, "extension")
        return slot

    def call(self, name: str, argument: ir.Value) -> ir.Value:
        """Call one of XLA's functions."""
        function = load_field(self.b, self.load("api"), Api, name)
        return call_pointer(self.b, function, HANDLER, [argument])

    def answer_version(self) -> None:
        """Return if XLA only asks for the version of the interface that this code expects."""
        b = self.b
        extension = self.load("extension")
        with b.if_then(b.icmp_unsigned("!=", extension, NULL)):
            kind = load_field(b, extension, Extension, "kind", kind=I32)
            with b.if_then(b.icmp_signed("==", kind, ir.Constant(I32, _METADATA))):
                metadata = load_field(b, extension, MetadataExtension, "metadata")
                for name, number in zip(("major", "minor"), api_version(), strict=True):
                    store_field(b, ir.Constant(I32, number), metadata, Metadata, "version", name)
                store_field(b, ir.Constant(I32, 0), metadata, Metadata, "traits")
                b.ret(NULL)

    def fail_if(self, condition: ir.Value, message: str | ir.Value) -> None:
        """Return an error of XLA if the condition holds; the message, or its address."""
        b = self.b
        with b.if_then(condition):
            text = self.message(message) if isinstance(message, str) else message
            b.ret(b.call(_new_error(b.module), [self.pointer, text]))

    def message(self, message: str) -> ir.Constant:
        """The address of the text of an error."""
        module, text = self.b.module, bytearray(f"noria's native kernel: {message}\0".encode())
        kind = ir.ArrayType(I8, len(text))
        constant = ir.GlobalVariable(module, kind, module.get_unique_name("message"))
        constant.global_constant, constant.linkage = True, "internal"
        constant.initializer = ir.Constant(kind, text)
        return address_of(constant)


def small_function(
    module: ir.Module,
    name: str,
    result: ir.Type,
    kinds: Sequence[ir.Type],
    emit: Callable[..., None],
) -> ir.Function:
    """A function that is called in many places; ``emit(b, *args)`` makes it once.

    It is not inlined. Otherwise a third of the code of a kernel would be checks, and LLVM would
    take as long for them as for the loop (``python benchmarks/compiling.py``).
    """
    if name not in module.globals:
        b, arguments = begin_function(module, name, result, *kinds)
        b.function.linkage = "internal"
        b.function.attributes.add("noinline")
        emit(b, *arguments)
    return module.globals[name]


def _new_error(module: ir.Module) -> ir.Function:
    """``new_error(frame, message)``: an error of XLA."""

    def emit(b: ir.IRBuilder, pointer: ir.Value, message: ir.Value) -> None:
        frame = Frame(b, pointer)
        argument = frame.arguments(ErrorArgs)
        store_field(b, message, argument, ErrorArgs, "message")
        store_field(b, ir.Constant(I32, _INVALID_ARGUMENT), argument, ErrorArgs, "code")
        b.ret(frame.call("error_create", argument))

    return small_function(module, "new_error", POINTER, [POINTER, POINTER], emit)
