"""The simple recurrent network."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from noria.cells.declare import state
from noria.cells.stacked import Activation, GatedCell, clipped


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
        clip: bound of what the activation gets, as in ONNX; none by default.
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

    h: jax.Array = state("hidden")
    activation: Activation = eqx.field(default=jnp.tanh, kw_only=False)

    GATES: ClassVar = ("h",)

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
        return self.activation(clipped(self.clip, wx + uh))
