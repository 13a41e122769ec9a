"""The environment variables of the backends. Nothing else reads them."""

import os
from pathlib import Path
from typing import NamedTuple


class Environment(NamedTuple):
    """The variables that decide how layers run, at one moment; part of the key of compiled calls.

    Attributes:
        backend: ``NORIA_BACKEND``; ``"scan"`` keeps layers from the native backend.
        native_isa: ``NORIA_NATIVE_ISA``, the instruction set of native code; empty for the best.
    """

    backend: str
    native_isa: str


def environment() -> Environment:
    """The variables as they are now."""
    return Environment(os.environ.get("NORIA_BACKEND", ""), os.environ.get("NORIA_NATIVE_ISA", ""))


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
