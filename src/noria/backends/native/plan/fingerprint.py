"""The fingerprint of a plan: plans with the same fingerprint have the same code, in all processes.

It names a kernel before the code is emitted, so that a kernel on disk needs neither emission nor
LLVM. A value or an equation enters as the number of its first occurrence; the lines of the cell do
not enter.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

from noria.backends.native.plan.tiling import KernelPlan
from noria.ir.graph import Atom, Equation, Value, is_literal


class NoFingerprint(TypeError):
    """A plan has an object that is not known to be the same in all processes."""


def fingerprint(plan: KernelPlan) -> str:
    """A hash of everything in a plan.

    Raises:
        NoFingerprint: if an equation has a parameter of an unknown type.
    """
    encoder = _Encoder()
    encoder.add(vars(plan))
    return hashlib.sha256("\n".join(encoder.lines).encode()).hexdigest()


class _Encoder:
    """Writes objects as lines of text."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.numbers: dict[Any, int] = {}

    def add(self, thing: Any) -> None:
        for kinds, add in _RULES:
            if isinstance(thing, kinds):
                add(self, thing)
                return
        if is_literal(thing):
            self.add((_type_of(thing), np.asarray(thing.val)))
        elif is_dataclass(thing) and not isinstance(thing, type):
            self._items(thing, [getattr(thing, field.name) for field in fields(thing)])
        else:
            raise NoFingerprint(f"an object of {type(thing)} in the plan of a kernel")

    def _line(self, thing: Any, text: Any) -> None:
        self.lines.append(f"{type(thing).__name__} {text}")

    def _items(self, thing: Any, items: Iterable[Any]) -> None:
        """The parts of an object, between two lines."""
        self._line(thing, "(")
        for item in items:
            self.add(item)
        self.lines.append(")")

    def _number(self, thing: Any) -> bool:
        """The number of an object, and whether this is its first occurrence."""
        is_new = thing not in self.numbers
        self._line(thing, self.numbers.setdefault(thing, len(self.numbers)))
        return is_new

    def _value(self, value: Any) -> None:
        if self._number(value):
            self.add(_type_of(value))

    def _equation(self, equation: Equation) -> None:
        if self._number(equation):
            params = sorted(equation.params.items())
            self.add((equation.name, params, equation.inputs, equation.outputs))

    def _array(self, array: Any) -> None:
        if array.dtype.hasobject:
            raise NoFingerprint("an array of Python objects in the plan of a kernel")
        self._line(array, f"{array.dtype} {array.shape} {array.tobytes().hex()}")

    def _set(self, members: Any) -> None:
        """In the order of their lines, since the order of a set differs between processes.

        Raises:
            NoFingerprint: if a value occurs here first, whose number would depend on that order.
        """
        lines, self.lines, known, found = self.lines, [], len(self.numbers), []
        for member in members:
            self.add(member)
            found.append(self.lines)
            self.lines = []
        self.lines = lines
        if len(self.numbers) > known:
            raise NoFingerprint("a value that is only in a set, in the plan of a kernel")
        self._line(members, "(")
        self.lines += [line for member in sorted(found) for line in member]
        self.lines.append(")")


def _type_of(atom: Atom) -> tuple[str, tuple[int, ...]]:
    return str(atom.aval.dtype), atom.aval.shape


#: How objects of a type are written; the first rule counts. Python writes a number such that it
#: can be read back without loss.
_RULES: tuple[tuple[Any, Callable[[_Encoder, Any], None]], ...] = (
    (Value, _Encoder._value),
    (Equation, _Encoder._equation),
    (Enum, lambda e, thing: e._line(thing, thing.name)),
    ((np.ndarray, np.generic), _Encoder._array),
    ((bool, int, float, str, type(None)), lambda e, thing: e._line(thing, ascii(thing))),
    ((tuple, list), lambda e, thing: e._items(thing, thing)),
    (dict, lambda e, thing: e._items(thing, thing.items())),
    ((set, frozenset), _Encoder._set),
    (np.dtype, lambda e, thing: e._line(thing, thing.name)),
    (type, lambda e, thing: e._line(thing, f"{thing.__module__}.{thing.__qualname__}")),
)
