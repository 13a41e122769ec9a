"""Cells whose gates are row blocks of one input matrix and one recurrent matrix."""

from collections.abc import Callable
from dataclasses import InitVar
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from noria._errors import check_step
from noria._parameters import of_any_dtype
from noria._types import Initializer, Key
from noria.cells.declare import matrix, size, vector
from noria.cells.declared import DeclaredCell

#: An element-wise function.
Activation = Callable[[jax.Array], jax.Array]


@of_any_dtype
def stacked_glorot(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Glorot's bound for the stacked matrix, as Flux has it: sqrt(6 / (rows + columns))."""
    bound = (6 / sum(shape)) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class GatedCell(DeclaredCell):
    """A cell whose gates are row blocks, and which takes one example or a batch.

    Attributes:
        W: ``(gates, in)``, the input weights; ``gates`` is ``hidden`` times the number of gates.
        U: ``(gates, hidden)``, the recurrent weights.
        b: ``(gates,)``, the bias of the input side, or ``None``.
        b_h: ``(gates,)``, the bias of the recurrent side, or ``None`` (default).
    """

    in_size: int = size(kw_only=False)
    hidden_size: int = size(kw_only=False)
    init: InitVar[Initializer | None] = None
    recurrent_init: InitVar[Initializer | None] = None
    bias: InitVar[bool | Initializer] = True
    recurrent_bias: InitVar[bool | Initializer] = False
    if TYPE_CHECKING:  # arguments of the constructor
        key: InitVar[Key]
        dtype: InitVar[Any] = None

    W: jax.Array = matrix("blocks * hidden", "in", stacked_glorot, argument="init", blocks="blocks")
    U: jax.Array = matrix(
        "blocks * hidden", "hidden", stacked_glorot, argument="recurrent_init", blocks="blocks"
    )
    b: jax.Array | None = vector("blocks * hidden", argument="bias")
    b_h: jax.Array | None = vector("blocks * hidden", argument="recurrent_bias")
    clip: float | None = None

    #: The gates in the order of their row blocks.
    GATES: ClassVar[tuple[str, ...]]

    def __check_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"{self._call}: clip is {self.clip}; expected a positive number.")

    @property
    def blocks(self) -> int:
        """The number of row blocks."""
        return len(self.GATES)

    @property
    def out_size(self) -> int:
        """Features of the output, which the next step reads."""
        return self.hidden_size

    def _projections(self, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``W x + b`` and ``U h + b_h``."""
        return add_bias(x @ self.W.T, self.b), add_bias(h @ self.U.T, self.b_h)

    def _check(self, state: Any, x: Any) -> None:
        call, dtype, size = self._call, self.dtype, self.out_size
        swapped = getattr(x, "shape", ())[-1:] == (size,) != (self.in_size,)
        hint = "; the state comes first: cell(state, x)" if swapped else ""
        check_step(call, "x", x, self.in_size, dtype, hint)
        check_step(call, "the state", state, size, dtype, hint)


def add_bias(a: jax.Array, b: jax.Array | None) -> jax.Array:
    """``a + b``, or ``a`` if there is no bias."""
    return a if b is None else a + b


def clipped(clip: float | None, a: jax.Array) -> jax.Array:
    """What an activation gets: ``a`` between ``-clip`` and ``clip``, if there is a bound."""
    return a if clip is None else jnp.clip(a, -clip, clip)
