"""The layers of the built-in cells: ``RNN``, ``LSTM``, ``GRU`` and ``GRUv3``."""

import inspect
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, Unpack

import jax
import jax.numpy as jnp

from noria._types import Initializer, Key, State
from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell, GRUv3Cell
from noria.cells.lstm import LSTMCell
from noria.layers.recurrence import Recurrence

F = TypeVar("F", bound=Callable[..., Recurrence])


class CellOptions(TypedDict, total=False):
    """Options that every gated cell has."""

    init: Initializer | None
    recurrent_init: Initializer | None
    bias: bool | Initializer
    recurrent_bias: bool | Initializer
    dtype: Any


class LayerOptions(TypedDict, total=False):
    """Options of a `Recurrence`."""

    initial_state: State
    reverse: bool
    learn_initial_state: bool
    backend: str
    save: str
    checkpoint: int | str | None


class Options(CellOptions, LayerOptions, total=False):
    """Options of a gated cell and of the layer that runs it."""


class LSTMOptions(Options, total=False):
    """`Options`, and the forget bias."""

    forget_bias: float


def _with_options_of(cell: type) -> Callable[[F], F]:
    """Give a constructor the signature of its cell, followed by the options of `Recurrence`.

    Type checkers read the `TypedDict`; `help`, notebooks and `inspect.signature` read this.
    """

    def decorate(constructor: F) -> F:
        parameters = [*inspect.signature(cell).parameters.values()]
        layer = inspect.signature(Recurrence).parameters
        parameters += [
            layer[name].replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name in LayerOptions.__annotations__
        ]
        signature = inspect.Signature(parameters, return_annotation=Recurrence)
        constructor.__signature__ = signature  # type: ignore[attr-defined]
        return constructor

    return decorate


def _layer(cell: Callable[..., Any], *args: Any, key: Key, **options: Any) -> Recurrence:
    of_layer = {name: options.pop(name) for name in LayerOptions.__annotations__ if name in options}
    return Recurrence(cell(*args, key=key, **options), **of_layer)


@_with_options_of(RNNCell)
def RNN(
    in_size: int,
    hidden_size: int,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    *,
    key: Key,
    **options: Unpack[Options],
) -> Recurrence:
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
        dtype: floating dtype of the parameters and of all inputs and outputs; float32 by default.
        initial_state: ``(hidden,)``, the state before the first step; zero by default.
        reverse: run from the last step to the first.
        learn_initial_state: train the initial state.
        backend: see `Recurrence`.
        save: see `Recurrence`.
        checkpoint: see `Recurrence`.

    Returns:
        A layer from ``(time, in)`` or ``(batch, time, in)`` to the same with ``hidden`` features.

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
    return _layer(RNNCell, in_size, hidden_size, activation, key=key, **options)


@_with_options_of(LSTMCell)
def LSTM(in_size: int, hidden_size: int, *, key: Key, **options: Unpack[LSTMOptions]) -> Recurrence:
    """A long short-term memory layer: ``Recurrence(LSTMCell(...))``.

    ::

        i, f, g, o = blocks of  W x_t + b + U h_{t-1} + b_h
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t),    y_t = h_t

    Args:
        in_size: features of a step.
        hidden_size: features of ``h``, of ``c`` and of the outputs.
        key: random key for the weights.
        init: initialiser of each block of ``W``; Glorot-uniform of the whole matrix by default.
        recurrent_init: the same for ``U``.
        bias: ``True`` for zeros, ``False`` for none, or an initialiser of ``b``.
        recurrent_bias: the same for ``b_h``, the second bias of PyTorch.
        forget_bias: added to the forget block of ``b`` at construction; 0 by default.
        dtype: floating dtype of the parameters and of all inputs and outputs; float32 by default.
        initial_state: ``LSTMState(h, c)``, each ``(hidden,)``; zero by default.
        reverse: run from the last step to the first.
        learn_initial_state: train the initial state.
        backend: see `Recurrence`.
        save: see `Recurrence`.
        checkpoint: see `Recurrence`.

    Returns:
        A layer from ``(time, in)`` or ``(batch, time, in)`` to the same with ``hidden`` features.

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
    return _layer(LSTMCell, in_size, hidden_size, key=key, **options)


@_with_options_of(GRUCell)
def GRU(in_size: int, hidden_size: int, *, key: Key, **options: Unpack[Options]) -> Recurrence:
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
        dtype: floating dtype of the parameters and of all inputs and outputs; float32 by default.
        initial_state: ``(hidden,)``, the state before the first step; zero by default.
        reverse: run from the last step to the first.
        learn_initial_state: train the initial state.
        backend: see `Recurrence`.
        save: see `Recurrence`.
        checkpoint: see `Recurrence`.

    Returns:
        A layer from ``(time, in)`` or ``(batch, time, in)`` to the same with ``hidden`` features.

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
    return _layer(GRUCell, in_size, hidden_size, key=key, **options)


@_with_options_of(GRUv3Cell)
def GRUv3(in_size: int, hidden_size: int, *, key: Key, **options: Unpack[Options]) -> Recurrence:
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
        dtype: floating dtype of the parameters and of all inputs and outputs; float32 by default.
        initial_state: ``(hidden,)``, the state before the first step; zero by default.
        reverse: run from the last step to the first.
        learn_initial_state: train the initial state.
        backend: see `Recurrence`.
        save: see `Recurrence`.
        checkpoint: see `Recurrence`.

    Returns:
        A layer from ``(time, in)`` or ``(batch, time, in)`` to the same with ``hidden`` features.

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
    return _layer(GRUv3Cell, in_size, hidden_size, key=key, **options)
