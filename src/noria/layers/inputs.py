"""The input of a `Recurrence`: an array or a pytree of arrays, checked, and its leading axes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import check_dtype, describe

#: The leading axes of an input: batch, if any, and time, if there is one.
Axes = tuple[Any, ...]


def input_of(
    label: str, cell: Callable[..., Any], what: str, xs: Any, time: bool
) -> tuple[Any, Axes]:
    """``xs`` as arrays, and their leading axes: ``time`` is false for one step.

    The shape of one step says whether there is a batch. It is the cell's ``in_size`` or
    ``in_shape``. Without either, one array of features may have a batch; other arrays have one.
    """
    size, shape = getattr(cell, "in_size", None), getattr(cell, "in_shape", None)
    if isinstance(xs, list) or (size is not None and not _is_array(xs)):
        features = size or "in"
        form = f"(time, {features})" if time else f"({features},)"
        raise TypeError(
            f"{label}: {what} is a {type(xs).__name__}; "
            f"expected one array, {form} or {_batched((features,), time)}: stack equal steps "
            "with jnp.stack, pad unequal sequences with noria.data.pad."
        )
    if shape is not None:
        return _of_shape(label, what, xs, shape, time)
    if not _is_array(xs):
        return _tree(label, what, jtu.tree_map(partial(_array, label, what), xs), time)
    array = _features(label, what, _array(label, what, xs), size, time)
    if size is not None:
        check_dtype(label, what, array, cell.dtype)  # type: ignore[attr-defined]
    return array, array.shape[: _lead(array, size, time)]


def _is_array(xs: Any) -> bool:
    return bool(jtu.all_leaves([xs])) and xs is not None


def _array(label: str, what: str, leaf: Any) -> jax.Array:
    try:
        return jnp.asarray(leaf)
    except TypeError as error:  # text, objects
        kind = getattr(leaf, "dtype", None)
        came = type(leaf).__name__ + ("" if kind is None else f" of dtype {kind}")
        raise TypeError(
            f"{label}: {what} has a {came}; expected numbers: convert it with "
            "np.asarray(..., np.float32), or give text as whole numbers to an Embedding."
        ) from error


def _batched(shape: tuple[Any, ...], time: bool) -> str:
    axes = (*(("batch", "time") if time else ("batch",)), *shape)
    return f"({', '.join(map(str, axes))})"


def _lead(array: jax.Array, size: int | None, time: bool) -> int:
    """The number of leading axes of an array that has all but features in front, or a batch."""
    return array.ndim - 1 if size is not None or array.ndim <= 2 + time else 1 + time


def _features(label: str, what: str, array: jax.Array, size: int | None, time: bool) -> jax.Array:
    """An array of features, or of steps of any shape with a batch."""
    fits = array.ndim in (1 + time, 2 + time) or (size is None and array.ndim > 2 + time)
    if not fits or size not in (None, array.shape[-1]):
        features = size or "in"
        form = f"(time, {features})" if time else f"({features},)"
        hint = "; the state comes first: layer(state, xs)" if array.ndim == time else ""
        raise ValueError(
            f"{label}: {what} has shape {array.shape}; expected "
            f"{form} or {_batched((features,), time)}{hint}."
        )
    return array


def _tree(label: str, what: str, xs: Any, time: bool) -> tuple[Any, Axes]:
    """A pytree of arrays with equal axes of batch and time in front."""
    lead = {leaf.shape[: 1 + time] for leaf in jtu.tree_leaves(xs)}
    if len(lead) != 1 or len(axes := lead.pop()) != 1 + time:
        raise ValueError(
            f"{label}: {what} is {describe(xs)}; expected arrays {_batched(('...',), time)} with "
            "equal axes in front, or a cell with in_shape, the shapes of one step of one example."
        )
    return xs, axes


def _of_shape(label: str, what: str, xs: Any, shape: Any, time: bool) -> tuple[Any, Axes]:
    """Arrays that end in the axes of ``shape``, a pytree of tuples, one for each array."""
    shapes, structure = jtu.tree_flatten(shape, is_leaf=_is_shape)
    xs = jtu.tree_map(partial(_array, label, what), xs)
    leaves: list[jax.Array] = jtu.tree_leaves(xs)
    found: Any = jtu.tree_structure(xs)
    fit = structure == found and all(
        leaf.shape[leaf.ndim - len(one) :] == one
        for leaf, one in zip(leaves, shapes, strict=True)
        if leaf.ndim >= len(one)
    )
    lead = {
        leaf.shape[: max(leaf.ndim - len(one), 0)]
        for leaf, one in zip(leaves, shapes, strict=False)
    }
    if not fit or len(lead) != 1 or len(axes := lead.pop()) not in (int(time), 1 + time):
        raise ValueError(
            f"{label}: {what} is {describe(xs)}; expected the cell's in_shape={shape}, after "
            f"{'(time,) or (batch, time)' if time else '() or (batch,)'}."
        )
    return xs, axes


def _is_shape(shape: Any) -> bool:
    return type(shape) is tuple and all(isinstance(size, int) for size in shape)
