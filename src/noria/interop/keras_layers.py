"""Layers of Keras as layers of Noria."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import jax
import numpy as np

from noria.activations import keras2_hard_sigmoid
from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell, GRUv3Cell
from noria.cells.lstm import LSTMCell
from noria.interop.activations import EXACT_GELU, activation_named
from noria.interop.build import reordered
from noria.interop.entries import Entries
from noria.interop.keras_files import Layer
from noria.layers.bidirectional import Bidirectional
from noria.layers.chain import Chain
from noria.layers.conv import Conv1d
from noria.layers.dense import Dense, Embedding, identity
from noria.layers.dropout import Dropout
from noria.layers.per_step import LayerNorm, PerStep
from noria.layers.recurrence import Recurrence

#: Noria's order of the blocks, as positions in Keras' order: z r h, and i f c o.
ORDERS = {1: [0], 3: [1, 0, 2], 4: [0, 1, 2, 3]}

#: Gates of each class, also of those that only CuDNN ran.
GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4, "CuDNNGRU": 3, "CuDNNLSTM": 4}

#: Keras' names of the ways to merge two directions.
MERGES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "product"}


@dataclass
class Weights:
    """The arrays of one layer, taken in the order of Keras' ``get_weights``."""

    entries: Entries
    names: list[str]

    def take(self, *expected: Any) -> np.ndarray:
        if not self.names:
            self.entries.fail("a layer has fewer arrays than its configuration says")
        return self.entries.take(self.names.pop(0), *expected)

    def shape(self, place: int = 0) -> tuple[int, ...]:
        return self.entries.shape(self.names[place]) if place < len(self.names) else ()


@dataclass
class Build:
    """One import: the version of Keras, and the direction in which time runs at this place."""

    entries: Entries
    version: str | None
    backwards: bool = False
    summarised: str = ""
    joined: str = ""
    layers: list[Any] = field(default_factory=list)

    def add(self, layer: Layer, below: Entries) -> None:
        """Append a layer with the arrays of its entries."""
        self._check(layer)
        try:
            made = LAYERS[layer.kind](self, layer, Weights(below, list(below)))
        except (KeyError, TypeError, AttributeError) as error:
            self.fail(f"the configuration of {layer.name} lacks a part: {error}")
        if layer.kind in RECURRENT and not layer.config.get("return_sequences", True):
            self.summarised = layer.name
            where = "ys[:, 0]" if self.backwards else "noria.last(ys, lengths)"
            self.note(f"{layer.name} has return_sequences=False: {where} is its output")
        self.layers += [] if made is None else [made]

    def _check(self, layer: Layer) -> None:
        if layer.kind not in LAYERS:
            self.fail(
                f"{layer.name} is a {layer.kind}, which is not known; pass layer= to read another "
                f"layer. Known are {', '.join(sorted(LAYERS))}"
            )
        if self.summarised and layer.kind in RECURRENT:
            self.fail(
                f"{layer.name} runs over time, but {self.summarised} before it has "
                "return_sequences=False"
            )
        if self.joined:
            self.fail(
                f"{layer.name} reads the final states of both directions of {self.joined}, which "
                "are no sequence; convert the parts with layer=, and join the states of scan"
            )

    def note(self, text: str) -> None:
        self.entries.note(text)

    def fail(self, text: str) -> NoReturn:
        self.entries.fail(text)

    def function(self, name: Any) -> Any:
        """An activation by its name; ``hard_sigmoid`` depends on the version."""
        name = name.get("class_name", name) if isinstance(name, dict) else name
        if callable(name):
            return name
        if name == "hard_sigmoid":
            if self.version is None:
                self.fail(
                    "hard_sigmoid has another slope since Keras 3, and the version is unknown; "
                    "pass noria.activations.keras2_hard_sigmoid or jax.nn.hard_sigmoid"
                )
            old = int(self.version.split(".")[0]) < 3
            return keras2_hard_sigmoid if old else jax.nn.hard_sigmoid
        if name == "gelu":
            return EXACT_GELU
        return activation_named("linear" if name is None else name, self.fail)


# --- Recurrent layers -----------------------------------------------------------------------------


