"""Cells around any other cell with other weights or other products of them.

The base and other wrappers are in `wrappers`; `products` exchanges the matrices of a cell.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import check_key, check_sizes, describe
from noria._parameters import draw
from noria._types import Initializer, Key, State
from noria.cells.base import Cell, cell_name, emit, first_array, next_state
from noria.cells.parts import normalized, wide
from noria.cells.products import (
    Around,
    BlockDiagonal,
    Matrix,
    chosen,
    entries,
    mapped,
    matrices_of,
    matrix_of,
    with_matrices,
)
from noria.cells.starts import each, each_glorot
from noria.cells.wrappers import WrapperCell, check_cell, dtype_of, with_output, zero_step


class WeightNormCell(WrapperCell):
    """Splits each row of weights into its length and its direction.

    ::

        w_i = g_i * v_i / |v_i|        for the rows of each matrix

    Args:
        cell: a cell with matrices of weights; they become the ``v``.
        matrices: their names. By default, those that a declared cell gives the columns ``"in"`` or
            ``"hidden"``, or ``W``, ``U``, ``W_...`` and ``U_...`` of another one.

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
        >>> from noria.cells.wrappers_weights import WeightNormCell
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
        self.matrices = chosen(call, cell, matrices, ("in", "hidden"))
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
        matrices: names of the matrices. By default, those that a declared cell gives the columns
            ``"in"`` or ``"hidden"``, or ``W``, ``U``, ``W_...`` and ``U_...`` of another one.

    Attributes:
        cell: as passed.
        alpha: the gains by the names of the matrices, a number for each row; 1 at first.
        beta: the biases, likewise; 0 at first.
        epsilon: as passed.
        matrices: the names.

    Raises:
        TypeError: if ``cell`` is no cell. At the first step, if the cell uses a matrix otherwise
            than in a product with a vector.
        ValueError: for unknown or missing ``matrices``.

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450, eq. 20 for the LSTM. A matrix that stacks
    all gates has one norm, as there; matrices of single gates have one each. The norm of ``c``, eq.
    22, is in `LayerNormLSTMCell`.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_weights import GateNormCell
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
        self.matrices = chosen(call, cell, matrices, ("in", "hidden"))
        weights = {n: matrix_of(cell, n) for n in self.matrices}
        self.alpha = {n: jnp.ones(M.shape[0], M.dtype) for n, M in weights.items()}
        self.beta = {n: jnp.zeros(M.shape[0], M.dtype) for n, M in weights.items()}

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        def normed(name: str) -> Matrix:
            alpha, beta = self.alpha[name], self.beta[name]
            return Around(
                matrix_of(self.cell, name),
                after=lambda a: alpha * normalized(a, self.epsilon) + beta,
            )

        cell = with_matrices(self.cell, {name: normed(name) for name in self.matrices})
        return with_output(*next_state(cell, state, x, keywords))


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
        >>> from noria.cells.wrappers_weights import StateNormCell
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


class MultiplicativeCell(WrapperCell):
    """Integrates input and state by a product beside the sum: multiplicative integration.

    ::

        alpha * (W x) * (U h) + beta_1 * (U h) + beta_2 * (W x)    for  W x + U h

    Args:
        cell: a cell with the sums of products ``W x`` and ``U h``.
        pairs: names of the matrices of each sum, that of the input first: ``(("W", "U"),)``. By
            default, ``U_f`` goes with ``W_f``: names that are equal behind the first letter.

    Attributes:
        cell: as passed.
        alpha: vectors by the names of the matrices ``U``; 1 at first.
        beta_1: likewise.
        beta_2: likewise.
        pairs: the names.

    The biases are those of the cell. ``U`` may multiply something else than ``h``, such as ``r *
    h`` in a GRU; ``W`` has to multiply ``x``.

    Raises:
        TypeError: if ``cell`` is no cell. At the first step, if the cell uses a matrix otherwise
            than in a product with a vector.
        ValueError: for a cell without ``in_size``, for unknown names, or if no names go together.

    Source: Wu et al. 2016, arXiv 1606.06630, eq. 4, the general form. `MIRNNCell`, `MIGRUCell` and
    `MILSTMCell` are the paper's cells.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_weights import MultiplicativeCell
        >>> layer = nr.Recurrence(MultiplicativeCell(nr.LSTMCell(2, 3, key=jax.random.key(0))))
        >>> layer(jnp.ones((5, 2))).shape
        (5, 3)
    """

    alpha: dict[str, jax.Array]
    beta_1: dict[str, jax.Array]
    beta_2: dict[str, jax.Array]
    pairs: tuple[tuple[str, str], ...] = eqx.field(static=True)

    def __init__(self, cell: Cell, *, pairs: tuple[tuple[str, str], ...] | None = None):
        check_cell("MultiplicativeCell", cell)
        call = f"MultiplicativeCell({cell_name(cell)})"
        zero_step(call, cell)
        self.pairs = _pairs(cell) if pairs is None else tuple(map(tuple, pairs))
        if not self.pairs:
            raise ValueError(
                f"{call}: no matrices of the cell have names that go together, as W_f and U_f do; "
                "expected such a cell, or names as pairs=."
            )
        chosen(call, cell, tuple(name for pair in self.pairs for name in pair), ())
        self.cell = cell
        vectors = {U: matrix_of(cell, U) for _, U in self.pairs}
        ones = {name: jnp.ones(U.shape[0], U.dtype) for name, U in vectors.items()}
        self.alpha, self.beta_1, self.beta_2 = ones, dict(ones), dict(ones)

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        changed: dict[str, Matrix] = {}
        for W, U in self.pairs:
            changed |= self._integrated(W, U, x)
        cell = with_matrices(self.cell, changed)
        return with_output(*next_state(cell, state, x, keywords))

    def _integrated(self, W: str, U: str, x: jax.Array) -> dict[str, Matrix]:
        alpha, beta_1, beta_2 = self.alpha[U], self.beta_1[U], self.beta_2[U]
        w = matrix_of(self.cell, W) @ x
        return {
            W: Around(matrix_of(self.cell, W), after=lambda a: beta_2 * a),
            U: Around(matrix_of(self.cell, U), after=lambda u: (alpha * w + beta_1) * u),
        }


