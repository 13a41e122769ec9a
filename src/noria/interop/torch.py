"""PyTorch: modules, state_dicts and files in; state_dicts out."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypedDict, Unpack

from noria.interop import torch_files
from noria.interop.activations import COMMON
from noria.interop.build import CELLS, chain, safetensors_of
from noria.interop.entries import (
    Entries,
    Record,
    Reporter,
    did_you_mean,
    imported,
    listed,
    paths_of,
)
from noria.interop.torch_modules import FUNCTION, Part, parts_of
from noria.layers.bidirectional import Bidirectional
from noria.layers.conv import Conv1d
from noria.layers.dense import Dense, Embedding
from noria.layers.dropout import Dropout
from noria.layers.per_step import LayerNorm
from noria.layers.recurrence import Recurrence

#: Gates of each recurrent class.
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


class TorchSettings(TypedDict, total=False):
    """Settings of PyTorch's layers, which a state_dict does not hold."""

    kind: str
    nonlinearity: str
    dropout: float
    eps: float
    stride: int
    padding: int | str
    dilation: int
    groups: int


#: The settings of each class, and what to pass where one is needed.
SETTINGS: dict[str, dict[str, str | None]] = {
    "LSTM": {"dropout": None},
    "GRU": {"dropout": None},
    "RNN": {"nonlinearity": '"tanh" (the default there) or "relu"', "dropout": None},
    "LSTMCell": {},
    "GRUCell": {},
    "RNNCell": {"nonlinearity": '"tanh" (the default there) or "relu"'},
    "Linear": {},
    "Embedding": {},
    "LayerNorm": {"eps": "a number; the default there is 1e-5"},
    "Conv1d": {
        "stride": "a number; the default there is 1",
        "padding": 'a number, "same" or "valid"; the default there is 0',
        "dilation": "a number; the default there is 1",
        "groups": "a number; the default there is 1",
    },
}


def from_torch(
    source: Any,
    prefix: str = "",
    *,
    dtype: Any = None,
    report: Reporter | None = None,
    **settings: Unpack[TorchSettings],
) -> Any:
    """A layer, a cell or a chain with the weights of PyTorch.

    A file is read without PyTorch, and nothing in it is executed.

    Args:
        source: a module, a state_dict, or the path of a file: ``.safetensors``, or one that
            ``torch.save`` wrote, in the zip form or in the older one.
        prefix: the path of the part to read, such as ``"encoder.rnn"``. In a file with more than a
            state_dict, it starts with the key of the state_dict: ``"model_state.rnn"``.
        dtype: dtype of the parameters; by default each array keeps its own.
        report: called with a `Report` of what was used; ``report=print`` shows it.
        **settings: what arrays do not tell, by PyTorch's names: ``kind`` (such as ``"Linear"``),
            ``nonlinearity``, ``dropout``, ``eps``, and ``stride``, ``padding``, ``dilation``,
            ``groups`` of a convolution. A module tells its own.

    Returns:
        For ``LSTM``, ``GRU`` and ``RNN`` a `Recurrence` or a `Bidirectional`, or a `Chain` of
        several layers; for ``LSTMCell``, ``GRUCell`` and ``RNNCell`` a cell; for ``Linear``,
        ``Embedding``, ``LayerNorm`` and ``Conv1d`` the layer; for ``Sequential`` a `Chain`.

    Raises:
        ValueError: for entries that are unknown, missing or of the wrong shape, for a setting that
            is needed and missing, and for a file that is damaged or holds code.
        TypeError: for an unknown setting.
        FileNotFoundError: if there is no such file.

    Both biases are kept, as ``b`` and ``b_h``, so that `to_torch` returns identical bits. Noria's
    layout is ``(batch, time, features)``, whatever ``batch_first`` is.

    Examples:
        >>> import numpy as np, noria as nr
        >>> state_dict = {"head.weight": np.ones((2, 3)), "head.bias": np.zeros(2)}
        >>> nr.from_torch(state_dict, prefix="head", dtype="float32").W.shape
        (2, 3)
    """
    call, arrays, parts = _read(source, prefix, dict(settings))
    return imported(call, arrays, prefix, partial(_build, parts), dtype, report)


