"""What a declared cell says of itself: sizes, parameters and states, each in one line.

A shape is given in words: ``"hidden"`` is the field ``hidden_size``, and ``"heads"`` is the field
``heads``. Words may be joined by ``+``, ``-``, ``*`` and ``//``, as in ``"3 * hidden"``. A word for
several sizes stands for as many axes, and for their product where it is joined to others.
"""

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from noria._types import Initializer
from noria.initializers import constant, glorot_uniform, zeros


@dataclass(frozen=True)
class OfCell:
    """An initialiser that depends on the sizes and settings of the cell."""

    make: Callable[[Any], Initializer]


#: An initialiser, or the value of all entries.
Init = Initializer | float

#: An axis of a declared array: a number, a word, or words joined by operators.
Axis = int | str

_WORD = re.compile(r"[A-Za-z_]\w*")
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True)
class Parameter:
    """A declared parameter."""

    axes: tuple[Axis, ...]
    initializer: Init | OfCell
    trained: bool
    when: Callable[[Any], bool] | None
    argument: str | None
    blocks: Axis
    #: Whether some cells of the class lack it.
    is_optional: bool = False


@dataclass(frozen=True)
class StateArray:
    """A declared array of the state."""

    axes: tuple[Axis, ...]
    initializer: Init
    is_complex: bool


@dataclass(frozen=True)
class Size:
    """A declared size."""

    default: int | None
    kw_only: bool
    axes: bool


def matrix(
    rows: Axis,
    columns: Axis,
    initializer: Init | OfCell | None = None,
    *,
    trained: bool = True,
    when: Callable[[Any], bool] | None = None,
    argument: str | None = None,
    blocks: Axis = 1,
    init: Literal[False] = False,
) -> Any:
    """Declare a matrix of parameters.

    Args:
        rows: number of rows: a number, or words such as ``"hidden"``.
        columns: number of columns.
        initializer: initialiser, or a number for all entries; Glorot-uniform by default.
        trained: ``False`` keeps the array as it is drawn: it has no gradient.
        when: whether a cell has the parameter, from the cell with its sizes and settings;
            otherwise the field is ``None``. By default it always has.
        argument: name of the argument of the constructor that replaces the initialiser. ``None`` or
            ``True`` there keeps the declared one. ``False`` makes a field ``None`` whose type
            allows it.
        blocks: number of equal blocks of rows that an initialiser of the caller draws, one by one.
            The declared initialiser draws the whole array.
        init: for type checkers: the field is no argument of the constructor.

    Returns:
        A declaration, the default of a field of a `DeclaredCell`.

    Examples:
        >>> import noria as nr
        >>> nr.cells.matrix("hidden", "in").axes
        ('hidden', 'in')
    """
    chosen = glorot_uniform() if initializer is None else initializer
    return Parameter((rows, columns), chosen, trained, when, argument, blocks)


def vector(
    size: Axis,
    initializer: Init | OfCell = zeros,
    *,
    trained: bool = True,
    when: Callable[[Any], bool] | None = None,
    argument: str | None = None,
    init: Literal[False] = False,
) -> Any:
    """Declare a vector of parameters.

    Args:
        size: number of entries: a number, or words such as ``"hidden"``.
        initializer: initialiser, or a number for all entries; zeros by default.
        trained: ``False`` keeps the array as it is drawn: it has no gradient.
        when: whether a cell has the parameter, from the cell with its sizes and settings;
            otherwise the field is ``None``. By default it always has.
        argument: name of the argument of the constructor that replaces the initialiser. ``None`` or
            ``True`` there keeps the declared one. ``False`` makes a field ``None`` whose type
            allows it.
        init: for type checkers: the field is no argument of the constructor.

    Returns:
        A declaration, the default of a field of a `DeclaredCell`.

    Examples:
        >>> import noria as nr
        >>> nr.cells.vector("2 * hidden").axes
        ('2 * hidden',)
    """
    return Parameter((size,), initializer, trained, when, argument, 1)


