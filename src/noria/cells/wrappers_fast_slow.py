"""Fast cells that share a state, with a slow cell between them.

Wrappers of one cell are in `wrappers`.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import describe
from noria._types import State
from noria.cells.base import Cell, advance, arguments_of
from noria.cells.wrappers import check_cell, dtype_of


class FastSlowState(NamedTuple):
    """State of a `FastSlowCell`.

    Attributes:
        fast: the state that the fast cells hand on.
        slow: the state of the slow cell.

    Examples:
        >>> import jax.numpy as jnp
        >>> from noria.cells.wrappers_fast_slow import FastSlowState
        >>> FastSlowState(jnp.zeros(3), jnp.zeros(4)).slow.shape
        (4,)
    """

    fast: State
    slow: State


class FastSlowCell(Cell):
    """Several fast cells update one state in each step, with a slow cell after the first one.

    ::

        f_1 = fast[0](f, x)
        s'  = slow(s, f_1)
        f_2 = fast[1](f_1, s')
        f_i = fast[i-1](f_(i-1), 0)    for i > 2
        f'  = f_k,    y = f_k

    Where ``f_1`` and ``s'`` are inputs, they are the outputs of these cells.

    Args:
        fast: two or more cells with states of one form. From the third on, their input is zero:
            give them ``in_size=1``.
        slow: a cell whose input is the output of the first fast one.

    Attributes:
        fast: as passed, a tuple.
        slow: as passed.

    Shapes:
        ``in_size`` and ``in_shape`` are those of the first fast cell, ``hidden_size`` and ``dtype``
        those of the last.

    Each cell that takes a key gets its own; ``t``, ``dt`` and ``context`` go to all that take them.
    The output is computed within the step. So put `Zoneout` around the fast and slow cells, as in
    the paper, not around this one.

    Raises:
        TypeError: for anything but cells.
        ValueError: for fewer than two fast cells, if their states differ, or if one of the third
            and later ones has no ``in_size``.

    Source: Mujika et al. 2017, arXiv 1705.08639. In RecurrentLayers.jl, the third and
    later fast cells read the output of the one before.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_fast_slow import FastSlowCell
        >>> k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
        >>> fast = nr.LSTMCell(2, 3, key=k1), nr.LSTMCell(4, 3, key=k2)
        >>> cell = FastSlowCell(fast, nr.GRUCell(3, 4, key=k3))
        >>> nr.Recurrence(cell)(jnp.ones((5, 2))).shape
        (5, 3)
    """

    fast: tuple[Cell, ...] = eqx.field(converter=tuple)
    slow: Cell

    def __check_init__(self) -> None:
        call = f"FastSlowCell with {len(self.fast)} fast cells"
        if len(self.fast) < 2:
            raise ValueError(f"{call}: expected at least two.")
        for cell in (*self.fast, self.slow):
            check_cell(call, cell)
        forms = [describe(cell.initial_state()) for cell in self.fast]
        for n, form in enumerate(forms):
            if form != forms[0]:
                raise ValueError(
                    f"{call}: the state of fast[{n}] is {form}; expected {forms[0]}, as of fast[0]."
                )
        for n, cell in enumerate(self.fast[2:], 2):
            if getattr(cell, "in_size", None) is None:
                raise ValueError(
                    f"{call}: fast[{n}] has no in_size; expected one, for its input of zeros."
                )

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        """The next state and the output.

        Args:
            state: `FastSlowState` before the step.
            x: the input of the step.
            **keywords: ``key``, ``t``, ``dt`` and ``context``, if a cell takes them.

        Returns:
            ``(state, y)``.
        """
        slow_keywords, *each = keywords_of_each((self.slow, *self.fast), keywords)
        fast, y = advance(self.fast[0], state.fast, x, each[0])
        slow, y = advance(self.slow, state.slow, y, slow_keywords)
        for n, (cell, given) in enumerate(zip(self.fast[1:], each[1:], strict=True)):
            inner: Any = cell
            fast, y = advance(
                cell, fast, y if n == 0 else jnp.zeros(inner.in_size, dtype_of(cell)), given
            )
        return FastSlowState(fast, slow), y

    def initial_state(self) -> State:
        return FastSlowState(self.fast[0].initial_state(), self.slow.initial_state())

    @property
    def in_size(self) -> int:
        """Features of ``x``."""
        first: Any = self.fast[0]
        found: int = first.in_size
        return found

    @property
    def in_shape(self) -> Any:
        """The shapes of one step, of a first cell whose ``x`` is another array or a pytree."""
        first: Any = self.fast[0]
        return first.in_shape

    @property
    def hidden_size(self) -> int:
        """Features of the state of the fast cells."""
        last: Any = self.fast[-1]
        found: int = last.hidden_size
        return found

    @property
    def dtype(self) -> jnp.dtype:
        """Floating dtype of the parameters, and of all inputs and outputs."""
        last: Any = self.fast[-1]
        found: jnp.dtype = last.dtype
        return found


def keywords_of_each(cells: tuple[Cell, ...], keywords: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments of several cells by name; those that take a key get one each."""
    asking = [n for n, cell in enumerate(cells) if "key" in arguments_of(cell)]
    found = [dict(keywords) for _ in cells]
    if "key" in keywords and len(asking) > 1:
        for n, key in zip(asking, jax.random.split(keywords["key"], len(asking)), strict=True):
            found[n]["key"] = key
    return found
