"""The layers of the built-in cells: ``RNN``, ``LSTM``, ``GRU`` and ``GRUv3``."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from noria._types import Key
from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell, GRUv3Cell
from noria.cells.lstm import LSTMCell
from noria.layers.recurrence import Recurrence

_LAYER_OPTIONS = (
    "initial_state",
    "reverse",
    "learn_initial_state",
    "backend",
    "save",
    "checkpoint",
)


def _layer(cell: Callable[..., Any], *args: Any, key: Key, **options: Any) -> Recurrence:
    layer_options = {name: options.pop(name) for name in _LAYER_OPTIONS if name in options}
    return Recurrence(cell(*args, key=key, **options), **layer_options)


def RNN(
    in_size: int, hidden_size: int, activation: Any = jnp.tanh, *, key: Key, **options: Any
) -> Recurrence:
    """``Recurrence(RNNCell(in_size, hidden_size, activation, key=key))``.

    Args:
        in_size: features of a step.
        hidden_size: features of the state and of the outputs.
        activation: any element-wise function.
        key: random key for the weights.
        **options: those of `RNNCell` (``init``, ``recurrent_init``, ``bias``, ``recurrent_bias``, ``dtype``) and of
            `Recurrence` (``initial_state``, ``learn_initial_state``, ``reverse``, ``backend``).

    >>> import jax, jax.numpy as jnp, noria as nr
    >>> nr.RNN(2, 4, key=jax.random.key(0))(jnp.ones((3, 2))).shape
    (3, 4)
    """
    return _layer(RNNCell, in_size, hidden_size, activation, key=key, **options)


def LSTM(in_size: int, hidden_size: int, *, key: Key, **options: Any) -> Recurrence:
    """``Recurrence(LSTMCell(in_size, hidden_size, key=key))``; options as for `RNN`, and ``forget_bias``.

    >>> import jax, jax.numpy as jnp, noria as nr
    >>> state, ys = nr.LSTM(2, 4, key=jax.random.key(0)).scan(None, jnp.ones((3, 2)))
    >>> ys.shape, state.c.shape
    ((3, 4), (4,))
    """
    return _layer(LSTMCell, in_size, hidden_size, key=key, **options)


def GRU(in_size: int, hidden_size: int, *, key: Key, **options: Any) -> Recurrence:
    """``Recurrence(GRUCell(in_size, hidden_size, key=key))``; options as for `RNN`.

    >>> import jax, jax.numpy as jnp, noria as nr
    >>> nr.GRU(2, 4, key=jax.random.key(0), learn_initial_state=True)(jnp.ones((3, 2))).shape
    (3, 4)
    """
    return _layer(GRUCell, in_size, hidden_size, key=key, **options)


def GRUv3(in_size: int, hidden_size: int, *, key: Key, **options: Any) -> Recurrence:
    """``Recurrence(GRUv3Cell(in_size, hidden_size, key=key))``; options as for `RNN`.

    >>> import jax, jax.numpy as jnp, noria as nr
    >>> nr.GRUv3(2, 4, key=jax.random.key(0), reverse=True)(jnp.ones((3, 2))).shape
    (3, 4)
    """
    return _layer(GRUv3Cell, in_size, hidden_size, key=key, **options)
