"""Flax, linen and nnx: parameters and live modules in; nested dicts of arrays out."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypedDict, Unpack

import numpy as np

from noria.cells.elman import RNNCell
from noria.cells.gru import GRUCell
from noria.cells.lstm import LSTMCell
from noria.interop.build import (
    array_of,
    asked,
    biases_of,
    cell_of,
    chain,
    check_plain,
    check_start,
    is_function,
    layer_norm_of,
    numbered,
    one_bias_of,
    unknown,
)
from noria.interop.entries import Entries, Reporter, imported
from noria.interop.flax_modules import layers_of
from noria.layers.bidirectional import Bidirectional
from noria.layers.chain import Chain
from noria.layers.dense import Dense, Embedding
from noria.layers.per_step import LayerNorm
from noria.layers.recurrence import Recurrence

#: Gates of the cells with one matrix for each gate; ``if`` is no name in nnx, which adds ``_``.
LSTM, GRU = ("i", "f", "g", "o"), ("r", "z", "n")


class FlaxSettings(TypedDict, total=False):
    """Settings of Flax' modules, which their parameters do not hold."""

    kind: str
    activation: Any
    gate_activation: Any
    epsilon: float


def from_flax(
    source: Any,
    prefix: str = "",
    *,
    dtype: Any = None,
    report: Reporter | None = None,
    **settings: Unpack[FlaxSettings],
) -> Any:
    """A layer, a cell or a chain with the parameters of Flax, linen or nnx.

    Args:
        source: nested dicts of parameters, with or without the key ``"params"``, as ``init`` of
            linen, ``nnx.to_pure_dict`` and the checkpoints of Orbax give them; or a module of nnx.
        prefix: the path of the part to read, with dots between names: ``"encoder.LSTMCell_0"``.
        dtype: dtype of the parameters; by default each array keeps its own.
        report: called with a `Report` of what was used; ``report=print`` shows it.
        **settings: what parameters do not tell: ``activation`` of ``SimpleCell``; ``epsilon`` of
            ``LayerNorm`` (1e-6 by default there) and ``kind="LayerNorm"``; and, where they are not
            the sigmoid and tanh of the defaults, ``gate_activation`` and ``activation``.

    Returns:
        A cell for ``LSTMCell``, ``OptimizedLSTMCell``, ``GRUCell`` and ``SimpleCell``; a
        `Recurrence` for ``RNN``, a `Bidirectional`, `Dense`, `Embedding` or `LayerNorm`, and a
        `Chain` for ``Sequential``.

    Raises:
        ValueError: for entries that are unknown, missing or of the wrong shape, and for a setting
            that is needed and missing.
        TypeError: for another source.

    Linen has the bias of an LSTM on the recurrent side, and an inner bias in its GRU, which nnx
    lacks. Their state of an LSTM is ``(c, h)``; here it is ``(h, c)``.

    Examples:
        >>> import jax, noria as nr
        >>> params = nr.to_flax(nr.GRU(2, 3, key=jax.random.key(0)))
        >>> nr.from_flax({"params": params}).cell.W.shape
        (9, 2)
    """
    nnx = sys.modules.get("flax.nnx")
    call = f"from_flax({'dict' if isinstance(source, Mapping) else type(source).__name__})"
    build: Callable[[Entries], Any] = partial(_layer, settings=settings)
    if nnx is not None and isinstance(source, nnx.Module):
        if settings:
            raise TypeError(f"{call}: a module tells its settings; pass none.")
        arrays = nnx.to_pure_dict(nnx.state(source, nnx.Param))
        build = partial(_live, source, prefix)
    elif isinstance(source, Mapping):
        arrays = source["params"] if isinstance(source.get("params"), Mapping) else source
    else:
        raise TypeError(
            f"{call}: expected nested dicts of parameters or a module of nnx; a module of linen "
            "has no parameters: pass what its init returned."
        )
    return imported(call, arrays, prefix, build, dtype, report)


def _live(module: Any, prefix: str, entries: Entries) -> Any:
    """The layers of a module of nnx, each with the settings that the module tells."""
    layers = []
    for path, settings, layer in layers_of(module, prefix, entries.fail):
        layers.append(_layer(entries.at(path), settings) if layer is None else layer)
    return chain(layers)


# --- In -------------------------------------------------------------------------------------------


