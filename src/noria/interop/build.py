"""Layers from arrays, and arrays from layers, in the forms that frameworks share."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria import _stored
from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell
from noria.cells.lstm import LSTMCell
from noria.interop.activations import function_of
from noria.layers.chain import Chain
from noria.layers.per_step import PerStep
from noria.layers.recurrence import Recurrence

#: Cells by the number of their gates.
CELLS: dict[int, Any] = {1: RNNCell, 3: GRUCell, 4: LSTMCell}

#: Settings of cells that other frameworks lack, and the values that they have there.
PLAIN: dict[str, Any] = {
    "peepholes": False,
    "coupled_gates": False,
    "clip": None,
    "output_activation": None,
}


def chain(layers: Sequence[Any]) -> Any:
    """One layer as it is, several as a `Chain`."""
    return layers[0] if len(layers) == 1 else Chain(*layers)


def reordered(array: np.ndarray, blocks: int, order: Sequence[int]) -> np.ndarray:
    """The row blocks of an array in another order."""
    return np.concatenate([np.split(array, blocks)[n] for n in order])


def array_of(array: Any) -> np.ndarray:
    """A copy for other frameworks, which may write into it."""
    return np.array(array)


def biases_of(cell: Any, both: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """Both biases, zeros for one that is missing, or ``None`` if no cell has any."""
    if not both:
        return None
    zeros = np.zeros(cell.U.shape[0], cell.U.dtype)
    b, b_h = (zeros if bias is None else array_of(bias) for bias in (cell.b, cell.b_h))
    return b, b_h


def has_bias(cell: Any) -> bool:
    return cell.b is not None or cell.b_h is not None


def check_plain(cell: Any, fail: Callable[[str], NoReturn], **expected: Any) -> None:
    """Refuse settings of a cell that have no counterpart.

    ``expected`` names the functions that the other framework has, one or several.
    """
    name = type(cell).__name__
    for setting, value in PLAIN.items():
        if getattr(cell, setting, value) != value:
            fail(f"{name} has {setting}={getattr(cell, setting)!r}, which has no counterpart there")
    for setting, known in expected.items():
        function = function_of(getattr(cell, setting, None))
        if function is not None and function not in known:
            fail(f"{name} has {setting}={function!r}, which has no counterpart there")


#: The functions of an LSTM or a GRU in frameworks that leave no choice.
GATED = {"activation": (jnp.tanh,), "gate_activation": (jax.nn.sigmoid,)}


def check_start(layer: Recurrence, fail: Callable[[str], NoReturn]) -> None:
    """Refuse an initial state that is not zero."""
    state = layer.fixed_state if layer.learned_state is None else layer.learned_state
    if any(np.any(np.asarray(leaf)) for leaf in jtu.tree_leaves(state)):
        fail(
            "its initial state is not zero, and has no counterpart there; pass the state in the "
            "call"
        )


def layer_norm_of(layer: Any) -> eqx.nn.LayerNorm | None:
    """The module inside of a layer that `noria.LayerNorm` made."""
    inner = layer.function if isinstance(layer, PerStep) else None
    return inner if type(inner) is eqx.nn.LayerNorm else None


def is_function(layer: Any) -> bool:
    """Whether a layer has no arrays, so that other frameworks keep it as code."""
    return not jtu.tree_leaves(layer)


def safetensors_of(call: str, path: str) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file that another framework wrote.

    Raises:
        ValueError: if it is damaged, or is one of `noria.save`.
    """
    metadata, tensors = _stored.read(path)
    if str(metadata.get("format", "")).startswith("noria "):
        raise ValueError(f"{call}: noria.save wrote this file; noria.load(path, like) reads it.")
    return {name: _stored.to_native(tensor) for name, tensor in tensors.items()}
