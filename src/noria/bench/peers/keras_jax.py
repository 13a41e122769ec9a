"""Keras on JAX: the layer's stateless call compiled whole, batch-major as Keras has it."""

import os

os.environ["KERAS_BACKEND"] = "jax"

from typing import Any

import keras

from noria.bench.grid import Work
from noria.bench.peers import Task, Unsupported
from noria.bench.peers.ours import call

LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}


def make(work: Work) -> Task:
    if work.cell not in LAYERS or work.mode == "step":
        raise Unsupported("no such layer")
    layer = LAYERS[work.cell](
        work.shape.hidden, return_sequences=True, return_state=True, unroll=False
    )
    layer.build((work.shape.batch, work.shape.time, work.shape.inputs))
    trained, fixed = (
        [v.value for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables)
    )

    def run(trained: Any, xs: Any) -> Any:
        (ys, *state), _ = layer.stateless_call(trained, fixed, xs)
        return ys, state

    weights = sum(v.value.size for v in layer.trainable_variables if v.name.endswith("kernel"))
    return Task(call(work, run, trained, time_major=False), weights)
