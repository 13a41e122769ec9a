"""Cells from declarations: the constructor, the initial state and the checks of a step."""

import functools
import inspect
import re
import typing
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import InitVar
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import check_dtype, check_key, check_sizes, describe
from noria._parameters import complex_dtype, default_dtype, draw
from noria._types import Key, State
from noria.cells import declare
from noria.cells.base import Cell
from noria.cells.declare import as_initializer
from noria.module import as_pytree

#: Words of annotations of settings that are no arrays: they are static.
_PLAIN = {"bool", "int", "float", "str", "tuple", "None"}

#: Arguments of every constructor that are no fields.
_COMMON = ("key", "init", "dtype")


@dataclass_transform(
    kw_only_default=True,
    field_specifiers=(
        declare.size,
        declare.matrix,
        declare.vector,
        declare.array,
        declare.state,
        eqx.field,
    ),
)
class DeclaredCell(Cell):
    """A cell whose class body declares its sizes, settings, parameters and states.

    Each line of the class body is one of these:

    * ``heads: int = size(default=4)``: a size, an argument of the constructor, of at least 1.
    * ``rate: float = 0.1``: a setting, a keyword argument. A number, a text or a truth value is
      static. A function may be a module with arrays.
    * ``W: jax.Array = matrix("hidden", "in")``: a parameter, also `vector` and `array`.
    * ``h: jax.Array = state("hidden")``: an array of the state.

    The constructor takes the sizes, the settings, and these:

    * ``key``: random key for the parameters.
    * ``init``: initialisers by the names of parameters, instead of the declared ones.
    * ``dtype``: floating dtype of the parameters; JAX's default, float32.

    One declared state is an array, and it is the output of a step by default. Several are a
    `NamedTuple`, ``State``, whose first array is the output.

    Raises:
        TypeError: when the class is defined, if a shape has a word that is no field of the class.
            When a cell is made, for a missing, unknown or wrong argument.
        ValueError: when a cell is made, for a size below 1.

    Flax declares parameters in the step, PyTorch and Equinox in ``__init__``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells import matrix, state, vector
        >>> class Leaky(nr.cells.VectorCell):
        ...     rate: float = 0.3
        ...     W: jax.Array = matrix("hidden", "in")
        ...     U: jax.Array = matrix("hidden", "hidden")
        ...     b: jax.Array = vector("hidden")
        ...     h: jax.Array = state("hidden")
        ...
        ...     def __call__(self, h, x):
        ...         n = jnp.tanh(self.W @ x + self.U @ h + self.b)
        ...         return (1 - self.rate) * h + self.rate * n
        >>> cell = Leaky(2, 3, rate=0.5, key=jax.random.key(0))
        >>> nr.Recurrence(cell)(jnp.ones((5, 2))).shape, nr.count_parameters(cell)
        ((5, 3), 18)
    """

    _sizes: ClassVar[dict[str, declare.Size]] = {}
    _settings: ClassVar[dict[str, Any]] = {}
    _parameters: ClassVar[dict[str, declare.Parameter]] = {}
    _states: ClassVar[dict[str, declare.StateArray]] = {}
    #: Names of properties that are words of shapes.
    _words: ClassVar[tuple[str, ...]] = ()
    #: The state of a cell with several arrays.
    State: ClassVar[Any] = None

    def __init_subclass__(cls, **options: Any) -> None:
        _collect(cls)
        super().__init_subclass__(**options)
        if "__init__" not in cls.__dict__ and (cls._sizes or cls._parameters):
            cls.__init__ = _constructor(cls)  # type: ignore[method-assign]
        if "__call__" in cls.__dict__:
            cls.__call__ = _checked(cls.__call__)  # type: ignore[method-assign]

    def initial_state(self) -> State:
        """The initial state of one example.

        Returns:
            The declared array, or a `NamedTuple` of the declared arrays.
        """
        arrays = {name: self._initial(one) for name, one in self._states.items()}
        return next(iter(arrays.values())) if self.State is None else self.State(**arrays)

    @property
    def dtype(self) -> jnp.dtype:
        """Floating dtype of the parameters, and of all inputs and outputs."""
        for name in self._parameters:
            if (array := getattr(self, name)) is not None:
                return jnp.finfo(array.dtype).dtype
        return default_dtype(None)

    def _initial(self, one: declare.StateArray) -> jax.Array:
        shape, start = self._shape(one.axes), one.initializer
        if not callable(start):
            return jnp.full(shape, start, self._dtype_of(one))
        return draw(start, jax.random.key(0), shape, self.dtype).astype(self._dtype_of(one))

    def _dtype_of(self, one: declare.StateArray) -> jnp.dtype:
        return complex_dtype(self.dtype) if one.is_complex else self.dtype

    def _shape(self, axes: tuple[declare.Axis, ...]) -> tuple[int, ...]:
        return declare.shape_of(axes, self._numbers)

    @property
    def _numbers(self) -> dict[str, int | tuple[int, ...]]:
        """What the words of a shape may stand for."""
        numbers = {n: v for n, v in vars(self).items() if isinstance(v, int)}
        return numbers | {name: getattr(self, name) for name in self._words}

    @property
    def _call(self) -> str:
        sizes = ", ".join(f"{name}={getattr(self, name)}" for name in self._sizes)
        return f"{type(self).__name__}({sizes})"

    def _check(self, state: State, x: Any) -> None:
        """Check the arguments of a step of one example."""
        expected = [self._shape(one.axes) for one in self._states.values()]
        given = jtu.tree_leaves(state)
        if [jnp.shape(a) for a in given] != expected:
            names = ", ".join(f"{n} {s}" for n, s in zip(self._states, expected, strict=True))
            raise ValueError(
                f"{self._call}: the state is {describe(state)}; expected {names}, of one example: "
                "the state comes first, cell(state, x). nr.Recurrence or jax.vmap adds a batch."
            )
        for array, one in zip(given, self._states.values(), strict=True):
            check_dtype(self._call, "the state", array, self._dtype_of(one))


