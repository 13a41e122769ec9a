"""A cell around any other cell whose units are updated in periods.

The base and other wrappers are in `wrappers`.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._errors import check_sizes, describe
from noria._types import State
from noria.cells.base import Cell, cell_name, emit, next_state
from noria.cells.products import Matrix, chosen, mapped, matrix_of, with_matrices
from noria.cells.wrappers import WrapperCell, check_cell, is_inexact, with_output


class ClockworkState(NamedTuple):
    """State of a `ClockworkCell`.

    Attributes:
        cell: the state of the inner cell.
        t: ``()``, int32, the number of the next step, from 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> from noria.cells.wrappers_clockwork import ClockworkState
        >>> int(ClockworkState(jnp.zeros(3), jnp.zeros((), jnp.int32)).t)
        0
    """

    cell: State
    t: jax.Array


class ClockworkCell(WrapperCell):
    """Updates some units at each step, and others in longer periods, which the first ones read.

    ::

        h'_i = cell(h, x)_i   if t mod T_i = 0        for the units of module i
               h_i            else
        U_ij = 0              if T_j < T_i            from module j to module i

    ``t`` counts steps from 0, so all units are updated at the first step.

    Args:
        cell: a cell whose arrays of the state have the same last axis, the units.
        periods: the period ``T`` of each module. The modules are equal parts of the units.
        matrices: names of the recurrent matrices ``U``; all that multiply the state by default.
            With ``()`` all units read all others.

    Attributes:
        cell: as passed.
        periods: as passed.
        matrices: the names.

    A reset begins with ``t = 0`` again. The step computes ``cell(h, x)`` for all units: this saves
    nothing in time. Arrays of integers and booleans are always updated. Put wrappers that add
    arrays to the state around this one.

    Raises:
        TypeError: if ``cell`` is no cell.
        ValueError: for a period below 1, a state of other shapes, modules that do not divide the
            units, or unknown or missing ``matrices``.

    Source: Koutnik et al. 2014, arXiv 1402.3511, eq. 4 to 6. There, the inner cell is the simple
    recurrent network, and the periods are powers of 2.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_clockwork import ClockworkCell
        >>> cell = ClockworkCell(nr.RNNCell(2, 4, key=jax.random.key(0)), (1, 4))
        >>> ys = nr.Recurrence(cell)(jnp.ones((5, 2)))
        >>> bool((ys[0, 2:] == ys[3, 2:]).all()), bool((ys[0, 2:] == ys[4, 2:]).all())
        (True, False)
    """

    periods: tuple[int, ...] = eqx.field(static=True)
    matrices: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self, cell: Cell, periods: tuple[int, ...], *, matrices: tuple[str, ...] | None = None
    ):
        check_cell("ClockworkCell", cell)
        call = f"ClockworkCell({cell_name(cell)}, periods={periods})"
        check_sizes(call, modules=len(periods), **{f"T_{n}": T for n, T in enumerate(periods)})
        state = cell.initial_state()
        sizes = {jnp.shape(a)[-1:] for a in jtu.tree_leaves(state) if is_inexact(a)}
        if len(sizes) != 1 or any(not size or size[0] % len(periods) for size in sizes):
            raise ValueError(
                f"{call}: the state is {describe(state)}; expected arrays with the same last axis, "
                f"the units, a multiple of {len(periods)}. Put wrappers that add to the state "
                "around ClockworkCell."
            )
        self.cell, self.periods = cell, tuple(map(int, periods))
        self.matrices = () if matrices == () else chosen(call, cell, matrices, "h")
        units = len(self._periods)
        for name in self.matrices:
            shape = jnp.shape(matrix_of(cell, name))
            if shape[0] % units or shape[1] != units:
                raise ValueError(
                    f"{call}: {name} has shape {shape}; expected ({units}, {units}), or several "
                    "such matrices in one. Choose others with matrices=."
                )

    def __call__(self, state: ClockworkState, x: Any, **keywords: Any) -> State:
        matrices = {n: mapped(self._masked, matrix_of(self.cell, n)) for n in self.matrices}
        after, emitted = next_state(with_matrices(self.cell, matrices), state.cell, x, keywords)
        is_due = state.t % self._periods == 0

        def kept(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(is_due, new, old) if is_inexact(new) else new

        return with_output(
            ClockworkState(jtu.tree_map(kept, after, state.cell), state.t + 1), emitted
        )

    def _masked(self, U: Matrix) -> Matrix:
        """A matrix without weights from faster to slower units."""
        T = self._periods
        is_kept = np.tile(T[:, None] <= T[None, :], (U.shape[0] // len(T), 1))
        return jnp.where(is_kept, U, jnp.zeros_like(U))

    @property
    def _periods(self) -> np.ndarray:
        """The period of each unit."""
        shapes = [a.shape for a in jtu.tree_leaves(self.cell.initial_state()) if is_inexact(a)]
        return np.repeat(np.array(self.periods, np.int32), shapes[0][-1] // len(self.periods))

    def initial_state(self) -> State:
        return ClockworkState(self.cell.initial_state(), jnp.zeros((), jnp.int32))

    def output(self, state: ClockworkState, x: Any, **keywords: Any) -> Any:
        return emit(self.cell, state.cell, x, keywords)
