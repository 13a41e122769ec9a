"""Equinox: modules in and out."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial, reduce
from typing import Any, NoReturn

import equinox as eqx
import jax
import numpy as np

from noria.cells.gru import GRUCell
from noria.cells.lstm import LSTMCell
from noria.interop.build import (
    GATED,
    biases_of,
    chain,
    check_plain,
    check_start,
    layer_norm_of,
    one_bias_of,
    with_arrays,
)
from noria.interop.entries import Entries, Reporter, imported
from noria.layers.dense import Dense, Embedding
from noria.layers.dropout import Dropout
from noria.layers.per_step import PerStep
from noria.layers.recurrence import Recurrence


def from_equinox(
    source: Any, prefix: str = "", *, dtype: Any = None, report: Reporter | None = None
) -> Any:
    """A cell or a layer with the arrays of a module of Equinox.

    Args:
        source: a module: ``LSTMCell``, ``GRUCell``, ``Linear``, ``Embedding``, ``LayerNorm``,
            ``Dropout``, ``Lambda``, a ``Sequential`` of them, or a module that holds one.
        prefix: the path of the part to read, with dots between names: ``"encoder.cell"``.
        dtype: dtype of the parameters; by default each array keeps its own.
        report: called with a `Report` of what was used; ``report=print`` shows it.

    Returns:
        A cell for a cell, which ``noria.Recurrence(cell)`` runs over sequences; a `Dense`,
        `Embedding`, `Dropout` or `PerStep`; a `Chain` for ``Sequential``.

    Raises:
        ValueError: for a module that is not known, or a path that does not exist.
        TypeError: if ``source`` is no module of Equinox.

    Equinox calls ``cell(x, state)``, Noria ``cell(state, x)``. The inner bias of Equinox' GRU
    becomes the third block of ``b_h``.

    Examples:
        >>> import equinox as eqx, jax, noria as nr
        >>> theirs = eqx.nn.LSTMCell(2, 3, key=jax.random.key(0))
        >>> nr.from_equinox(theirs).W.shape
        (12, 2)
    """
    call = f"from_equinox({type(source).__name__})"
    if not isinstance(source, eqx.Module):
        raise TypeError(f"{call}: expected a module of Equinox.")
    try:
        module = reduce(_part, prefix.split(".") if prefix else [], source)
    except (AttributeError, IndexError, TypeError):
        raise ValueError(f"{call}: there is no part {prefix!r}.") from None
    build = partial(_layer, module)
    return imported(call, _arrays_in(source), prefix, build, dtype, report)


def _part(node: Any, name: str) -> Any:
    return node[int(name)] if name.isdecimal() else getattr(node, name)


def _arrays_in(node: Any) -> Any:
    """Nested dicts of the arrays of a module, by the names of its fields."""
    if isinstance(node, eqx.Module):
        return {field.name: _arrays_in(getattr(node, field.name, None)) for field in fields(node)}
    if isinstance(node, list | tuple):
        return [_arrays_in(part) for part in node]
    if isinstance(node, dict):
        return {name: _arrays_in(part) for name, part in node.items()}
    return node if eqx.is_array(node) else None


# --- In -------------------------------------------------------------------------------------------


def _layer(module: Any, entries: Entries) -> Any:
    kind = type(module)
    if kind is eqx.nn.Sequential:
        return chain(
            [_layer(part, entries.at(f"layers.{n}")) for n, part in enumerate(module.layers)]
        )
    if kind not in LAYERS:
        entries.fail(
            f"{kind.__name__} is no module that is known, and its call is code; pass a part of it "
            "as prefix="
        )
    return LAYERS[kind](module, entries)


def _lstm(module: Any, entries: Entries) -> LSTMCell:
    return LSTMCell.from_arrays(
        entries.take("weight_ih"), entries.take("weight_hh"), entries.maybe("bias")
    )


def _gru(module: Any, entries: Entries) -> GRUCell:
    W, U = entries.take("weight_ih"), entries.take("weight_hh")
    b, inner = entries.maybe("bias"), entries.maybe("bias_n")
    b_h = None
    if inner is not None:
        b_h = np.concatenate([np.zeros(2 * len(inner), inner.dtype), inner])
    return GRUCell.from_arrays(W, U, b, b_h)


def _linear(module: Any, entries: Entries) -> Dense:
    if "scalar" in (module.in_features, module.out_features):
        entries.fail("Linear has scalar features; expected numbers of features")
    return Dense.from_arrays(entries.take("weight"), entries.maybe("bias"))


def _layer_norm(module: Any, entries: Entries) -> PerStep:
    norm = module
    for name in ("weight", "bias"):
        if name in entries:
            norm = with_arrays(norm, {name: entries.take(name)})
    return PerStep(norm)


LAYERS: dict[Any, Callable[[Any, Entries], Any]] = {
    eqx.nn.LSTMCell: _lstm,
    eqx.nn.GRUCell: _gru,
    eqx.nn.Linear: _linear,
    eqx.nn.Embedding: lambda module, entries: Embedding.from_arrays(entries.take("weight")),
    eqx.nn.LayerNorm: _layer_norm,
    eqx.nn.Dropout: lambda module, entries: Dropout(module.p, inference=module.inference),
    eqx.nn.Lambda: lambda module, entries: PerStep(module.fn),
}


# --- Out ------------------------------------------------------------------------------------------


def to_equinox(layer: Any) -> Any:
    """The module of Equinox with the arrays of a cell or a layer.

    Args:
        layer: an `LSTMCell` or a `GRUCell`, a `Recurrence` of one, a `Dense` without activation, an
            `Embedding`, a `LayerNorm` or a `Dropout`.

    Returns:
        ``eqx.nn.LSTMCell``, ``GRUCell``, ``Linear``, ``Embedding``, ``LayerNorm`` or ``Dropout``.
        Equinox has one bias in an LSTM: two are added.

    Raises:
        ValueError: for a layer, a cell, a setting or an initial state that Equinox does not have.
            It has no layer that runs over a sequence: pass the parts of a chain one by one.

    Examples:
        >>> import jax, noria as nr
        >>> nr.to_equinox(nr.GRU(2, 3, key=jax.random.key(0))).weight_ih.shape
        (9, 2)
    """
    fail = partial(_fail, f"to_equinox({getattr(layer, 'label', type(layer).__name__)})")
    if isinstance(layer, Recurrence):
        check_start(layer, fail)
        if layer.reverse:
            fail("Equinox has no reversed layer; pass its cell")
        layer = layer.cell
    norm = layer_norm_of(layer)
    if norm is not None:
        return norm
    for kind, make in MODULES.items():
        if type(layer) is kind:
            return make(layer, fail)
    fail(f"Equinox has no module like {type(layer).__name__}; pass the parts of a model one by one")


def _fail(call: str, text: str) -> NoReturn:
    raise ValueError(f"{call}: {text}.")


def _lstm_cell(cell: LSTMCell, fail: Any) -> Any:
    check_plain(cell, fail, GATED)
    bias = one_bias_of(cell, fail)
    theirs = _cell(eqx.nn.LSTMCell, cell, bias is not None)
    return with_arrays(theirs, _present(weight_ih=cell.W, weight_hh=cell.U, bias=bias))


def _gru_cell(cell: GRUCell, fail: Any) -> Any:
    check_plain(cell, fail, GATED)
    biased = cell.b is not None or cell.b_h is not None
    theirs = _cell(eqx.nn.GRUCell, cell, biased)
    theirs = with_arrays(theirs, _present(weight_ih=cell.W, weight_hh=cell.U))
    if not biased:
        return theirs
    b, b_h = biases_of(cell)
    inner = 2 * cell.hidden_size
    if cell.b_h is not None:
        b[:inner] += b_h[:inner]
    return with_arrays(theirs, _present(bias=b, bias_n=b_h[inner:]))


def _cell(kind: Any, cell: Any, biased: bool) -> Any:
    key = jax.random.key(0)
    return kind(cell.in_size, cell.hidden_size, use_bias=biased, dtype=cell.dtype, key=key)


def _present(**arrays: Any) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if array is not None}


def _linear_of(layer: Dense, fail: Any) -> Any:
    biased, (out, size) = layer.b is not None, layer.W.shape
    key = jax.random.key(0)
    theirs = eqx.nn.Linear(size, out, use_bias=biased, dtype=layer.W.dtype, key=key)
    return with_arrays(theirs, _present(weight=layer.W, bias=layer.b))


MODULES: dict[Any, Callable[[Any, Any], Any]] = {
    LSTMCell: _lstm_cell,
    GRUCell: _gru_cell,
    Dense: _linear_of,
    Embedding: lambda layer, fail: eqx.nn.Embedding(weight=layer.table),
    Dropout: lambda layer, fail: eqx.nn.Dropout(layer.p, inference=layer.inference),
}
