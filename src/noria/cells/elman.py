"""The simple recurrent network."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from noria._types import Initializer, Key
from noria.cells.base import GatedCell
from noria.module import as_pytree


class RNNCell(GatedCell):
    """The simple recurrent cell: one matrix product and an activation.

    ::

        h' = activation(W x + b + U h + b_h)

    Args:
        in_size: features of ``x``.
        hidden_size: features of ``h``.
        activation: any element-wise function. If it is a module, its arrays are trained too.
        key: random key for the weights.
        init: initialiser of ``W``; Glorot-uniform by default.
        recurrent_init: initialiser of ``U``; Glorot-uniform by default.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of the whole vector.
        recurrent_bias: the same for ``b_h``, the second bias of PyTorch.
        dtype: floating dtype of the parameters; JAX's default, float32.

    Attributes:
        W: ``(hidden, in)``, the input weights.
        U: ``(hidden, hidden)``, the recurrent weights.
        b: ``(hidden,)``, the bias, or ``None``.
        b_h: ``(hidden,)``, the bias of the recurrent side, or ``None``.
        activation: as passed, as a pytree.

    Shapes:
        ``x`` is ``(in,)`` or ``(batch, in)``, the state ``h`` is ``(hidden,)`` or ``(batch,
        hidden)``. The result is the next state. All have the dtype of the parameters.

    Raises:
        ValueError: for sizes below 1, or a step or state of the wrong size.
        TypeError: for a missing key, or a step or state of another dtype.

    Source: Elman 1990, "Finding structure in time", Cognitive Science 14. It equals ``RNNCell`` of
    Flux and ``SimpleRNNCell`` of Keras; PyTorch's cell has both biases.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> cell = nr.RNNCell(2, 3, jax.nn.relu, key=jax.random.key(0))
        >>> h = cell(cell.initial_state(), jnp.ones(2))
        >>> h.shape
        (3,)
    """

    activation: Callable[[jax.Array], jax.Array]

    GATES: ClassVar = ("h",)

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
        *,
        key: Key,
        init: Initializer | None = None,
        recurrent_init: Initializer | None = None,
        bias: bool | Initializer = True,
        recurrent_bias: bool | Initializer = False,
        dtype: Any = None,
    ):
        super().__init__(
            in_size,
            hidden_size,
            key=key,
            init=init,
            recurrent_init=recurrent_init,
            bias=bias,
            recurrent_bias=recurrent_bias,
            dtype=dtype,
        )
        self.activation = as_pytree(activation)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """The next state.

        Args:
            h: ``(hidden,)`` or ``(batch, hidden)``, the state.
            x: ``(in,)`` or ``(batch, in)``, the input of the step.

        Returns:
            ``(hidden,)`` or ``(batch, hidden)``, the state after the step.

        Raises:
            ValueError: if a size does not fit.
            TypeError: if a dtype does not fit.
        """
        wx, uh = self._projections(h, x)
        return self.activation(wx + uh)

    def initial_state(self) -> jax.Array:
        """The zero state of one example.

        Returns:
            ``(hidden,)`` zeros.
        """
        return self._zeros()
