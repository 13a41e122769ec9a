"""The tables of a declared class, its constructor, and the parameters that it draws."""

import inspect
import re
import types
import typing
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, InitVar, replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import check_key, check_sizes
from noria._parameters import default_dtype, draw
from noria._types import Key
from noria.cells import declare
from noria.cells.declare import as_initializer
from noria.module import as_pytree

#: Words of annotations of settings that are no arrays: they are static.
_PLAIN = {"bool", "int", "float", "str", "tuple", "None", "NoneType", "Optional", "typing"}

#: What the words of a shape stand for.
Numbers = dict[str, int | tuple[int, ...]]

#: Arguments of every constructor that are no fields.
_COMMON = ("key", "init", "dtype")

_EMPTY = inspect.Parameter.empty


# --- When a class is defined ----------------------------------------------------------------------


def collect(cls: Any) -> None:
    """Move the declarations of a class body to the tables of the class."""
    for table in ("_sizes", "_settings", "_arguments", "_parameters", "_states"):
        setattr(cls, table, dict(getattr(cls, table)))
    inherited = [*cls._states]
    annotations = inspect.get_annotations(cls)
    for name, annotation in [*annotations.items()]:
        if _is_text_of(annotation, "ClassVar") or ClassVar in (
            annotation,
            typing.get_origin(annotation),
        ):
            continue
        declared = cls.__dict__.get(name, _EMPTY)
        if name in cls.__dict__:
            delattr(cls, name)
        if _is_text_of(annotation, "InitVar") or isinstance(annotation, InitVar):
            cls._arguments[name] = declared
            del annotations[name]
        elif isinstance(declared, declare.StateArray):
            cls._states[name] = declared
            del annotations[name]
        elif isinstance(declared, declare.Parameter):
            may_lack = declared.when is not None or _allows_none(annotation)
            cls._parameters[name] = replace(declared, is_optional=may_lack)
        elif isinstance(declared, declare.Size):
            cls._sizes[name] = declared
            setattr(cls, name, eqx.field(static=True))
        else:
            _collect_setting(cls, name, annotation, declared)
    cls.__annotations__ = annotations
    _check_words(cls)
    fixed = {name for name, one in cls._parameters.items() if not one.trained}
    if fixed:
        fields = (*cls._parameters, *cls._settings)
        cls._trainable = tuple(name for name in fields if name not in fixed)
    if len(cls._states) > 1 and [*cls._states] != inherited and "State" not in cls.__dict__:
        cls.State = _state_type(cls)


def _collect_setting(cls: Any, name: str, annotation: Any, declared: Any) -> None:
    """A setting: a value, or `equinox.field` with the default and ``kw_only=False``."""
    is_static = _is_plain(annotation)
    if isinstance(declared, Field):
        is_static |= bool(declared.metadata.get("static"))
        if declared.kw_only is False:
            cls._positional = (*cls._positional, name)
        declared = _EMPTY if declared.default is MISSING else declared.default
    cls._settings[name] = declared
    if is_static:
        setattr(cls, name, eqx.field(static=True))


def _is_text_of(annotation: Any, name: str) -> bool:
    starts = (name, f"typing.{name}", f"dataclasses.{name}")
    return isinstance(annotation, str) and annotation.startswith(starts)


def _allows_none(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.endswith("| None")
    return types.NoneType in typing.get_args(annotation)


def _is_plain(annotation: Any) -> bool:
    """Whether an annotation names plain types, and perhaps ``None``."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    words = {*re.findall(r"\w+", text)}
    return words <= _PLAIN and bool(words - {"None", "NoneType"})


def _check_words(cls: Any) -> None:
    """Check the words of all shapes, and note those that are properties of the class."""
    fields = {**cls._sizes, **cls._settings}
    for name, one in [*cls._parameters.items(), *cls._states.items()]:
        for word in declare.words_of(one.axes):
            if declare.field_of(word, fields) is not None:
                continue
            names = [n for n in (f"{word}_size", word) if isinstance(getattr(cls, n, 0), property)]
            if not names:
                raise TypeError(
                    f"class {cls.__name__}: {name} has an axis {word!r}; expected a word for one "
                    f"of the fields {', '.join(fields)}."
                )
            cls._derived = tuple(dict.fromkeys((*cls._derived, names[0])))


def _state_type(cls: Any) -> Any:
    found = namedtuple("State", cls._states, module=cls.__module__)  # type: ignore[misc]
    found.__qualname__ = f"{cls.__qualname__}.State"
    return found


# --- When a cell is made --------------------------------------------------------------------------


def constructor(cls: Any) -> Callable[..., None]:
    """``__init__`` with the sizes, the settings and the arguments of every declared cell."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    arguments = [
        inspect.Parameter(
            name,
            keyword if one.kw_only else positional,
            default=_EMPTY if one.default is None else one.default,
        )
        for name, one in cls._sizes.items()
    ]
    arguments += [
        inspect.Parameter(name, positional if name in cls._positional else keyword, default=default)
        for name, default in {**cls._arguments, **cls._settings}.items()
    ]
    common = [name for name in _COMMON if name not in cls._arguments]
    arguments += [inspect.Parameter(name, keyword, default=None) for name in common]
    arguments.sort(key=lambda argument: argument.kind)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.Signature([own, *arguments])

    def __init__(self: Any, *args: Any, **keywords: Any) -> None:
        try:
            given = signature.bind(self, *args, **keywords)
        except TypeError as error:
            shown = signature.replace(parameters=arguments)
            raise TypeError(f"{type(self).__name__}: {error}; expected {shown}.") from None
        given.apply_defaults()
        _initialise(self, given.arguments)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


