"""The structures that XLA and a handler exchange, as ``xla/ffi/api/c_api.h`` lays them out.

A structure ends with the last field that is used here.
"""

import ctypes
from typing import Any, ClassVar


class Head(ctypes.Structure):
    _fields_: ClassVar[Any] = (("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p))


class Extension(ctypes.Structure):
    _fields_: ClassVar[Any] = (
        ("struct_size", ctypes.c_size_t),
        ("kind", ctypes.c_int),
        ("next", ctypes.c_void_p),
    )


class Version(Head):
    _fields_ = (("major", ctypes.c_int), ("minor", ctypes.c_int))


class Metadata(ctypes.Structure):
    _fields_: ClassVar[Any] = (
        ("struct_size", ctypes.c_size_t),
        ("version", Version),
        ("traits", ctypes.c_uint32),
    )


class MetadataExtension(Extension):
    _fields_ = (("metadata", ctypes.c_void_p),)


class Arrays(Head):  # XLA_FFI_Args and XLA_FFI_Rets
    _fields_ = (("count", ctypes.c_int64), ("kinds", ctypes.c_void_p), ("items", ctypes.c_void_p))


class Attributes(Head):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("kinds", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("items", ctypes.c_void_p),
    )


class Text(ctypes.Structure):  # XLA_FFI_ByteSpan
    _fields_: ClassVar[Any] = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


class CallFrame(Head):
    _fields_ = (
        ("api", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("args", Arrays),
        ("rets", Arrays),
        ("attributes", Attributes),
    )


class Buffer(Head):
    _fields_ = (
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.c_void_p),
    )


class ErrorArgs(Head):
    _fields_ = (("message", ctypes.c_void_p), ("code", ctypes.c_int))


class DestroyArgs(Head):
    _fields_ = (("error", ctypes.c_void_p),)


class ScheduleArgs(Head):
    _fields_ = (("context", ctypes.c_void_p), ("task", ctypes.c_void_p), ("data", ctypes.c_void_p))


class StateArgs(Head):  # XLA_FFI_State_Set_Args and XLA_FFI_State_Get_Args
    _fields_ = (
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("type_id", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
    )


class TypeInfo(Head):
    _fields_ = (("deleter", ctypes.c_void_p),)


class Api(Head):
    _fields_ = (
        ("version", Version),
        ("internal", ctypes.c_void_p),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "error_create error_message error_destroy register stream type context "
                "state_set state_get allocate free schedule"
            ).split()
        ),
    )


def offset_of(kind: Any, *path: str) -> int:
    """Bytes from the start of a structure to a field, or to a field of a field."""
    total = 0
    for name in path:
        total += getattr(kind, name).offset
        kind = next(
            dict(base._fields_)[name]
            for base in kind.__mro__
            if name in dict(base.__dict__.get("_fields_", ()))
        )
    return total
