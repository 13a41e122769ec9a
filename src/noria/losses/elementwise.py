"""Losses of single numbers: ``mse``, ``mae``, ``huber``, ``binary_cross_entropy``."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from noria.losses.average import Places, check_smoothing, elementwise


def mse(
    prediction: Any, target: Any, *, lengths: Any = None, mask: Any = None, weights: Any = None
) -> Float[Array, ""]:
    """Mean squared error.

    ::

        mean((prediction - target) ^ 2)

    Args:
        prediction: ``(...)``, floats.
        target: the same shape and dtype.
        lengths: ``()`` or ``(batch,)`` integers, the valid steps of ``(time, ...)`` or
            ``(batch, time, ...)``. All places are valid without it.
        mask: booleans over the leading axes, true at valid places: ``(batch, time)`` for steps,
            ``(batch,)`` for examples. Not together with ``lengths``.
        weights: numbers of at least 0 over the leading axes, the weight of each example or step in
            the mean.

    Returns:
        ``()``, the mean over the valid places, of the dtype of the prediction.

    Raises:
        ValueError: if shapes differ (nothing is broadcast), both ``lengths`` and ``mask`` are
            given, or a weight is negative.
        TypeError: if dtypes differ.

    As PyTorch's ``MSELoss``, which broadcasts with a warning; Keras' loss of the same name averages
    over the last axis only. Keras divides a weighted sum by the number of places, here it is
    divided by the sum of the weights.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> float(nr.mse(jnp.array([[1.0], [jnp.nan]]), jnp.zeros((2, 1)), lengths=1))
        1.0
    """
    return elementwise(
        "mse", lambda p, t: (p - t) ** 2, prediction, target, Places(lengths, mask, weights)
    )


def mae(
    prediction: Any, target: Any, *, lengths: Any = None, mask: Any = None, weights: Any = None
) -> Float[Array, ""]:
    """Mean absolute error.

    ::

        mean(|prediction - target|)

    Args:
        prediction: ``(...)``, floats.
        target: the same shape and dtype.
        lengths: ``()`` or ``(batch,)`` integers, the valid steps of ``(time, ...)`` or
            ``(batch, time, ...)``. All places are valid without it.
        mask: booleans over the leading axes, true at valid places: ``(batch, time)`` for steps,
            ``(batch,)`` for examples. Not together with ``lengths``.
        weights: numbers of at least 0 over the leading axes, the weight of each example or step in
            the mean.

    Returns:
        ``()``, the mean over the valid places, of the dtype of the prediction.

    Raises:
        ValueError: if shapes differ (nothing is broadcast), both ``lengths`` and ``mask`` are
            given, or a weight is negative.
        TypeError: if dtypes differ.

    As PyTorch's ``L1Loss``.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> float(nr.mae(jnp.array([1.0, -3.0]), jnp.zeros(2)))
        2.0
    """
    return elementwise(
        "mae", lambda p, t: jnp.abs(p - t), prediction, target, Places(lengths, mask, weights)
    )


def huber(
    prediction: Any,
    target: Any,
    *,
    delta: float = 1.0,
    lengths: Any = None,
    mask: Any = None,
    weights: Any = None,
) -> Float[Array, ""]:
    """Mean of the Huber loss: quadratic for small errors, linear for large ones.

    ::

        e = |prediction - target|
        mean(e^2 / 2  if  e <= delta  else  delta * (e - delta / 2))

    Args:
        prediction: ``(...)``, floats.
        target: the same shape and dtype.
        delta: error at which the loss turns linear, above 0, in the unit of the prediction.
        lengths: ``()`` or ``(batch,)`` integers, the valid steps of ``(time, ...)`` or
            ``(batch, time, ...)``. All places are valid without it.
        mask: booleans over the leading axes, true at valid places: ``(batch, time)`` for steps,
            ``(batch,)`` for examples. Not together with ``lengths``.
        weights: numbers of at least 0 over the leading axes, the weight of each example or step in
            the mean.

    Returns:
        ``()``, the mean over the valid places, of the dtype of the prediction.

    Raises:
        ValueError: if ``delta`` is not above 0, shapes differ (nothing is broadcast), both
            ``lengths`` and ``mask`` are given, or a weight is negative.
        TypeError: if dtypes differ.

    Source: Huber 1964. As PyTorch's ``HuberLoss``; its ``SmoothL1Loss`` is divided by ``delta``.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> float(nr.huber(jnp.array([3.0]), jnp.zeros(1)))
        2.5
    """
    if not delta > 0:
        raise ValueError(f"huber(delta={delta}): expected a delta above 0.")
    return elementwise(
        "huber",
        lambda p, t: optax.huber_loss(p, t, delta=delta),
        prediction,
        target,
        Places(lengths, mask, weights),
    )


def binary_cross_entropy(
    logits: Any,
    target: Any,
    *,
    label_smoothing: float = 0.0,
    lengths: Any = None,
    mask: Any = None,
    weights: Any = None,
) -> Float[Array, ""]:
    """Mean binary cross-entropy of logits.

    ::

        mean(-t * log(sigmoid(l)) - (1 - t) * log(sigmoid(-l)))
        t = (1 - label_smoothing) * target + label_smoothing / 2

    Args:
        logits: ``(...)``, floats.
        target: the same shape and dtype, from 0 to 1.
        label_smoothing: share from 0 to 1 that is divided among both classes.
        lengths: ``()`` or ``(batch,)`` integers, the valid steps of ``(time, ...)`` or
            ``(batch, time, ...)``. All places are valid without it.
        mask: booleans over the leading axes, true at valid places: ``(batch, time)`` for steps,
            ``(batch,)`` for examples. Not together with ``lengths``.
        weights: numbers of at least 0 over the leading axes, the weight of each example or step in
            the mean.

    Returns:
        ``()``, the mean over the valid places, of the dtype of the logits.

    Raises:
        ValueError: if shapes differ (nothing is broadcast), both ``lengths`` and ``mask`` are
            given, a weight is negative, or the smoothing is no share.
        TypeError: if dtypes differ.

    Flux calls it ``logitbinarycrossentropy``, PyTorch ``BCEWithLogitsLoss``. Keras'
    ``BinaryCrossentropy`` takes probabilities by default. For weights of the two classes, give each
    place the weight of its target: ``weights=jnp.where(target > 0, 3.0, 1.0)``.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> round(float(nr.binary_cross_entropy(jnp.zeros(2), jnp.array([0.0, 1.0]))), 4)
        0.6931
    """
    check_smoothing("binary_cross_entropy", label_smoothing)

    def entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
        if label_smoothing:
            target = (1 - label_smoothing) * target + label_smoothing / 2
        return optax.sigmoid_binary_cross_entropy(logits, target)

    places = Places(lengths, mask, weights)
    return elementwise("binary_cross_entropy", entropy, logits, target, places)