def _pairs(cell: Cell) -> tuple[tuple[str, str], ...]:
    """The matrices of the input and of the state whose names differ in the first letter."""
    inputs = {name[1:]: name for name in matrices_of(cell, "in")}
    recurrent = {name[1:]: name for name in matrices_of(cell, "hidden")}
    return tuple((inputs[rest], name) for rest, name in recurrent.items() if rest in inputs)


class BlockDiagonalCell(WrapperCell):
    """Gives each recurrent matrix blocks on its diagonal, and nothing elsewhere: heads.

    ::

        U_g = diag(U_g1, ..., U_gk)    for each gate g and the k heads

    A head is some neighbouring units. The units of a head read the state of this head only.

    Args:
        cell: a cell with recurrent matrices. They are replaced; other parameters stay.
        heads: number of heads; it divides the rows of each gate, and the columns.
        key: random key for the blocks.
        matrices: names of the recurrent matrices. By default, those that a declared cell gives the
            columns ``"hidden"``, or ``U`` and ``U_...`` of another one.
        init: initialiser of a block; Glorot-uniform by default.

    Attributes:
        cell: the cell, with blocks in the place of its matrices: arrays ``(gates, heads, rows,
            columns)``.
        heads: as passed.

    Put wrappers of weights and products around this one.

    Raises:
        TypeError: if ``cell`` is no cell, or for a missing key. At the first step, if the cell uses
            a matrix otherwise than in a product with a vector.
        ValueError: for unknown or missing ``matrices``, or if the heads do not divide a matrix.

    Source: the recurrent matrices of xLSTM, Beck et al. 2024, arXiv 2405.04517, eq. 44, and of the
    block GRU of Hafner et al. 2023, arXiv 2301.04104. `SLSTMCell`, `BlockGRUCell` and `RGLRUCell`
    are the papers' cells, and `block_product` is their product.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_weights import BlockDiagonalCell
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> cell = BlockDiagonalCell(nr.LSTMCell(2, 6, key=k1), 3, key=k2)
        >>> nr.Recurrence(cell)(jnp.ones((5, 2))).shape, cell.cell.U.blocks.shape
        ((5, 6), (4, 3, 2, 2))
    """

    heads: int = eqx.field(static=True)

    def __init__(
        self,
        cell: Cell,
        heads: int,
        *,
        key: Key,
        matrices: tuple[str, ...] | None = None,
        init: Initializer | None = None,
    ):
        check_cell("BlockDiagonalCell", cell)
        call = f"BlockDiagonalCell({cell_name(cell)}, heads={heads})"
        check_sizes(call, heads=heads)
        check_key(call, key)
        names = chosen(call, cell, matrices, ("hidden",))
        drawn: Mapping[str, Matrix] = {
            name: _blocks(call, name, matrix_of(cell, name), cell, heads, key, init)
            for name, key in zip(names, jax.random.split(key, len(names)), strict=True)
        }
        self.cell, self.heads = with_matrices(cell, drawn), int(heads)


def _blocks(
    call: str, name: str, matrix: Matrix, cell: Any, heads: int, key: Key, init: Any
) -> BlockDiagonal:
    """Random blocks in the place of a matrix."""
    rows, columns = matrix.shape
    gate = cell.hidden_size if rows % cell.hidden_size == 0 else rows
    if gate % heads or columns % heads:
        raise ValueError(
            f"{call}: {name} has {gate} rows for each gate, and {columns} columns; expected heads "
            "to divide them."
        )
    shape = rows // gate * heads, gate // heads, columns // heads
    blocks = draw(each_glorot if init is None else each(init), key, shape, dtype_of(cell))
    return BlockDiagonal(blocks.reshape(rows // gate, heads, *shape[1:]))
