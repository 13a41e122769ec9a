"""The thresholds that decide how a loop runs, replaced for a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib import import_module
from typing import Any

from noria.backends.native.machine import Tuning, tuning, using

#: Thresholds of the compiler, by name: a module and one of its attributes.
PLACES: dict[str, tuple[str, str]] = {
    "chunk_bytes": ("noria.compiler.chunks", "BUDGET"),
    "widest_sum": ("noria.compiler.vjp", "WIDEST"),
}

NATIVE = {field.name for field in fields(Tuning)}


@contextmanager
def tuned(*, cores: int | None = None, **numbers: int) -> Iterator[None]:
    """Replace thresholds; what is traced inside uses them.

    Args:
        cores: how many threads a call may have.
        **numbers: fields of `Tuning`, or names in `PLACES`.
    """
    changes: dict[str, Any] = {name: number for name, number in numbers.items() if name in NATIVE}
    if cores is not None:
        changes["threads"] = cores
    attributes: list[tuple[Any, str, int]] = [
        (import_module(PLACES[name][0]), PLACES[name][1], number)
        for name, number in numbers.items()
        if name not in NATIVE
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in attributes]
    try:
        for module, name, number in attributes:
            setattr(module, name, number)
        with using(replace(tuning(), **changes)):
            yield
    finally:
        for module, name, number in before:
            setattr(module, name, number)
