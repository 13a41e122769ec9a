"""The arguments that a cell takes by name: ``key``, ``t``, ``dt`` and ``context``, checked."""

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
from noria.layers.inputs import Axes
from noria.masking import where, within


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


def _keys(label: str, key: Any, axes: Axes) -> Key:
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
