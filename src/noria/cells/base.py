"""Cells: ``Cell``, and how a cell emits its output."""

import abc
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax.tree_util as jtu

from noria._functions import Function
from noria._types import State
from noria.module import Module

#: Arguments of a step by name, among `KEYWORDS`.
Keywords: TypeAlias = dict[str, Any] | None


class Cell(Module):
    """A state transition and an emission, written for one example and one step.

    ::

        h' = cell(h, x)           transition, state first
        y  = cell.output(h', x)   emission, the output of the step

    Subclasses define `__call__` and `initial_state`; `output` is optional. Arrays in fields are
    trained.

    Shapes:
        ``x`` is ``(in,)``. The state is any pytree of arrays of one example; if there is more than
        one array, a `NamedTuple` whose first field is the output. A step must not change the
        structure, shapes or dtypes of the state. A cell whose ``x`` is another array or a pytree
        declares its shapes as ``in_shape``: ``(8, 8, 3)`` or ``{"frame": (8, 8), "gate": ()}``.

    `__call__` and `output` may take arguments by name:

    * ``key``: a random key of the step; `__call__` only.
    * ``t``: int32, the number of the step. It counts from 0, and again from 0 after a reset.
    * ``dt``: the time difference of the step, which the caller passes.
    * ``context``: data of the example that is the same at each step, which the caller passes.

    A cell with ``**keywords`` gets those that the cells in its fields take, to pass them on.

    Raises:
        TypeError: for a class without `__call__` or `initial_state`.

    In PyTorch and Keras a step takes ``(x, state)``; here the state comes first, as in
    `jax.lax.scan`. They write a step for a batch; here `Recurrence` adds the batch and the time
    axis.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> class Leaky(nr.Cell):
        ...     W: jax.Array
        ...     U: jax.Array
        ...
        ...     def __call__(self, h, x):
        ...         return 0.7 * h + 0.3 * jnp.tanh(self.W @ x + self.U @ h)
        ...
        ...     def initial_state(self):
        ...         return jnp.zeros(self.U.shape[0])
        >>> nr.Recurrence(Leaky(jnp.ones((3, 2)), jnp.eye(3)))(jnp.ones((5, 2))).shape
        (5, 3)
    """

    @abc.abstractmethod
    def __call__(self, state: State, x: Any) -> State:
        """The next state.

        Args:
            state: the state before the step.
            x: ``(in,)``, the input of the step.

        Returns:
            The state after the step, with the structure, shapes and dtypes of ``state``. A step
            that computes its output on the way may return ``(state, y)`` instead.
        """

    @abc.abstractmethod
    def initial_state(self) -> State:
        """The zero state of one example.

        Returns:
            A pytree of arrays, which broadcast over a batch.
        """

    def output(self, state: State, x: Any) -> Any:
        """The output of a step, by default the first array of the state.

        Computations that do not feed the next state belong here: a read-out, a norm, a skip
        connection.

        Args:
            state: the state after the step.
            x: ``(in,)``, the input of the step.

        Returns:
            An array, or a pytree of arrays.

        Raises:
            TypeError: by default, if the state is neither an array nor a tuple that starts with
                one.
        """
        return first_array(type(self).__name__, state)


def first_array(name: str, state: State) -> Any:
    """The array itself, or the first field of a tuple or `NamedTuple`."""
    if isinstance(state, tuple) and state:
        return first_array(name, state[0])
    if hasattr(state, "shape"):
        return state
    raise TypeError(
        f"{name}: its state is a {type(state).__name__}, and its output is not defined; "
        "use an array or a NamedTuple whose first field is emitted, or define output(state, x)."
    )


#: The arguments that a cell may take besides the state and ``x``, by their names.
KEYWORDS = ("key", "t", "dt", "context")


