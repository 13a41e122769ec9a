"""Layers of single steps with parameters: ``Dense`` and ``Embedding``."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from noria._errors import check_key, check_sizes, check_step
from noria._parameters import default_dtype, draw, parameter
from noria._types import Initializer, Key
from noria.compiler.sharding import automatic, axes_of
from noria.initializers import glorot_uniform, normal, zeros
from noria.ir.evaluate import spread, widened
from noria.layers.base import StatelessLayer
from noria.masking import within
from noria.module import as_pytree, made


def _identity(x: jax.Array) -> jax.Array:
    return x


#: Files name this function, so its own name stays as it was.
identity = _identity


class Dense(StatelessLayer):
    """A matrix product, a bias and an activation, over the last axis.

    ::

        y = activation(W x + b)

    Args:
        in_size: features of ``x``.
        out_size: features of ``y``.
        activation: any function of an array; the identity by default.
        key: random key for the weights.
        init: initialiser of ``W``, ``(out, in)``; Glorot-uniform by default, as in Flux and Keras.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser.
        dtype: floating dtype of the parameters; JAX's default, float32.

    Attributes:
        W: ``(out, in)``, the weights.
        b: ``(out,)``, the bias, or ``None``.
        activation: as passed, as a pytree.

    Shapes:
        ``(..., in)`` to ``(..., out)``, with any leading axes.

    Raises:
        ValueError: for sizes below 1, or an input of the wrong size.
        TypeError: for a missing key, or an input of another dtype.

    PyTorch's ``Linear`` has no activation and another initialisation, U(-1/sqrt(in), 1/sqrt(in)).
    Keras stores the transposed matrix, ``(in, out)``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> nr.Dense(3, 2, jax.nn.relu, key=jax.random.key(0))(jnp.ones((4, 5, 3))).shape
        (4, 5, 2)
    """

    W: jax.Array
    b: jax.Array | None
    activation: Callable[[jax.Array], jax.Array]

    def __init__(
        self,
        in_size: int,
        out_size: int,
        activation: Callable[[jax.Array], jax.Array] = identity,
        *,
        key: Key,
        init: Initializer | None = None,
        bias: bool | Initializer = True,
        dtype: Any = None,
    ):
        call = f"Dense(in_size={in_size}, out_size={out_size})"
        check_sizes(call, in_size=in_size, out_size=out_size)
        check_key(call, key)
        dtype = default_dtype(dtype)
        keys = jax.random.split(key)
        self.W = draw(
            glorot_uniform() if init is None else init, keys[0], (out_size, in_size), dtype
        )
        self.b = (
            None
            if bias is False
            else draw(zeros if bias is True else bias, keys[1], (out_size,), dtype)
        )
        self.activation = as_pytree(activation)

    @classmethod
    def from_arrays(
        cls,
        W: Any,
        b: Any = None,
        activation: Callable[[jax.Array], jax.Array] = identity,
    ) -> "Dense":
        """The layer with these arrays; it needs no random key.

        Args:
            W: ``(out, in)``, the weights.
            b: ``(out,)``, the bias, or ``None``.
            activation: any function of an array.

        Returns:
            A layer that holds these arrays.

        Raises:
            ValueError: if a shape does not fit.
            TypeError: if a dtype is not floating, or the dtypes differ.
        """
        call = "Dense.from_arrays"
        weights = parameter(call, "W", W, "(out, in)", 2)
        rows = weights.shape[:1]
        bias = None if b is None else parameter(call, "b", b, "(out,)", 1, rows, weights.dtype)
        return made(cls, W=weights, b=bias, activation=as_pytree(activation))

    def apply(self, xs: jax.Array, key: Key | None) -> jax.Array:
        self._check(xs)
        axes = *axes_of(xs)[:-1], *axes_of(self.W)[:1]
        return self.activation(automatic(_affine, (xs, self.W, self.b), *axes))

    def _check(self, xs: jax.Array) -> None:
        check_step(self.label, "x", xs, self.W.shape[1], self.W.dtype)

    @property
    def label(self) -> str:
        return f"Dense(in_size={self.W.shape[1]})"


def _affine(arrays: tuple[jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
    xs, W, b = arrays
    ys = xs @ W.T
    return ys if b is None else ys + spread(b, ys.shape[:-1])


class Embedding(StatelessLayer):
    """A table of vectors, one for each integer below ``count``.

    ::

        y = table[x]

    Args:
        count: number of rows, the size of the vocabulary.
        size: features of a row.
        key: random key for the table.
        init: initialiser of the table ``(count, size)``; N(0, 1) by default, as in Flux and
            PyTorch.
        dtype: floating dtype of the table; JAX's default, float32.

    Attributes:
        table: ``(count, size)``.

    Shapes:
        integers ``(...)`` to ``(..., size)``: ``(time,)`` or ``(batch, time)``, and for one step
        ``()`` or ``(batch,)``.

    Raises:
        ValueError: for sizes below 1, or an index outside ``0 .. count - 1`` where its value is
            known. Under `jax.jit` such an index gives NaN, never another row.
        TypeError: for a missing key, or indices that are not integers.

    Keras draws the table from U(-0.05, 0.05), and its ``mask_zero`` has no counterpart here: pass
    ``lengths`` to the layers that follow.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> nr.Embedding(10, 4, key=jax.random.key(0))(jnp.array([[1, 2, 3]])).shape
        (1, 3, 4)
    """

    table: jax.Array

    FEATURE_AXES: ClassVar = 0

    def __init__(
        self, count: int, size: int, *, key: Key, init: Initializer | None = None, dtype: Any = None
    ):
        call = f"Embedding(count={count}, size={size})"
        check_sizes(call, count=count, size=size)
        check_key(call, key)
        self.table = draw(
            normal(1.0) if init is None else init, key, (count, size), default_dtype(dtype)
        )

    @classmethod
    def from_arrays(cls, table: Any) -> "Embedding":
        """The layer with this table; it needs no random key.

        Args:
            table: ``(count, size)``, a row for each integer.

        Returns:
            A layer that holds the table.

        Raises:
            ValueError: if the table is no matrix.
            TypeError: if its dtype is not floating.
        """
        return made(
            cls, table=parameter("Embedding.from_arrays", "table", table, "(count, size)", 2)
        )

    def apply(self, xs: jax.Array, key: Key | None) -> jax.Array:
        count = self.table.shape[0]
        if not jnp.issubdtype(xs.dtype, jnp.integer):
            raise TypeError(
                f"{self.label}: the numbers are {xs.dtype}; expected whole numbers from 0 to "
                f"{count - 1}."
            )
        rows: jax.Array = automatic(_rows, (self.table, within(xs, -1, count)), *axes_of(xs))
        return rows

    def check_values(self, values: np.ndarray) -> None:
        count = self.table.shape[0]
        if values.size and not 0 <= values.min() <= values.max() < count:
            raise ValueError(
                f"{self.label}: the numbers go from {values.min()} to {values.max()}; "
                f"expected 0 to {count - 1}."
            )

    @property
    def label(self) -> str:
        return f"Embedding(count={self.table.shape[0]})"


@jax.jit
def _rows(arrays: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rows of a table, NaN for an index outside of it.

    The gradient is accumulated in 32 bits or more. Compiled, to avoid a copy of the whole table.
    """
    table, numbers = arrays
    numbers = jnp.where(numbers < 0, table.shape[0], numbers)
    rows: jax.Array = widened(table).at[numbers].get(mode="fill", fill_value=jnp.nan)
    return rows.astype(table.dtype)