def cell_of(build: Build, kind: str, config: dict[str, Any], weights: Weights) -> Any:
    """The cell of a recurrent layer, with its arrays."""
    gates, cudnn = GATES[kind], kind.startswith("CuDNN")
    rows = partial(reordered, blocks=gates, order=ORDERS[gates])
    size = gates * config["units"]
    kernel = weights.take(None, size)
    inner = weights.take(config["units"], size)
    W = _cudnn_rows(kernel, gates) if cudnn else kernel.T
    U = np.concatenate(np.split(inner, gates, axis=1)) if cudnn else inner.T
    after = gates == 3 and (cudnn or config.get("reset_after", False))
    biases: list[np.ndarray] = []
    if cudnn:
        biases = np.split(weights.take(2 * size), 2)
    elif config.get("use_bias", True):
        biases = list(np.atleast_2d(weights.take(*((2, size) if after else (size,)))))
    kinds = {1: RNNCell, 3: GRUCell if after else GRUv3Cell, 4: LSTMCell}
    return kinds[gates].from_arrays(
        rows(W), rows(U), *map(rows, biases), **_functions(build, kind, config)
    )


def _cudnn_rows(kernel: np.ndarray, gates: int) -> np.ndarray:
    """Rows of a kernel of CuDNN: the memory of each block ``(in, H)`` is that of ``(H, in)``."""
    blocks = np.split(kernel, gates, axis=1)
    return np.concatenate([block.reshape(block.shape[::-1]) for block in blocks])