def next_state(
    cell: Callable[..., Any], state: State, x: Any, keywords: Keywords = None
) -> tuple[State, tuple[Any, ...]]:
    """The next state of any cell, and its output in a tuple if the call returns both.

    The call gets those of ``keywords`` that it names.
    """
    after = cell(state, x, **_named(cell, keywords))
    before: Any = jtu.tree_structure(state)
    now: Any = jtu.tree_structure(after)
    pair = type(after) is tuple and len(after) == 2 and now != before
    if not pair or jtu.tree_structure(after[0]) != before:
        return after, ()
    if _has_output(cell) and not inner_cells(cell):
        raise TypeError(
            f"{cell_name(cell)}: its call returns (state, y), and it defines output(state, x); "
            "expected one of the two."
        )
    return after[0], (after[1],)


def emit(cell: Callable[..., Any], state: State, x: Any, keywords: Keywords = None) -> Any:
    """The output of any cell; a plain function emits the first array of its state."""
    output = getattr(cell, "output", None)
    if output is None:
        return first_array(cell_name(cell), state)
    return output(state, x, **_named(output, keywords))


def advance(
    cell: Callable[..., Any], state: State, x: Any, keywords: Keywords = None
) -> tuple[State, Any]:
    """One step of any cell: its next state and its output."""
    state, emitted = next_state(cell, state, x, keywords)
    return state, emitted[0] if emitted else emit(cell, state, x, keywords)


def _has_output(cell: Callable[..., Any]) -> bool:
    """Whether a cell defines an output of its own."""
    output = getattr(cell, "output", None)
    return output is not None and getattr(output, "__func__", None) is not Cell.output


def _named(function: Callable[..., Any], keywords: Keywords) -> dict[str, Any]:
    """The ``keywords`` that a function takes."""
    if not keywords:
        return {}
    return {name: keywords[name] for name in _arguments(function) if name in keywords}


def inner_cells(cell: Any) -> list[Cell]:
    """The outermost cells in the fields of a cell, which may emit its output."""
    leaves = jtu.tree_leaves(cell, is_leaf=lambda n: n is not cell and isinstance(n, Cell))
    return [leaf for leaf in leaves if isinstance(leaf, Cell)]


def _arguments(function: Callable[..., Any]) -> dict[str, bool]:
    """Which of `KEYWORDS` a function takes after ``(state, x)``; true if it has no default.

    With ``**keywords`` it takes those of the cells in its fields, too.
    """
    parameters = list(inspect.signature(function).parameters.values())[2:]
    bound = getattr(function, "keywords", None) or {}
    found = {
        p.name: p.default is inspect.Parameter.empty
        for p in parameters
        if p.name in KEYWORDS and p.name not in bound
    }
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        for cell in inner_cells(getattr(function, "__self__", function)):
            for name, needed in arguments_of(cell).items():
                found[name] = needed or found.get(name, False)
    return found


def arguments_of(cell: Callable[..., Any]) -> dict[str, bool]:
    """Which of `KEYWORDS` a step takes; true if it cannot run without.

    The output takes all but ``key``: it would draw the numbers of the transition again.
    """
    found = _arguments(cell)
    if _has_output(cell):
        for name, needed in _arguments(cell.output).items():  # type: ignore[attr-defined]
            if name != "key":
                found[name] = needed or found.get(name, False)
    return found


def cell_name(cell: Callable[..., Any]) -> str:
    """The name of a cell for messages and tables."""
    if isinstance(cell, Function) or (
        isinstance(cell, jtu.Partial) and not cell.args and not cell.keywords
    ):
        cell = cell.func
    if not hasattr(cell, "__name__"):  # the wrapper that JAX puts around a partial
        cell = getattr(cell, "fun", cell)
    if isinstance(cell, functools.partial):
        settings = [
            *map(repr, cell.args),
            *(f"{name}={value!r}" for name, value in cell.keywords.items()),
        ]
        return f"{cell_name(cell.func)}({', '.join(settings)})"
    return getattr(cell, "__name__", type(cell).__name__)


def takes_key(function: Callable[..., Any]) -> bool:
    """Whether a function may draw random numbers: its call has an argument ``key``."""
    return "key" in inspect.signature(function).parameters
