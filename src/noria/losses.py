"""Losses over padded sequences: each averages over what is valid, and over nothing else.

Arguments of all of them:

``prediction``
    ``(...)``, or for `cross_entropy` ``(..., classes)``.
``target``
    of the same shape; for `cross_entropy` whole numbers ``(...)`` or probabilities ``(..., classes)``.
``lengths``
    ``()`` or ``(batch,)`` valid steps of ``(time, ...)`` or ``(batch, time, ...)``.
``mask``
    booleans over the leading axes: ``(batch, time)`` for steps, ``(batch,)`` for examples.

The result is a number of the prediction's dtype. Invalid places count neither in the sum nor in the number it is
divided by, their gradient is exactly zero, and they may hold anything, NaN included. If nothing is valid the loss is 0.
For any other loss use Optax's, with `noria.last` or a mask of your own.
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
    """Mean of ``(prediction - target)²``. See `noria.losses` for the arguments.

    Raises:
        ValueError: if shapes differ (nothing is broadcast), or both ``lengths`` and ``mask`` are given.
        TypeError: if dtypes differ.

    >>> import jax.numpy as jnp, noria as nr
    >>> float(nr.mse(jnp.array([[1.0], [jnp.nan]]), jnp.zeros((2, 1)), lengths=1))
    1.0
    """
    return _elementwise("mse", lambda p, t: (p - t) ** 2, prediction, target, lengths, mask)


def mae(prediction: Any, target: Any, *, lengths: Any = None, mask: Any = None) -> Float[Array, ""]:
    """Mean of ``|prediction - target|``. Arguments and errors as for `mse`.

    >>> import jax.numpy as jnp, noria as nr
    >>> float(nr.mae(jnp.array([1.0, -3.0]), jnp.zeros(2)))
    2.0
    """
    return _elementwise("mae", lambda p, t: jnp.abs(p - t), prediction, target, lengths, mask)


def huber(
    prediction: Any, target: Any, *, delta: float = 1.0, lengths: Any = None, mask: Any = None
) -> Float[Array, ""]:
    """Mean of ``e² / 2`` where ``e = |prediction - target| <= delta``, else of ``delta (e - delta / 2)``.

    Arguments and errors as for `mse`; ``delta`` must be above 0. Huber 1964; as Flux's and PyTorch's ``HuberLoss``.

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
    """Mean of ``-t log sigmoid(l) - (1 - t) log sigmoid(-l)``, from logits. Targets are 0 to 1, of the logits' dtype.

    Arguments and errors as for `mse`. Flux's ``logitbinarycrossentropy``, PyTorch's ``BCEWithLogitsLoss``.

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
    """Mean of ``-log softmax(logits)[target]``, from logits over the last axis.

    Args:
        logits: ``(..., classes)``.
        target: whole numbers ``(...)`` from 0 to ``classes - 1``, or one-hot vectors or probabilities ``(...,
            classes)`` of the logits' dtype.
        lengths: see `noria.losses`.
        mask: see `noria.losses`.

    Raises:
        ValueError: for shapes that do not fit, or a class out of range where values are known. Under `jax.jit` they are
            not; there such a target gives NaN.
        TypeError: for targets that are neither whole numbers nor of the logits' dtype.

    Flux's ``logitcrossentropy``, PyTorch's ``CrossEntropyLoss`` (which has the classes on axis 1).

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
    mask = jnp.asarray(mask)
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"{name}: mask is {mask.dtype}; expected booleans, such as mask.astype(bool)."
        )
    if mask.shape != shape[: mask.ndim]:
        raise ValueError(
            f"{name}: mask has shape {mask.shape}; expected the leading axes of {shape}."
        )
    return mask


def _average(
    name: str,
    loss: Callable[..., jax.Array],
    own_axes: int,
    prediction: Any,
    target: Any,
    lengths: Any,
    mask: Any,
) -> jax.Array:
    """Mean over the valid places of ``loss``, which uses up the last ``own_axes`` axes of the prediction."""
    shape = prediction.shape[: prediction.ndim - own_axes]
    valid = _valid(name, shape, lengths, mask)
    if valid is None:
        return jnp.mean(loss(prediction, target))
    # Garbage is replaced before the loss sees it: replaced afterwards, its NaN would still reach the gradient.
    prediction, target = (
        where(valid, array, jnp.zeros_like(array)) for array in (prediction, target)
    )
    losses = loss(prediction, target)
    wide = (
        jnp.float32 if jnp.finfo(losses.dtype).bits < 32 else losses.dtype
    )  # 16 bits can neither hold the sum nor the count
    total = jnp.sum(where(valid, losses, jnp.zeros_like(losses)), dtype=wide)
    count = valid.sum() * (losses.size // max(valid.size, 1))
    return (total / jnp.maximum(count, 1).astype(wide)).astype(losses.dtype)
