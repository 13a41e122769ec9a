"""The structures of models that people run, with random weights, against loops in NumPy.

Each is one `noria.Chain`: its call, its stream and its blocks of steps give the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from models import assert_close, random

import noria as nr

TIME = 5


class Weights:
    """Arrays of one model, drawn in order."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def draw(self, *shape: int) -> jax.Array:
        fan = np.prod(shape[1:]) if len(shape) > 1 else 4
        return jnp.asarray(self.rng.normal(size=shape) / np.sqrt(fan))

    def conv(self, in_size: int, out_size: int, kernel_size: int, **options: Any) -> nr.Conv1d:
        W, b = self.draw(out_size, in_size, kernel_size), self.draw(out_size)
        return nr.Conv1d.from_arrays(W, b, **options)

    def recurrent(self, cell: Any, in_size: int, hidden_size: int) -> nr.Recurrence:
        rows = (4 if cell is nr.LSTMCell else 3) * hidden_size
        sizes = (rows, in_size), (rows, hidden_size), (rows,), (rows,)
        return nr.Recurrence(cell.from_arrays(*(self.draw(*size) for size in sizes)))

    def dense(self, in_size: int, out_size: int, activation: Any) -> nr.Dense:
        W, b = self.draw(out_size, in_size), self.draw(out_size)
        key = jax.random.key(0)
        return nr.Dense(
            in_size,
            out_size,
            activation,
            key=key,
            init=lambda *_: W,
            bias=lambda *_: b,
            dtype=W.dtype,
        )


def arrays(cell: Any) -> list[np.ndarray]:
    return [np.asarray(a) for a in (cell.W, cell.U, cell.b, cell.b_h)]


def run(step: Any, cell: Any, xs: np.ndarray, state: Any) -> np.ndarray:
    ys = []
    for x in xs:
        state = step(state, x, *arrays(cell))
        ys.append(state[0] if isinstance(state, tuple) else state)
    return np.array(ys)


def convolved(layer: nr.Conv1d, xs: np.ndarray, left: int, right: int, stride: int) -> np.ndarray:
    W, b = np.asarray(layer.W), np.asarray(layer.b if layer.b is not None else 0.0)
    padded = np.pad(xs, [(left, right), (0, 0)])
    starts = range(0, len(padded) - W.shape[2] + 1, stride)
    return np.array([np.einsum("oik,ki->o", W, padded[t : t + W.shape[2]]) + b for t in starts])


def apply(layer: nr.Dense, xs: np.ndarray) -> np.ndarray:
    return xs @ np.asarray(layer.W).T + np.asarray(layer.b)


def assert_streams(model: nr.Chain, xs: jax.Array, expected: Any) -> None:
    """A call, a stream and chunks of it."""
    assert_close(model(xs), expected, 1e-10)
    stream = nr.stream(model)
    ys = [stream(x) for x in xs[:2]]
    rest = stream.steps(xs[2:])
    found = jax.tree.map(lambda a, b, more: jnp.concatenate([a[None], b[None], more]), *ys, rest)
    assert_close(found, expected, 1e-10)


def test_rnnoise():
    """Two causal convolutions, three GRUs, the outputs of all of them, gains and voice."""
    w = Weights()
    first, second = w.conv(65, 128, 3), w.conv(128, 384, 3)
    grus = [w.recurrent(nr.GRUCell, 384, 384) for _ in range(3)]
    gains = w.dense(4 * 384, 32, jax.nn.sigmoid)
    voice = w.dense(4 * 384, 1, jax.nn.sigmoid)
    collected = nr.Concat(nr.Chain(grus[0], nr.Concat(nr.Chain(grus[1], nr.Concat(grus[2])))))
    model = nr.Chain(
        first, jnp.tanh, second, jnp.tanh, collected, nr.Parallel("tuple", gains, voice)
    )
    xs = random(0, TIME, 65)
    c = np.tanh(convolved(first, np.asarray(xs), 2, 0, 1))
    outputs = [np.tanh(convolved(second, c, 2, 0, 1))]
    for layer in grus:
        outputs.append(run(oracles.gru, layer.cell, outputs[-1], np.zeros(384)))
    features = np.concatenate(outputs, 1)
    expected = tuple(jnp.asarray(oracles.sigmoid(apply(head, features))) for head in (gains, voice))
    assert_streams(model, xs, expected)


