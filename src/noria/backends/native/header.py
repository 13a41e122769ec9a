"""XLA's foreign function interface, as the header ``xla/ffi/api/c_api.h`` of the installed JAX has it.

Most structures are the same in all its versions; `noria.backends.native.structures` lists them. For
the others, `offsets` reads the header.
"""

import functools
import re
from pathlib import Path

import jax

from noria.backends.native.target import NoSuchMachine


@functools.cache
def _text() -> str:
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    return header.read_text() if header.exists() else ""


@functools.cache
def api_version() -> tuple[int, int]:
    """The version of the interface.

    Raises:
        NoSuchMachine: if it is not known here.
    """
    found = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", _text()))
    if int(found.get("MAJOR", -1)) != 0:
        raise NoSuchMachine(f"XLA's foreign function interface has version {found.get('MAJOR', 'unknown')}, not 0")
    return 0, int(found["MINOR"])


@functools.cache
def offsets(structure: str) -> dict[str, int]:
    """The offset in bytes of each field of a structure, whose fields take eight bytes each.

    That includes a single `int` between pointers. A structure that this version lacks has no fields.
    """
    found = re.search(rf"struct XLA_FFI_{structure} {{(.*?)\n}}", _text(), re.DOTALL)
    code = re.sub(r"//[^\n]*", "", found[1]) if found else ""
    names = re.findall(r"\(\*(\w+)\)\([^)]*\);|(\w+);", code)
    return {function or name: 8 * i for i, (function, name) in enumerate(names)}