def _read(
    source: Any, prefix: str, settings: dict[str, Any]
) -> tuple[str, Mapping[str, Any], list[Part]]:
    """The name of the call, the arrays, and the parts that the source itself tells."""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        call = f"from_torch({path!r}, prefix={prefix!r})" if prefix else f"from_torch({path!r})"
        return call, arrays_of(call, path), [("", None, settings)]
    if hasattr(source, "state_dict") and hasattr(source, "named_modules"):
        call = f"from_torch({type(source).__name__})"
        modules = dict(source.named_modules())
        if prefix not in modules:
            raise ValueError(
                f"{call}: there is no module {prefix!r}; {did_you_mean(prefix, modules)}."
            )
        return call, source.state_dict(), parts_of(call, modules[prefix], settings)
    if isinstance(source, Mapping):
        return "from_torch(state_dict)", source, [("", None, settings)]
    raise TypeError(
        f"from_torch: source is a {type(source).__name__}; expected a module, a state_dict, or "
        "the path of a file."
    )


def arrays_of(call: str, path: str) -> Any:
    """What a file holds: nested dicts of arrays and plain values."""
    if path.endswith(".safetensors"):
        return safetensors_of(call, path)
    try:
        return torch_files.read(path)
    except ValueError as error:
        raise ValueError(f"{call}: {error}.") from error


def kinds_of(call: str, arrays: Mapping[str, Any]) -> dict[str, str]:
    """The class of each part of a state_dict whose arrays only one class has, by its path."""
    found = {}
    everything = Entries(Record(call, None), dict(arrays))
    for path in ["", *paths_of(arrays)]:
        try:
            found[path] = _kind_of(everything.at(path))
        except ValueError:
            continue  # several classes, or none
    return found


# --- Classes --------------------------------------------------------------------------------------


def _build(parts: list[Part], entries: Entries) -> Any:
    layers = []
    for path, kind, settings in parts:
        if kind == FUNCTION:
            layers.append(settings["layer"])
            continue
        below = entries.at(path)
        settings = dict(settings)
        kind = settings.pop("kind", None) or kind or _kind_of(below)
        if kind not in SETTINGS:
            entries.fail(f"kind is {kind!r}; expected one of {', '.join(SETTINGS)}")
        _check_settings(entries, kind, settings)
        layers.append(BUILDERS[kind](below, kind, settings))
    return chain(layers)


def _kind_of(entries: Entries) -> str:
    """The class that has these arrays, where only one has."""
    names = set(entries)
    for name, ending in (("weight_hh_l0", ""), ("weight_hh", "Cell")):
        if name in names:
            rows, columns = (*entries.shape(name), 1)[:2]
            projected = f"weight_hr{name.removeprefix('weight_hh')}" in names
            gates = 4 if projected else rows / max(columns, 1)
            for kind, count in GATES.items():
                if count == gates:
                    return kind + ending
            entries.fail(f"{name} has shape {(rows, columns)}; expected 1, 3 or 4 blocks of rows")
    if names == {"weight", "bias"} and len(entries.shape("weight")) == 2:
        return "Linear"
    if names and names <= {"weight", "bias"}:
        kinds = {1: "LayerNorm", 2: '"Linear" (without bias) or kind="Embedding"', 3: "Conv1d"}
        kind = kinds.get(len(entries.shape("weight")), "the class")
        asked = kind if '"' in kind else f'"{kind}"'
        entries.fail(f"several classes have the arrays {listed(entries)}; pass kind={asked}")
    parts = [part for part in entries.parts() if entries.at(part)]
    if not parts:
        entries.fail(f"no known class has the arrays {listed(entries)}")
    entries.fail(
        f"it holds several parts, and no state_dict tells how they are joined; pass one as "
        f"prefix=: {listed(parts)}"
    )


