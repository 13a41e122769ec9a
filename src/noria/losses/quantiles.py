"""The quantile loss."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from noria.losses.average import Places, average, check_dtypes


def pinball(
    prediction: Any,
    target: Any,
    *,
    quantiles: float | Sequence[float],
    lengths: Any = None,
    mask: Any = None,
    weights: Any = None,
) -> Float[Array, ""]:
    """Mean quantile loss, whose minimum is the quantiles of the target.

    ::

        e = target - prediction_q
        mean(max(q * e, (q - 1) * e))       over places and quantiles q

    Args:
        prediction: ``(..., quantiles)``, floats; for a single quantile ``(...)``.
        target: ``(...)`` of the same dtype.
        quantiles: the shares of targets that should lie below each prediction: numbers between 0
            and 1, or one of them.
        lengths: ``()`` or ``(batch,)`` integers, the valid steps of ``(time, ...)`` or
            ``(batch, time, ...)``. All places are valid without it.
        mask: booleans over the leading axes, true at valid places: ``(batch, time)`` for steps,
            ``(batch,)`` for examples. Not together with ``lengths``.
        weights: numbers of at least 0 over the leading axes, the weight of each example or step in
            the mean.

    Returns:
        ``()``, the mean over the valid places, of the dtype of the prediction.

    Raises:
        ValueError: if a shape does not fit, a quantile is not between 0 and 1, both ``lengths`` and
            ``mask`` are given, or a weight is negative.
        TypeError: if dtypes differ.

    Source: Koenker and Bassett 1978. At the quantile 0.5 it is half of `noria.mae`. Nothing keeps
    the predicted quantiles in order. PyTorch and Keras have no such loss.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> target = jnp.array([3.0])
        >>> float(nr.pinball(jnp.array([[1.0, 5.0]]), target, quantiles=[0.25, 0.75]))
        0.5
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    levels = np.asarray(quantiles, np.float64)
    if levels.ndim > 1 or not levels.size or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            f"pinball(quantiles={quantiles}): expected numbers between 0 and 1, such as "
            "[0.1, 0.5, 0.9]."
        )
    wanted = (*target.shape, *levels.shape)
    if prediction.shape != wanted:
        raise ValueError(
            f"pinball: the prediction has shape {prediction.shape}, the target {target.shape}; "
            f"expected the prediction to be {wanted}, with an axis of quantiles at the end if "
            "there are several."
        )
    check_dtypes("pinball", prediction, target)

    def loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
        share = jnp.asarray(levels, prediction.dtype)
        error = (target[..., None] if levels.ndim else target) - prediction
        each = jnp.maximum(share * error, (share - 1) * error)
        return each.mean(axis=-1) if levels.ndim else each

    places = Places(lengths, mask, weights)
    return average("pinball", loss, levels.ndim, prediction, target, places)
