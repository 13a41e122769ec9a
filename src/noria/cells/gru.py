"""The gated recurrent unit, in both of its published forms."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from noria.cells.base import GatedCell, add_bias


class GRUCell(GatedCell):
    """The gated recurrent unit, reset applied after the recurrent product.

    ::

        r  = sigmoid(W_r x + b_r + U_r h + b_hr)
        z  = sigmoid(W_z x + b_z + U_z h + b_hz)
        n  = tanh(W_n x + b_n + r * (U_n h + b_hn))
        h' = (1 - z) * n + z * h

    Args:
        in_size: features of ``x``.
        hidden_size: features of ``h``.
        key: random key for the weights.
        init: initialiser of each block of ``W``; default Glorot-uniform for the stacked matrix.
        recurrent_init: initialiser of each block of ``U``; default Glorot-uniform for the stacked matrix.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of the whole vector.
        recurrent_bias: the same for ``b_h``, the second bias that PyTorch and Keras have. Its ``n`` block stands
            inside the product with ``r`` and cannot be merged into ``b``.
        dtype: floating dtype of the parameters; default JAX's, float32.

    Shapes:
        ``x`` is ``(in,)`` or ``(batch, in)``, the state ``h`` is ``(hidden,)`` or ``(batch, hidden)``; the result is
        the next state. All have the dtype of the parameters.

    Raises:
        ValueError: for sizes below 1, or a step or state of the wrong size.
        TypeError: for a missing key, or a step or state of another dtype.

    Source: Cho et al. 2014, arXiv 1406.1078, version 1. Block order ``r z n`` as in Flux and PyTorch; Keras
    (``reset_after=True``) and ONNX (``linear_before_reset=1``) have z, r, n.

    >>> import jax, jax.numpy as jnp, noria as nr
    >>> cell = nr.GRUCell(2, 3, key=jax.random.key(0))
    >>> cell(cell.initial_state(), jnp.ones(2)).shape
    (3,)
    """

    GATES: ClassVar = ("r", "z", "n")
    __init__ = GatedCell.__init__  # type checkers would make up one from the fields

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        wx, uh = self._projections(h, x)
        wr, wz, wn = jnp.split(wx, 3, axis=-1)
        ur, uz, un = jnp.split(uh, 3, axis=-1)
        r = jax.nn.sigmoid(wr + ur)
        z = jax.nn.sigmoid(wz + uz)
        n = jnp.tanh(wn + r * un)
        return (1 - z) * n + z * h

    def initial_state(self) -> jax.Array:
        return self._zeros()


class GRUv3Cell(GatedCell):
    """The gated recurrent unit, reset applied before the recurrent product.

    ::

        r  = sigmoid(W_r x + b_r + U_r h + b_hr)
        z  = sigmoid(W_z x + b_z + U_z h + b_hz)
        n  = tanh(W_n x + b_n + U_n (r * h) + b_hn)
        h' = (1 - z) * n + z * h

    Arguments, shapes and errors are those of `GRUCell`.

    Source: Cho et al. 2014, arXiv 1406.1078, version 3, eqs. 5 to 8 (whose ``z`` is ours). As Keras with
    ``reset_after=False`` and ONNX with ``linear_before_reset=0`` (block order z, r, n). Flux's ``GRUv3Cell`` keeps
    another, unused block of recurrent parameters; here ``U`` has three blocks and all are used.

    >>> import jax, jax.numpy as jnp, noria as nr
    >>> cell = nr.GRUv3Cell(2, 3, key=jax.random.key(0))
    >>> cell(cell.initial_state(), jnp.ones(2)).shape
    (3,)
    """

    GATES: ClassVar = ("r", "z", "n")
    __init__ = GatedCell.__init__  # type checkers would make up one from the fields

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        self._check(h, x)
        gates = 2 * self.hidden_size  # the blocks r and z; n follows
        wr, wz, wn = jnp.split(add_bias(x @ self.W.T, self.b), 3, axis=-1)
        ur, uz = jnp.split(
            add_bias(h @ self.U[:gates].T, None if self.b_h is None else self.b_h[:gates]),
            2,
            axis=-1,
        )
        r = jax.nn.sigmoid(wr + ur)
        z = jax.nn.sigmoid(wz + uz)
        un = add_bias((r * h) @ self.U[gates:].T, None if self.b_h is None else self.b_h[gates:])
        n = jnp.tanh(wn + un)
        return (1 - z) * n + z * h

    def initial_state(self) -> jax.Array:
        return self._zeros()