def _functions(build: Build, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    if kind.startswith("CuDNN"):
        return {}
    found = {"activation": build.function(config["activation"])}
    if GATES[kind] > 1:
        found["gate_activation"] = build.function(config["recurrent_activation"])
    return found


def _recurrent(build: Build, layer: Layer, weights: Weights) -> Recurrence:
    config = _with_cell(build, layer)
    build.backwards ^= bool(layer.config.get("go_backwards"))
    _note_settings(build, layer.name, layer.config, config)
    cell = cell_of(build, config["kind"], config, weights)
    return Recurrence(cell, reverse=build.backwards)


def _with_cell(build: Build, layer: Layer) -> dict[str, Any]:
    """The settings of the cell, which the layer ``RNN`` keeps in a part of its own."""
    if layer.kind != "RNN":
        return {**layer.config, "kind": layer.kind}
    cell = layer.config["cell"]
    kind = str(cell["class_name"]).removesuffix("Cell")
    if kind not in GATES or not str(cell.get("module") or "keras").startswith("keras"):
        build.fail(f"{layer.name} runs a {cell['class_name']}, which is not known")
    return {**cell["config"], "kind": kind}


def _note_settings(build: Build, name: str, config: dict[str, Any], inner: dict[str, Any]) -> None:
    if config.get("return_state"):
        build.note(f"{name} has return_state=True: scan gives the state, a call the outputs only")
    if config.get("stateful"):
        build.note(f"{name} is stateful: pass the state on, state, ys = model.scan(state, xs)")
    if config.get("time_major"):
        build.note(f"{name} has time_major=True: here the batch comes first")
    for setting in ("dropout", "recurrent_dropout"):
        if inner.get(setting):
            build.note(f"{name} has {setting}={inner[setting]}, which acts in training only")


def _cell(build: Build, layer: Layer, weights: Weights) -> Any:
    return cell_of(build, layer.kind.removesuffix("Cell"), layer.config, weights)


def _bidirectional(build: Build, layer: Layer, weights: Weights) -> Bidirectional:
    parts = [layer.config["layer"], layer.config.get("backward_layer") or layer.config["layer"]]
    merge, inner = layer.config.get("merge_mode", "concat"), parts[0]["config"]
    if build.backwards or inner.get("go_backwards") or merge not in MERGES:
        build.fail(
            f"{layer.name} merges its directions with {merge!r}, or one of them or the layer "
            "before has go_backwards; expected concat, sum, ave or mul, and no reversed layer"
        )
    if not inner.get("return_sequences", False):
        build.joined = layer.name
        build.note(
            f"{layer.name} has return_sequences=False: its output joins the final states of both "
            "directions, (forward, backward), ys = layer.scan(None, xs)"
        )
    cells = []
    for part in parts:
        made = Layer(part["class_name"], layer.name, part["config"])
        config = _with_cell(build, made)
        if config["kind"] not in GATES:
            build.fail(f"{layer.name} holds a {made.kind}; expected LSTM, GRU or SimpleRNN")
        cells.append(cell_of(build, config["kind"], config, weights))
    _note_settings(build, layer.name, inner, inner)
    return Bidirectional(cells[0], cells[1], MERGES[merge])


# --- Layers of single steps -----------------------------------------------------------------------


def _dense(build: Build, layer: Layer, weights: Weights) -> Dense:
    kernel = weights.take(None, layer.config["units"])
    bias = weights.take(kernel.shape[1]) if layer.config.get("use_bias", True) else None
    return Dense.from_arrays(kernel.T, bias, build.function(layer.config["activation"]))


def _conv1d(build: Build, layer: Layer, weights: Weights) -> Conv1d | Chain:
    """Keras stores ``(kernel_size, in, out)``; with a stride its padding depends on the length."""
    config, strides = layer.config, _one(layer.config["strides"])
    padding, dilation = config["padding"], _one(config.get("dilation_rate", 1))
    size = _one(config["kernel_size"])
    if config.get("data_format") == "channels_first" or (padding == "same" and strides > 1):
        build.fail(f"{layer.name} has the features before time, or padding='same' with a stride")
    kernel = weights.take(size, None, config["filters"])
    bias = weights.take(config["filters"]) if config.get("use_bias", True) else None
    conv = Conv1d.from_arrays(
        kernel.transpose(2, 1, 0),
        bias,
        stride=strides,
        dilation=dilation,
        groups=config.get("groups", 1),
        padding=((size - 1) * dilation, 0) if padding == "causal" else padding,
    )
    function = build.function(config["activation"])
    return conv if function is identity else Chain(conv, function)


def _one(value: Any) -> Any:
    """A setting of one axis, which Keras keeps as a list."""
    return value[0] if isinstance(value, list | tuple) else value


def _embedding(build: Build, layer: Layer, weights: Weights) -> Embedding:
    if layer.config.get("mask_zero"):
        build.note(f"{layer.name} has mask_zero=True: pass lengths=, the number of valid steps")
    return Embedding.from_arrays(weights.take(None, None))


def _masking(build: Build, layer: Layer, weights: Weights) -> None:
    value = layer.config.get("mask_value", 0.0)
    build.note(f"{layer.name} masks steps that are {value}: pass lengths=, the valid steps")


def _layer_norm(build: Build, layer: Layer, weights: Weights) -> PerStep:
    axis, config = layer.config.get("axis", -1), layer.config
    if axis not in (-1, [-1], 2, [2]):
        build.fail(f"{layer.name} normalises axis {axis}; expected the last one")
    gamma = weights.take(None) if config.get("scale", True) else None
    beta = weights.take(None) if config.get("center", True) else None
    return LayerNorm.from_arrays(gamma, beta, eps=config["epsilon"])


def _time_distributed(build: Build, layer: Layer, weights: Weights) -> Any:
    part = layer.config["layer"]
    inner = Layer(part["class_name"], layer.name, part["config"])
    if inner.kind in RECURRENT or inner.kind not in LAYERS:
        build.fail(f"{layer.name} holds a {inner.kind}; expected a layer of single steps")
    return LAYERS[inner.kind](build, inner, weights)


def _dropout(build: Build, layer: Layer, weights: Weights) -> Dropout:
    config = layer.config
    shape = list(config.get("noise_shape") or [])
    if shape and not (len(shape) == 3 and shape[1] == 1 and shape[2] is None):
        build.fail(f"{layer.name} has noise_shape={shape}; expected None or (None, 1, None)")
    rate = config["p"] if "p" in config else config["rate"]  # Keras 1 called it p
    one_mask = bool(shape) or layer.kind == "SpatialDropout1D"
    return Dropout(rate, axis="time" if one_mask else None, inference=True)


def _activation(build: Build, layer: Layer, weights: Weights) -> PerStep:
    return PerStep(build.function(layer.config["activation"]))


def _relu(build: Build, layer: Layer, weights: Weights) -> PerStep:
    config = layer.config
    if (
        config.get("max_value") is not None
        or config.get("negative_slope")
        or config.get("threshold")
    ):
        build.fail(f"{layer.name} is a ReLU with a slope or a bound, which is not known")
    return PerStep(jax.nn.relu)


def _softmax(build: Build, layer: Layer, weights: Weights) -> PerStep:
    if layer.config.get("axis", -1) != -1:
        build.fail(f"{layer.name} is over axis {layer.config['axis']}; expected the last one")
    return PerStep(jax.nn.softmax)


RECURRENT = {*GATES, "RNN", "Bidirectional"}

LAYERS: dict[str, Callable[[Build, Layer, Weights], Any]] = {
    **dict.fromkeys((*GATES, "RNN"), _recurrent),
    **dict.fromkeys(("SimpleRNNCell", "GRUCell", "LSTMCell"), _cell),
    "InputLayer": lambda build, layer, weights: None,
    "Bidirectional": _bidirectional,
    "Conv1D": _conv1d,
    "Dense": _dense,
    "Embedding": _embedding,
    "Masking": _masking,
    "LayerNormalization": _layer_norm,
    "TimeDistributed": _time_distributed,
    "Dropout": _dropout,
    "SpatialDropout1D": _dropout,
    "Activation": _activation,
    "ReLU": _relu,
    "Softmax": _softmax,
}
