"""One model for all cells: one layer of the cell, or blocks of them, and a read-out."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from task import Task

import noria as nr
from noria.cells.catalogue import catalogue, class_of


def _forget(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Biases of an LSTM, 1 for forget gates and else 0."""
    del key
    return jnp.zeros((4, shape[0] // 4), dtype).at[1].set(1).reshape(shape)


orthogonal = jax.nn.initializers.orthogonal()

BUILT_IN: dict[str, Callable[..., nr.Cell]] = {
    "rnn": nr.RNNCell,
    "rnn_relu": functools.partial(nr.RNNCell, activation=jax.nn.relu),
    "rnn_orthogonal": functools.partial(nr.RNNCell, recurrent_init=orthogonal),
    "lstm": nr.LSTMCell,
    "lstm_forget": functools.partial(nr.LSTMCell, bias=_forget),
    "gru": nr.GRUCell,
}


def model_of(task: Task, name: str, key: jax.Array) -> nr.Chain:
    """A layer and a product; or a product, blocks with norms and skip connections, and a product.

    The settings of a cell are its defaults.
    """
    keys = iter(jax.random.split(key, 2 * task.depth + 2))
    if task.depth == 1:
        layer = layer_of(name, task.inputs, task.width, key=next(keys))
        size = output_size(layer, task.inputs)
        read_out = nr.Dense(size, task.outputs, key=next(keys))
        return nr.Chain(layer, *[jax.nn.relu] * task.rectified, read_out)
    layers: list[nr.Layer] = [nr.Dense(task.inputs, task.width, key=next(keys))]
    for _ in range(task.depth):
        layer = layer_of(name, task.width, task.width, key=next(keys))
        dense = nr.Dense(output_size(layer, task.width), task.width, key=next(keys))
        layers.append(nr.Residual(nr.Chain(nr.RMSNorm(task.width), layer, dense)))
    leave = nr.Dense(task.width, task.outputs, key=next(keys))
    return nr.Chain(*layers, nr.RMSNorm(task.width), leave)


def layer_of(name: str, inputs: int, width: int, *, key: jax.Array) -> nr.Recurrence:
    cls = BUILT_IN.get(name) or class_of(catalogue()[name])
    return nr.Recurrence(cls(inputs, width, key=key))


def output_size(layer: nr.Recurrence, inputs: int) -> int:
    """The features of an output."""
    return int(jax.eval_shape(lambda xs: layer(xs), jnp.zeros((1, inputs))).shape[-1])
