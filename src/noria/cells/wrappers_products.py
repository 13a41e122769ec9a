"""Cells around any other cell with other products: with the input, or in blocks.

The base and other wrappers are in `wrappers`; `products` exchanges the matrices of a cell.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import check_key, check_sizes
from noria._parameters import draw
from noria._types import Initializer, Key, State
from noria.cells.base import Cell, cell_name, emit, next_state
from noria.cells.products import (
    Around,
    BlockDiagonal,
    Matrix,
    check_products,
    chosen,
    matrices_of,
    matrix_of,
    with_matrices,
)
from noria.cells.starts import each, each_glorot
from noria.cells.wrappers import WrapperCell, check_cell, dtype_of, with_output, zero_step


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
        TypeError: if ``cell`` is no cell, or uses a matrix otherwise than in a product with a
            vector.
        ValueError: for a cell without ``in_size``, for unknown names, or if no names go together.

    Source: Wu et al. 2016, arXiv 1606.06630, eq. 4, the general form. ``MIRNNCell``, ``MIGRUCell``
    and ``MILSTMCell`` are the paper's cells.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_products import MultiplicativeCell
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
        self.pairs = _pairs(cell) if pairs is None else tuple((W, U) for W, U in pairs)
        if not self.pairs:
            raise ValueError(
                f"{call}: no matrices of the cell have names that go together, as W_f and U_f do; "
                "expected such a cell, or names as pairs=."
            )
        names = chosen(call, cell, tuple(name for pair in self.pairs for name in pair), "xh")
        self.cell = cell
        vectors = {U: matrix_of(cell, U) for _, U in self.pairs}
        ones = {name: jnp.ones(U.shape[0], U.dtype) for name, U in vectors.items()}
        self.alpha, self.beta_1, self.beta_2 = ones, dict(ones), dict(ones)
        check_products(call, self, names)

    def __call__(self, state: State, x: Any, **keywords: Any) -> State:
        return with_output(*next_state(self._integrated(x), state, x, keywords))

    def output(self, state: State, x: Any, **keywords: Any) -> Any:
        return emit(self._integrated(x), state, x, keywords)

    def _integrated(self, x: jax.Array) -> Cell:
        changed: dict[str, Matrix] = {}
        for W, U in self.pairs:
            changed |= self._products(W, U, x)
        return with_matrices(self.cell, changed)

    def _products(self, W: str, U: str, x: jax.Array) -> dict[str, Matrix]:
        alpha, beta_1, beta_2 = self.alpha[U], self.beta_1[U], self.beta_2[U]
        w = matrix_of(self.cell, W) @ x
        return {
            W: Around(matrix_of(self.cell, W), after=lambda a: beta_2 * a),
            U: Around(matrix_of(self.cell, U), after=lambda u: (alpha * w + beta_1) * u),
        }


def _pairs(cell: Cell) -> tuple[tuple[str, str], ...]:
    """The matrices of the input and of the state whose names differ in the first letter."""
    inputs = {name[1:]: name for name in matrices_of(cell, "x")}
    recurrent = {name[1:]: name for name in matrices_of(cell, "h")}
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
        matrices: names of the recurrent matrices; all that multiply the state by default.
        init: initialiser of a block; Glorot-uniform by default.

    Attributes:
        cell: the cell, with blocks in the place of its matrices: arrays ``(gates, heads, rows,
            columns)``.
        heads: as passed.

    Put wrappers of weights and products around this one.

    Raises:
        TypeError: if ``cell`` is no cell, or uses a matrix otherwise than in a product with a
            vector, or for a missing key.
        ValueError: for unknown or missing ``matrices``, or if the heads do not divide a matrix.

    Source: the recurrent matrices of xLSTM, Beck et al. 2024, arXiv 2405.04517, eq. 44, and of the
    block GRU of Hafner et al. 2023, arXiv 2301.04104. ``SLSTMCell``, ``BlockGRUCell`` and
    ``RGLRUCell`` are the papers' cells, and `block_product` is their product.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> from noria.cells.wrappers_products import BlockDiagonalCell
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
        names = chosen(call, cell, matrices, "h")
        drawn: Mapping[str, Matrix] = {
            name: _blocks(call, name, matrix_of(cell, name), cell, heads, key, init)
            for name, key in zip(names, jax.random.split(key, len(names)), strict=True)
        }
        self.cell, self.heads = with_matrices(cell, drawn), int(heads)
        check_products(call, self, names)


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