def _layer(entries: Entries, settings: Mapping[str, Any]) -> Any:
    parts = set(entries.parts())
    found = _cell(entries, parts, settings)
    if found is not None:
        return found
    if parts == {"cell"}:
        return Recurrence(
            _layer(entries.at("cell"), settings), reverse=settings.get("reverse", False)
        )
    if parts == {"forward_rnn", "backward_rnn"}:
        ways = (entries.at(way) for way in ("forward_rnn", "backward_rnn"))
        return Bidirectional(*(_layer(way, settings) for way in ways))
    if parts == {"layers"}:
        return _layer(entries.at("layers"), settings)
    if parts == {"embedding"}:
        return Embedding.from_arrays(entries.take("embedding", None, None))
    if parts <= {"kernel", "bias"} and "kernel" in parts:
        kernel = entries.take("kernel", None, None)
        return Dense.from_arrays(kernel.T, entries.maybe("bias", kernel.shape[1]))
    if parts <= {"scale", "bias"} and parts:
        return _norm(entries, settings)
    layers = numbered(entries, r"(?:layers_)?(\d+)")
    return chain([_layer(part, settings) for part in layers]) if layers else unknown(entries)


def _cell(entries: Entries, parts: set[str], settings: Mapping[str, Any]) -> Any:
    for gates in (LSTM, GRU):
        names = [f"{side}{gate}" for side in "ih" for gate in gates]
        if {name.rstrip("_") for name in parts} == set(names):
            return _of_gates(entries, gates, parts, settings)
    if parts == {"dense_i", "dense_h"}:
        return _of_matrices(entries, "dense_i", "dense_h", settings)
    return _of_matrices(entries, "i", "h", settings) if parts == {"i", "h"} else None


def _of_gates(
    entries: Entries, gates: tuple[str, ...], parts: set[str], settings: Mapping[str, Any]
) -> Any:
    """A cell with a matrix for each gate; a bias is on one side, zero where there is none."""

    def rows(side: str, kind: str, shape: tuple[Any, ...]) -> np.ndarray | None:
        names = [f"{side}{gate}{'_' * (f'{side}{gate}_' in parts)}.{kind}" for gate in gates]
        if not any(name in entries for name in names):
            return None
        taken = [entries.maybe(name, *shape) for name in names]
        zeros = np.zeros(size, next(array.dtype for array in taken if array is not None))
        return np.concatenate([zeros if array is None else array.T for array in taken])

    size = entries.shape(f"h{gates[0]}.kernel")[0]
    W, U = rows("i", "kernel", (None, size)), rows("h", "kernel", (size, size))
    biases = rows("i", "bias", (size,)), rows("h", "bias", (size,))
    if gates == LSTM and biases[0] is None:
        biases = biases[::-1]  # the only one
    kind: Any = LSTMCell if gates == LSTM else GRUCell
    return kind.from_arrays(W, U, *biases, **_functions(settings))


def _of_matrices(entries: Entries, inner: str, recurrent: str, settings: Mapping[str, Any]) -> Any:
    """A cell with one matrix on each side, whose columns are the blocks of its gates."""
    U = entries.take(f"{recurrent}.kernel", None, None).T
    W = entries.take(f"{inner}.kernel", None, U.shape[0]).T
    biases = [entries.maybe(f"{side}.bias", U.shape[0]) for side in (inner, recurrent)]
    gates = U.shape[0] // max(U.shape[1], 1)
    if gates == 4 and biases[0] is None:
        biases = biases[::-1]
    if gates == 1:
        return cell_of(entries, W, U, biases, settings)
    kinds: dict[int, Any] = {3: GRUCell, 4: LSTMCell}
    if gates not in kinds:
        entries.fail(f"{recurrent}.kernel has shape {U.T.shape}; expected 1, 3 or 4 square blocks")
    return kinds[gates].from_arrays(W, U, *biases, **_functions(settings))


def _functions(settings: Mapping[str, Any]) -> dict[str, Any]:
    names = ("activation", "gate_activation")
    return {name: settings[name] for name in names if settings.get(name) is not None}


def _norm(entries: Entries, settings: Mapping[str, Any]) -> Any:
    kind = asked(entries, settings, "kind", '"LayerNorm" if it is one')
    if kind != "LayerNorm":
        entries.fail(f"kind is {kind!r}, which is not known; expected LayerNorm")
    eps = asked(entries, settings, "epsilon", "a number; the default there is 1e-6")
    scale, bias = entries.maybe("scale", None), entries.maybe("bias", None)
    return LayerNorm.from_arrays(scale, bias, eps=eps)


# --- Out ------------------------------------------------------------------------------------------