def _initialise(cell: Any, given: Mapping[str, Any]) -> None:
    sizes = {name: given[name] for name in cell._sizes}
    call = f"{type(cell).__name__}({', '.join(f'{n}={v}' for n, v in sizes.items())})"
    sizes = {name: _size_of(call, name, sizes[name], one.axes) for name, one in cell._sizes.items()}
    check_key(call, given["key"])
    dtype = default_dtype(given["dtype"])
    init = {} if "init" in cell._arguments else dict(given["init"] or {})
    if unknown := [name for name in init if name not in cell._parameters]:
        raise TypeError(
            f"{call}: init names {unknown[0]!r}; expected one of the parameters "
            f"{', '.join(cell._parameters)}."
        )
    set_fields(cell, {**sizes, **{name: given[name] for name in cell._settings}})
    keys = jax.random.split(given["key"], max(1, len(cell._parameters)))
    for key, (name, one) in zip(keys, cell._parameters.items(), strict=False):
        chosen = init.get(name, None if one.argument is None else given[one.argument])
        object.__setattr__(cell, name, _drawn(cell, one, chosen, key, dtype))
    cell._adjust(given)


def _size_of(call: str, name: str, value: Any, axes: bool) -> int | tuple[int, ...]:
    if not axes:
        check_sizes(call, **{name: value})
        return int(value)
    if not isinstance(value, tuple | list):
        raise TypeError(f"{call}: {name} is {value!r}; expected a tuple of sizes.")
    check_sizes(call, **{f"{name}[{n}]": one for n, one in enumerate(value)})
    return tuple(map(int, value))


def set_fields(cell: Any, values: Mapping[str, Any]) -> None:
    """Set the sizes and the settings of a cell, and check them."""
    for name, value in values.items():
        if name in cell._sizes:
            value = tuple(map(int, value)) if cell._sizes[name].axes else int(value)
        elif callable(value) and not isinstance(value, type):
            value = as_pytree(value)
        object.__setattr__(cell, name, value)
    for base in type(cell).__mro__:  # settings are checked before arrays are drawn
        if check := vars(base).get("__check_init__"):
            check(cell)


def numbers_of(cell: Any) -> Numbers:
    """The whole numbers among the fields, and the properties of a cell that shapes use."""
    numbers: Numbers = {n: value for n, value in vars(cell).items() if isinstance(value, int)}
    for name in cell._derived:
        try:
            numbers[name] = getattr(cell, name)
        except (AttributeError, TypeError):  # while sizes are read from arrays
            continue
    return numbers


def _drawn(
    cell: Any, one: declare.Parameter, chosen: Any, key: Key, dtype: jnp.dtype
) -> jax.Array | None:
    """A parameter by what the caller has chosen: an initialiser, a number, or a truth value."""
    if chosen is False and not one.is_optional:
        raise TypeError(
            f"{cell._call}: {one.argument} is False; expected an initialiser, or None for the "
            "default."
        )
    if chosen is False or not (one.when is None or one.when(cell)):
        return None
    shape = cell._shape(one.axes)
    if chosen is None or chosen is True:
        return draw(as_initializer(one.initializer, cell), key, shape, dtype)
    how, (blocks,) = as_initializer(chosen, cell), cell._shape((one.blocks,))
    if one.blocks == 1:
        return draw(how, key, shape, dtype)
    block = shape[0] // blocks, *shape[1:]
    return jnp.concatenate([draw(how, k, block, dtype) for k in jax.random.split(key, blocks)])
