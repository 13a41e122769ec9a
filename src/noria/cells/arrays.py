"""``from_arrays`` of declared cells: sizes from shapes, and checks of names, shapes and dtypes."""

from typing import Any

import jax
import jax.numpy as jnp

from noria.cells.construction import Numbers, numbers_of, set_fields
from noria.cells.declare import Axis, field_of, shape_of, spelled, words_of

Arrays = dict[str, jax.Array]


def cell_of_arrays(cls: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The cell of a declared class with these arrays, sizes and settings."""
    call = f"{cls.__name__}.from_arrays"
    arrays = _named_arrays(cls, call, positional, named)
    sizes = {name: one.default for name, one in cls._sizes.items()}
    values = {**sizes, **cls._settings, **named}
    axes = {name: one.axes for name, one in cls._parameters.items()}
    wanted = {field for one in axes.values() for field in _fields(one, values)} - named.keys()
    cell = cls.__new__(cls)
    for name in values.keys() - wanted:
        object.__setattr__(cell, name, values[name])
    words = {name: _in_words(one, numbers_of(cell)) for name, one in axes.items()}
    for name, array in arrays.items():
        if array.ndim != len(axes[name]) and not _has_several(cell, axes[name]):
            raise ValueError(f"{call}: {name} has shape {array.shape}; expected {words[name]}.")
    sources = _read_sizes(cell, arrays, wanted)
    values |= {name: getattr(cell, name) for name in sources}
    if unread := [name for name in sizes if values[name] is None]:
        given = [name for name in arrays if unread[0] in _fields(axes[name], values)]
        shapes = ", ".join(f"{n} is {arrays[n].shape}, expected {words[n]}" for n in given)
        raise ValueError(
            f"{call}: {unread[0]} does not follow from the shapes{shapes and ': '}{shapes}; "
            f"pass {unread[0]}=, or other arrays."
        )
    set_fields(cell, values)
    _check_shapes(call, cell, arrays, sources, words)
    for name in axes:
        _check_presence(call, cell, name, name in arrays)
        object.__setattr__(cell, name, arrays.get(name))
    return cell


def _named_arrays(
    cls: Any, call: str, positional: tuple[Any, ...], named: dict[str, Any]
) -> Arrays:
    """The arrays by the names of parameters, taken out of ``named``."""
    names = [*cls._parameters]
    if len(positional) > len(names):
        raise TypeError(
            f"{call}: {len(positional)} arrays by position; expected at most {', '.join(names)}."
        )
    given = dict(zip(names, positional, strict=False))
    if twice := [name for name in given if name in named]:
        raise TypeError(f"{call}: {twice[0]} was given twice, by position and by name.")
    given |= {name: named.pop(name) for name in names if name in named}
    given = {name: array for name, array in given.items() if array is not None}
    optional = [name for name, one in cls._parameters.items() if one.is_optional]
    needed = [name for name in names if name not in optional]
    expected = f"the arrays {', '.join(needed)}"
    expected += f", and perhaps {', '.join(optional)}" if optional else ""
    if missing := [name for name in needed if name not in given]:
        raise TypeError(f"{call}: {missing[0]} is missing; expected {expected}.")
    fields = {**cls._sizes, **cls._settings}
    if unknown := [name for name in named if name not in fields]:
        raise TypeError(
            f"{call}: unknown name {unknown[0]!r}; expected {expected}, or a size or setting: "
            f"{', '.join(fields)}."
        )
    return {name: jnp.asarray(given[name]) for name in names if name in given}


def _fields(axes: tuple[Axis, ...], names: Any) -> list[str]:
    """The fields among ``names`` that the words of a shape stand for."""
    return [field for word in words_of(axes) if (field := field_of(word, names))]


def _in_words(axes: tuple[Axis, ...], numbers: Numbers) -> str:
    """``(3 * hidden, in)``, with numbers for the words that are known; ``(hidden,)`` for one."""
    return f"({', '.join(spelled(axis, numbers) for axis in axes)}{',' * (len(axes) == 1)})"


def _read_sizes(cell: Any, arrays: Arrays, wanted: set[str]) -> dict[str, str]:
    """Set the ``wanted`` sizes from shapes, and name the array that each was read from.

    Axes of a single word are read first, then those like ``4 * hidden``.
    """
    axes = [
        (axis, length, name)
        for name, array in arrays.items()
        if not _has_several(cell, cell._parameters[name].axes)
        for axis, length in zip(cell._parameters[name].axes, array.shape, strict=True)
        if isinstance(axis, str)
    ]
    axes.sort(key=lambda entry: not entry[0].isidentifier())
    sources: dict[str, str] = {}
    for axis, length, name in axes * 2:  # again, with what the first round has read
        unknown = {*_fields((axis,), wanted - sources.keys())}
        if len(unknown) == 1:
            [field] = unknown
            if size := _solved(axis, length, numbers_of(cell), field):
                object.__setattr__(cell, field, size)
                sources[field] = name
    return sources


def _has_several(cell: Any, axes: tuple[Axis, ...]) -> bool:
    """Whether a word of a shape may stand for several axes: it is a property that is no number."""
    numbers = numbers_of(cell)
    derived = [name for word in words_of(axes) if (name := field_of(word, cell._derived))]
    return any(not isinstance(numbers.get(name), int) for name in derived)


def _solved(axis: str, length: int, numbers: Numbers, field: str) -> int | None:
    """The size that makes an axis of a linear expression ``length`` long."""
    try:
        one, two, three = (shape_of((axis,), {**numbers, field: n})[0] for n in (1, 2, 3))
    except ValueError:  # it has a property that is not known yet
        return None
    slope = two - one
    if slope < 1 or three - two != slope or (length - one) % slope:
        return None
    return max(0, 1 + (length - one) // slope)


def _check_shapes(
    call: str, cell: Any, arrays: Arrays, sources: dict[str, str], words: dict[str, str]
) -> None:
    """Check shapes and dtypes, first of the arrays that give all sizes of their own axes."""
    others = {
        name: [
            sources[field]
            for field in _fields(cell._parameters[name].axes, sources)
            if sources[field] != name
        ]
        for name in arrays
    }
    for name in sorted(arrays, key=lambda name: bool(others[name])):
        shape, expected = arrays[name].shape, cell._shape(cell._parameters[name].axes)
        if shape != expected:
            wish = f"{expected} to go with {others[name][-1]}" if others[name] else words[name]
            raise ValueError(f"{call}: {name} has shape {shape}; expected {wish}.")
    like = [*arrays, *sources.values()][-1]
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{call}: {name} is {array.dtype}; expected a floating dtype.")
        if array.dtype != arrays[like].dtype:
            raise TypeError(
                f"{call}: {name} is {array.dtype}; expected {arrays[like].dtype} as {like} is."
            )


def _check_presence(call: str, cell: Any, name: str, is_given: bool) -> None:
    """Raise an error for a parameter that the settings of a cell leave out, or ask for."""
    one = cell._parameters[name]
    is_there = one.when is None or one.when(cell)
    if is_given and not is_there:
        raise TypeError(f"{call}: {name} was given, but a cell of these settings has none.")
    if is_there and not is_given and one.argument is None:
        raise TypeError(f"{call}: {name} is missing; a cell of these settings has it.")