def array(
    *axes: Axis,
    initializer: Init | OfCell,
    trained: bool = True,
    when: Callable[[Any], bool] | None = None,
    argument: str | None = None,
    init: Literal[False] = False,
) -> Any:
    """Declare an array of parameters of any rank, or a single number.

    Args:
        *axes: sizes of the axes: numbers, or words such as ``"hidden"``; none for one number.
        initializer: initialiser, or a number for all entries.
        trained: ``False`` keeps the array as it is drawn: it has no gradient.
        when: whether a cell has the parameter, from the cell with its sizes and settings;
            otherwise the field is ``None``. By default it always has.
        argument: name of the argument of the constructor that replaces the initialiser. ``None`` or
            ``True`` there keeps the declared one. ``False`` makes a field ``None`` whose type
            allows it.
        init: for type checkers: the field is no argument of the constructor.

    Returns:
        A declaration, the default of a field of a `DeclaredCell`.

    Examples:
        >>> import noria as nr
        >>> nr.cells.array("heads", "hidden", 4, initializer=nr.initializers.zeros).axes
        ('heads', 'hidden', 4)
    """
    return Parameter(axes, initializer, trained, when, argument, 1)


def state(
    *axes: Axis,
    initializer: Init = 0.0,
    is_complex: bool = False,
    init: Literal[False] = False,
) -> Any:
    """Declare an array of the state.

    Args:
        *axes: sizes of the axes of one example: numbers, or words such as ``"hidden"``.
        initializer: initialiser of the initial state, or a number; zeros by default.
        is_complex: whether its numbers are complex; the initialiser draws their real parts.
        init: for type checkers: the field is no argument of the constructor.

    Returns:
        A declaration, the default of a field of a `DeclaredCell`.

    Examples:
        >>> import noria as nr
        >>> nr.cells.state("hidden").axes
        ('hidden',)
    """
    return StateArray(axes, initializer, is_complex)


def size(*, default: int | None = None, kw_only: bool = True, axes: bool = False) -> Any:
    """Declare a size, a whole number of at least 1: an argument of the constructor.

    Args:
        default: its value if it is not passed; ``None`` if it has to be.
        kw_only: whether it has to be passed by name.
        axes: whether it is a tuple of sizes, one for each axis of an array.

    Returns:
        A declaration, the default of a field of a `DeclaredCell`.

    Examples:
        >>> import noria as nr
        >>> nr.cells.size(default=4).default
        4
    """
    return Size(default, kw_only, axes)


def as_initializer(given: Init | OfCell, cell: Any) -> Initializer:
    """An initialiser for a cell."""
    if isinstance(given, OfCell):
        return given.make(cell)
    return given if callable(given) else constant(given)


def field_of(word: str, names: Collection[str]) -> str | None:
    """The field that a word of a shape stands for: ``hidden_size`` for ``hidden``."""
    return next((name for name in (f"{word}_size", word) if name in names), None)


def words_of(axes: tuple[Axis, ...]) -> Iterator[str]:
    """The words of a shape."""
    for axis in axes:
        if isinstance(axis, str):
            yield from _WORD.findall(axis)


def shape_of(axes: tuple[Axis, ...], sizes: Mapping[str, int | tuple[int, ...]]) -> tuple[int, ...]:
    """A shape in numbers; ``sizes`` are the values of the fields."""
    shape: list[int] = []
    for axis in axes:
        field = field_of(axis, sizes) if isinstance(axis, str) else None
        found = sizes[field] if field else axis
        if isinstance(found, str):
            found = _value(_parsed(found), sizes)
        shape.extend(found if isinstance(found, tuple) else (found,))
    return tuple(shape)


def spelled(axis: Axis, sizes: Mapping[str, int | tuple[int, ...]]) -> str:
    """An axis in words, and in numbers for the words among ``sizes``: ``3 * hidden``."""

    def one(word: re.Match[str]) -> str:
        field = field_of(word[0], sizes)
        return word[0] if field is None else str(sizes[field])

    return _WORD.sub(one, str(axis))


@functools.cache
def _parsed(axis: str) -> ast.expr:
    """The expression, with ``_`` behind each word, since ``in`` is none of Python's names."""
    return ast.parse(_WORD.sub(r"\g<0>_", axis), mode="eval").body


def _value(node: ast.expr, sizes: Mapping[str, int | tuple[int, ...]]) -> int:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, sizes), _value(node.right, sizes))
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name) and (name := field_of(node.id[:-1], sizes)):
        value = sizes[name]
        return math.prod(value) if isinstance(value, tuple) else value
    raise ValueError(ast.unparse(node))
