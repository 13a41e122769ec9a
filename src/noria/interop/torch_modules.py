"""Live modules of PyTorch: the classes and the settings that a state_dict does not hold."""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import jax

from noria.interop.activations import COMMON, EXACT_GELU
from noria.interop.entries import listed
from noria.layers.dropout import Dropout
from noria.layers.per_step import PerStep

#: A part of a source: its path, its class (``None``: the arrays tell), and its settings.
Part = tuple[str, str | None, dict[str, Any]]

#: The kind of a part without arrays, whose setting ``layer`` is the layer itself.
FUNCTION = "function"


def parts_of(call: str, module: Any, settings: dict[str, Any], path: str = "") -> list[Part]:
    """The known parts of a module, in the order in which they are applied.

    Raises:
        ValueError: for a class whose ``forward`` is unknown, or a setting that has no counterpart.
    """
    name, fail = _class_of(module), partial(_fail, call, path)
    if name == "Sequential":
        children = [
            parts_of(call, child, settings, f"{path}.{part}" if path else part)
            for part, child in module.named_children()
        ]
        _check_layout(fail, [kind for parts in children for _, kind, _ in parts])
        return [part for parts in children for part in parts]
    if name in FUNCTIONS:
        layer = FUNCTIONS[name](module)
        return [] if layer is None else [(path, FUNCTION, {"layer": layer})]
    if name in MODULES:
        own = MODULES[name](module, fail)
        if settings:
            fail(f"{listed(settings)} was given, but {name} tells its own")
        return [(path, name, own)]
    if hasattr(module, "original_name") and not list(module.named_children()):
        return [(path, None, settings)]  # TorchScript hides the settings
    fail(
        f"{name} is no layer that is known, and its forward is code; pass a part of it as "
        f"prefix=: {listed(part for part, _ in module.named_children()) or 'it has none'}"
    )


def _class_of(module: Any) -> str:
    """The name of a class of ``torch.nn``; of others the full name, which none of them has."""
    kind = type(module)
    if kind.__module__.startswith("torch.nn.modules."):
        return str(kind.__name__)
    return f"{kind.__module__}.{kind.__name__}"


def _fail(call: str, path: str, text: str) -> NoReturn:
    raise ValueError(f"{call}{f', part {path}' if path else ''}: {text}.")


def _check_layout(fail: Callable[[str], NoReturn], kinds: list[str | None]) -> None:
    """PyTorch's convolutions have the features before time, and its other layers at the end."""
    if "Conv1d" in kinds and not {"Conv1d", FUNCTION}.issuperset(kinds):
        fail(
            "Conv1d works on (batch, features, time) and the other layers of this Sequential on "
            "the last axis; convert them one by one"
        )


def _recurrent(module: Any, fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    own = {"dropout": module.dropout, "inference": not module.training}
    return own | ({"nonlinearity": module.nonlinearity} if module.mode.startswith("RNN") else {})


def _embedding(module: Any, fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    if module.max_norm is not None:
        fail("Embedding has max_norm=, which changes its rows when they are read")
    return {}


def _layer_norm(module: Any, fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    if len(module.normalized_shape) != 1 or module.weight is None:
        fail(
            f"LayerNorm has the shape {tuple(module.normalized_shape)} and elementwise_affine="
            f"{module.elementwise_affine}; expected one axis, and weights"
        )
    return {"eps": module.eps}


def _conv1d(module: Any, fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    if module.padding_mode != "zeros":
        fail(f'Conv1d has padding_mode={module.padding_mode!r}; expected "zeros"')
    padding = module.padding
    return {
        "stride": module.stride[0],
        "padding": padding if isinstance(padding, str) else padding[0],
        "dilation": module.dilation[0],
        "groups": module.groups,
    }


#: The settings of each class with arrays.
MODULES: dict[str, Callable[[Any, Callable[[str], NoReturn]], dict[str, Any]]] = {
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "LSTMCell": lambda module, fail: {},
    "GRUCell": lambda module, fail: {},
    "RNNCell": lambda module, fail: {"nonlinearity": module.nonlinearity},
    "Linear": lambda module, fail: {},
    "Embedding": _embedding,
    "LayerNorm": _layer_norm,
    "Conv1d": _conv1d,
}

#: The layer of each class without arrays; ``None`` does nothing.
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "Identity": lambda module: None,
    "Dropout": lambda module: Dropout(module.p, inference=not module.training),
    "ReLU": lambda module: PerStep(COMMON["relu"]),
    "ReLU6": lambda module: PerStep(COMMON["relu6"]),
    "Tanh": lambda module: PerStep(COMMON["tanh"]),
    "Sigmoid": lambda module: PerStep(COMMON["sigmoid"]),
    "SiLU": lambda module: PerStep(COMMON["silu"]),
    "ELU": lambda module: PerStep(partial(jax.nn.elu, alpha=module.alpha)),
    "LeakyReLU": lambda module: PerStep(
        partial(jax.nn.leaky_relu, negative_slope=module.negative_slope)
    ),
    "GELU": lambda module: PerStep(jax.nn.gelu if module.approximate == "tanh" else EXACT_GELU),
}
