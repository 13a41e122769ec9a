"""Files as Keras writes them, made with h5py alone, and steps of its cells in NumPy."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Arrays = Mapping[str, np.ndarray]
Function = Callable[[np.ndarray], np.ndarray]


def legacy(
    path: Path, layers: Mapping[str, Arrays], config: Any = None, version: str | None = "2.2.4"
) -> Path:
    """A ``.h5`` file of Keras 1 or 2; weights only without a configuration."""
    with h5py.File(path, "w") as file:
        group = file if config is None else file.create_group("model_weights")
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        if version is not None:
            file.attrs["keras_version"] = version.encode()
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, arrays in layers.items():
            inner = group.create_group(layer)
            inner.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                inner[name] = array
    return path


def weights_3(groups: Mapping[str, tuple[str, Arrays]]) -> bytes:
    """The bytes of a ``.weights.h5`` file: for each group the name of the layer and its arrays."""
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        for group, (name, arrays) in groups.items():
            file.create_group(f"layers/{group}/vars").attrs["name"] = name
            for place, array in arrays.items():
                file[f"layers/{group}/{place}"] = array
    return data.getvalue()


def keras_3(path: Path, config: Any, weights: bytes, version: str = "3.15.1") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("model.weights.h5", weights)
    return path


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, **config}}


def recurrent(kind: str, name: str, units: int, **changes: Any) -> dict[str, Any]:
    """A recurrent layer with the settings that Keras writes."""
    config = {
        "units": units,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "return_sequences": True,
        **changes,
    }
    return layer(kind, name, **config)


def sequential(*layers: Any) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": list(layers)}}


def functional(layers: Sequence[Any], inputs: Sequence[Any], new: bool) -> dict[str, Any]:
    """A functional model; ``inputs`` has the names that each layer reads."""

    def node(names: Any) -> Any:
        if not names:
            return []
        if new:
            tensors = [
                {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}
                for name in names
            ]
            return [{"args": tensors if len(tensors) == 1 else [tensors], "kwargs": {}}]
        return [[[name, 0, 0, {}] for name in names]]

    described = [
        {**part, "name": part["config"]["name"], "inbound_nodes": node(names)}
        for part, names in zip(layers, inputs, strict=True)
    ]
    last = described[-1]["name"]
    config = {"name": "model", "layers": described, "output_layers": [[last, 0, 0]]}
    return {"class_name": "Functional" if new else "Model", "config": config}


# --- Steps ---------------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def old_hard_sigmoid(x: np.ndarray) -> np.ndarray:
    """Keras 1 and 2: 0.2 x + 0.5 between 0 and 1."""
    return np.clip(0.2 * x + 0.5, 0, 1)


def new_hard_sigmoid(x: np.ndarray) -> np.ndarray:
    """Keras 3: x / 6 + 0.5 between 0 and 1."""
    return np.clip(x / 6 + 0.5, 0, 1)


def lstm(arrays: Sequence[np.ndarray], xs: np.ndarray, gate: Function = sigmoid) -> np.ndarray:
    """Outputs of an LSTM for ``(batch, time, in)``, blocks i f c o."""
    kernel, inner, bias = arrays
    h = c = np.zeros((len(xs), inner.shape[0]))
    ys = []
    for t in range(xs.shape[1]):
        i, f, g, o = np.split(xs[:, t] @ kernel + h @ inner + bias, 4, axis=-1)
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
        ys.append(h)
    return np.stack(ys, 1)


def gru(
    arrays: Sequence[np.ndarray], xs: np.ndarray, after: bool, gate: Function = sigmoid
) -> np.ndarray:
    """Outputs of a GRU, blocks z r h; with ``after`` the bias has two rows."""
    kernel, inner, bias = arrays
    size = inner.shape[0]
    b, b_h = bias if after else (bias, np.zeros(3 * size))
    h, ys = np.zeros((len(xs), size)), []
    for t in range(xs.shape[1]):
        z, r, n = np.split(xs[:, t] @ kernel + b, 3, axis=-1)
        uz, ur = np.split(h @ inner[:, : 2 * size] + b_h[: 2 * size], 2, axis=-1)
        z, r = gate(z + uz), gate(r + ur)
        last = inner[:, 2 * size :]
        n = np.tanh(n + (r * (h @ last + b_h[2 * size :]) if after else (r * h) @ last))
        h = z * h + (1 - z) * n
        ys.append(h)
    return np.stack(ys, 1)
