"""Cells around any other cell: the base, residual and projected outputs.

=================== ===========================================================
file                contents
=================== ===========================================================
wrappers            the base of all, parts, wrappers of an output
wrappers_zoneout    random updates: zoneout, dropout of changes
wrappers_dropout    random products: dropout of features and of weights
wrappers_norms      norms of weights, of products and of states
wrappers_products   other products: with the input, or in blocks
wrappers_clockwork  modules that are updated in periods
wrappers_time       wrappers that read the past: delay, dilation, attention
wrappers_gates      a gate of the whole update: phased and skipped updates
wrappers_fast_slow  several fast cells and a slow one
=================== ===========================================================
"""

from typing import Any

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


def own_key(cell: Any, key: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The key of a wrapper, and the arguments of its inner cell with a key for that, if it asks."""
    if key is None or "key" not in arguments_of(cell):
        return key, keywords
    key, inner = jax.random.split(key)
    return key, {**keywords, "key": inner}


def check_drawn(call: str, key: Any) -> None:
    """Reject a missing key in training mode."""
    if key is None:
        raise TypeError(
            f"{call}: in training mode it needs a key: layer(xs, key=key); "
            "for its expectation, noria.inference(model)."
        )
    check_key(call, key)


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
