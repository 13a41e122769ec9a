"""Losses over padded sequences: each averages over the valid places only.

Invalid places count neither in the sum nor in the number of places. Their gradient is exactly zero,
and they may hold anything, even NaN. Without any valid place the loss is 0. For other losses use
Optax, with `noria.last` or a mask.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from noria._errors import as_given, check_numbers
from noria.masking import check_lengths, valid_steps, valid_values, where, within


def mse(prediction: Any, target: Any, *, lengths: Any = None, mask: Any = None) -> Float[Array, ""]:
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

    Returns:
        ``()``, the mean over the valid places, of the dtype of the prediction.

    Raises:
        ValueError: if shapes differ (nothing is broadcast), or both ``lengths`` and ``mask`` are
            given.
        TypeError: if dtypes differ.

    As PyTorch's ``MSELoss``, which broadcasts with a warning; Keras' loss of the same name averages
    over the last axis only.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> float(nr.mse(jnp.array([[1.0], [jnp.nan]]), jnp.zeros((2, 1)), lengths=1))
        1.0
    """
    return _elementwise("mse", lambda p, t: (p - t) ** 2, prediction, target, lengths, mask)


def mae(prediction: Any, target: Any, *, lengths: Any = None, mask: Any = None) -> Float[Array, ""]:
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

    Returns:
        ``()``, the mean over the valid places, of the dtype of the prediction.

    Raises:
        ValueError: if shapes differ (nothing is broadcast), or both ``lengths`` and ``mask`` are
            given.
        TypeError: if dtypes differ.

    As PyTorch's ``L1Loss``.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> float(nr.mae(jnp.array([1.0, -3.0]), jnp.zeros(2)))
        2.0
    """
    return _elementwise("mae", lambda p, t: jnp.abs(p - t), prediction, target, lengths, mask)


def huber(
    prediction: Any, target: Any, *, delta: float = 1.0, lengths: Any = None, mask: Any = None
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

    Returns:
        ``()``, the mean over the valid places, of the dtype of the prediction.

    Raises:
        ValueError: if ``delta`` is not above 0, shapes differ (nothing is broadcast), or both
            ``lengths`` and ``mask`` are given.
        TypeError: if dtypes differ.

    Source: Huber 1964. As PyTorch's ``HuberLoss``; its ``SmoothL1Loss`` is divided by ``delta``.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> float(nr.huber(jnp.array([3.0]), jnp.zeros(1)))
        2.5
    """
    if not delta > 0:
        raise ValueError(f"huber(delta={delta}): expected a delta above 0.")
    return _elementwise(
        "huber", lambda p, t: optax.huber_loss(p, t, delta=delta), prediction, target, lengths, mask
    )


def binary_cross_entropy(
    logits: Any, target: Any, *, lengths: Any = None, mask: Any = None
) -> Float[Array, ""]:
    """Mean binary cross-entropy of logits.

    ::

        mean(-t * log(sigmoid(l)) - (1 - t) * log(sigmoid(-l)))

    Args:
        logits: ``(...)``, floats.
        target: the same shape and dtype, from 0 to 1.
        lengths: ``()`` or ``(batch,)`` integers, the valid steps of ``(time, ...)`` or
            ``(batch, time, ...)``. All places are valid without it.
        mask: booleans over the leading axes, true at valid places: ``(batch, time)`` for steps,
            ``(batch,)`` for examples. Not together with ``lengths``.

    Returns:
        ``()``, the mean over the valid places, of the dtype of the logits.

    Raises:
        ValueError: if shapes differ (nothing is broadcast), or both ``lengths`` and ``mask`` are
            given.
        TypeError: if dtypes differ.

    Flux calls it ``logitbinarycrossentropy``, PyTorch ``BCEWithLogitsLoss``. Keras'
    ``BinaryCrossentropy`` takes probabilities by default.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> round(float(nr.binary_cross_entropy(jnp.zeros(2), jnp.array([0.0, 1.0]))), 4)
        0.6931
    """
    return _elementwise(
        "binary_cross_entropy", optax.sigmoid_binary_cross_entropy, logits, target, lengths, mask
    )


