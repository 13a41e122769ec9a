"""Textgenrnn: the next character, from an average of all layers' outputs over 40 characters.

Its file holds layers of CuDNN as Keras 2.1 stored them. Keras 3 refuses it; the layers of PyTorch
have the order of gates and the two biases of CuDNN, and stand for the original here.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from real_models.parts import Function, Part, file

import noria as nr

WHEEL = "textgenrnn"


class AverageCell(nr.Cell):
    """The average of all inputs so far, each with the weight ``exp(w x)``.

    The state is the largest ``w x``, the sum and the sum of weights, both over its exponential.
    """

    w: jax.Array

    def __call__(self, state: Any, x: jax.Array) -> Any:
        top, total, weight = state
        logit = self.w @ x
        new = jnp.maximum(top, logit)
        old, own = jnp.exp(top - new), jnp.exp(logit - new)
        state = new, old * total + own * x, old * weight + own
        return state, state[1] / state[2]

    def initial_state(self) -> Any:
        zero = jnp.zeros((), self.w.dtype)
        return zero - 1e30, jnp.zeros_like(self.w), zero


def arrays(path: Any) -> dict[str, np.ndarray]:
    import h5py

    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as weights:
        weights.visititems(
            lambda name, item: (
                found.update({name.split("/", 1)[1]: item[()]}) if hasattr(item, "shape") else None
            )
        )
    return found


def read(path: Any) -> nr.Chain:
    embedding, first, second = (
        nr.from_keras(path, layer=name) for name in ("embedding", "rnn_1", "rnn_2")
    )
    w = arrays(path)["attention/attention_W:0"][:, 0]
    output = nr.from_keras(path, layer="output", activation="softmax")
    collected = nr.Concat(nr.Chain(first, nr.Concat(second)))
    return nr.Chain(embedding, collected, nr.Recurrence(AverageCell(jnp.asarray(w))), output)


def original(path: Any) -> Function:
    import torch

    torch.set_num_threads(1)
    found = {name: torch.from_numpy(array) for name, array in arrays(path).items()}
    layers = []
    for name, size in (("rnn_1", 100), ("rnn_2", 128)):
        layer = torch.nn.LSTM(size, 128)
        W, U, b = (found[f"{name}/{part}:0"] for part in ("kernel", "recurrent_kernel", "bias"))
        W, U = (torch.cat([block.reshape(128, -1) for block in A.split(128, 1)]) for A in (W, U))
        arrays_of = dict(zip(("weight_ih_l0", "weight_hh_l0"), (W, U), strict=True))
        biases = dict(zip(("bias_ih_l0", "bias_hh_l0"), b.split(512), strict=True))
        layer.load_state_dict(arrays_of | biases)
        layers.append(layer)
    w, W, b = (found[f"{n}:0"] for n in ("attention/attention_W", "output/kernel", "output/bias"))

    @torch.inference_mode()
    def run(indices: np.ndarray) -> np.ndarray:
        outputs = [found["embedding/embeddings:0"][torch.from_numpy(indices)]]
        for layer in layers:
            outputs.append(layer(outputs[-1])[0])
        xs = torch.cat(outputs, -1)
        logits = xs @ w
        weights = torch.exp(logits - logits.max())
        averages = torch.cumsum(weights * xs, 0) / torch.cumsum(weights, 0)
        return torch.softmax(averages @ W + b, -1).numpy()

    return run


def vocabulary() -> dict[str, int]:
    with open(file(WHEEL, "textgenrnn/textgenrnn_vocab.json"), encoding="utf8") as text:
        return json.load(text)


def encoded(text: list[str], vocab: dict[str, int]) -> np.ndarray:
    """The last 40 characters, zeros before them."""
    indices = [vocab[character] for character in text[-40:]]
    return np.array([0] * (40 - len(indices)) + indices, np.int32)


def parts() -> list[Part]:
    path = file(WHEEL, "textgenrnn/textgenrnn_weights.hdf5")
    xs = encoded(["<s>", *"What is the state of the art in this?"], vocabulary())
    return [Part("textgenrnn", "its layers in PyTorch", read(path), xs, original(path))]