def _collect(cls: type[DeclaredCell]) -> None:
    """Move the declarations of a class body to the tables of the class."""
    sizes, settings = dict(cls._sizes), dict(cls._settings)
    parameters, states = dict(cls._parameters), dict(cls._states)
    annotations = inspect.get_annotations(cls)
    for name, annotation in annotations.items():
        if _is_no_field(annotation):
            continue
        declared = cls.__dict__.get(name, inspect.Parameter.empty)
        if isinstance(declared, declare.StateArray):
            states[name] = declared
            annotations[name] = ClassVar[Any]  # no field
        elif isinstance(declared, declare.Parameter):
            parameters[name] = declared
        elif isinstance(declared, declare.Size):
            sizes[name] = declared
            setattr(cls, name, eqx.field(static=True))
            continue
        else:
            settings[name] = declared
            if _is_plain(annotation):
                setattr(cls, name, eqx.field(static=True))
                continue
        if name in cls.__dict__:
            delattr(cls, name)
    cls.__annotations__ = annotations
    arrays: list[tuple[str, Any]] = [*parameters.items(), *states.items()]
    words = [*sizes, *settings, *cls._words]
    for name, one in arrays:
        for word in declare.words_of(one.axes):
            if declare.field_of(word, words) is None:
                raise TypeError(
                    f"class {cls.__name__}: {name} has an axis {word!r}; expected a word for one "
                    f"of the fields {', '.join(words)}."
                )
    cls._sizes, cls._settings, cls._parameters, cls._states = sizes, settings, parameters, states
    fixed = {name for name, one in parameters.items() if not one.trained}
    if fixed:
        cls._trainable = tuple(name for name in (*parameters, *settings) if name not in fixed)
    if len(states) > 1 and states != getattr(cls.__base__, "_states", None):
        cls.State = _state_type(cls, tuple(states))


