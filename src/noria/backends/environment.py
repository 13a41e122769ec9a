"""The environment variables that decide how layers run. Nothing else reads them."""

import os
from typing import NamedTuple


class Environment(NamedTuple):
    """The variables at one moment; part of the key of each compiled call.

    Attributes:
        backend: ``NORIA_BACKEND``; ``"scan"`` keeps layers from the native backend.
        native_isa: ``NORIA_NATIVE_ISA``, the instruction set of native code; empty for the best.
    """

    backend: str
    native_isa: str


def environment() -> Environment:
    """The variables as they are now."""
    return Environment(os.environ.get("NORIA_BACKEND", ""), os.environ.get("NORIA_NATIVE_ISA", ""))