def to_flax(layer: Any, api: str = "linen") -> dict[Any, Any]:
    """The parameters of a layer or a cell as nested dicts, as linen or nnx have them.

    Args:
        layer: a `Recurrence`, `Bidirectional`, `Dense`, `Embedding`, `LayerNorm` or `Chain`, or a
            cell: `RNNCell`, `LSTMCell` or `GRUCell`.
        api: ``"linen"`` for ``module.apply({"params": ...}, xs)``, or ``"nnx"`` for
            ``nnx.replace_by_pure_dict`` on the state of a module with ``OptimizedLSTMCell``,
            ``GRUCell`` or ``SimpleCell``.

    Returns:
        Nested dicts of NumPy arrays that are copies. Flax has one bias in an LSTM and in an RNN:
        two are added. Linen's cells have a bias always: zeros where there is none.

    Raises:
        ValueError: for another ``api``, and for a layer, a cell, a setting or an initial state that
            Flax does not have, such as the recurrent bias of a GRU in nnx.

    Examples:
        >>> import jax, noria as nr
        >>> sorted(nr.to_flax(nr.GRU(2, 3, key=jax.random.key(0)))["cell"])
        ['hn', 'hr', 'hz', 'in', 'ir', 'iz']
    """
    fail = partial(_fail, f"to_flax({getattr(layer, 'label', type(layer).__name__)})")
    if api not in ("linen", "nnx"):
        fail(f'api is {api!r}; expected "linen" or "nnx"')
    return _tree(layer, api == "nnx", fail)


def _fail(call: str, text: str) -> NoReturn:
    raise ValueError(f"{call}: {text}.")


def _tree(layer: Any, nnx: bool, fail: Any) -> dict[Any, Any]:
    if isinstance(layer, Chain):
        trees = {n: _tree(part, nnx, fail) for n, part in enumerate(layer)}
        if nnx:
            return {"layers": {n: tree for n, tree in trees.items() if tree}}
        return {f"layers_{n}": tree for n, tree in trees.items() if tree}
    if isinstance(layer, Bidirectional):
        if layer.backward is None or layer.merge != "concat":
            fail("both directions need arrays of their own, and outputs that are concatenated")
        ways = {"forward_rnn": layer.forward, "backward_rnn": layer.backward}
        return {name: _tree(way, nnx, fail) for name, way in ways.items()}
    if isinstance(layer, Recurrence):
        check_start(layer, fail)
        return {"cell": _arrays(layer.cell, nnx, fail)}
    norm = layer_norm_of(layer)
    if isinstance(layer, Dense):
        return _present(kernel=layer.W.T, bias=layer.b)
    if isinstance(layer, Embedding):
        return _present(embedding=layer.table)
    if norm is not None:
        return _present(scale=norm.weight, bias=norm.bias)
    return {} if is_function(layer) else _arrays(layer, nnx, fail)


def _present(**arrays: Any) -> dict[str, np.ndarray]:
    return {name: array_of(array) for name, array in arrays.items() if array is not None}


def _arrays(cell: Any, nnx: bool, fail: Any) -> dict[str, Any]:
    if type(cell) not in (RNNCell, GRUCell, LSTMCell):
        fail(f"Flax has no {type(cell).__name__}")
    check_plain(cell, fail)
    if nnx:
        return _of_nnx(cell, fail)
    if isinstance(cell, GRUCell):
        return _gru_of_linen(cell)
    bias = one_bias_of(cell, fail)
    bias = np.zeros(cell.U.shape[0], cell.U.dtype) if bias is None else bias
    if isinstance(cell, RNNCell):
        return {"i": _present(kernel=cell.W.T, bias=bias), "h": _present(kernel=cell.U.T)}
    W, U, b = (np.split(array_of(a), 4) for a in (cell.W, cell.U, bias))
    inputs = {f"i{gate}": {"kernel": w.T.copy()} for gate, w in zip(LSTM, W, strict=True)}
    inner = zip(LSTM, U, b, strict=True)
    return inputs | {f"h{gate}": {"kernel": u.T.copy(), "bias": a} for gate, u, a in inner}


def _gru_of_linen(cell: GRUCell) -> dict[str, Any]:
    """Biases of r and z are on the input side, and those of n on both."""
    b, b_h = (np.split(bias, 3) for bias in biases_of(cell))
    if cell.b_h is not None:
        b = [b[0] + b_h[0], b[1] + b_h[1], b[2]]
    W, U = (np.split(array_of(a), 3) for a in (cell.W, cell.U))
    tree: dict[str, Any] = {
        f"i{gate}": {"kernel": w.T.copy(), "bias": bias}
        for gate, w, bias in zip(GRU, W, b, strict=True)
    }
    tree |= {f"h{gate}": {"kernel": u.T.copy()} for gate, u in zip(GRU, U, strict=True)}
    tree["hn"]["bias"] = b_h[2]
    return tree


def _of_nnx(cell: Any, fail: Any) -> dict[str, Any]:
    bias = one_bias_of(cell, fail)
    bias = np.zeros(cell.U.shape[0], cell.U.dtype) if bias is None else bias
    sides = {"dense_i": {"kernel": array_of(cell.W.T)}, "dense_h": {"kernel": array_of(cell.U.T)}}
    sides["dense_h" if isinstance(cell, LSTMCell) else "dense_i"]["bias"] = bias
    return sides
