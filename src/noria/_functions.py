"""Functions as parts of a model: ``Function``."""

import functools
import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.tree_util as jtu

#: Public modules of JAX. A private one may have another name in another version.
_PUBLIC = ("jax.nn", "jax.numpy", "jax.lax", "jax.scipy.special")


@jtu.register_static
@dataclass(frozen=True, repr=False, eq=False)
class Function:
    """A plain function as a pytree without leaves.

    Two of them are equal if their functions are, so they share programs that JAX compiled. Two
    ``functools.partial`` are equal if their functions and plain arguments are. Copies share the
    function. Pickle stores a function by its module and name; a ``functools.partial`` by its parts.

    Args:
        func: the function. `inspect.signature` gives its parameters for the wrapper too.

    >>> import jax.numpy as jnp, pickle
    >>> pickle.loads(pickle.dumps(Function(jnp.tanh))) == Function(jnp.tanh)
    True
    """

    func: Callable[..., Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "__wrapped__", self.func)  # `inspect.signature` follows it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and bool(_identity(self.func) == _identity(other.func))

    def __hash__(self) -> int:
        return hash(_identity(self.func))

    def __repr__(self) -> str:
        return f"Function({self.func!r})"

    def __copy__(self) -> "Function":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Function":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        place = place_of(self.func)
        if place is not None:
            return _from_place, (place,)
        if type(self.func) is functools.partial:
            return _from_parts, (Function(self.func.func), self.func.args, self.func.keywords)
        return Function, (self.func,)


def _identity(function: Any) -> Any:
    """A key of a function: two functions with equal keys compute the same."""
    if type(function) is functools.partial:
        values = [*enumerate(function.args), *sorted(function.keywords.items())]
        if all(type(value) in (bool, int, float, str, type(None)) for _, value in values):
            return _identity(function.func), *(
                (name, repr(value)) for name, value in values
            )  # 1 is not 1.0
    return function


@dataclass(frozen=True)
class Place:
    """Module and name under which a function can be imported."""

    module: str
    name: str

    def function(self) -> Any:
        importlib.import_module(self.module)
        return functools.reduce(getattr, self.name.split("."), sys.modules[self.module])

    def holds(self, function: Any) -> bool:
        try:
            return self.module in sys.modules and self.function() is function
        except AttributeError:
            return False


def place_of(function: Any) -> Place | None:
    """The import path of a function that pickle does not find, or ``None``.

    For a function that `jax.jit` made, such as ``jnp.tanh``, pickle stores the function inside,
    which is not the object with that name, and fails. A lambda that a module bound to a name does
    not know that name. ``None`` leaves the function to pickle, and functions of ``__main__`` too,
    which cloudpickle stores by value.
    """
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    module = getattr(function, "__module__", None)
    plain = isinstance(function, types.FunctionType) and name != "<lambda>"
    if plain or isinstance(function, types.MethodType | type) or not callable(function):
        return None
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    if name == "<lambda>":
        known = vars(sys.modules[module]) if module in sys.modules else {}
        name = next((given for given, value in known.items() if value is function), name)
    modules = (*_PUBLIC, module) if module.startswith("jax._src") else (module,)
    places = (Place(module, name) for module in modules)
    return next((place for place in places if place.holds(function)), None)


def _from_place(place: Place) -> Function:
    return Function(place.function())


def _from_parts(function: Function, args: tuple[Any, ...], keywords: dict[str, Any]) -> Function:
    return Function(functools.partial(function.func, *args, **keywords))
