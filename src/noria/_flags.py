"""Lists of which a flag for each element chooses some."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def choose(values: Iterable[T], flags: Iterable[bool]) -> list[T]:
    """The values whose flag is set."""
    return [value for value, flag in zip(values, flags, strict=True) if flag]


def put(values: Iterable[Any], flags: Iterable[bool], chosen: Iterable[Any]) -> list[Any]:
    """The values, with ``chosen`` in place of the values whose flag is set."""
    new = iter(chosen)
    return [next(new) if flag else value for value, flag in zip(values, flags, strict=True)]


def scatter(chosen: Iterable[Any], flags: Sequence[bool]) -> list[Any]:
    """``chosen`` where the flag is set, ``None`` elsewhere."""
    return put([None] * len(flags), flags, chosen)
