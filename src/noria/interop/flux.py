"""Flux: dicts of arrays and files of JLD2 in; dicts of arrays out."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn, TypedDict, Unpack

import numpy as np

from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell, GRUv3Cell
from noria.cells.lstm import LSTMCell
from noria.interop.build import (
    GATED,
    activation,
    array_of,
    asked,
    cell_of,
    chain,
    check_plain,
    check_start,
    gates_of,
    is_function,
    numbered,
    one_bias_of,
    unknown,
)
from noria.interop.entries import Entries, Reporter, imported
from noria.interop.hdf5 import jld2_or_dict
from noria.layers.bidirectional import Bidirectional
from noria.layers.chain import Chain
from noria.layers.dense import Dense, Embedding
from noria.layers.recurrence import Recurrence

#: The third block of the recurrent matrix of ``GRUv3Cell``.
INNER = "Wh_h̃"


class FluxSettings(TypedDict, total=False):
    """Settings of Flux's layers, which ``Flux.state`` does not hold."""

    kind: str
    activation: Any


def from_flux(
    source: Any,
    prefix: str = "",
    *,
    dtype: Any = None,
    report: Reporter | None = None,
    **settings: Unpack[FluxSettings],
) -> Any:
    """A layer, a cell or a chain with the arrays of Flux (0.15 and later).

    Args:
        source: nested dicts of arrays as ``Flux.state`` gives them, with the shapes of Julia, or
            the path of a ``.jld2`` file that holds each array under a path of its own.
        prefix: the path of the part to read, with dots between names: ``"layers.1"``.
        dtype: dtype of the parameters; by default each array keeps its own.
        report: called with a `Report` of what was used; ``report=print`` shows it.
        **settings: ``activation``, the function of ``RNNCell`` and ``Dense`` or its name; ``kind``,
            ``"Dense"`` or ``"Embedding"``, for a weight without a bias.

    Returns:
        A cell for ``RNNCell``, ``LSTMCell``, ``GRUCell`` and ``GRUv3Cell``; a `Recurrence` for the
        layers that hold one as ``cell``; a `Dense` or `Embedding`; a `Chain` for ``layers``. Two
        parts named ``forward`` and ``backward`` are a `Bidirectional`, which Flux does not have.

    Raises:
        ValueError: for entries that are unknown, missing or of the wrong shape, for a setting that
            is needed and missing, and for a damaged file.
        ImportError: if h5py is needed and missing.

    Examples:
        >>> import jax, noria as nr
        >>> state = nr.to_flux(nr.LSTM(2, 3, key=jax.random.key(0)))
        >>> nr.from_flux(state).cell.W.shape
        (12, 2)
    """
    call, arrays = jld2_or_dict("from_flux", source)
    return imported(call, arrays, prefix, partial(_layer, settings=settings), dtype, report)


def _layer(entries: Entries, settings: Mapping[str, Any]) -> Any:
    parts = set(entries.parts())
    if {"Wi", "Wh"} <= parts:
        return _cell(entries, settings)
    if parts == {"cell"}:
        return Recurrence(_layer(entries.at("cell"), settings))
    if parts == {"forward", "backward"}:
        return Bidirectional(
            *(_layer(entries.at(way), settings) for way in ("forward", "backward"))
        )
    if parts == {"layers"}:
        layers = numbered(entries.at("layers"), r"(\d+)")
        return chain([_layer(part, settings) for part in layers]) if layers else unknown(entries)
    if "weight" in parts and parts <= {"weight", "bias"}:
        return _weight(entries, settings)
    unknown(entries)


def _cell(entries: Entries, settings: Mapping[str, Any]) -> Any:
    gates_of(entries, "Wh")
    U = entries.take("Wh", None, None)
    W = entries.take("Wi", U.shape[0], None)
    name = "b" if "b" in entries else "bias"
    b = None if entries.is_off(name) else entries.maybe(name, U.shape[0])
    if INNER not in entries:
        return cell_of(entries, W, U, (b,), settings)
    size = U.shape[1]
    inner = entries.take(INNER, size, size)
    return GRUv3Cell.from_arrays(W, np.concatenate([U[: 2 * size], inner]), b)


