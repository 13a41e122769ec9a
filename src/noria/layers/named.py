"""The layers of the built-in cells: ``RNN``, ``LSTM``, ``GRU`` and ``GRUv3``."""

from typing import Unpack

import jax.numpy as jnp

from noria._types import Key
from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell, GRUv3Cell
from noria.cells.lstm import LSTMCell
from noria.cells.stacked import Activation
from noria.layers.chain import Chain
from noria.layers.constructors import (
    GRUConstructor,
    GRUOptions,
    LSTMConstructor,
    LSTMOptions,
    RNNConstructor,
    RNNOptions,
    constructor_of,
    layers,
)
from noria.layers.recurrence import Recurrence


@constructor_of[RNNConstructor](RNNCell)
def RNN(
    in_size: int,
    hidden_size: int,
    activation: Activation = jnp.tanh,
    *,
    key: Key,
    num_layers: int | None = None,
    **options: Unpack[RNNOptions],
) -> Recurrence | Chain:
    """A simple recurrent layer: ``Recurrence(RNNCell(...))``.

    ::

        h_t = activation(W x_t + b + U h_{t-1} + b_h),    y_t = h_t

    Args:
        in_size: features of a step.
        hidden_size: features of the state and of the outputs.
        activation: element-wise function; ``jnp.tanh`` by default.
        key: random key for the weights.
        init: initialiser of ``W``; Glorot-uniform by default.
        recurrent_init: initialiser of ``U``; Glorot-uniform by default.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of ``b``.
        recurrent_bias: the same for ``b_h``, the second bias of PyTorch.
        clip: bound of what each activation gets; none by default.
        dtype: floating dtype of the parameters and of all inputs and outputs; float32 by default.
        num_layers: number of layers, each of which reads the outputs of the one before. The result
            is then a `Chain`, also of one layer.
        initial_state: ``(hidden,)``, the state before the first step; zero by default. With
            ``num_layers`` a tuple, one a layer.
        reverse: run from the last step to the first.
        learn_initial_state: train the initial state.
        backend: see `Recurrence`.
        save: see `Recurrence`.
        checkpoint: see `Recurrence`.

    Returns:
        A `Recurrence` from ``(time, in)`` or ``(batch, time, in)`` to the same with ``hidden``
        features; with ``num_layers`` a `Chain` of such.

    Raises:
        ValueError: for a size below 1, or an option that is not one of its choices.
        TypeError: for a missing key, an unknown option, or a dtype that is not floating.

    PyTorch's ``RNN`` has both biases; ``SimpleRNN`` of Keras and ``RNN`` of Flux have ``b`` only.
    Keras starts with an orthogonal ``U``; pass ``recurrent_init=noria.initializers.orthogonal()``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> nr.RNN(2, 4, key=jax.random.key(0))(jnp.ones((3, 2))).shape
        (3, 4)
    """
    return layers(
        RNNCell, in_size, hidden_size, activation, key=key, num_layers=num_layers, **options
    )


@constructor_of[LSTMConstructor](LSTMCell)
def LSTM(
    in_size: int,
    hidden_size: int,
    *,
    key: Key,
    num_layers: int | None = None,
    **options: Unpack[LSTMOptions],
) -> Recurrence | Chain:
    """A long short-term memory layer: ``Recurrence(LSTMCell(...))``.

    ::

        i, f, g, o = blocks of  W x_t + b + U h_{t-1} + b_h
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t),    y_t = h_t

    `LSTMCell` gives the equations with options.

    Args:
        in_size: features of a step.
        hidden_size: features of ``h``, of ``c`` and of the outputs.
        key: random key for the weights.
        init: initialiser of each block of ``W``; Glorot-uniform of the whole matrix by default.
        recurrent_init: the same for ``U``.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of ``b``.
        recurrent_bias: the same for ``b_h``, the second bias of PyTorch.
        forget_bias: added to the forget block of ``b`` at construction; 0 by default.
        peepholes: ``True`` for U(-0.1, 0.1), ``False`` for none, or an initialiser of ``p``.
        activation: function of ``g``, and of ``c``; ``jnp.tanh`` by default.
        gate_activation: function of the gates; `jax.nn.sigmoid` by default.
        output_activation: function of ``c``, if it is another than ``activation``.
        coupled_gates: whether the forget gate is one minus the input gate.
        proj_size: features of ``h`` and of the outputs, if they are projected.
        clip: bound of what each activation gets; none by default.
        dtype: floating dtype of the parameters and of all inputs and outputs; float32 by default.
        num_layers: number of layers, each of which reads the outputs of the one before. The result
            is then a `Chain`, also of one layer.
        initial_state: ``LSTMState(h, c)``, each ``(hidden,)``; zero by default. With ``num_layers``
            a tuple, one a layer.
        reverse: run from the last step to the first.
        learn_initial_state: train the initial state.
        backend: see `Recurrence`.
        save: see `Recurrence`.
        checkpoint: see `Recurrence`.

    Returns:
        A `Recurrence` from ``(time, in)`` or ``(batch, time, in)`` to the same with ``hidden``
        features; with ``num_layers`` a `Chain` of such.

    Raises:
        ValueError: for a size below 1, an option that is not one of its choices, or a
            ``forget_bias`` without a bias.
        TypeError: for a missing key, an unknown option, or a dtype that is not floating.

    Keras' ``LSTM`` has ``unit_forget_bias=True``, which is ``forget_bias=1.0`` here. The state is
    ``LSTMState(h, c)``; Keras has a list ``[h, c]``, PyTorch a pair with a leading axis for layers.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> state, ys = nr.LSTM(2, 4, key=jax.random.key(0)).scan(None, jnp.ones((3, 2)))
        >>> ys.shape, state.c.shape
        ((3, 4), (4,))
    """
    return layers(LSTMCell, in_size, hidden_size, key=key, num_layers=num_layers, **options)


