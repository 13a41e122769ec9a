"""Cross-entropy over classes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from noria._errors import as_given, check_numbers
from noria.losses.average import Places, average, check_alike, check_not_negative, check_smoothing
from noria.masking import valid_values, within


def cross_entropy(
    logits: Any,
    target: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    weights: Any = None,
    class_weights: Any = None,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Mean cross-entropy of logits over the last axis.

    ::

        mean(-log(softmax(logits))[target])

        with class weights w and smoothing s, where t is one-hot or the probabilities:
        sum_c w_c ((1 - s) t_c + s / classes) (-log(softmax(logits))_c)  /  sum_c w_c t_c

    Args:
        logits: ``(..., classes)``, floats.
        target: integers ``(...)`` from 0 to ``classes - 1``, or probabilities ``(..., classes)`` of
            the dtype of the logits.
        lengths: ``()`` or ``(batch,)`` integers, the valid steps of ``(time, ...)`` or
            ``(batch, time, ...)``. All places are valid without it.
        mask: booleans over the leading axes, true at valid places: ``(batch, time)`` for steps,
            ``(batch,)`` for examples. Not together with ``lengths``.
        weights: numbers of at least 0 over the leading axes, the weight of each example or step in
            the mean.
        class_weights: ``(classes,)`` numbers of at least 0, the weight of each class. The mean is
            over the weights of the targets' classes.
        label_smoothing: share from 0 to 1 of the target that is divided equally among all classes.

    Returns:
        ``()``, the mean over the valid places, of the dtype of the logits.

    Raises:
        ValueError: if a shape does not fit, both ``lengths`` and ``mask`` are given, a weight is
            negative, the smoothing is no share, or a class is out of range where its value is
            known. Under `jax.jit` such a class gives NaN.
        TypeError: if the targets are neither integers nor of the dtype of the logits.

    Flux calls it ``logitcrossentropy``, PyTorch ``CrossEntropyLoss``, which has the classes on axis
    1. Class weights and smoothing of integers are as in PyTorch, whose mean over probabilities
    ignores class weights. Keras' ``SparseCategoricalCrossentropy`` takes probabilities by default.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> round(float(nr.cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 3, 1]))), 4)
        1.3863
    """
    call = "cross_entropy"
    logits, given = jnp.asarray(logits), as_given(target)
    check_numbers(call, "target", given)
    check_smoothing(call, label_smoothing)
    target, places = jnp.asarray(given), Places(lengths, mask, weights)
    if logits.ndim == 0 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"cross_entropy: logits are {logits.dtype}{list(logits.shape)}; "
            "expected floats (..., classes)."
        )
    classes = logits.shape[-1]
    of_classes = _class_weights(class_weights, classes, logits.dtype)
    if not jnp.issubdtype(target.dtype, jnp.integer):
        check_alike(call, logits, target, "logits, or whole numbers without the last axis")
        loss = _of_probabilities(of_classes, label_smoothing)
        counts = None if of_classes is None else lambda t: t @ of_classes
        return average(call, loss, 1, logits, target, places, counts)
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: logits have shape {logits.shape}, the targets {target.shape}; "
            f"expected {logits.shape[:-1]} whole numbers or {logits.shape} probabilities."
        )
    _check_classes(valid_values(given, places.at(call, target.shape)[0]), classes)
    loss = _of_integers(of_classes, label_smoothing)
    counts = None if of_classes is None else lambda t: of_classes[_inside(t, classes)[1]]
    return average(call, loss, 1, logits, target, places, counts)


Entropy = Callable[[jax.Array, jax.Array], jax.Array]


def _inside(target: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """Whether each target is a class, and a class in any case."""
    target = within(target, -1, classes)
    inside = (target >= 0) & (target < classes)
    return inside, jnp.where(inside, target, 0)


def _of_integers(class_weights: jax.Array | None, smoothing: float) -> Entropy:
    def entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
        inside, target = _inside(target, logits.shape[-1])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        if class_weights is not None:
            loss = loss * class_weights[target]
        if smoothing:
            loss = (1 - smoothing) * loss + smoothing * _mean_entropy(logits, class_weights)
        return jnp.where(inside, loss, jnp.nan)

    return entropy


def _of_probabilities(class_weights: jax.Array | None, smoothing: float) -> Entropy:
    def entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
        if class_weights is not None:
            target = target * class_weights
        loss: jax.Array = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
        if smoothing:
            loss = (1 - smoothing) * loss + smoothing * _mean_entropy(logits, class_weights)
        return loss

    if class_weights is None and not smoothing:
        return optax.softmax_cross_entropy
    return entropy


def _mean_entropy(logits: jax.Array, class_weights: jax.Array | None) -> jax.Array:
    """Mean over all classes as targets."""
    entropies = -jax.nn.log_softmax(logits)
    return jnp.mean(entropies if class_weights is None else entropies * class_weights, axis=-1)


def _class_weights(class_weights: Any, classes: int, dtype: Any) -> jax.Array | None:
    if class_weights is None:
        return None
    given = as_given(class_weights)
    check_numbers("cross_entropy", "class_weights", given)
    if given.shape != (classes,):
        raise ValueError(
            f"cross_entropy: class_weights has shape {given.shape}; expected ({classes},), one for "
            "each class."
        )
    check_not_negative("cross_entropy", "class_weights", given)
    return jnp.asarray(given).astype(dtype)


def _check_classes(target: np.ndarray | None, classes: int) -> None:
    if target is not None and target.size and not 0 <= target.min() <= target.max() < classes:
        raise ValueError(
            f"cross_entropy: the targets go from {target.min()} to {target.max()}; "
            f"expected 0 to {classes - 1}, since the logits have {classes} classes."
        )
