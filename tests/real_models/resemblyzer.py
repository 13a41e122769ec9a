"""Resemblyzer: an embedding of a voice, of length 1, from the last of 160 frames."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from real_models.parts import Function, Part, file

import noria as nr


def to_length_one(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x)


def read(path: Any) -> nr.Chain:
    lstms = nr.from_torch(path, prefix="model_state.lstm")
    linear = nr.from_torch(path, prefix="model_state.linear", kind="Linear")
    return nr.Chain(*lstms, linear, jax.nn.relu, to_length_one)


def original(path: Any) -> tuple[Any, Any]:
    """The layers of the wheel's class, with its weights; the wheel needs libraries of audio."""
    import torch

    torch.set_num_threads(1)
    weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    layers = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    for layer, name in zip(layers, ("lstm.", "linear."), strict=True):
        layer.load_state_dict(
            {key.removeprefix(name): w for key, w in weights.items() if key.startswith(name)}
        )
    return layers


def parts() -> list[Part]:
    import torch

    path = file("Resemblyzer", "resemblyzer/pretrained.pt")
    lstm, linear = original(path)

    def embedded(hidden: Any) -> np.ndarray:
        ys = torch.relu(linear(hidden))
        return (ys / torch.norm(ys, dim=-1, keepdim=True)).numpy()

    @torch.inference_mode()
    def whole(xs: np.ndarray) -> np.ndarray:
        return embedded(lstm(torch.from_numpy(xs))[0])

    def begin() -> Function:
        state = None

        @torch.inference_mode()
        def step(x: np.ndarray) -> np.ndarray:
            nonlocal state
            y, state = lstm(torch.from_numpy(x)[:, None], state)
            return embedded(y[:, 0])

        return step

    xs = np.random.default_rng(0).gamma(0.5, 0.02, (7, 160, 40)).astype(np.float32)
    model = read(path)
    return [Part("Resemblyzer", "PyTorch", model, xs[:batch], whole, begin) for batch in (1, 7)]