def cross_entropy(
    logits: Any, target: Any, *, lengths: Any = None, mask: Any = None
) -> Float[Array, ""]:
    """Mean cross-entropy of logits over the last axis.

    ::

        mean(-log(softmax(logits))[target])

    Args:
        logits: ``(..., classes)``, floats.
        target: integers ``(...)`` from 0 to ``classes - 1``, or probabilities ``(..., classes)`` of
            the dtype of the logits.
        lengths: ``()`` or ``(batch,)`` integers, the valid steps of ``(time, ...)`` or
            ``(batch, time, ...)``. All places are valid without it.
        mask: booleans over the leading axes, true at valid places: ``(batch, time)`` for steps,
            ``(batch,)`` for examples. Not together with ``lengths``.

    Returns:
        ``()``, the mean over the valid places, of the dtype of the logits.

    Raises:
        ValueError: if a shape does not fit, both ``lengths`` and ``mask`` are given, or a class is
            out of range where its value is known. Under `jax.jit` such a class gives NaN.
        TypeError: if the targets are neither integers nor of the dtype of the logits.

    Flux calls it ``logitcrossentropy``, PyTorch ``CrossEntropyLoss``, which has the classes on axis
    1. Keras' ``SparseCategoricalCrossentropy`` takes probabilities by default.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> round(float(nr.cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 3, 1]))), 4)
        1.3863
    """
    logits, given = jnp.asarray(logits), as_given(target)
    check_numbers("cross_entropy", "target", given)
    target = jnp.asarray(given)
    if logits.ndim == 0 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"cross_entropy: logits are {logits.dtype}{list(logits.shape)}; "
            "expected floats (..., classes)."
        )
    classes = logits.shape[-1]
    if not jnp.issubdtype(target.dtype, jnp.integer):
        _check_alike(
            "cross_entropy", logits, target, "logits, or whole numbers without the last axis"
        )
        return _average(
            "cross_entropy", optax.softmax_cross_entropy, 1, logits, target, lengths, mask
        )
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: logits have shape {logits.shape}, the targets {target.shape}; "
            f"expected {logits.shape[:-1]} whole numbers or {logits.shape} probabilities."
        )
    _check_classes(
        valid_values(given, _valid("cross_entropy", target.shape, lengths, mask)), classes
    )

    def entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
        target = within(target, -1, classes)
        inside = (target >= 0) & (target < classes)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(inside, target, 0))
        return jnp.where(inside, loss, jnp.nan)

    return _average("cross_entropy", entropy, 1, logits, target, lengths, mask)


def _check_classes(target: np.ndarray | None, classes: int) -> None:
    if target is not None and target.size and not 0 <= target.min() <= target.max() < classes:
        raise ValueError(
            f"cross_entropy: the targets go from {target.min()} to {target.max()}; "
            f"expected 0 to {classes - 1}, since the logits have {classes} classes."
        )


def _elementwise(
    name: str, loss: Callable[..., jax.Array], prediction: Any, target: Any, lengths: Any, mask: Any
) -> jax.Array:
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    _check_alike(name, prediction, target, "prediction")
    return _average(name, loss, 0, prediction, target, lengths, mask)


def _check_alike(name: str, prediction: jax.Array, target: jax.Array, like: str) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"{name}: the prediction has shape {prediction.shape}, the target {target.shape}; "
            f"expected the shape of the {like}. Nothing is broadcast."
        )
    if prediction.dtype != target.dtype:
        raise TypeError(
            f"{name}: the prediction is {prediction.dtype}, the target {target.dtype}; "
            f"expected one dtype: target.astype({prediction.dtype.name!r})."
        )


def _valid(name: str, shape: tuple[int, ...], lengths: Any, mask: Any) -> Bool[Array, "..."] | None:
    """The valid places as booleans over the leading axes of ``shape``, or ``None`` for all."""
    if lengths is not None and mask is not None:
        raise ValueError(f"{name}: both lengths and mask are given; expected one of them.")
    if lengths is not None:
        lengths = as_given(lengths)
        batch_axes = lengths.ndim
        if batch_axes > 1 or len(shape) <= batch_axes:
            raise ValueError(
                f"{name}: lengths has shape {lengths.shape}, the loss is over {shape}; "
                "expected () for (time, ...) or (batch,) for (batch, time, ...)."
            )
        return valid_steps(check_lengths(name, lengths, shape, batch_axes), shape[batch_axes])
    if mask is None:
        return None
    valid = jnp.asarray(mask)
    if valid.dtype != jnp.bool_:
        raise TypeError(
            f"{name}: mask is {valid.dtype}; expected booleans, such as mask.astype(bool)."
        )
    if valid.shape != shape[: valid.ndim]:
        raise ValueError(
            f"{name}: mask has shape {valid.shape}; expected the leading axes of {shape}."
        )
    return valid


def _average(
    name: str,
    loss: Callable[..., jax.Array],
    own_axes: int,
    prediction: Any,
    target: Any,
    lengths: Any,
    mask: Any,
) -> jax.Array:
    """Mean of ``loss``, which reduces the last ``own_axes`` axes, over the valid places."""
    shape = prediction.shape[: prediction.ndim - own_axes]
    valid = _valid(name, shape, lengths, mask)
    if valid is None:
        return jnp.mean(loss(prediction, target))
    # Padding is replaced before the loss: replaced afterwards, its NaN would reach the gradient.
    prediction, target = (
        where(valid, array, jnp.zeros_like(array)) for array in (prediction, target)
    )
    losses = loss(prediction, target)
    # 16 bits can hold neither the sum nor the count.
    wide = jnp.float32 if jnp.finfo(losses.dtype).bits < 32 else losses.dtype
    total = jnp.sum(where(valid, losses, jnp.zeros_like(losses)), dtype=wide)
    count = valid.sum() * (losses.size // max(valid.size, 1))
    return (total / jnp.maximum(count, 1).astype(wide)).astype(losses.dtype)
