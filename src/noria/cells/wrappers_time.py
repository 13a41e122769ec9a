"""Cells around any other cell that read the past: delays, dilation, attention to a window.

The base and other wrappers are in `wrappers`.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import check_key, check_sizes, describe
from noria._parameters import draw
from noria._types import Initializer, Key, State
from noria.cells.base import Cell, cell_name, emit, first_array, next_state
from noria.cells.wrappers import (
    WrapperCell,
    check_cell,
    dtype_of,
    is_inexact,
    with_output,
    zero_step,
)
from noria.initializers import glorot_uniform


def _appended(past: Any, new: Any) -> Any:
    """Arrays without their first row, and with a last one."""
    return jtu.tree_map(lambda a, b: jnp.concatenate([a[1:], b[None]]), past, new)


def _repeated(tree: Any, count: int) -> Any:
    return jtu.tree_map(lambda a: jnp.broadcast_to(a, (count, *jnp.shape(a))), tree)


class DelayState(NamedTuple):
    """State of a `DelayCell`.

    Attributes:
        cell: the state of the inner cell.
        past: ``(steps + 1, in)``, the last inputs, oldest first; a pytree of such arrays for a cell
            with ``in_shape``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from noria.cells.wrappers_time import DelayState
        >>> DelayState(jnp.zeros(3), jnp.zeros((2, 4))).past.shape
        (2, 4)
    """

    cell: State
    past: Any


class DelayCell(WrapperCell):
    """Gives the inner cell the input of some steps before; at first, zeros.

    ::

        h_t = cell(h_(t-1), x_(t-steps)),    y_t = cell.output(h_t, x_(t-steps))

    Args:
        cell: a cell with ``in_size`` or ``in_shape``.
        steps: length of the delay, 1 or more.

    Attributes:
        cell: as passed.
        steps: as passed.

    ``key``, ``t``, ``dt`` and ``context`` are not delayed.

    Raises:
        TypeError: if ``cell`` is no cell.
        ValueError: for a delay below 1, or a cell without ``in_size`` and ``in_shape``.

    Source: tapped delay lines, as in Waibel et al. 1989, doi 10.1109/29.21701; ``Delay`` of
    reservoirpy.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_time import DelayCell
        >>> class Sum(nr.Cell):
        ...     in_size, dtype = 1, jnp.float32
        ...
        ...     def __call__(self, h, x):
        ...         return h + x
        ...
        ...     def initial_state(self):
        ...         return jnp.zeros(1)
        >>> nr.Recurrence(DelayCell(Sum(), 2))(jnp.ones((4, 1))).ravel().tolist()
        [0.0, 0.0, 1.0, 2.0]
    """

    steps: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        check_cell("DelayCell", self.cell)
        check_sizes(self._call, steps=self.steps)
        zero_step(self._call, self.cell)

    def __call__(self, state: DelayState, x: Any, **keywords: Any) -> State:
        past = _appended(state.past, x)
        after, emitted = next_state(self.cell, state.cell, _oldest(past), keywords)
        return with_output(DelayState(after, past), emitted)

    def initial_state(self) -> State:
        zeros = zero_step(self._call, self.cell)
        return DelayState(self.cell.initial_state(), _repeated(zeros, self.steps + 1))

    def output(self, state: DelayState, x: Any, **keywords: Any) -> Any:
        return emit(self.cell, state.cell, _oldest(state.past), keywords)

    @property
    def _call(self) -> str:
        return f"DelayCell({cell_name(self.cell)}, steps={self.steps})"


def _oldest(past: Any) -> Any:
    return jtu.tree_map(lambda a: a[0], past)


def _newest(past: Any) -> Any:
    return jtu.tree_map(lambda a: a[-1], past)


class DilatedCell(WrapperCell):
    """Continues from the state of ``dilation`` steps before, instead of the last one.

    ::

        h_t = cell(h_(t-dilation), x_t),    y_t = cell.output(h_t, x_t)

    Args:
        cell: any cell.
        dilation: steps between two states that depend on each other, 1 or more.

    Attributes:
        cell: as passed.
        dilation: as passed.

    Shapes:
        The state is that of ``cell``, with an axis ``(dilation, ...)`` in front of each array, the
        oldest first. The first ``dilation`` steps continue from the initial state.

    ``t`` and ``dt`` are those of one step.

    Raises:
        TypeError: if ``cell`` is no cell.
        ValueError: for a dilation below 1.

    Source: Chang et al. 2017, arXiv 1710.02224. There, layers have the dilations 1, 2, 4 and so
    on.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_time import DilatedCell
        >>> cell = nr.GRUCell(2, 3, key=jax.random.key(0))
        >>> xs = jnp.ones((6, 2))
        >>> ys = nr.Recurrence(DilatedCell(cell, 2))(xs)
        >>> bool(jnp.allclose(ys[::2], nr.Recurrence(cell)(xs[::2])))
        True
    """

    dilation: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        check_cell("DilatedCell", self.cell)
        check_sizes(f"DilatedCell({cell_name(self.cell)})", dilation=self.dilation)

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        after, emitted = next_state(self.cell, _oldest(state), x, keywords)
        return with_output(_appended(state, after), emitted)

    def initial_state(self) -> State:
        return _repeated(self.cell.initial_state(), self.dilation)

    def output(self, state: State, x: Any, **keywords: Any) -> Any:
        return emit(self.cell, _newest(state), x, keywords)


class AttentionState(NamedTuple):
    """State of an `AttentionCell`.

    Attributes:
        past: the last states of the inner cell, ``(window, ...)`` each, the oldest first.
        summary: ``(hidden,)``, the first array of the state that the last step continued from.
        there: ``(window,)``, 1 for each state that there is, 0 before the first one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from noria.cells.wrappers_time import AttentionState
        >>> AttentionState(jnp.zeros((2, 3)), jnp.zeros(3), jnp.ones(2)).past.shape
        (2, 3)
    """

    past: State
    summary: jax.Array
    there: jax.Array


class AttentionCell(WrapperCell):
    """Continues from a mean of the last states, weighted by attention to them.

    ::

        a_i = v . tanh(W_h h_i + W_x x + W_m m)    for the last states h_i
        w   = softmax(a)
        m'  = sum_i w_i h_i
        h'  = cell(m', x)

    This is the intra-attention of the long short-term memory-network. Each array of the state is
    averaged with the same weights; the scores read the first one, and ``m`` of the step before. The
    paper attends to all states, this cell to a window. The initial state is the first of them.

    Args:
        cell: a cell with ``in_size``, whose first array of the state is a vector.
        window: number of states, 1 or more.
        size: features of the scores; those of the first array of the state by default.
        key: random key for the weights.
        init: initialiser of the matrices and of ``v`` as a row; Glorot-uniform by default.

    Attributes:
        cell: as passed.
        W_h: ``(size, hidden)``, the weights of the states.
        W_x: ``(size, in)``, the weights of the input.
        W_m: ``(size, hidden)``, the weights of the last mean.
        v: ``(size,)``, the weights of the scores.
        window: as passed.

    Arrays of integers and booleans are taken from the last state.

    Raises:
        TypeError: if ``cell`` is no cell, or for a missing key.
        ValueError: for a size below 1, or a cell without ``in_size``, or whose first array is no
            vector.

    Source: Cheng et al. 2016, arXiv 1601.06733.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_time import AttentionCell
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> cell = AttentionCell(nr.LSTMCell(2, 3, key=k1), 4, key=k2)
        >>> nr.Recurrence(cell)(jnp.ones((5, 2))).shape
        (5, 3)
    """

    W_h: jax.Array
    W_x: jax.Array
    W_m: jax.Array
    v: jax.Array
    window: int = eqx.field(static=True)

    def __init__(
        self,
        cell: Cell,
        window: int,
        *,
        size: int | None = None,
        key: Key,
        init: Initializer | None = None,
    ):
        check_cell("AttentionCell", cell)
        call = f"AttentionCell({cell_name(cell)}, window={window})"
        check_key(call, key)
        x, h = zero_step(call, cell), first_array(call, cell.initial_state())
        if jnp.ndim(x) != 1 or jnp.ndim(h) != 1:
            raise ValueError(
                f"{call}: x is {describe(x)} and the first array of the state is {describe(h)}; "
                "expected vectors."
            )
        size = h.size if size is None else size
        check_sizes(call, window=window, size=size)
        init, dtype = glorot_uniform() if init is None else init, dtype_of(cell)
        keys = jax.random.split(key, 4)
        self.cell, self.window = cell, int(window)
        self.W_h = draw(init, keys[0], (size, h.size), dtype)
        self.W_x = draw(init, keys[1], (size, x.size), dtype)
        self.W_m = draw(init, keys[2], (size, h.size), dtype)
        self.v = draw(init, keys[3], (1, size), dtype)[0]

    def __call__(self, state: AttentionState, x: Any, **keywords: Any) -> State:
        h = first_array("AttentionCell", state.past)
        a = jnp.tanh(h @ self.W_h.T + self.W_x @ x + self.W_m @ state.summary) @ self.v
        w = jax.nn.softmax(jnp.where(state.there > 0, a, -jnp.inf))

        def mean(past: jax.Array) -> jax.Array:
            return jnp.tensordot(w.astype(past.dtype), past, 1) if is_inexact(past) else past[-1]

        before = jtu.tree_map(mean, state.past)
        after, emitted = next_state(self.cell, before, x, keywords)
        there = jnp.concatenate([state.there[1:], jnp.ones_like(state.there[:1])])
        summary = first_array("AttentionCell", before)
        return with_output(AttentionState(_appended(state.past, after), summary, there), emitted)

    def initial_state(self) -> State:
        own = self.cell.initial_state()
        there = jnp.zeros(self.window, self.v.dtype).at[-1].set(1)
        first = first_array("AttentionCell", own)
        return AttentionState(_repeated(own, self.window), jnp.zeros_like(first), there)

    def output(self, state: AttentionState, x: Any, **keywords: Any) -> Any:
        return emit(self.cell, _newest(state.past), x, keywords)