def test_dtln_first_model():
    """Two LSTMs and a mask of each frequency."""
    w = Weights()
    lstms = [w.recurrent(nr.LSTMCell, n, 128) for n in (257, 128)]
    mask = w.dense(128, 257, jax.nn.sigmoid)
    xs = random(0, TIME, 257)
    ys = np.asarray(xs)
    for layer in lstms:
        ys = run(oracles.lstm, layer.cell, ys, (np.zeros(128), np.zeros(128)))
    expected = jnp.asarray(oracles.sigmoid(apply(mask, ys)))
    assert_streams(nr.Chain(*lstms, mask), xs, expected)


def to_length_one(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x)


def test_resemblyzer():
    """Three LSTMs, and an embedding of length 1 from the last output."""
    w = Weights()
    lstms = [w.recurrent(nr.LSTMCell, n, 256) for n in (40, 256, 256)]
    linear = w.dense(256, 256, jax.nn.relu)
    model = nr.Chain(*lstms, linear, to_length_one)
    xs = random(0, TIME, 40)
    ys = np.asarray(xs)
    for layer in lstms:
        ys = run(oracles.lstm, layer.cell, ys, (np.zeros(256), np.zeros(256)))
    ys = np.maximum(apply(linear, ys), 0)
    expected = jnp.asarray(ys / np.linalg.norm(ys, axis=1, keepdims=True))
    assert_streams(model, xs, expected)
    assert_close(nr.last(model(xs)), expected[-1], 1e-10)


def magnitude(x: jax.Array) -> jax.Array:
    real, imaginary = jnp.split(x, 2)
    return jnp.sqrt(real**2 + imaginary**2)


class Frame(nr.Module):
    """The encoder of Silero VAD: a frame of samples as features, a step of the model."""

    encoder: nr.Chain

    def __call__(self, samples: jax.Array) -> jax.Array:
        (features,) = self.encoder(jnp.pad(samples, (0, 64), mode="reflect")[:, None])
        return features


def test_silero_vad():
    """A short-time Fourier transform and four convolutions of each frame, and an LSTM over them."""
    w = Weights()
    transform = nr.Conv1d.from_arrays(w.draw(258, 1, 256), stride=128, padding="valid")
    convs = [
        w.conv(n, m, 3, stride=stride, padding=(1, 1))
        for n, m, stride in ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
    ]
    relus = [part for conv in convs for part in (conv, jax.nn.relu)]
    lstm, head = w.recurrent(nr.LSTMCell, 128, 128), w.dense(128, 1, jax.nn.sigmoid)
    encoder = nr.Chain(transform, magnitude, *relus)
    model = nr.Chain(Frame(encoder), lstm, jax.nn.relu, head)
    xs = random(0, TIME, 64 + 512)  # the end of the last chunk, and a chunk
    frames = []
    for samples in np.asarray(xs):
        padded = np.pad(samples, (0, 64), mode="reflect")[:, None]
        spectrum = convolved(transform, padded, 0, 0, 128)
        ys = np.hypot(spectrum[:, :129], spectrum[:, 129:])
        assert ys.shape == (4, 129)
        for conv, stride in zip(convs, (1, 2, 2, 1), strict=True):
            ys = np.maximum(convolved(conv, ys, 1, 1, stride), 0)
        assert ys.shape == (1, 128)
        frames.append(ys[0])
    ys = run(oracles.lstm, lstm.cell, np.array(frames), (np.zeros(128), np.zeros(128)))
    expected = jnp.asarray(oracles.sigmoid(apply(head, np.maximum(ys, 0))))
    assert_streams(model, xs, expected)
