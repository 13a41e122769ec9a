"""Valid places, weights, and the mean of a loss over them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from noria._errors import as_given, check_numbers, known
from noria.masking import check_lengths, valid_steps, where


class Places(NamedTuple):
    """The arguments of a loss that say which places count, and how much."""

    lengths: Any = None
    mask: Any = None
    weights: Any = None

    def at(
        self, call: str, shape: tuple[int, ...]
    ) -> tuple[Bool[Array, "..."] | None, jax.Array | None]:
        """The valid places, ``None`` for all, and their weights: over leading axes of ``shape``."""
        valid = _inside(call, shape, self.lengths, self.mask)
        weights = self._weights(call, shape)
        if weights is None:
            return valid, None
        counted = weights > 0
        if valid is None:
            return counted, weights
        longer, shorter = (valid, counted) if valid.ndim >= counted.ndim else (counted, valid)
        return longer & spread_to(shorter, longer.shape), weights

    def _weights(self, call: str, shape: tuple[int, ...]) -> jax.Array | None:
        if self.weights is None:
            return None
        given = as_given(self.weights)
        check_numbers(call, "weights", given)
        if given.shape != shape[: given.ndim]:
            raise ValueError(
                f"{call}: weights has shape {given.shape}; expected the leading axes of {shape}."
            )
        check_not_negative(call, "weights", given)
        return jnp.asarray(given)


def check_not_negative(call: str, name: str, given: Any) -> None:
    """Reject weights below 0, where their values are known."""
    values = known(given)
    if values is not None and not (values >= 0).all():
        raise ValueError(
            f"{call}: {name} holds {values[~(values >= 0)][0]}; expected numbers of at least 0."
        )


def _inside(
    call: str, shape: tuple[int, ...], lengths: Any, mask: Any
) -> Bool[Array, "..."] | None:
    if lengths is not None and mask is not None:
        raise ValueError(f"{call}: both lengths and mask are given; expected one of them.")
    if lengths is not None:
        lengths = as_given(lengths)
        batch_axes = lengths.ndim
        if batch_axes > 1 or len(shape) <= batch_axes:
            raise ValueError(
                f"{call}: lengths has shape {lengths.shape}, the loss is over {shape}; "
                "expected () for (time, ...) or (batch,) for (batch, time, ...)."
            )
        return valid_steps(check_lengths(call, lengths, shape, batch_axes), shape[batch_axes])
    if mask is None:
        return None
    valid = jnp.asarray(mask)
    if valid.dtype != jnp.bool_:
        raise TypeError(
            f"{call}: mask is {valid.dtype}; expected booleans, such as mask.astype(bool)."
        )
    if valid.shape != shape[: valid.ndim]:
        raise ValueError(
            f"{call}: mask has shape {valid.shape}; expected the leading axes of {shape}."
        )
    return valid


def spread_to(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``array``, which has the leading axes of ``shape`` only, with all of them."""
    return jnp.broadcast_to(array.reshape(array.shape + (1,) * (len(shape) - array.ndim)), shape)


def average(
    call: str,
    loss: Callable[..., jax.Array],
    own_axes: int,
    prediction: jax.Array,
    target: jax.Array,
    places: Places,
    counts: Callable[[jax.Array], jax.Array] | None = None,
) -> Float[Array, ""]:
    """Mean of ``loss`` over the valid places, by their weights.

    Args:
        call: the loss in messages.
        loss: of prediction and target, reduces the last ``own_axes`` axes.
        own_axes: axes of the prediction that are no places.
        prediction: ``(...)`` with ``own_axes`` axes at the end.
        target: the same places.
        places: which places count.
        counts: the factor by which ``loss`` has weighted each place already, from the target.
    """
    shape = prediction.shape[: prediction.ndim - own_axes]
    valid, weights = places.at(call, shape)
    if valid is None and counts is None:
        return jnp.mean(loss(prediction, target))
    if valid is not None:
        # Padding is replaced before the loss: replaced afterwards, its NaN would reach the
        # gradient.
        prediction, target = (
            where(valid, array, jnp.zeros_like(array)) for array in (prediction, target)
        )
    losses = loss(prediction, target)
    # 16 bits can hold neither the sum nor the count.
    wide = jnp.float32 if jnp.finfo(losses.dtype).bits < 32 else losses.dtype
    share = jnp.ones(losses.shape, wide) if counts is None else counts(target).astype(wide)
    if weights is not None:
        share = share * spread_to(weights.astype(wide), losses.shape)
        losses = losses * spread_to(weights.astype(losses.dtype), losses.shape)
    if valid is not None:
        losses = where(valid, losses, jnp.zeros_like(losses))
        share = where(valid, share, jnp.zeros_like(share))
    total, count = jnp.sum(losses, dtype=wide), jnp.sum(share)
    mean: jax.Array = total / jnp.where(count > 0, count, 1)
    return mean.astype(losses.dtype)


def elementwise(
    call: str, loss: Callable[..., jax.Array], prediction: Any, target: Any, places: Places
) -> Float[Array, ""]:
    """Mean of a loss of single numbers."""
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    check_alike(call, prediction, target, "prediction")
    return average(call, loss, 0, prediction, target, places)


def check_alike(call: str, prediction: jax.Array, target: jax.Array, like: str) -> None:
    """Reject a target of another shape or dtype."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"{call}: the prediction has shape {prediction.shape}, the target {target.shape}; "
            f"expected the shape of the {like}. Nothing is broadcast."
        )
    check_dtypes(call, prediction, target)


def check_dtypes(call: str, prediction: jax.Array, target: jax.Array) -> None:
    """Reject a target of another dtype."""
    if prediction.dtype != target.dtype:
        raise TypeError(
            f"{call}: the prediction is {prediction.dtype}, the target {target.dtype}; "
            f"expected one dtype: target.astype({prediction.dtype.name!r})."
        )


def check_smoothing(call: str, label_smoothing: float) -> None:
    """Reject a share outside of 0 to 1."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(
            f"{call}(label_smoothing={label_smoothing}): expected a share from 0 to 1."
        )
