"""The environment variables of the backends. Nothing else reads them."""

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple


class Environment(NamedTuple):
    """The variables that decide how layers run, at one moment; part of the key of compiled calls.

    Attributes:
        backend: ``NORIA_BACKEND``; ``"scan"`` keeps layers from the native backend.
        native_isa: ``NORIA_NATIVE_ISA``, the instruction set of native code; empty for the best.
    """

    backend: str
    native_isa: str


_NAMES = "NORIA_BACKEND", "NORIA_NATIVE_ISA"

#: Their names as the mapping inside of ``os.environ`` has them: bytes on POSIX.
_KEYS = tuple(map(os.environ.encodekey, _NAMES))


def environment() -> Environment:
    """The variables as they are now.

    Each call of a compiled step asks. ``os.environ.get`` takes a microsecond for a variable that is
    not set, since it raises and catches an error; the mapping inside does not.
    """
    data = getattr(os.environ, "_data", None)
    if data is None:  # a test has put another mapping there
        return Environment(*(os.environ.get(name, "") for name in _NAMES))
    return _decoded(*map(data.get, _KEYS))


@functools.lru_cache(maxsize=16)
def _decoded(*values: Any) -> Environment:
    return Environment(*("" if v is None else os.environ.decodevalue(v) for v in values))


def cache_folder() -> Path | None:
    """The folder of machine code on disk: ``NORIA_CACHE``, or one in the user's cache folder.

    ``None`` if ``NORIA_CACHE`` is empty, ``off`` or ``0``, or the user has no home folder.
    """
    asked = os.environ.get("NORIA_CACHE")
    if asked in ("", "off", "0"):
        return None
    try:
        if asked is not None:
            return Path(asked).expanduser()
        caches = os.environ.get("XDG_CACHE_HOME", "")
        # The specification of this variable says that a relative path is ignored.
        return (Path(caches) if Path(caches).is_absolute() else Path.home() / ".cache") / "noria"
    except RuntimeError:  # there is no home folder
        return None
