"""Cells from declarations: ``DeclaredCell`` and ``VectorCell``."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import InitVar
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import check_dtype, describe
from noria._parameters import complex_dtype, default_dtype, draw
from noria._types import Key, State
from noria.cells import declare
from noria.cells.arrays import cell_of_arrays
from noria.cells.base import Cell
from noria.cells.construction import Numbers, collect, constructor, numbers_of

D = TypeVar("D", bound="DeclaredCell")


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
    * ``rate: float = 0.1``: a setting, a keyword argument. A number, a text, a truth value or
      ``None`` is static. A function may be a module with arrays. With the default
      ``equinox.field(default=0.1, kw_only=False)`` it may be passed by position.
    * ``bias: InitVar[bool] = True``: an argument of the constructor, which is no field. A parameter
      with ``argument="bias"`` takes its initialiser from there.
    * ``W: jax.Array = matrix("hidden", "in")``: a parameter, also `vector` and `array`.
    * ``h: jax.Array = state("hidden")``: an array of the state.

    The constructor takes the sizes, the settings, and these:

    * ``key``: random key for the parameters.
    * ``init``: initialisers by the names of parameters, instead of the declared ones.
    * ``dtype``: floating dtype of the parameters; JAX's default, float32.

    A word of a shape may also be a property of the class that gives a whole number.

    One declared state is an array, and it is the output of a step by default. Several are a
    `NamedTuple`, ``State``, whose first array is the output; a class may name its own.

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
    _arguments: ClassVar[dict[str, Any]] = {}
    #: Settings that may be passed by position, and properties that shapes use.
    _positional: ClassVar[tuple[str, ...]] = ()
    _derived: ClassVar[tuple[str, ...]] = ()
    _parameters: ClassVar[dict[str, declare.Parameter]] = {}
    _states: ClassVar[dict[str, declare.StateArray]] = {}
    #: The state of a cell with several arrays.
    State: ClassVar[Any] = None

    def __init_subclass__(cls, **options: Any) -> None:
        collect(cls)
        super().__init_subclass__(**options)
        if "__init__" not in cls.__dict__ and (cls._sizes or cls._parameters):
            cls.__init__ = constructor(cls)  # type: ignore[method-assign]
        if "__call__" in cls.__dict__:
            cls.__call__ = _checked(cls.__call__)  # type: ignore[method-assign]

    @classmethod
    def from_arrays(cls: type[D], *arrays: Any, **named: Any) -> D:
        """The cell with these arrays; it needs no random key.

        Args:
            *arrays: parameters in the order of their declarations; ``None`` for one that the cell
                does not have.
            **named: parameters, sizes and settings by their names. Sizes follow from the shapes,
                and settings have their defaults.

        Returns:
            A cell that holds these arrays.

        Raises:
            TypeError: for a missing or unknown name, an array that the settings leave out, or
                dtypes that differ.
            ValueError: for a shape that does not fit, or a size that follows from no shape.

        Examples:
            >>> import jax.numpy as jnp, noria as nr
            >>> cell = nr.GRUCell.from_arrays(jnp.ones((12, 3)), jnp.ones((12, 4)))
            >>> cell.in_size, cell.hidden_size, cell.b
            (3, 4, None)
        """
        cell: D = cell_of_arrays(cls, arrays, named)
        return cell

    def initial_state(self) -> State:
        """The initial state of one example.

        Returns:
            The declared array, or a `NamedTuple` of the declared arrays.
        """
        dtype, numbers = self.dtype, numbers_of(self)
        arrays = {name: _initial(one, dtype, numbers) for name, one in self._states.items()}
        return next(iter(arrays.values())) if self.State is None else self.State(**arrays)

    @property
    def dtype(self) -> jnp.dtype:
        """Floating dtype of the parameters, and of all inputs and outputs."""
        for name in self._parameters:
            if (array := getattr(self, name)) is not None:
                return jnp.finfo(array.dtype).dtype
        return default_dtype(None)

    def _shape(self, axes: tuple[declare.Axis, ...]) -> tuple[int, ...]:
        return declare.shape_of(axes, numbers_of(self))

    def _adjust(self, given: Mapping[str, Any]) -> None:
        """Change parameters that were just drawn; ``given`` are the constructor's arguments."""

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
            check_dtype(self._call, "the state", array, _dtype_of(one, self.dtype))


def _initial(one: declare.StateArray, dtype: jnp.dtype, numbers: Numbers) -> jax.Array:
    shape, start = declare.shape_of(one.axes, numbers), one.initializer
    if callable(start):
        return draw(start, jax.random.key(0), shape, dtype).astype(_dtype_of(one, dtype))
    if start == 0:  # `jnp.zeros` takes less time
        return jnp.zeros(shape, _dtype_of(one, dtype))
    return jnp.full(shape, start, _dtype_of(one, dtype))


def _dtype_of(one: declare.StateArray, dtype: jnp.dtype) -> jnp.dtype:
    return complex_dtype(dtype) if one.is_complex else dtype


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
