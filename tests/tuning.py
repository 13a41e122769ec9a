"""The thresholds that decide how a loop runs, replaced for a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import pytest

from noria.backends.native.machine import Tuning, tuning, using

#: Thresholds of the compiler, by name.
PLACES = {
    "chunk_bytes": "noria.compiler.chunks.BUDGET",
    "widest_sum": "noria.compiler.accumulate.WIDEST",
    "chunking": "noria.compiler.chunkwise.CHUNKING",
}

NATIVE = {field.name for field in fields(Tuning)}


@contextmanager
def tuned(*, cores: int | None = None, isa: str | None = None, **numbers: Any) -> Iterator[None]:
    """Replace thresholds; what is traced inside uses them.

    Args:
        cores: how many threads a call may have.
        isa: the instruction set to use, as ``NORIA_NATIVE_ISA`` names it.
        **numbers: fields of `Tuning`, or names in `PLACES`.
    """
    changes: dict[str, Any] = {name: number for name, number in numbers.items() if name in NATIVE}
    if cores is not None:
        changes["threads"] = cores
    with pytest.MonkeyPatch.context() as patch, using(replace(tuning(), **changes)):
        if isa is not None:
            patch.setenv("NORIA_NATIVE_ISA", isa)
        for name in {*numbers} - NATIVE:
            patch.setattr(PLACES[name], numbers[name])
        yield