@constructor_of[GRUConstructor](GRUCell)
def GRU(
    in_size: int,
    hidden_size: int,
    *,
    key: Key,
    num_layers: int | None = None,
    **options: Unpack[GRUOptions],
) -> Recurrence | Chain:
    """A gated recurrent layer, reset after the recurrent product: ``Recurrence(GRUCell(...))``.

    ::

        r   = sigmoid(W_r x_t + b_r + U_r h_{t-1} + b_hr)
        z   = sigmoid(W_z x_t + b_z + U_z h_{t-1} + b_hz)
        n   = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + b_hn))
        h_t = (1 - z) * n + z * h_{t-1},    y_t = h_t

    Args:
        in_size: features of a step.
        hidden_size: features of the state and of the outputs.
        key: random key for the weights.
        init: initialiser of each block of ``W``; Glorot-uniform of the whole matrix by default.
        recurrent_init: the same for ``U``.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of ``b``.
        recurrent_bias: the same for ``b_h``, the second bias of PyTorch and Keras.
        activation: function of ``n``; ``jnp.tanh`` by default.
        gate_activation: function of the gates; `jax.nn.sigmoid` by default.
        clip: bound of what each activation gets; none by default.
        dtype: floating dtype of the parameters and of all inputs and outputs; float32 by default.
        num_layers: number of layers, each of which reads the outputs of the one before. The result
            is then a `Chain`, also of one layer.
        initial_state: ``(hidden,)``, the state before the first step; zero by default. With
            ``num_layers`` a tuple, one a layer.
        reverse: run from the last step to the first.
        learn_initial_state: train the initial state.
        backend: see `Recurrence`.
        save: see `Recurrence`.
        checkpoint: see `Recurrence`.

    Returns:
        A `Recurrence` from ``(time, in)`` or ``(batch, time, in)`` to the same with ``hidden``
        features; with ``num_layers`` a `Chain` of such.

    Raises:
        ValueError: for a size below 1, or an option that is not one of its choices.
        TypeError: for a missing key, an unknown option, or a dtype that is not floating.

    PyTorch's ``GRU`` and Keras' (``reset_after=True``) have both biases; pass
    ``recurrent_bias=True`` for their parameters. Keras orders the blocks ``z r n``.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> layer = nr.GRU(2, 4, key=jax.random.key(0), learn_initial_state=True)
        >>> layer(jnp.ones((3, 2))).shape
        (3, 4)
    """
    return layers(GRUCell, in_size, hidden_size, key=key, num_layers=num_layers, **options)


@constructor_of[GRUConstructor](GRUv3Cell)
def GRUv3(
    in_size: int,
    hidden_size: int,
    *,
    key: Key,
    num_layers: int | None = None,
    **options: Unpack[GRUOptions],
) -> Recurrence | Chain:
    """A gated recurrent layer, reset before the recurrent product: ``Recurrence(GRUv3Cell(...))``.

    ::

        r   = sigmoid(W_r x_t + b_r + U_r h_{t-1} + b_hr)
        z   = sigmoid(W_z x_t + b_z + U_z h_{t-1} + b_hz)
        n   = tanh(W_n x_t + b_n + U_n (r * h_{t-1}) + b_hn)
        h_t = (1 - z) * n + z * h_{t-1},    y_t = h_t

    Args:
        in_size: features of a step.
        hidden_size: features of the state and of the outputs.
        key: random key for the weights.
        init: initialiser of each block of ``W``; Glorot-uniform of the whole matrix by default.
        recurrent_init: the same for ``U``.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of ``b``.
        recurrent_bias: the same for ``b_h``.
        activation: function of ``n``; ``jnp.tanh`` by default.
        gate_activation: function of the gates; `jax.nn.sigmoid` by default.
        clip: bound of what each activation gets; none by default.
        dtype: floating dtype of the parameters and of all inputs and outputs; float32 by default.
        num_layers: number of layers, each of which reads the outputs of the one before. The result
            is then a `Chain`, also of one layer.
        initial_state: ``(hidden,)``, the state before the first step; zero by default. With
            ``num_layers`` a tuple, one a layer.
        reverse: run from the last step to the first.
        learn_initial_state: train the initial state.
        backend: see `Recurrence`.
        save: see `Recurrence`.
        checkpoint: see `Recurrence`.

    Returns:
        A `Recurrence` from ``(time, in)`` or ``(batch, time, in)`` to the same with ``hidden``
        features; with ``num_layers`` a `Chain` of such.

    Raises:
        ValueError: for a size below 1, or an option that is not one of its choices.
        TypeError: for a missing key, an unknown option, or a dtype that is not floating.

    Keras computes this with ``reset_after=False``; PyTorch has no such layer. `GRU` needs one
    product with the state per step, this layer two.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> nr.GRUv3(2, 4, key=jax.random.key(0), reverse=True)(jnp.ones((3, 2))).shape
        (3, 4)
    """
    return layers(GRUv3Cell, in_size, hidden_size, key=key, num_layers=num_layers, **options)
