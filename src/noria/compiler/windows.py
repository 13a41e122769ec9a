"""Windows: arrays of the state that drop their oldest entries at each step and add new ones.

A short causal convolution keeps its last inputs in such an array::

    window' = concatenate([window[1:], x[None]])
    window' = roll(window, -1, axis=0).at[-1].set(x)
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from noria.ir.graph import Atom, Equation, Value, is_literal

#: A longer window stays in the loop: outside of it, each step would store all of its entries. From
#: 16 on that takes three times as long (``python benchmarks/tuning.py MOST_ENTRIES``).
MOST_ENTRIES = 8

_MOVES = frozenset(("concatenate", "stack", "scatter", "dynamic_update_slice"))


@dataclass(frozen=True)
class Window:
    """The layout of the entries of a window.

    Attributes:
        axis: the axis along which they move.
        entries: their number.
        newest_last: whether new entries come in at the end.
    """

    axis: int
    entries: int
    newest_last: bool

    @property
    def by_age(self) -> range:
        """The places of the entries, the newest one first."""
        return range(self.entries)[:: -1 if self.newest_last else 1]


class Piece(NamedTuple):
    """A part of a value along an axis; a row is a whole value without this axis."""

    value: Atom
    start: int
    stop: int
    is_row: bool = False


#: The equation that makes each value.
Makers = dict[Value, Equation]


def window_of(before: Atom, after: Value, makers: Makers) -> tuple[Window, list[Piece]] | None:
    """The move of ``before`` along an axis to ``after``, and the new entries; ``None`` for others.

    The new entries may depend on anything but ``before``.
    """
    equation = makers.get(after)
    if equation is None or equation.name not in _MOVES:
        return None
    for axis, length in enumerate(after.aval.shape):
        pieces = _joined(_Pieces(before, makers, axis).of(after))
        if len(pieces) < 2 or sum(piece.value is before for piece in pieces) != 1:
            continue
        first, last = pieces[0], pieces[-1]
        if first.value is before and first.stop == length:
            size, newest_last, new = first.start, True, pieces[1:]
        elif last.value is before and last.start == 0:
            size, newest_last, new = length - last.stop, False, pieces[:-1]
        else:
            continue
        if length % size == 0 and length // size <= MOST_ENTRIES:
            return Window(axis, length // size, newest_last), new
    return None


def entry_of(pieces: Sequence[Piece], axis: int) -> Callable[..., list[jax.Array]]:
    """The new entries as a function of the values of ``pieces``."""

    def entry(*arrays: jax.Array) -> list[jax.Array]:
        parts = [
            jnp.expand_dims(a, axis)
            if piece.is_row
            else a
            if a.shape[axis] == piece.stop - piece.start
            else jax.lax.slice_in_dim(a, piece.start, piece.stop, axis=axis)
            for piece, a in zip(pieces, arrays, strict=True)
        ]
        return [parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)]

    return entry


@dataclass(frozen=True)
class _Pieces:
    """Values as pieces of other values along an axis."""

    before: Atom
    makers: Makers
    axis: int

    def of(self, value: Atom) -> list[Piece]:
        whole = [Piece(value, 0, value.aval.shape[self.axis])]
        equation = None if is_literal(value) or value is self.before else self.makers.get(value)
        rule = None if equation is None else getattr(self, f"_{equation.name}", None)
        return (rule and rule(equation)) or whole

    def _concatenate(self, equation: Equation) -> list[Piece] | None:
        if equation.params["dimension"] != self.axis:
            return None
        return [piece for operand in equation.inputs for piece in self.of(operand)]

    def _stack(self, equation: Equation) -> list[Piece] | None:
        if equation.params["axis"] != self.axis:
            return None
        return [piece for operand in equation.inputs for piece in self._row(operand)]

    def _row(self, value: Atom) -> list[Piece]:
        """A value that lacks the axis; ``window[2]`` is a slice of one entry without it."""
        equation = None if is_literal(value) else self.makers.get(value)
        if (
            equation is not None
            and equation.name == "squeeze"
            and equation.params["dimensions"] == (self.axis,)
        ):
            return self.of(equation.inputs[0])
        return [Piece(value, 0, 1, is_row=True)]

    def _slice(self, equation: Equation) -> list[Piece] | None:
        params, (value,) = equation.params, equation.inputs
        starts, stops = list(params["start_indices"]), list(params["limit_indices"])
        start, stop = starts.pop(self.axis), stops.pop(self.axis)
        rest = [n for axis, n in enumerate(value.aval.shape) if axis != self.axis]
        if any(starts) or stops != rest or any(n != 1 for n in params["strides"] or ()):
            return None
        return _cut(self.of(value), start, stop)

    def _dynamic_update_slice(self, equation: Equation) -> list[Piece] | None:
        value, update, *indices = equation.inputs
        places = [self._number(index) for index in indices]
        shape, new = value.aval.shape, update.aval.shape
        at = places[self.axis]
        others = (axis for axis in range(len(shape)) if axis != self.axis)
        if at is None or any(places[axis] != 0 or new[axis] != shape[axis] for axis in others):
            return None
        return self._replaced(value, at, self.of(update))

    def _scatter(self, equation: Equation) -> list[Piece] | None:
        """``window.at[-1].set(x)``, or a range of entries."""
        value, indices, update = equation.inputs
        numbers, at = equation.params["dimension_numbers"], self._number(indices)
        if (
            at is None
            or equation.params["update_jaxpr"] is not None
            or numbers.scatter_dims_to_operand_dims != (self.axis,)
            or numbers.update_window_dims != tuple(range(update.aval.ndim))
        ):
            return None
        if numbers.inserted_window_dims == (self.axis,):
            return self._replaced(value, at, self._row(update))
        shape = list(value.aval.shape)
        shape[self.axis] = update.aval.shape[self.axis]
        return self._replaced(value, at, self.of(update)) if [*update.aval.shape] == shape else None

    def _replaced(self, value: Atom, at: int, new: list[Piece]) -> list[Piece] | None:
        pieces, length = self.of(value), value.aval.shape[self.axis]
        end = at + sum(piece.stop - piece.start for piece in new)
        if at < 0 or end > length:
            return None
        return [*_cut(pieces, 0, at), *new, *_cut(pieces, end, length)]

    def _number(self, atom: Atom) -> int | None:
        """The one number of an index that is known."""
        if is_literal(atom):
            return int(atom.val)
        equation = self.makers.get(atom)
        if equation is None or equation.name != "broadcast_in_dim" or atom.aval.size != 1:
            return None
        return self._number(equation.inputs[0])


def _cut(pieces: list[Piece], start: int, stop: int) -> list[Piece]:
    """The pieces from ``start`` to ``stop``."""
    found = []
    ends = itertools.accumulate(piece.stop - piece.start for piece in pieces)
    for piece, end in zip(pieces, ends, strict=True):
        first = end - (piece.stop - piece.start)
        low, high = max(start, first), min(stop, end)
        if low < high:
            found.append(
                piece._replace(start=piece.start + low - first, stop=piece.start + high - first)
            )
    return found


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces that follow each other in the same value, as one."""
    found: list[Piece] = []
    for piece in pieces:
        if found and found[-1].value is piece.value and found[-1].stop == piece.start:
            found[-1] = found[-1]._replace(stop=piece.stop)
        else:
            found.append(piece)
    return found
