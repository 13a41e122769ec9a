"""The gated recurrent unit, in both of its published forms."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from noria.cells.declare import state
from noria.cells.stacked import Activation, GatedCell, add_bias, clipped


class GRUCell(GatedCell):
    """The gated recurrent unit with the reset gate applied after the recurrent product.

    ::

        r  = sigmoid(W_r x + b_r + U_r h + b_hr)
        z  = sigmoid(W_z x + b_z + U_z h + b_hz)
        n  = tanh(W_n x + b_n + r * (U_n h + b_hn))
        h' = (1 - z) * n + z * h

    Args:
        in_size: features of ``x``.
        hidden_size: features of ``h``.
        key: random key for the weights.
        init: initialiser of each block of ``W``; Glorot-uniform of the stacked matrix by default.
        recurrent_init: initialiser of each block of ``U``; Glorot-uniform of the stacked matrix by
            default.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of the whole vector.
        recurrent_bias: the same for ``b_h``, the second bias of PyTorch and Keras. Its block ``n``
            is multiplied by ``r`` and cannot be merged into ``b``.
        activation: function of ``n``; ``jnp.tanh`` by default.
        gate_activation: function of ``r`` and ``z``; `jax.nn.sigmoid` by default.
        clip: bound of what each of these functions gets, as in ONNX; none by default.
        dtype: floating dtype of the parameters; JAX's default, float32.

    Attributes:
        W: ``(3 * hidden, in)``, the input weights.
        U: ``(3 * hidden, hidden)``, the recurrent weights.
        b: ``(3 * hidden,)``, the bias, or ``None``.
        b_h: ``(3 * hidden,)``, the bias of the recurrent side, or ``None``.

    Shapes:
        ``x`` is ``(in,)`` or ``(batch, in)``, the state ``h`` is ``(hidden,)`` or ``(batch,
        hidden)``. The result is the next state. All have the dtype of the parameters.

    Raises:
        ValueError: for sizes below 1, or a step or state of the wrong size.
        TypeError: for a missing key, or a step or state of another dtype.

    Source: Cho et al. 2014, arXiv 1406.1078, version 1. The block order is ``r z n``, as in Flux
    and PyTorch. Keras (``reset_after=True``) and ONNX (``linear_before_reset=1``) order the blocks
    z, r, n.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> cell = nr.GRUCell(2, 3, key=jax.random.key(0))
        >>> cell(cell.initial_state(), jnp.ones(2)).shape
        (3,)
    """

    h: jax.Array = state("hidden")
    activation: Activation = jnp.tanh
    gate_activation: Activation = jax.nn.sigmoid

    GATES: ClassVar = ("r", "z", "n")

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
        wr, wz, wn = jnp.split(wx, 3, axis=-1)
        ur, uz, un = jnp.split(uh, 3, axis=-1)
        r = self.gate_activation(clipped(self.clip, wr + ur))
        z = self.gate_activation(clipped(self.clip, wz + uz))
        n = self.activation(clipped(self.clip, wn + r * un))
        return (1 - z) * n + z * h


class GRUv3Cell(GatedCell):
    """The gated recurrent unit with the reset gate applied before the recurrent product.

    ::

        r  = sigmoid(W_r x + b_r + U_r h + b_hr)
        z  = sigmoid(W_z x + b_z + U_z h + b_hz)
        n  = tanh(W_n x + b_n + U_n (r * h) + b_hn)
        h' = (1 - z) * n + z * h

    Args:
        in_size: features of ``x``.
        hidden_size: features of ``h``.
        key: random key for the weights.
        init: initialiser of each block of ``W``; Glorot-uniform of the stacked matrix by default.
        recurrent_init: initialiser of each block of ``U``; Glorot-uniform of the stacked matrix by
            default.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of the whole vector.
        recurrent_bias: the same for ``b_h``.
        activation: function of ``n``; ``jnp.tanh`` by default.
        gate_activation: function of ``r`` and ``z``; `jax.nn.sigmoid` by default.
        clip: bound of what each of these functions gets, as in ONNX; none by default.
        dtype: floating dtype of the parameters; JAX's default, float32.

    Attributes:
        W: ``(3 * hidden, in)``, the input weights.
        U: ``(3 * hidden, hidden)``, the recurrent weights.
        b: ``(3 * hidden,)``, the bias, or ``None``.
        b_h: ``(3 * hidden,)``, the bias of the recurrent side, or ``None``.

    Shapes:
        ``x`` is ``(in,)`` or ``(batch, in)``, the state ``h`` is ``(hidden,)`` or ``(batch,
        hidden)``. The result is the next state. All have the dtype of the parameters.

    Raises:
        ValueError: for sizes below 1, or a step or state of the wrong size.
        TypeError: for a missing key, or a step or state of another dtype.

    Source: Cho et al. 2014, arXiv 1406.1078, version 3, eqs. 5 to 8, with the same ``z``. Keras
    computes it with ``reset_after=False`` and ONNX with ``linear_before_reset=0``; both order the
    blocks z, r, n. Flux's ``GRUv3Cell`` has an unused fourth block of recurrent parameters; here
    ``U`` has three blocks.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> cell = nr.GRUv3Cell(2, 3, key=jax.random.key(0))
        >>> cell(cell.initial_state(), jnp.ones(2)).shape
        (3,)
    """

    h: jax.Array = state("hidden")
    activation: Activation = jnp.tanh
    gate_activation: Activation = jax.nn.sigmoid

    GATES: ClassVar = ("r", "z", "n")

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
        gates = 2 * self.hidden_size  # the blocks r and z; n follows
        wr, wz, wn = jnp.split(add_bias(x @ self.W.T, self.b), 3, axis=-1)
        ur, uz = jnp.split(
            add_bias(h @ self.U[:gates].T, None if self.b_h is None else self.b_h[:gates]),
            2,
            axis=-1,
        )
        r = self.gate_activation(clipped(self.clip, wr + ur))
        z = self.gate_activation(clipped(self.clip, wz + uz))
        un = add_bias((r * h) @ self.U[gates:].T, None if self.b_h is None else self.b_h[gates:])
        n = self.activation(clipped(self.clip, wn + un))
        return (1 - z) * n + z * h
