"""The matrices of any cell, and products of them that a wrapper changes.

A wrapper puts another matrix, or a `Product`, in the place of a matrix of the inner cell. The step
of the cell stays as it is: ``self.U @ h`` then runs what the wrapper put there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from noria.cells.base import Cell, advance, arguments_of, cell_name
from noria.cells.declared import DeclaredCell
from noria.cells.draws import for_call
from noria.cells.parts import block_product
from noria.cells.wrappers import WrapperCell, dtype_of, zero_step
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

    def __getitem__(self, rows: slice) -> "Product":
        """Some rows: ``U[rows] @ v`` is ``(U @ v)[rows]``."""
        return _Rows(self, rows)


@dataclasses.dataclass(frozen=True)
class _Transposed:
    product: Product

    def __rmatmul__(self, v: jax.Array) -> jax.Array:
        return self.product @ v


@dataclasses.dataclass(frozen=True)
class _Rows(Product):
    product: Product
    rows: slice

    def __matmul__(self, v: jax.Array) -> jax.Array:
        return (self.product @ v)[self.rows]


@dataclasses.dataclass(frozen=True)
class Around(Product):
    """``after(matrix @ before(v))``."""

    matrix: Matrix
    before: Map = lambda v: v
    after: Map = lambda v: v

    def __matmul__(self, v: jax.Array) -> jax.Array:
        return self.after(self.matrix @ self.before(v))

    @property
    def shape(self) -> Any:
        return self.matrix.shape

    @property
    def dtype(self) -> Any:
        return self.matrix.dtype


class BlockDiagonal(Module, Product):
    """Matrices one above the other, each with blocks on its diagonal and zeros elsewhere.

    ``blocks`` is ``(parts, blocks, rows, columns)``.
    """

    blocks: jax.Array

    def __matmul__(self, v: jax.Array) -> jax.Array:
        return jnp.concatenate([block_product(part, v) for part in self.blocks])

    @property
    def shape(self) -> Any:
        parts, blocks, rows, columns = self.blocks.shape
        return parts * blocks * rows, blocks * columns

    @property
    def dtype(self) -> Any:
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


def matrices_of(cell: Any, of: str) -> tuple[str, ...]:
    """The names of the matrices of the innermost cell that multiply ``of``: ``"x"`` or ``"h"``.

    A declared cell says so in words: their columns are ``"in"``, or those of the first array of the
    state, and their names are capital letters. Other cells have ``W`` and ``W_...`` for the input,
    ``U`` and ``U_...`` for the state.
    """
    cell = innermost(cell)
    if isinstance(cell, DeclaredCell):
        states = [one.axes for one in cell._states.values()]
        axes = (states[0], ("out",)) if states and len(states[0]) == 1 else ()
        wanted = (("in",),) if of == "x" else axes  # "out": an output with a size of its own
        names = [
            name
            for name, one in cell._parameters.items()
            if one.axes[-1:] in wanted and name[0].isupper()
        ]
    else:
        letter = "W" if of == "x" else "U"
        names = [f.name for f in dataclasses.fields(cell) if f.name.split("_")[0] == letter]
    return tuple(name for name in names if _is_matrix(getattr(cell, name)))


def _is_matrix(a: Any) -> bool:
    return getattr(a, "ndim", 0) == 2 and hasattr(a, "dtype")


def chosen(call: str, cell: Any, names: Any, of: str) -> tuple[str, ...]:
    """The matrices that a wrapper changes: those that are named, or all that multiply ``of``.

    ``"xh"`` stands for both.
    """
    found = tuple(n for one in of for n in matrices_of(cell, one)) if names is None else names
    inner = innermost(cell)
    fields = [n for n, a in vars(inner).items() if _is_matrix(a)]
    if isinstance(found, str) or any(name not in fields for name in found):
        raise ValueError(
            f"{call}: matrices is {found!r}; expected a tuple of names among the matrices of "
            f"{cell_name(inner)}: {', '.join(fields)}."
        )
    if not found:
        what = " or ".join({"x": "its input", "h": "its state"}[one] for one in of)
        raise ValueError(
            f"{call}: {cell_name(inner)} has no matrix that multiplies {what}; expected matrices= "
            f"with names among {', '.join(fields) or 'its matrices'}."
        )
    return tuple(found)


def check_products(call: str, cell: Any, names: tuple[str, ...]) -> None:
    """Reject a cell whose step uses a matrix otherwise than in a product with a vector."""
    inner = innermost(cell)
    if "context" in arguments_of(cell) or not hasattr(inner, "in_size"):
        return  # the shapes of a step are not known
    key, x = jax.random.key(0), zero_step(call, cell)
    given = {"key": key, "t": jnp.zeros((), jnp.int32), "dt": jnp.ones((), dtype_of(cell))}
    try:
        jax.eval_shape(lambda: advance(for_call(call, cell, key), cell.initial_state(), x, given))
    except Exception as error:
        raise TypeError(
            f"{call}: {cell_name(inner)} uses one of {', '.join(names)} in another way than U @ v, "
            "v @ U.T or U[rows] @ v; expected such products. Choose others with matrices=."
        ) from error


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
