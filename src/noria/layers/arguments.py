"""The arguments of a `Recurrence`: checked, and given to the cell by the names that it takes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from noria._errors import as_given, check_dtype, check_key, describe
from noria._types import Key
from noria.cells.base import arguments_of
from noria.ir.evaluate import spread
from noria.layers.base import check_taken
from noria.masking import where, within

#: The leading axes of an input of all steps: batch, if any, and time, if there is one.
Axes = tuple[Any, ...]

# --- the input ------------------------------------------------------------------------------------


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
        return _tree(label, what, jtu.tree_map(jnp.asarray, xs), time)
    array = _features(label, what, jnp.asarray(xs), size, time)
    if size is not None:
        check_dtype(label, what, array, cell.dtype)  # type: ignore[attr-defined]
    return array, array.shape[: _lead(array, size, time)]


def _is_array(xs: Any) -> bool:
    return bool(jtu.all_leaves([xs])) and xs is not None


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
    """Arrays whose last axes are those of ``shape``, a pytree of tuples, one for each array."""
    shapes, structure = jtu.tree_flatten(shape, is_leaf=_is_shape)
    xs = jtu.tree_map(jnp.asarray, xs)
    leaves, found = jtu.tree_flatten(xs)
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


# --- arguments by name ----------------------------------------------------------------------------


def keywords_of(
    label: str,
    cell: Callable[..., Any],
    axes: Axes,
    resets: jax.Array | None,
    given: Mapping[str, Any],
    time: bool,
) -> tuple[dict[str, Any], Any]:
    """The arguments of all steps by name, and the context, as far as the cell takes them.

    Args:
        label: the layer in messages.
        cell: the cell.
        axes: the leading axes of the input.
        resets: ``axes`` booleans, or ``None``.
        given: ``key``, ``t``, ``dt`` and ``context`` of the caller; ``None`` for a missing one.
        time: whether the last of ``axes`` is time.
    """
    asked = arguments_of(cell)
    check_taken(label, [n for n, a in given.items() if a is not None and n != "key"], asked)
    for name in ("dt", "context"):
        if given[name] is None and asked.get(name):
            form = ", ".join(map(str, axes)) if name == "dt" else "batch, ..."
            raise TypeError(
                f"{label}: its cell takes {name}, and {name} is None; expected "
                f"{name}= with the shape ({form}{',' * (name == 'dt' and len(axes) == 1)})."
            )
    found: dict[str, Any] = {}
    if "key" in asked and (given["key"] is not None or asked["key"]):
        found["key"] = _keys(label, given["key"], axes)
    if "t" in asked:
        found["t"] = _steps(label, given["t"], axes, resets, time)
    if given["dt"] is not None:
        found["dt"] = _differences(label, cell, given["dt"], axes)
    batch = axes[: len(axes) - time]
    return found, None if given["context"] is None else _context(label, given["context"], batch)


def _keys(label: str, key: Key | None, axes: Axes) -> Key:
    """One key for each step."""
    check_key(f"{label}, whose cell draws random numbers", key)
    return jax.random.split(key, axes) if axes else key


def _steps(label: str, first: Any, axes: Axes, resets: jax.Array | None, time: bool) -> jax.Array:
    """The number of each step: from ``first`` on, and from 0 on after each reset."""
    batch = axes[: len(axes) - time]
    first = as_given(0 if first is None else first)
    if not jnp.issubdtype(first.dtype, jnp.integer):
        raise TypeError(
            f"{label}: t is {first.dtype}; expected whole numbers, the number of the first step."
        )
    if first.shape not in ((), batch):
        raise ValueError(
            f"{label}: t has shape {first.shape}; expected (){f' or {batch}' if batch else ''}, "
            "the number of the first step."
        )
    info = jnp.iinfo(jnp.int32)
    first = within(jnp.asarray(first), info.min, info.max)
    first = first if first.shape == batch else spread(first, batch)
    if not time:
        return first if resets is None else jnp.where(resets, 0, first)
    index = spread(jnp.arange(axes[-1], dtype=jnp.int32), batch)
    steps = first[..., None] + index
    if resets is None:
        return steps
    begin = jax.lax.cummax(jnp.where(resets, index, -1), axis=len(batch))
    return jnp.where(begin < 0, steps, index - begin)


def _differences(label: str, cell: Callable[..., Any], dt: Any, axes: Axes) -> jax.Array:
    array = jnp.asarray(dt)
    if array.shape != axes:
        raise ValueError(
            f"{label}: dt has shape {array.shape}; expected {axes}, one for each step."
        )
    if getattr(cell, "in_size", None) is not None:
        check_dtype(label, "dt", array, cell.dtype)  # type: ignore[attr-defined]
    return array


def _context(label: str, context: Any, batch: Axes) -> Any:
    arrays = jtu.tree_map(jnp.asarray, context)
    if any(a.shape[: len(batch)] != batch for a in jtu.tree_leaves(arrays)):
        raise ValueError(
            f"{label}: context is {describe(arrays)}; expected arrays ({batch[0]}, ...), "
            "one row for each example."
        )
    return arrays


def of_nonempty(context: Any, lengths: jax.Array | None) -> Any:
    """The context, with zeros for examples without a valid step: these may hold NaN."""
    if lengths is None:
        return context
    return where(lengths > 0, context, jtu.tree_map(jnp.zeros_like, context))
