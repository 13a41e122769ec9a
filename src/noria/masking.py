"""Valid steps, and selections by them that keep padding out of values and gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Int32, Integer

from noria._errors import as_given, known
from noria._jax import Tracer
from noria.ir.evaluate import spread


def within(numbers: Integer[Array, "*shape"], low: int, high: int) -> Int32[Array, "*shape"]:
    """Integers of any dtype as int32, clipped to ``low .. high``.

    A conversion alone wraps around: it turns 2**32 + 3 into 3, and an int8 cannot count beyond 127.
    """
    type_ = jnp.iinfo(numbers.dtype)
    inside = jnp.clip(numbers, max(low, int(type_.min)), min(high, int(type_.max)))
    return inside.astype(jnp.int32)


def valid_steps(lengths: Integer[Array, "*batch"], time: Any) -> Bool[Array, "*batch time"]:
    """True for the first ``lengths`` steps of each example."""
    return jnp.arange(time, dtype=jnp.int32) < _as_int32(lengths)[..., None]


def _as_int32(lengths: Integer[Array, "*batch"]) -> Int32[Array, "*batch"]:
    """Lengths as int32; one past the end stays past it.

    The end is no bound here: with `jax.export` it may be a symbol.
    """
    return lengths if lengths.dtype == jnp.int32 else within(lengths, 0, jnp.iinfo(jnp.int32).max)


def as_counts(lengths: Any) -> Int32[Array, "*batch"]:
    """Lengths as int32 that can be added to; one past any end stays past it."""
    return within(jnp.asarray(as_given(lengths)), 0, 2**30)


def valid_values(array: Any, valid: jax.Array | None) -> np.ndarray | None:
    """The values at the ``valid`` places of the leading axes, or ``None`` if they are not known."""
    values = known(array)
    if values is None or isinstance(valid, Tracer):
        return None
    return values if valid is None else values[np.asarray(valid)]


def where(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    """`jnp.where` for pytrees; the condition has leading axes only; ``if_true`` may lack them."""

    def select(a: jax.Array, b: jax.Array) -> jax.Array:
        a = spread(a, b.shape[: b.ndim - a.ndim])
        return jnp.where(
            condition.reshape(condition.shape + (1,) * (b.ndim - condition.ndim)), a, b
        )

    return jtu.tree_map(select, if_true, if_false)


def keep_valid(tree: Any, lengths: Integer[Array, "*batch"]) -> Any:
    """``tree`` of arrays ``(*batch, time, ...)`` with zeros past the end of each example."""

    def keep(leaf: jax.Array) -> jax.Array:
        valid = valid_steps(lengths, leaf.shape[lengths.ndim])
        kept: jax.Array = where(valid, leaf, jnp.zeros_like(leaf))
        return kept

    return jtu.tree_map(keep, tree)


def without_padding(keywords: dict[str, Any], lengths: Integer[Array, "*batch"]) -> dict[str, Any]:
    """The arguments of all steps by name, with a ``dt`` of zero past the end of each example."""
    return keywords | keep_valid({k: v for k, v in keywords.items() if k == "dt"}, lengths)


def last(ys: jax.Array, lengths: Any = None) -> jax.Array:
    """The last valid output of each example.

    ::

        ys[length - 1]

    Args:
        ys: ``(time, features)`` or ``(batch, time, features)``.
        lengths: ``()`` or ``(batch,)`` integers, the valid steps; all steps are valid without it.

    Returns:
        ``(features,)`` or ``(batch, features)`` of the dtype of ``ys``; zeros for an example of
        length 0.

    Raises:
        ValueError: if a shape does not fit, or a length is out of range where its value is known.
        TypeError: if the lengths are not integers.

    For a bidirectional layer this holds the backward output after one step only. Use the final
    state that ``scan`` returns to summarise a sequence in both directions. Flux's ``x[:, end, :]``
    and PyTorch's ``ys[:, -1]`` take the last padded step.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> nr.last(jnp.array([[[1.0], [2.0]], [[3.0], [0.0]]]), jnp.array([2, 1])).tolist()
        [[2.0], [3.0]]
    """
    call = "last(ys, lengths)"
    ys = jnp.asarray(ys)
    if ys.ndim not in (2, 3):
        raise ValueError(
            f"{call}: ys has shape {ys.shape}; expected (time, features) or (batch, time, "
            "features)."
        )
    *batch, time, features = ys.shape
    lengths = (
        jnp.full(batch, time, jnp.int32)
        if lengths is None
        else check_lengths(call, lengths, ys.shape, len(batch))
    )
    padded = jnp.concatenate(
        [jnp.zeros((*batch, 1, features), ys.dtype), keep_valid(ys, lengths)], axis=-2
    )
    index = jnp.clip(lengths, 0, time)[..., None, None]
    return jnp.take_along_axis(padded, index, axis=-2)[..., 0, :]


def check_lengths(
    call: str, lengths: Any, shape: tuple[int, ...], batch_axes: int
) -> Integer[Array, "*batch"]:
    """``lengths`` as int32, checked against ``shape``: ``batch_axes`` axes, then time, then others.

    Values can be checked only where they are known. Under `jax.jit` a negative length acts as 0,
    and a length past the end as the end.
    """
    lengths = as_given(lengths)
    values = known(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"{call}: lengths is {lengths.dtype}; expected whole numbers, "
            "such as lengths.astype(int)."
        )
    batch, time = shape[:batch_axes], shape[batch_axes]
    if lengths.shape != batch:
        raise ValueError(
            f"{call}: lengths has shape {lengths.shape}; expected {batch}, one for each sequence."
        )
    if values is not None:
        low, high = values.min(), values.max()
        if low < 0 or high > time:
            bad = low if low < 0 else high
            raise ValueError(
                f"{call}: lengths holds {bad}; expected 0 to {time}, "
                "the steps of the padded sequences."
            )
        return jnp.asarray(values, jnp.int32)
    return _as_int32(jnp.asarray(lengths))
