"""The version of XLA's foreign function interface in the installed JAX, from ``c_api.h``."""

import functools
import re
from pathlib import Path

import jax

from noria.backends.native.machine import NoSuchMachine
from noria.ir.reasons import Reason


@functools.cache
def api_version() -> tuple[int, int]:
    """The version of the interface.

    Raises:
        NoSuchMachine: if this library does not know it.
    """
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    text = header.read_text() if header.exists() else ""
    found = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", text))
    if int(found.get("MAJOR", -1)) != 0:
        raise NoSuchMachine(Reason.XLA_VERSION(version=found.get("MAJOR", "unknown")))
    return 0, int(found["MINOR"])
