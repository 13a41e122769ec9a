"""Cells around any other cell that normalise weights, products or states.

The base and other wrappers are in `wrappers`; `products` exchanges the matrices of a cell.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import describe
from noria._types import State
from noria.cells.base import Cell, cell_name, emit, first_array, next_state
from noria.cells.parts import normalized, wide
from noria.cells.products import (
    Around,
    Matrix,
    check_products,
    chosen,
    entries,
    mapped,
    matrix_of,
    with_matrices,
)
from noria.cells.wrappers import WrapperCell, check_cell, with_output


class WeightNormCell(WrapperCell):
    """Splits each row of weights into its length and its direction.

    ::

        w_i = g_i * v_i / |v_i|        for the rows of each matrix

    Args:
        cell: a cell with matrices of weights; they become the ``v``.
        matrices: their names; all that multiply the input or the state by default.

    Attributes:
        cell: as passed.
        g: the lengths by the names of the matrices, a number for each row; ``|v_i|`` at first, so
            that the cell starts as it was.
        matrices: the names.

    The weights are computed once for a call of a layer, not at each step.

    Raises:
        TypeError: if ``cell`` is no cell.
        ValueError: for unknown or missing ``matrices``.

    Source: Salimans and Kingma 2016, arXiv 1602.07868, eq. 2, without its initialisation from data.
    A row of ``W`` and the row of ``U`` with the same sum have lengths of their own, as in PyTorch.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_norms import WeightNormCell
        >>> cell = nr.LSTMCell(2, 3, key=jax.random.key(0))
        >>> normed, xs = WeightNormCell(cell), jnp.ones((5, 2))
        >>> bool(jnp.allclose(nr.Recurrence(normed)(xs), nr.Recurrence(cell)(xs), atol=1e-6))
        True
    """

    g: dict[str, jax.Array]
    matrices: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, cell: Cell, *, matrices: tuple[str, ...] | None = None):
        check_cell("WeightNormCell", cell)
        call = f"WeightNormCell({cell_name(cell)})"
        self.cell = cell
        self.matrices = chosen(call, cell, matrices, "xh")
        self.g = {n: _lengths(entries(matrix_of(cell, n))) for n in self.matrices}

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        return with_output(*next_state(self._weighted(), state, x, keywords))

    def output(self, state: State, x: Any, **keywords: Any) -> Any:
        return emit(self._weighted(), state, x, keywords)

    def _weighted(self) -> Cell:
        def scaled(name: str) -> Matrix:
            g = self.g[name]
            return mapped(lambda v: (g / _lengths(v))[..., None] * v, matrix_of(self.cell, name))

        return with_matrices(self.cell, {name: scaled(name) for name in self.matrices})


def _lengths(v: jax.Array) -> jax.Array:
    """The norms of rows."""
    return jnp.sqrt(jnp.sum(wide(v) ** 2, -1)).astype(v.dtype)


class GateNormCell(WrapperCell):
    """Normalises each product of a matrix with the input or the state.

    ::

        LN(M v; alpha, beta)    for each product  M v

        LN(a; alpha, beta) = alpha * (a - mean(a)) / sqrt(var(a) + epsilon) + beta

    Args:
        cell: a cell with matrices of weights.
        epsilon: added to the variances.
        matrices: names of the matrices; all that multiply the input or the state by default.

    Attributes:
        cell: as passed.
        alpha: the gains by the names of the matrices, a number for each row; 1 at first.
        beta: the biases, likewise; 0 at first.
        epsilon: as passed.
        matrices: the names.

    Raises:
        TypeError: if ``cell`` is no cell, or uses a matrix otherwise than in a product with a
            vector.
        ValueError: for unknown or missing ``matrices``.

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450, eq. 20 for the LSTM. A matrix that stacks
    all gates has one norm, as there; matrices of single gates have one each. The norm of ``c``, eq.
    22, is in ``LayerNormLSTMCell``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_norms import GateNormCell
        >>> layer = nr.Recurrence(GateNormCell(nr.GRUCell(2, 3, key=jax.random.key(0))))
        >>> layer(jnp.ones((5, 2))).shape
        (5, 3)
    """

    alpha: dict[str, jax.Array]
    beta: dict[str, jax.Array]
    epsilon: float = eqx.field(static=True)
    matrices: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self, cell: Cell, epsilon: float = 1e-5, *, matrices: tuple[str, ...] | None = None
    ):
        check_cell("GateNormCell", cell)
        call = f"GateNormCell({cell_name(cell)})"
        self.cell, self.epsilon = cell, float(epsilon)
        self.matrices = chosen(call, cell, matrices, "xh")
        weights = {n: matrix_of(cell, n) for n in self.matrices}
        self.alpha = {n: jnp.ones(M.shape[0], M.dtype) for n, M in weights.items()}
        self.beta = {n: jnp.zeros(M.shape[0], M.dtype) for n, M in weights.items()}
        check_products(call, self, self.matrices)

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        return with_output(*next_state(self._normed(), state, x, keywords))

    def output(self, state: State, x: Any, **keywords: Any) -> Any:
        return emit(self._normed(), state, x, keywords)

    def _normed(self) -> Cell:
        def normed(name: str) -> Matrix:
            alpha, beta = self.alpha[name], self.beta[name]
            return Around(
                matrix_of(self.cell, name),
                after=lambda a: alpha * normalized(a, self.epsilon) + beta,
            )

        return with_matrices(self.cell, {name: normed(name) for name in self.matrices})


class StateNormCell(WrapperCell):
    """Normalises the first array of the next state.

    ::

        h' = alpha * (h~ - mean(h~)) / sqrt(var(h~) + epsilon) + beta    with  h~ = cell(h, x)

    The other arrays of the state, such as ``c`` of an LSTM, stay as they are. The output is
    computed from ``h'``.

    Args:
        cell: a cell whose first array of the state is a vector.
        epsilon: added to the variance.

    Attributes:
        cell: as passed.
        alpha: ``(hidden,)``, the gains; 1 at first.
        beta: ``(hidden,)``, the biases; 0 at first.
        epsilon: as passed.

    Raises:
        TypeError: if ``cell`` is no cell.
        ValueError: if the first array of the state is no vector of real numbers.

    Source: the norm of Ba, Kiros and Hinton 2016, arXiv 1607.06450. They normalise sums instead of
    states, as `GateNormCell` does.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_norms import StateNormCell
        >>> layer = nr.Recurrence(StateNormCell(nr.GRUCell(2, 3, key=jax.random.key(0))))
        >>> bool(abs(layer(jnp.ones((5, 2))).mean()) < 1e-6)
        True
    """

    alpha: jax.Array
    beta: jax.Array
    epsilon: float = eqx.field(static=True)

    def __init__(self, cell: Cell, epsilon: float = 1e-5):
        check_cell("StateNormCell", cell)
        call = f"StateNormCell({cell_name(cell)})"
        h = first_array(call, cell.initial_state())
        if jnp.ndim(h) != 1 or not jnp.issubdtype(h.dtype, jnp.floating):
            raise ValueError(
                f"{call}: the first array of the state is {describe(h)}; expected a vector of real "
                "numbers."
            )
        self.cell, self.epsilon = cell, float(epsilon)
        self.alpha, self.beta = jnp.ones(h.shape, h.dtype), jnp.zeros(h.shape, h.dtype)

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        after, emitted = next_state(self.cell, state, x, keywords)
        arrays, structure = jax.tree.flatten(after)
        arrays[0] = self.alpha * normalized(arrays[0], self.epsilon) + self.beta
        return with_output(jax.tree.unflatten(structure, arrays), emitted)
