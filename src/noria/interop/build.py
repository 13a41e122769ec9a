"""Layers from arrays, and arrays from layers, in the forms that frameworks share."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from noria.interop.activations import activation_named, function_of
from noria.interop.entries import Entries, listed
from noria.layers.chain import Chain
from noria.layers.per_step import PerStep
from noria.layers.recurrence import Recurrence

#: Cells by the number of their gates.
CELLS: dict[int, Any] = {1: RNNCell, 3: GRUCell, 4: LSTMCell}

#: Settings of cells that other frameworks lack, and the values that they have there.
PLAIN: dict[str, Any] = {"coupled_gates": False, "clip": None, "output_activation": None}

#: Arrays of cells that other frameworks lack, by the settings that make them.
ARRAYS = {"peepholes": "p", "proj_size": "W_r"}


def chain(layers: Sequence[Any]) -> Any:
    """One layer as it is, several as a `Chain`."""
    return layers[0] if len(layers) == 1 else Chain(*layers)


def with_arrays(module: Any, arrays: Mapping[str, Any]) -> Any:
    """A module of Equinox with other arrays in the fields of these names."""
    for name, array in arrays.items():
        where = partial(_field, name=name)
        module = eqx.tree_at(where, module, jnp.asarray(array))
    return module


def _field(module: Any, name: str) -> Any:
    return getattr(module, name)


def reordered(array: np.ndarray, blocks: int, order: Sequence[int]) -> np.ndarray:
    """The row blocks of an array in another order."""
    return np.concatenate([np.split(array, blocks)[n] for n in order])


def array_of(array: Any) -> np.ndarray:
    """A copy for other frameworks, which may write into it."""
    return np.array(array)


def biases_of(cell: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both biases, zeros for one that is missing."""
    zeros = np.zeros(cell.U.shape[0], cell.U.dtype)
    b, b_h = (zeros if bias is None else array_of(bias) for bias in (cell.b, cell.b_h))
    return b, b_h


def one_bias_of(cell: Any, fail: Callable[[str], NoReturn]) -> np.ndarray | None:
    """The bias of a framework that has one: the only one as it is, or the sum of both.

    The third block of ``b_h`` of a `GRUCell` is multiplied by the reset gate, and stays apart.
    """
    if cell.b is None or cell.b_h is None:
        only = cell.b if cell.b_h is None else cell.b_h
    else:
        only = cell.b + cell.b_h
    inner = cell.b_h if isinstance(cell, GRUCell) else None
    if inner is not None and np.any(array_of(inner)[2 * cell.hidden_size :]):
        fail("GRUCell has a recurrent bias inside of the reset gate, which has no place there")
    return None if only is None else array_of(only)


def has_bias(cell: Any) -> bool:
    return cell.b is not None or cell.b_h is not None


def check_plain(
    cell: Any,
    fail: Callable[[str], NoReturn],
    functions: Mapping[str, tuple[Any, ...]] | None = None,
    projected: bool = False,
) -> None:
    """Refuse settings of a cell that have no counterpart.

    ``functions`` has those that the other framework has, by the names of the settings;
    ``projected`` says whether it has projections.
    """
    name = type(cell).__name__
    for setting, array in ARRAYS.items():
        if getattr(cell, array, None) is not None and not (projected and setting == "proj_size"):
            fail(f"{name} has {setting}=, which has no counterpart there")
    for setting, value in PLAIN.items():
        if getattr(cell, setting, value) != value:
            fail(f"{name} has {setting}={getattr(cell, setting)!r}, which has no counterpart there")
    for setting, known in (functions or {}).items():
        function = function_of(getattr(cell, setting, None))
        if function is not None and function not in known:
            fail(f"{name} has {setting}={function!r}, which has no counterpart there")


#: The functions of an LSTM or a GRU in frameworks that leave no choice.
GATED: dict[str, tuple[Any, ...]] = {
    "activation": (jnp.tanh,),
    "gate_activation": (jax.nn.sigmoid,),
}


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
    """The arrays of a safetensors file that another framework wrote, sorted by their names.

    The files have no order of their own. ``layers.2`` comes before ``layers.10``.

    Raises:
        ValueError: if it is damaged, or is one of `noria.save`.
    """
    metadata, tensors = _stored.read(path)
    if str(metadata.get("format", "")).startswith("noria "):
        raise ValueError(f"{call}: noria.save wrote this file; noria.load(path, like) reads it.")
    names = sorted(tensors, key=lambda name: [*map(_digits_as_number, re.split(r"(\d+)", name))])
    return {name: _stored.to_native(tensors[name]) for name in names}


def _digits_as_number(part: str) -> int | str:
    return int(part) if part.isdecimal() else part


# --- Nested dicts of arrays -----------------------------------------------------------------------


def numbered(entries: Entries, pattern: str) -> list[Entries]:
    """The parts of a chain by their numbers, such as ``layers_0``; none may be missing.

    A number that is missing is a function, which no array tells.
    """
    found = {}
    for part in entries.parts():
        match = re.fullmatch(pattern, part)
        if match is None:
            return []
        found[int(match[1])] = entries.at(part)
    places = sorted(found)
    gaps = sorted(set(range(places[0], places[-1])) - set(places))
    if gaps:
        entries.fail(
            f"between its layers there are functions, at {listed(gaps)}, which arrays do not tell; "
            "pass the path of one layer as prefix="
        )
    return [found[n] for n in places]


def asked(entries: Entries, settings: Mapping[str, Any], name: str, advice: str) -> Any:
    """A setting that arrays do not tell."""
    if settings.get(name) is None:
        entries.fail(f"arrays do not tell {name}; pass {name}=, {advice}")
    entries.note(f"{name}={settings[name]!r}, as told")
    return settings[name]


def activation(entries: Entries, settings: Mapping[str, Any]) -> Any:
    """The activation that arrays do not tell, a function or the name of one."""
    given = asked(entries, settings, "activation", 'such as "tanh", "linear" or a function')
    return activation_named(given, entries.fail)


def unknown(entries: Entries) -> NoReturn:
    """Refuse arrays that are no known layer."""
    parts = [part for part in entries.parts() if entries.at(part)]
    advice = f"; pass one of its parts as prefix=: {listed(parts)}" if parts else ""
    entries.fail(f"no known layer has the entries {listed(entries)}{advice}")


def gates_of(entries: Entries, name: str) -> int:
    """How many blocks of rows a recurrent matrix has."""
    rows, columns = (*entries.shape(name), 1, 1)[:2]
    gates = rows // max(columns, 1)
    if gates * columns != rows or gates not in CELLS:
        entries.fail(
            f"{name} has shape {(rows, columns)}; expected 1, 3 or 4 square blocks of rows"
        )
    return gates


def cell_of(
    entries: Entries,
    W: np.ndarray,
    U: np.ndarray,
    biases: Sequence[np.ndarray | None],
    settings: Mapping[str, Any],
) -> Any:
    """The cell with as many gates as ``U`` has blocks; an RNN needs its activation."""
    gates = U.shape[0] // U.shape[1]
    options = {}
    if gates == 1:
        options["activation"] = activation(entries, settings)
    return CELLS[gates].from_arrays(W, U, *biases, **options)