def _weight(entries: Entries, settings: Mapping[str, Any]) -> Any:
    weight = entries.take("weight", None, None)
    if "bias" not in entries and _kind(entries, settings) == "Embedding":
        return Embedding.from_arrays(weight.T)
    b = None if entries.is_off("bias") else entries.maybe("bias", weight.shape[0])
    return Dense.from_arrays(weight, b, activation(entries, settings))


def _kind(entries: Entries, settings: Mapping[str, Any]) -> str:
    kind = asked(entries, settings, "kind", 'for the weight without a bias: "Dense" or "Embedding"')
    if kind not in ("Dense", "Embedding"):
        entries.fail(f'kind is {kind!r}; expected "Dense" or "Embedding"')
    return str(kind)


def to_flux(layer: Any) -> dict[str, Any]:
    """The arrays of a layer or a cell as nested dicts, as ``Flux.state`` gives them.

    Args:
        layer: a `Recurrence`, `Bidirectional`, `Dense`, `Embedding` or `Chain`, or a cell:
            `RNNCell`, `LSTMCell`, `GRUCell` or `GRUv3Cell`.

    Returns:
        Nested dicts of NumPy arrays that are copies, with the shapes of Julia, for
        ``Flux.loadmodel!``. Flux has one bias: those of an LSTM or an RNN are added.

    Raises:
        ValueError: for a layer, a cell, a setting or an initial state that Flux does not have.

    Examples:
        >>> import jax, noria as nr
        >>> sorted(nr.to_flux(nr.GRU(2, 3, key=jax.random.key(0)))["cell"])
        ['Wh', 'Wi', 'b']
    """
    return _tree(layer, partial(_fail, f"to_flux({getattr(layer, 'label', type(layer).__name__)})"))


def _fail(call: str, text: str) -> NoReturn:
    raise ValueError(f"{call}: {text}.")


def _tree(layer: Any, fail: Any) -> dict[str, Any]:
    if isinstance(layer, Chain):
        parts = {str(n): _tree(part, fail) for n, part in enumerate(layer, 1)}
        return {"layers": {name: tree for name, tree in parts.items() if tree}}
    if isinstance(layer, Bidirectional):
        if layer.backward is None or layer.merge != "concat":
            fail("both directions need arrays of their own, and outputs that are concatenated")
        return {"forward": _tree(layer.forward, fail), "backward": _tree(layer.backward, fail)}
    if isinstance(layer, Recurrence):
        check_start(layer, fail)
        return {"cell": _arrays(layer.cell, fail)}
    if isinstance(layer, Embedding):
        return {"weight": array_of(layer.table.T)}
    if isinstance(layer, Dense):
        found = {"weight": layer.W, "bias": layer.b}
        return {name: array_of(array) for name, array in found.items() if array is not None}
    return {} if is_function(layer) else _arrays(layer, fail)


def _arrays(cell: Any, fail: Any) -> dict[str, np.ndarray]:
    if type(cell) not in (RNNCell, GRUCell, GRUv3Cell, LSTMCell):
        fail(f"Flux has no {type(cell).__name__}")
    check_plain(cell, fail, {} if isinstance(cell, RNNCell) else GATED)
    arrays = {"Wi": array_of(cell.W), "Wh": array_of(cell.U)}
    bias = one_bias_of(cell, fail)
    if bias is not None:
        arrays["b" if len(cell.GATES) == 3 else "bias"] = bias
    if isinstance(cell, GRUv3Cell):  # the third block of Wh is not used there
        arrays[INNER] = arrays["Wh"][2 * cell.hidden_size :].copy()
    return arrays
