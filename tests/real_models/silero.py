"""Silero VAD 6: whether a chunk of 32 ms holds speech. Its convolutions see one chunk at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from real_models.parts import Function, Part, file, session

import noria as nr

WHEEL, FOLDER = "silero-vad", "silero_vad/data"


def magnitude(x: jax.Array) -> jax.Array:
    real, imaginary = jnp.split(x, 2)
    return jnp.sqrt(real**2 + imaginary**2)


class Chunk(nr.Module):
    """The samples of a chunk, the features of a step, become those of a spectrum's encoder."""

    encoder: nr.Chain

    def __call__(self, samples: jax.Array) -> jax.Array:
        (features,) = self.encoder(jnp.pad(samples, (0, 64), mode="reflect")[:, None])
        return features


def read() -> nr.Chain:
    import onnx

    path = file(WHEEL, f"{FOLDER}/silero_vad_16k_sequence.onnx")
    tensors = onnx.load(path).graph.initializer
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    layers: list[Any] = [
        nr.Conv1d.from_arrays(arrays["stft.forward_basis_buffer"], stride=128, padding="valid"),
        magnitude,
    ]
    for n, stride in enumerate((1, 2, 2, 1)):
        W, b = (arrays[f"encoder.{n}.{name}"] for name in ("weight", "bias"))
        layers += [nr.Conv1d.from_arrays(W, b, stride=stride, padding=(1, 1)), jax.nn.relu]
    lstm = nr.from_onnx(path, node="/recurrent/LSTM")
    W, b = arrays["output.weight"][..., 0], arrays["output.bias"]
    head = nr.Dense.from_arrays(W, b, activation=jax.nn.sigmoid)
    return nr.Chain(Chunk(nr.Chain(*layers)), lstm, jax.nn.relu, head)


def speech(chunks: int) -> np.ndarray:
    """A hum with the resonances of a vowel, on and off; 64 samples of the past in each chunk."""
    t = np.arange(512 * chunks) / 16000
    pitch = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 3 * t)) / 16000
    resonances = ((700, 130, 1.0), (1220, 70, 0.5), (2600, 160, 0.25))
    wave = sum(
        gain * np.cos(n * pitch) / (1 + ((120 * n - f) / width) ** 2)
        for n in range(1, 30)
        for f, width, gain in resonances
    )
    noise = np.random.default_rng(0).normal(size=t.size)
    wave = 0.2 * wave * (np.sin(2 * np.pi * 1.5 * t) > -0.3) + 0.01 * noise
    padded = np.concatenate([np.zeros(64), wave]).astype(np.float32)
    return np.stack([padded[512 * n : 512 * n + 576] for n in range(chunks)])


def begin() -> Function:
    """The file without If, the fastest of the wheel for a chunk."""
    run = session(file(WHEEL, f"{FOLDER}/silero_vad_op18_ifless.onnx")).run
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(16000)

    def step(x: np.ndarray) -> np.ndarray:
        nonlocal state
        y, state = run(None, {"input": x[None], "state": state, "sr": rate})
        return y[0]

    return step


def parts() -> list[Part]:
    run = session(file(WHEEL, f"{FOLDER}/silero_vad_16k_sequence.onnx")).run
    zeros = np.zeros((1, 1, 128), np.float32)

    def whole(xs: np.ndarray) -> np.ndarray:
        return run(["speech_probs"], {"input": xs, "h": zeros, "c": zeros})[0][:, None]

    return [Part("Silero VAD 6", "onnxruntime", read(), speech(200), whole, begin)]
