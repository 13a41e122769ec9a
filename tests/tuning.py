"""The thresholds that decide how a loop runs, replaced for a test.

Only this file knows where a threshold is kept. Tests call each by a name of their own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

PRIMITIVE = "noria.backends.native.primitive"

#: By name: the places of each threshold, a module and one of its attributes.
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "flops_of_a_thread": ((PRIMITIVE, "_WORTH_A_THREAD"),),
    "flops_of_a_stage": ((PRIMITIVE, "_WORTH_A_STAGE"),),
    "rows_of_a_block": ((PRIMITIVE, "_RECORDED"),),
    "bytes_of_a_block": ((PRIMITIVE, "_KEPT"),),
    "small_weight": ((PRIMITIVE, "_SMALL"),),
    "cached_weight": ((PRIMITIVE, "_CACHED"),),
    "unpacked_rows": (
        (PRIMITIVE, "FEW"),
        ("noria.compiler.run", "FEW"),
        ("noria.backends.native", "FEW"),
    ),
    "staged_bytes": (("noria.backends.native.plan.tiling", "_RUN"),),
    "pieces": (("noria.backends.native.lower.small_matrices", "MOST"),),
    "chunk_bytes": (("noria.compiler.chunks", "BUDGET"),),
    "widest_sum": (("noria.compiler.vjp", "WIDEST"),),
}


@contextmanager
def tuned(*, cores: int | None = None, isa: str | None = None, **numbers: int) -> Iterator[None]:
    """Replace thresholds; what is traced and lowered inside uses them.

    Args:
        cores: how many processor cores there seem to be.
        isa: the instruction set to use, as ``NORIA_NATIVE_ISA`` names it.
        **numbers: the other thresholds, by the names in `PLACES`.
    """
    changes: list[tuple[Any, str, Any]] = [
        (import_module(module), attribute, number)
        for name, number in numbers.items()
        for module, attribute in PLACES[name]
    ]
    if cores is not None:
        known = hasattr(os, "sched_getaffinity")
        changes.append(
            (os, "sched_getaffinity", lambda _: set(range(cores)))
            if known
            else (os, "cpu_count", lambda: cores)
        )
    environment = dict(os.environ)
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    try:
        for module, name, number in changes:
            setattr(module, name, number)
        if isa is not None:
            os.environ["NORIA_NATIVE_ISA"] = isa
        yield
    finally:
        os.environ.update(environment)
        if "NORIA_NATIVE_ISA" not in environment:
            os.environ.pop("NORIA_NATIVE_ISA", None)
        for module, name, number in before:
            setattr(module, name, number)
