"""The matrices of any cell, and products of them that a wrapper changes.

A wrapper puts another matrix, or a `Product`, in the place of a matrix of the inner cell. The step
of the cell stays as it is: ``self.U @ h`` then runs what the wrapper put there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from noria.cells.base import Cell, cell_name
from noria.cells.declared import DeclaredCell
from noria.cells.parts import block_product
from noria.cells.wrappers import WrapperCell
from noria.module import Module

#: A matrix of a cell: an array, or a `Product`.
Matrix = Any

#: A function of a vector.
Map = Callable[[jax.Array], jax.Array]


class Product:
    """Something in the place of a matrix: it has a shape, a dtype, and a product with a vector."""

    shape: Any
    dtype: Any
    ndim = 2

    def __matmul__(self, v: jax.Array) -> jax.Array:
        raise NotImplementedError

    @property
    def T(self) -> "_Transposed":
        """The matrix behind a vector: ``v @ U.T`` is ``U @ v``."""
        return _Transposed(self)

    def __jax_array__(self) -> jax.Array:
        raise TypeError(
            f"a matrix of shape {self.shape} is wrapped, and the cell uses it in another way than "
            "U @ v or v @ U.T; expected a product with a vector. Choose the matrices to wrap by "
            "their names."
        )


@dataclasses.dataclass(frozen=True)
class _Transposed:
    product: Product

    def __rmatmul__(self, v: jax.Array) -> jax.Array:
        return self.product @ v


@dataclasses.dataclass(frozen=True)
class Around(Product):
    """``after(matrix @ before(v))``."""

    matrix: Matrix
    before: Map = lambda v: v
    after: Map = lambda v: v

    def __matmul__(self, v: jax.Array) -> jax.Array:
        return self.after(self.matrix @ self.before(v))

    @property
    def shape(self) -> Any:  # type: ignore[override]
        return self.matrix.shape

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return self.matrix.dtype


class BlockDiagonal(Module, Product):
    """Matrices one above the other, each with blocks on its diagonal and zeros elsewhere.

    ``blocks`` is ``(parts, blocks, rows, columns)``.
    """

    blocks: jax.Array

    def __matmul__(self, v: jax.Array) -> jax.Array:
        return jnp.concatenate([block_product(part, v) for part in self.blocks])

    @property
    def shape(self) -> Any:  # type: ignore[override]
        parts, blocks, rows, columns = self.blocks.shape
        return parts * blocks * rows, blocks * columns

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return self.blocks.dtype


def mapped(change: Map, matrix: Matrix) -> Matrix:
    """A matrix whose array, with columns on the last axis, is changed."""
    if isinstance(matrix, Around):
        return dataclasses.replace(matrix, matrix=mapped(change, matrix.matrix))
    if isinstance(matrix, BlockDiagonal):
        return BlockDiagonal(change(matrix.blocks))
    return change(matrix)


def entries(matrix: Matrix) -> jax.Array:
    """The array of a matrix, with columns on the last axis."""
    return matrix.blocks if isinstance(matrix, BlockDiagonal) else matrix


# --- the matrices of a cell -----------------------------------------------------------------------


def innermost(cell: Any) -> Any:
    """The cell inside of all wrappers."""
    while isinstance(cell, WrapperCell):
        cell = cell.cell
    return cell


def matrices_of(cell: Any, axis: str) -> tuple[str, ...]:
    """The names of the matrices of the innermost cell whose columns are ``axis``.

    A declared cell says so, ``"in"`` or ``"hidden"``. Other cells have ``W`` and ``W_...`` for the
    input, ``U`` and ``U_...`` for the state.
    """
    cell = innermost(cell)
    if isinstance(cell, DeclaredCell):
        return tuple(
            n for n, p in cell._parameters.items() if p.axes[-1:] == (axis,) and _is(cell, n)
        )
    letter = "W" if axis == "in" else "U"
    names = [field.name for field in dataclasses.fields(cell)]
    return tuple(n for n in names if n.split("_")[0] == letter and _is(cell, n))


def _is(cell: Any, name: str) -> bool:
    return getattr(getattr(cell, name, None), "ndim", 0) == 2 and hasattr(
        getattr(cell, name), "dtype"
    )


def chosen(call: str, cell: Any, names: Any, axes: tuple[str, ...]) -> tuple[str, ...]:
    """The matrices that a wrapper changes: those that are named, or all with such columns."""
    found = tuple(n for axis in axes for n in matrices_of(cell, axis)) if names is None else names
    inner = innermost(cell)
    if isinstance(found, str) or not all(isinstance(n, str) and _is(inner, n) for n in found):
        raise ValueError(
            f"{call}: matrices is {found!r}; expected names of matrices of {cell_name(inner)}, "
            'such as ("U",).'
        )
    if not found:
        raise ValueError(
            f"{call}: no matrix of {cell_name(inner)} has the columns {' or '.join(axes)}; "
            "expected a cell with some, or their names as matrices=."
        )
    return tuple(found)


def matrix_of(cell: Any, name: str) -> Matrix:
    """A matrix of the innermost cell."""
    return getattr(innermost(cell), name)


def with_matrices(cell: Cell, matrices: Mapping[str, Matrix]) -> Cell:
    """A copy of a cell whose innermost cell has other matrices."""
    if isinstance(cell, WrapperCell):
        return replaced(cell, cell=with_matrices(cell.cell, matrices))
    return replaced(cell, **matrices)


def replaced(module: Any, **fields: Any) -> Any:
    """A copy of a module with other values in some fields, which are not checked."""
    copy = object.__new__(type(module))
    for name, value in {**vars(module), **fields}.items():
        object.__setattr__(copy, name, value)
    return copy