def _check_settings(entries: Entries, kind: str, settings: dict[str, Any]) -> None:
    known = SETTINGS[kind]
    for name in settings:
        if name not in known and name != "inference":
            expected = f"{kind} takes {listed(known)}" if known else f"{kind} takes none"
            raise TypeError(f"{entries.call}: {name}= was given; {expected}.")
    for name, advice in known.items():
        if name not in settings and advice is not None:
            entries.fail(f"arrays do not tell the {name} of {kind}; pass {name}={advice}")
    told = ", ".join(f"{name}={settings[name]!r}" for name in known if name in settings)
    entries.note(f"read as {kind}({told})")


def _recurrent(entries: Entries, kind: str, settings: dict[str, Any]) -> Any:
    layers: list[Any] = []
    count, width, dropout = 0, None, settings.get("dropout", 0.0)
    while f"weight_ih_l{count}" in entries or not count:
        suffixes = [f"_l{count}", f"_l{count}_reverse"]
        present = suffixes[: 1 + (f"weight_ih{suffixes[1]}" in entries)]
        cells = [_cell(entries, kind, settings, suffix, width) for suffix in present]
        if layers and dropout:
            layers.append(Dropout(dropout, inference=settings.get("inference", False)))
        layers.append(Bidirectional(*cells) if len(cells) == 2 else Recurrence(cells[0]))
        width = sum(cell.U.shape[1] for cell in cells)
        count += 1
    return chain(layers)


def _cell(
    entries: Entries,
    kind: str,
    settings: dict[str, Any],
    suffix: str = "",
    in_size: int | None = None,
) -> Any:
    """One cell; the rows of ``weight_hh`` are blocks, as many as it has gates."""
    gates = GATES[kind.removesuffix("Cell")]
    options: dict[str, Any] = {}
    if "nonlinearity" in settings:
        options["activation"] = _nonlinearity(entries, settings["nonlinearity"])
    outputs = (*entries.shape(f"weight_hh{suffix}"), 0)[1]
    rows = gates * outputs
    if f"weight_hr{suffix}" in entries:
        projection = entries.take(f"weight_hr{suffix}", outputs, None)
        rows = gates * projection.shape[1]
        options["W_r"] = projection
    return CELLS[gates].from_arrays(
        entries.take(f"weight_ih{suffix}", rows, in_size),
        entries.take(f"weight_hh{suffix}", rows, outputs),
        entries.maybe(f"bias_ih{suffix}", rows),
        entries.maybe(f"bias_hh{suffix}", rows),
        **options,
    )


def _nonlinearity(entries: Entries, name: str) -> Any:
    if name not in ("tanh", "relu"):
        entries.fail(f'nonlinearity is {name!r}; expected "tanh" or "relu"')
    return COMMON[name]


def _linear(entries: Entries, kind: str, settings: dict[str, Any]) -> Dense:
    W = entries.take("weight", None, None)
    return Dense.from_arrays(W, entries.maybe("bias", W.shape[0]))


def _embedding(entries: Entries, kind: str, settings: dict[str, Any]) -> Embedding:
    return Embedding.from_arrays(entries.take("weight", None, None))


def _layer_norm(entries: Entries, kind: str, settings: dict[str, Any]) -> Any:
    weight = entries.take("weight", None)
    bias = entries.maybe("bias", *weight.shape)
    return LayerNorm.from_arrays(weight, bias, eps=settings["eps"])


def _conv1d(entries: Entries, kind: str, settings: dict[str, Any]) -> Conv1d:
    weight = entries.take("weight", None, None, None)
    padding = settings["padding"]
    return Conv1d.from_arrays(
        weight,
        entries.maybe("bias", weight.shape[0]),
        stride=settings["stride"],
        dilation=settings["dilation"],
        groups=settings["groups"],
        padding=padding if isinstance(padding, str) else (padding, padding),
    )


BUILDERS: dict[str, Callable[[Entries, str, dict[str, Any]], Any]] = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("LSTMCell", "GRUCell", "RNNCell"), _cell),
    "Linear": _linear,
    "Embedding": _embedding,
    "LayerNorm": _layer_norm,
    "Conv1d": _conv1d,
}