def _is_no_field(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (ClassVar, InitVar) or (
        isinstance(annotation, str) and annotation.startswith(("ClassVar", "typing.ClassVar"))
    )


def _is_plain(annotation: Any) -> bool:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return _PLAIN.issuperset(re.findall(r"\w+", text))


def _state_type(cls: type, names: tuple[str, ...]) -> Any:
    found = namedtuple("State", names, module=cls.__module__)  # type: ignore[misc]
    found.__qualname__ = f"{cls.__qualname__}.State"
    return found


def _constructor(cls: type[DeclaredCell]) -> Callable[..., None]:
    """``__init__`` with the sizes, the settings and the arguments of every declared cell."""
    empty, keyword = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    arguments = [
        inspect.Parameter(
            name,
            keyword if one.kw_only else positional,
            default=empty if one.default is None else one.default,
        )
        for name, one in sorted(cls._sizes.items(), key=lambda pair: pair[1].kw_only)
    ]
    arguments += [inspect.Parameter(n, keyword, default=d) for n, d in cls._settings.items()]
    arguments += [inspect.Parameter(name, keyword, default=None) for name in _COMMON]
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.Signature([own, *arguments])

    def __init__(self: DeclaredCell, *args: Any, **keywords: Any) -> None:
        try:
            given = signature.bind(self, *args, **keywords)
        except TypeError as error:
            shown = signature.replace(parameters=arguments)
            raise TypeError(f"{type(self).__name__}: {error}; expected {shown}.") from None
        given.apply_defaults()
        _initialise(self, given.arguments)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


def _initialise(cell: DeclaredCell, given: Mapping[str, Any]) -> None:
    sizes = {name: given[name] for name in cell._sizes}
    call = f"{type(cell).__name__}({', '.join(f'{n}={v}' for n, v in sizes.items())})"
    for name, size in cell._sizes.items():
        sizes[name] = _size_of(call, name, sizes[name], size.axes)
        object.__setattr__(cell, name, sizes[name])
    check_key(call, given["key"])
    dtype, init = default_dtype(given["dtype"]), dict(given["init"] or {})
    if unknown := [name for name in init if name not in cell._parameters]:
        raise TypeError(
            f"{call}: init names {unknown[0]!r}; expected one of the parameters "
            f"{', '.join(cell._parameters)}."
        )
    for name in cell._settings:
        value = given[name]
        function = callable(value) and not isinstance(value, type)
        object.__setattr__(cell, name, as_pytree(value) if function else value)
    for base in type(cell).__mro__:  # settings are checked before arrays are drawn
        if check := vars(base).get("__check_init__"):
            check(cell)
    keys = jax.random.split(given["key"], max(1, len(cell._parameters)))
    for key, (name, one) in zip(keys, cell._parameters.items(), strict=False):
        how = as_initializer(init.get(name, one.initializer), cell)
        here = one.when is None or one.when(cell)
        drawn = draw(how, key, cell._shape(one.axes), dtype) if here else None
        object.__setattr__(cell, name, drawn)


def _size_of(call: str, name: str, value: Any, axes: bool) -> int | tuple[int, ...]:
    if not axes:
        check_sizes(call, **{name: value})
        return int(value)
    if not isinstance(value, tuple | list):
        raise TypeError(f"{call}: {name} is {value!r}; expected a tuple of sizes.")
    check_sizes(call, **{f"{name}[{n}]": one for n, one in enumerate(value)})
    return tuple(map(int, value))


def _checked(call: Callable[..., State]) -> Callable[..., State]:
    """A step that checks its arguments."""

    @functools.wraps(call)
    def step(self: DeclaredCell, state: State, x: Any, **keywords: Any) -> State:
        self._check(state, x)
        return call(self, state, x, **keywords)

    return step


class VectorCell(DeclaredCell):
    """A declared cell whose input is a vector.

    Args:
        in_size: features of ``x``.
        hidden_size: features of the state.
        key: random key for the parameters.
        init: initialisers, or numbers, by the names of parameters, instead of the declared ones.
        dtype: floating dtype of the parameters; JAX's default, float32.

    Raises:
        TypeError: for a missing, unknown or wrong argument.
        ValueError: for a size below 1.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> class Sum(nr.cells.VectorCell):
        ...     W: jax.Array = nr.cells.matrix("hidden", "in")
        ...     h: jax.Array = nr.cells.state("hidden")
        ...
        ...     def __call__(self, h, x):
        ...         return h + self.W @ x
        >>> Sum(2, 3, key=jax.random.key(0)).initial_state().shape
        (3,)
    """

    in_size: int = declare.size(kw_only=False)
    hidden_size: int = declare.size(kw_only=False)
    if TYPE_CHECKING:  # arguments of the constructor
        key: InitVar[Key]
        init: InitVar[Mapping[str, declare.Init] | None] = None
        dtype: InitVar[Any] = None

    def _check(self, state: State, x: Any) -> None:
        super()._check(state, x)
        if jnp.shape(x) != (self.in_size,):
            raise ValueError(
                f"{self._call}: x is {describe(x)}; expected ({self.in_size},), one step of one "
                "example. nr.Recurrence or jax.vmap adds a batch."
            )
        check_dtype(self._call, "x", x, self.dtype)
