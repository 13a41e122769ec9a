"""Chars2vec: a word as a vector, the last output of two LSTMs. The file is of Keras 2.2."""

import functools
import os
from typing import Any

import jax
import numpy as np
from real_models.parts import Function, Part, file

import noria as nr


def hard_sigmoid(x: Any) -> Any:
    """The default of the gates before Keras 2.3."""
    import keras

    return keras.ops.clip(0.2 * x + 0.5, 0, 1)


def original(path: Any) -> Any:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import h5py
    import keras

    def lstm() -> Any:
        return keras.layers.LSTM(50, return_sequences=True, recurrent_activation=hard_sigmoid)

    model = keras.Sequential([keras.Input((None, 59)), lstm(), lstm()])
    with h5py.File(path) as weights:
        for layer, name in zip(model.layers, ("lstm_1", "lstm_2"), strict=True):
            group = weights[f"{name}/{name}"]
            names = "kernel:0", "recurrent_kernel:0", "bias:0"
            layer.set_weights([group[name][()] for name in names])
    return model


def parts() -> list[Part]:
    path = file("chars2vec", "chars2vec/trained_models/eng_50/weights.h5")
    keras_model = original(path)
    compiled = jax.jit(lambda xs: keras_model(xs, training=False))
    cells = [layer.cell for layer in keras_model.layers]

    @jax.jit
    def one(states: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        found = []
        for cell, state in zip(cells, states, strict=True):
            x, state = cell(x, state)
            found.append(state)
        return found, x

    def begin_batch(batch: int) -> Function:
        states: Any = [[np.zeros((batch, 50), np.float32)] * 2] * 2

        def step(x: np.ndarray) -> np.ndarray:
            nonlocal states
            states, y = one(states, x)
            return np.asarray(y)

        return step

    model = nr.from_keras(
        path, activation="tanh", recurrent_activation="hard_sigmoid", dtype="float32"
    )
    letters = np.random.default_rng(0).integers(59, size=(64, 12))
    xs = np.eye(59, dtype=np.float32)[letters]
    return [
        Part(
            "chars2vec",
            "Keras on JAX",
            model,
            xs[:batch],
            lambda xs: np.asarray(compiled(xs)),
            functools.partial(begin_batch, batch),
        )
        for batch in (1, 64)
    ]
