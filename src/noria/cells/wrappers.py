"""Cells around any other cell: the base, zoneout, residual and projected outputs.

=================== ===========================================================
file                contents
=================== ===========================================================
wrappers            the base of all, parts, wrappers of an update or an output
wrappers_time       wrappers that read the past: delay, dilation, attention
wrappers_gates      a gate of the whole update: phased and skipped updates
wrappers_fast_slow  several fast cells and a slow one
=================== ===========================================================
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import check_key, check_sizes, describe
from noria._parameters import default_dtype, draw
from noria._types import Initializer, Key, State
from noria.cells.base import Cell, advance, arguments_of, cell_name, emit, next_state
from noria.initializers import glorot_uniform


class WrapperCell(Cell):
    """A cell around another cell; by itself, it does what the other one does.

    ::

        h' = cell(h, x),    y = cell.output(h', x)

    The base of the cells below. A subclass changes the transition, the output or the state.

    Args:
        cell: any cell, also one that wraps another one.

    Attributes:
        cell: as passed.

    Shapes:
        ``in_size``, ``in_shape``, ``hidden_size`` and ``dtype`` are those of ``cell``, where it has
        them. A wrapper is for one example, as every cell.

    The arguments ``key``, ``t``, ``dt`` and ``context`` are passed on to ``cell`` if it takes them.
    A wrapper that changes the next state computes the output from the changed one. It cannot if
    ``cell`` returns ``(state, y)``: then that ``y`` is passed on.

    Raises:
        TypeError: if ``cell`` is no `noria.Cell`.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers import WrapperCell
        >>> class Scaled(WrapperCell):
        ...     def output(self, state, x, **keywords):
        ...         return 2 * super().output(state, x, **keywords)
        >>> layer = nr.Recurrence(Scaled(nr.GRUCell(2, 3, key=jax.random.key(0))))
        >>> layer(jnp.ones((5, 2))).shape
        (5, 3)
    """

    cell: Cell

    def __check_init__(self) -> None:
        check_cell(type(self).__name__, self.cell)

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        """The next state; with the output, if the call of the inner cell returns both.

        Args:
            state: the state before the step.
            x: the input of the step.
            **keywords: ``key``, ``t``, ``dt`` and ``context``, if the inner cell takes them.

        Returns:
            ``state`` after the step, or ``(state, y)``.
        """
        return with_output(*next_state(self.cell, state, x, keywords))

    def initial_state(self) -> State:
        return self.cell.initial_state()

    def output(self, state: State, x: Any, **keywords: Any) -> Any:
        """The output of a step.

        Args:
            state: the state after the step.
            x: the input of the step.
            **keywords: ``t``, ``dt`` and ``context``, if the inner cell takes them.

        Returns:
            An array, or a pytree of arrays.
        """
        return emit(self.cell, state, x, keywords)

    @property
    def in_size(self) -> int:
        """Features of ``x``."""
        found: int = self._first.in_size
        return found

    @property
    def in_shape(self) -> Any:
        """The shapes of one step, of a cell whose ``x`` is another array or a pytree."""
        return self._first.in_shape

    @property
    def hidden_size(self) -> int:
        """Features of the state of the inner cell."""
        found: int = self._first.hidden_size
        return found

    @property
    def dtype(self) -> jnp.dtype:
        """Floating dtype of the parameters, and of all inputs and outputs."""
        found: jnp.dtype = self._first.dtype
        return found

    @property
    def _first(self) -> Any:
        """The cell that gets ``x``."""
        return self.cell


# --- parts of wrappers ----------------------------------------------------------------------------


def with_output(state: State, emitted: tuple[Any, ...]) -> State:
    """The result of a call: the state, and the output if there is one."""
    return (state, *emitted) if emitted else state


def check_cell(call: str, cell: Any) -> None:
    if not isinstance(cell, Cell):
        raise TypeError(
            f"{call}: cell is a {type(cell).__name__}; expected a cell, such as "
            "nr.GRUCell(...), or a subclass of nr.Cell."
        )


def dtype_of(cell: Any) -> jnp.dtype:
    """The dtype of a cell, or of its state: that of the parameters of a wrapper."""
    found = getattr(cell, "dtype", None)
    leaves = [] if found is not None else jtu.tree_leaves(cell.initial_state())
    kinds = [jnp.finfo(leaf.dtype).dtype for leaf in leaves if is_inexact(leaf)]
    return default_dtype(next(iter(kinds), found))


def is_inexact(array: Any) -> bool:
    """Whether an array of the state holds floating or complex numbers."""
    return bool(jnp.issubdtype(jnp.result_type(array), jnp.inexact))


def zero_step(call: str, cell: Any) -> Any:
    """Zeros in the place of the input of one step."""
    size, shape = getattr(cell, "in_size", None), getattr(cell, "in_shape", None)
    if size is None and shape is None:
        raise ValueError(
            f"{call}: {cell_name(cell)} has neither in_size nor in_shape; "
            "expected a cell that declares the shapes of one step."
        )
    shape = (size,) if shape is None else shape
    zeros: Any = jtu.tree_map(
        lambda one: jnp.zeros(one, dtype_of(cell)), shape, is_leaf=lambda n: type(n) is tuple
    )
    return zeros


def output_of(call: str, cell: Any) -> Any:
    """The shapes of the output of one step."""
    asked = arguments_of(cell)
    if "context" in asked:
        raise ValueError(
            f"{call}: the output of {cell_name(cell)} depends on a context of unknown shape; "
            "expected a cell without one."
        )
    x, given = zero_step(call, cell), {"t": jnp.zeros((), jnp.int32)}
    given |= {"key": jax.random.key(0), "dt": jnp.ones((), dtype_of(cell))}
    return jax.eval_shape(lambda: advance(cell, cell.initial_state(), x, given)[1])


# --- wrappers -------------------------------------------------------------------------------------


def _rates(rate: Any) -> Any:
    leaves = jtu.tree_leaves(rate)
    return rate if isinstance(rate, int | float) else tuple(leaves)


class Zoneout(WrapperCell):
    """Keeps each number of the state with a probability, and else updates it.

    ::

        s~ = cell(s, x)
        m  ~ Bernoulli(rate)
        s' = m * s + (1 - m) * s~              in training
        s' = rate * s + (1 - rate) * s~        in inference

    Args:
        cell: any cell.
        rate: probability that a number stays as it is, from 0 to 1. One for all arrays of the
            state, or one for each: ``(0.05, 0.5)`` or ``LSTMState(h=0.05, c=0.5)``.
        inference: whether the expectation is taken. `noria.inference` and `noria.training` set it
            for a whole model.

    Attributes:
        cell: as passed.
        rate: a number, or a tuple of numbers.
        inference: as passed.

    All arrays of the state take part, also those that a wrapper inside adds. So put zoneout inside
    of delays and windows. Arrays of integers and booleans are always updated.

    Raises:
        TypeError: in training mode, if no key is passed.
        ValueError: for a rate out of range, or if there is not one for each array.

    Source: Krueger et al. 2016, arXiv 1606.01305. The masks of ``h`` and ``c`` of an
    LSTM are independent, and the new ``h`` reads the ``c`` before zoneout. Haste holds ``h`` only.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers import Zoneout
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> layer = nr.Recurrence(Zoneout(nr.LSTMCell(2, 3, key=k1), (0.05, 0.5)))
        >>> layer(jnp.ones((5, 2)), key=k2).shape
        (5, 3)
        >>> nr.inference(layer)(jnp.ones((5, 2))).shape
        (5, 3)
    """

    rate: float | tuple[float, ...] = eqx.field(static=True, converter=_rates)
    inference: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self) -> None:
        check_cell("Zoneout", self.cell)
        rates = self.rate if isinstance(self.rate, tuple) else (self.rate,)
        if not all(isinstance(rate, int | float) and 0 <= rate <= 1 for rate in rates):
            raise ValueError(
                f"Zoneout(rate={self.rate!r}): rate is a probability; expected 0 to 1."
            )
        count = len(jtu.tree_leaves(self.cell.initial_state()))
        if isinstance(self.rate, tuple) and len(rates) != count:
            raise ValueError(
                f"Zoneout(rate={self.rate!r}): there are {len(rates)} rates; expected one number, "
                f"or {count}, one for each array of the state of {cell_name(self.cell)}."
            )

    def __call__(self, state: State, x: Any, *, key: Key | None = None, **keywords: Any) -> State:
        """The next state; see `WrapperCell`.

        Args:
            state: the state before the step.
            x: the input of the step.
            key: random key of the step, needed in training mode.
            **keywords: ``t``, ``dt`` and ``context``, if the inner cell takes them.

        Returns:
            ``state`` after the step, or ``(state, y)``.
        """
        if key is not None and "key" in arguments_of(self.cell):
            key, keywords["key"] = jax.random.split(key)
        after, emitted = next_state(self.cell, state, x, keywords)
        old, new, structure = (*map(jtu.tree_leaves, (state, after)), jtu.tree_structure(after))
        rates = self.rate if isinstance(self.rate, tuple) else (self.rate,) * len(new)
        keys = [None] * len(new) if self.inference or not any(rates) else self._keys(key, len(new))
        mixed = [
            _held(rate, key, *pair) for rate, key, *pair in zip(rates, keys, old, new, strict=True)
        ]
        return with_output(jtu.tree_unflatten(structure, mixed), emitted)

    def _keys(self, key: Key | None, count: int) -> Any:
        if key is None:
            raise TypeError(
                "Zoneout: in training mode it needs a key: layer(xs, key=key); "
                "for its expectation, noria.inference(model)."
            )
        check_key("Zoneout", key)
        return jax.random.split(key, count)


def _held(rate: float, key: Key | None, old: jax.Array, new: jax.Array) -> jax.Array:
    """The numbers of one array after zoneout; without a key the expectation."""
    if not is_inexact(new) or not rate:
        return new
    if key is None:
        return rate * old + (1 - rate) * new
    return jnp.where(jax.random.bernoulli(key, rate, new.shape), old, new)


class ResidualCell(WrapperCell):
    """Adds the input to the output.

    ::

        h' = cell(h, x),    y = x + cell.output(h', x)

    The sum does not enter the next state.

    Args:
        cell: any cell whose output has the shape of its input.

    Attributes:
        cell: as passed.

    Raises:
        ValueError: at the first step, if output and input differ in shape.

    Source: He et al. 2015, arXiv 1512.03385, for layers. `noria.Residual` does the same around a
    layer.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers import ResidualCell
        >>> cell = nr.GRUCell(3, 3, key=jax.random.key(0))
        >>> xs = jnp.ones((5, 3))
        >>> ys = nr.Recurrence(ResidualCell(cell))(xs)
        >>> bool(jnp.allclose(ys, xs + nr.Recurrence(cell)(xs)))
        True
    """

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        state, emitted = next_state(self.cell, state, x, keywords)
        return with_output(state, tuple(self._sum(x, y) for y in emitted))

    def output(self, state: State, x: Any, **keywords: Any) -> Any:
        return self._sum(x, emit(self.cell, state, x, keywords))

    def _sum(self, x: Any, y: Any) -> Any:
        if jnp.shape(x) != jnp.shape(y):
            raise ValueError(
                f"ResidualCell({cell_name(self.cell)}): the output is {describe(y)} and x is "
                f"{describe(x)}; expected equal shapes. ProjectedCell changes the size of an "
                "output."
            )
        return x + y


class ProjectedCell(WrapperCell):
    """Multiplies the output by a matrix.

    ::

        h' = cell(h, x),    y = P cell.output(h', x)

    The product does not enter the next state. All steps are multiplied at once.

    Args:
        cell: any cell whose output is a vector.
        out_size: features of the output.
        key: random key for ``P``.
        init: initialiser of ``P``; Glorot-uniform by default.

    Attributes:
        cell: as passed.
        P: ``(out, features)``, the projection.

    Raises:
        ValueError: for a size below 1, an output that is no vector, or a cell that does not tell
            the size of its input or takes a context.
        TypeError: if ``cell`` is no cell, or for a missing key.

    Source: the output of Sak et al. 2014, arXiv 1402.1128, without the feedback. There, and with
    ``proj_size`` in PyTorch, the projection is the recurrent state: another cell.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers import ProjectedCell
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> cell = ProjectedCell(nr.LSTMCell(2, 3, key=k1), 4, key=k2)
        >>> nr.Recurrence(cell)(jnp.ones((5, 2))).shape
        (5, 4)
    """

    P: jax.Array

    def __init__(self, cell: Cell, out_size: int, *, key: Key, init: Initializer | None = None):
        check_cell("ProjectedCell", cell)
        call = f"ProjectedCell({cell_name(cell)}, out_size={out_size})"
        check_sizes(call, out_size=out_size)
        check_key(call, key)
        found = output_of(call, cell)
        if len(getattr(found, "shape", ())) != 1:
            raise ValueError(
                f"{call}: the output of the cell is {describe(found)}; expected a vector."
            )
        self.cell = cell
        shape = (int(out_size), *found.shape)
        self.P = draw(glorot_uniform() if init is None else init, key, shape, dtype_of(cell))

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        state, emitted = next_state(self.cell, state, x, keywords)
        return with_output(state, tuple(self.P @ y for y in emitted))

    def output(self, state: State, x: Any, **keywords: Any) -> Any:
        return self.P @ emit(self.cell, state, x, keywords)
