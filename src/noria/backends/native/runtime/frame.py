"""Code for a call that XLA makes: ``XLA_FFI_Error* handler(XLA_FFI_CallFrame*)``."""

import ctypes
from typing import Any

from llvmlite import ir

from noria.backends.native.codegen.llvm import I8, I32, POINTER, Callee, at, i64, stack
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

#: The type of a handler, and of each of XLA's functions.
HANDLER = ir.FunctionType(POINTER, [POINTER])

_METADATA, _INVALID_ARGUMENT = 1, 3


def address_of(symbol: ir.GlobalValue) -> ir.Constant:
    """The address of a function or a variable of the module."""
    return ir.FormattedConstant(POINTER, symbol.get_reference())


class Frame:
    """Adds functions to a module that are given a frame: what XLA says about a call."""

    def __init__(self, module: ir.Module):
        self.module = module

    def function(self, name: str, result: ir.Type, *kinds: ir.Type) -> Any:
        """Begin a function; its arguments. The frame is the first of them, if it has any."""
        function = ir.Function(self.module, ir.FunctionType(result, kinds), name)
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.frame = function.args[0]
        return function.args

    def field(
        self, pointer: ir.Value, structure: Any, *path: str, kind: ir.Type = POINTER
    ) -> ir.Value:
        return self.b.load(at(self.b, pointer, offset_of(structure, *path)), typ=kind, align=4)

    def store(self, value: ir.Value, pointer: ir.Value, structure: Any, *path: str) -> None:
        self.b.store(value, at(self.b, pointer, offset_of(structure, *path)), align=4)

    def local(self, size: int) -> ir.Value:
        return stack(self.b, size, 16)

    def arguments(self, structure: Any) -> ir.Value:
        """Memory for the argument of one of XLA's functions."""
        slot = self.local(ctypes.sizeof(structure))
        self.store(i64(ctypes.sizeof(structure)), slot, structure, "struct_size")
        self.store(NULL, slot, structure, "extension")
        return slot

    def call(self, name: str, argument: ir.Value) -> ir.Value:
        """The result of one of XLA's functions."""
        api = self.field(self.frame, CallFrame, "api")
        return self.b.call(Callee(self.field(api, Api, name), HANDLER), [argument])

    def answer_version(self) -> None:
        """Return from the function if XLA only asks for the version that it was made for."""
        b = self.b
        extension = self.field(self.frame, CallFrame, "extension")
        with b.if_then(b.icmp_unsigned("!=", extension, NULL)):
            kind = self.field(extension, Extension, "kind", kind=I32)
            with b.if_then(b.icmp_signed("==", kind, ir.Constant(I32, _METADATA))):
                metadata = self.field(extension, MetadataExtension, "metadata")
                for name, number in zip(("major", "minor"), api_version(), strict=True):
                    self.store(ir.Constant(I32, number), metadata, Metadata, "version", name)
                self.store(ir.Constant(I32, 0), metadata, Metadata, "traits")
                b.ret(NULL)

    def fail_if(self, condition: ir.Value, message: str) -> None:
        """Return an error from the function."""
        b = self.b
        with b.if_then(condition):
            text = bytearray(f"noria's native kernel: {message}\0".encode())
            kind = ir.ArrayType(I8, len(text))
            constant = ir.GlobalVariable(self.module, kind, self.module.get_unique_name("message"))
            constant.global_constant, constant.linkage = True, "internal"
            constant.initializer = ir.Constant(kind, text)
            argument = self.arguments(ErrorArgs)
            self.store(address_of(constant), argument, ErrorArgs, "message")
            self.store(ir.Constant(I32, _INVALID_ARGUMENT), argument, ErrorArgs, "code")
            b.ret(self.call("error_create", argument))
