"""Cells: ``Cell``, how a cell emits its output, and ``GatedCell`` with its stacked weights."""

import abc
import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import check_key, check_sizes, check_step
from noria._functions import Function
from noria._parameters import default_dtype, draw
from noria._types import Initializer, Key, State
from noria.initializers import zeros
from noria.module import Module

G = TypeVar("G", bound="GatedCell")

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


class GatedCell(Cell):
    """A cell whose gates are row blocks of one input matrix and one recurrent matrix.

    Attributes:
        W: ``(gates, in)``, the input weights; ``gates`` is ``hidden`` times the number of gates.
        U: ``(gates, hidden)``, the recurrent weights.
        b: ``(gates,)``, the bias of the input side, or ``None``.
        b_h: ``(gates,)``, the bias of the recurrent side, or ``None`` (default).
    """

    W: jax.Array
    U: jax.Array
    b: jax.Array | None
    b_h: jax.Array | None

    #: The gates in the order of their row blocks.
    GATES: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        key: Key,
        init: Initializer | None = None,
        recurrent_init: Initializer | None = None,
        bias: bool | Initializer = True,
        recurrent_bias: bool | Initializer = False,
        dtype: Any = None,
    ):
        name = type(self).__name__
        call = f"{name}(in_size={in_size}, hidden_size={hidden_size})"
        check_sizes(call, in_size=in_size, hidden_size=hidden_size)
        check_key(call, key)
        dtype = default_dtype(dtype)
        keys = jax.random.split(key, 4)
        self.W = self._weights(init, keys[0], hidden_size, in_size, dtype)
        self.U = self._weights(recurrent_init, keys[1], hidden_size, hidden_size, dtype)
        self.b = self._bias(bias, keys[2], hidden_size, dtype)
        self.b_h = self._bias(recurrent_bias, keys[3], hidden_size, dtype)

    def _weights(
        self, init: Initializer | None, key: Key, hidden: int, columns: int, dtype: Any
    ) -> jax.Array:
        blocks = len(self.GATES)
        if init is None:  # Flux: Glorot's bound for the stacked matrix
            bound = (6 / (columns + blocks * hidden)) ** 0.5
            return jax.random.uniform(key, (blocks * hidden, columns), dtype, -bound, bound)
        keys = jax.random.split(key, blocks)
        return jnp.concatenate([draw(init, k, (hidden, columns), dtype) for k in keys])

    def _bias(
        self, bias: bool | Initializer, key: Key, hidden: int, dtype: Any
    ) -> jax.Array | None:
        if bias is False:
            return None
        return draw(zeros if bias is True else bias, key, (len(self.GATES) * hidden,), dtype)

    @classmethod
    def from_arrays(
        cls: type[G],
        W: jax.Array,
        U: jax.Array,
        b: jax.Array | None = None,
        b_h: jax.Array | None = None,
        **static: Any,
    ) -> G:
        """The cell with these arrays, laid out as its gate order says.

        Args:
            W: ``(gates, in)``, the input weights; ``gates`` is ``hidden`` times the number of
                gates.
            U: ``(gates, hidden)``, the recurrent weights.
            b: ``(gates,)``, the bias, or ``None``.
            b_h: ``(gates,)``, the bias of the recurrent side, or ``None``.
            **static: further options of the cell that are no arrays, such as ``activation``.

        Returns:
            A cell that holds these arrays.

        Raises:
            ValueError: if their shapes do not fit each other.
            TypeError: if their dtypes differ.

        Examples:
            >>> import jax.numpy as jnp, noria as nr
            >>> cell = nr.GRUCell.from_arrays(jnp.ones((12, 3)), jnp.ones((12, 4)))
            >>> cell.in_size, cell.hidden_size, cell.b
            (3, 4, None)
        """
        arrays = {"W": jnp.asarray(W), "U": jnp.asarray(U)}
        arrays |= {
            name: jnp.asarray(bias) for name, bias in (("b", b), ("b_h", b_h)) if bias is not None
        }
        call, blocks = f"{cls.__name__}.from_arrays", len(cls.GATES)
        shape, dtype = arrays["U"].shape, arrays["U"].dtype
        if len(shape) != 2 or shape[0] != blocks * shape[1]:
            raise ValueError(f"{call}: U has shape {shape}; expected ({blocks} * hidden, hidden).")
        if arrays["W"].ndim != 2:
            raise ValueError(
                f"{call}: W has shape {arrays['W'].shape}; expected ({blocks} * hidden, in)."
            )
        expected = {
            "W": (shape[0], *arrays["W"].shape[1:2]),
            "U": shape,
            "b": shape[:1],
            "b_h": shape[:1],
        }
        for name, array in arrays.items():
            if array.shape != expected[name]:
                raise ValueError(
                    f"{call}: {name} has shape {array.shape}; "
                    f"expected {expected[name]} to go with U."
                )
            if array.dtype != dtype:
                raise TypeError(f"{call}: {name} is {array.dtype}; expected {dtype} as U is.")
        cell = cls(1, 1, key=jax.random.key(0), dtype=dtype, **static)
        for name in ("W", "U", "b", "b_h"):
            object.__setattr__(cell, name, arrays.get(name))
        return cell

    @property
    def in_size(self) -> int:
        """Features of the input of a step."""
        return self.W.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Features of the state."""
        return self.U.shape[-1]

    @property
    def dtype(self) -> Any:
        """Dtype of the parameters, and of all inputs and outputs."""
        return self.U.dtype

    def _projections(self, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``W x + b`` and ``U h + b_h``, after a check of ``h`` and ``x``."""
        self._check(h, x)
        return add_bias(x @ self.W.T, self.b), add_bias(h @ self.U.T, self.b_h)

    def _check(self, h: jax.Array, x: jax.Array) -> None:
        call = f"{type(self).__name__}(in_size={self.in_size}, hidden_size={self.hidden_size})"
        swapped = getattr(x, "shape", ())[-1:] == (self.hidden_size,) != (self.in_size,)
        hint = "; the state comes first: cell(state, x)" if swapped else ""
        check_step(call, "x", x, self.in_size, self.dtype, hint)
        check_step(call, "the state", h, self.hidden_size, self.dtype, hint)

    def _zeros(self) -> jax.Array:
        return jnp.zeros(self.hidden_size, self.dtype)


def add_bias(a: jax.Array, b: jax.Array | None) -> jax.Array:
    """``a + b``, or ``a`` if there is no bias."""
    return a if b is None else a + b
